"""The admin face that tells the cache index for a backup."""

from __future__ import annotations

from typing import cast

import pytest
from twisted.internet.defer import CancelledError, Deferred

from depproxy import __version__
from depproxy.backup.records import record
from depproxy.index import codec
from depproxy.index.interface import IndexUnavailable
from depproxy.web.admin.answers import written
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.backup import BackupFace
from depproxy.web.admin.progress import Progress
from tests.index_tools import HOME, A, RedisTestCase, deferred
from tests.test_admin_warm import Reader


class Face(RedisTestCase):
    async def prepare(self) -> None:
        self.index = await self.started()
        self.face = BackupFace(self.index, self.index, self.data)
        self.reader = Reader()

    def ask(self) -> Deferred[object]:
        return deferred(self.face.backup(Ask({}), cast(Progress, self.reader)))

    async def test_what_is_told(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        self.now.time += 100
        self.index.touch(HOME, A)
        assert await self.ask() == {"items": 10}
        first, *lines = self.reader.lines
        about = {"version": __version__, "schema": codec.SCHEMA, "data": str(self.data), "blobs": 1, "bytes": 5}
        assert first == about
        found = {told.key: told.items for told in map(record, lines)}
        items = sum(map(len, found.values()))
        assert items == 10
        # A use that waited in memory is in it.
        assert found[codec.USED.encode()] == (codec.encode_digest(A), b"%d" % int(self.now.time))
        # The client takes a line with such a key for the end.
        assert not any({"error", "done"} & line.keys() for line in self.reader.lines)
        assert all(written(line) for line in self.reader.lines)

    async def test_a_client_that_leaves(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        self.reader.held = Deferred()
        asking = self.ask()
        while not self.reader.lines:
            await self.index.totals()
        asking.cancel()
        with pytest.raises(CancelledError):
            await asking
        assert len(self.reader.lines) == 1

    async def test_without_the_index(self) -> None:
        await self.server.stop()
        with pytest.raises(IndexUnavailable):
            await self.ask()
        assert self.reader.lines == []
