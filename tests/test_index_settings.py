"""What owners have set, in the cache index: one suite for the one in Redis and for the one in memory."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from depproxy.index import codec
from depproxy.index.interface import IGroupSettings, IndexUnavailable, SettingsTable
from tests.fakes import MemoryIndex
from tests.index_tools import Now, RedisTestCase

ALL_BYTES = bytes(range(256))


class Suite:
    """What every index does with settings."""

    index: Any

    async def groups(self) -> dict[str, dict[str, bytes]]:
        table = await self.index.read_settings(None)
        return {group: dict(values) for group, values in table.groups.items()}

    async def test_provides_the_interface(self) -> None:
        verifyObject(IGroupSettings, self.index)

    async def test_nothing_is_set(self) -> None:
        table = await self.index.read_settings(None)
        assert isinstance(table, SettingsTable)
        assert table.groups == {}
        assert await self.index.read_settings(table.version) is None

    async def test_values(self) -> None:
        await self.index.write_settings("acme", {"enabled": b"1", "credential": ALL_BYTES})
        await self.index.write_settings("acme/tools", {"enabled": b"0123"})
        assert await self.groups() == {
            "acme": {"enabled": b"1", "credential": ALL_BYTES},
            "acme/tools": {"enabled": b"0123"},
        }
        await self.index.write_settings("acme", {"enabled": None, "other": b"x"})
        await self.index.write_settings("acme/tools", {"enabled": None})
        await self.index.write_settings("never", {"enabled": None})
        assert await self.groups() == {"acme": {"credential": ALL_BYTES, "other": b"x"}}

    async def test_each_change_is_another_version(self) -> None:
        seen = [(await self.index.read_settings(None)).version]
        for value in (b"1", b"0", b"0", None):
            await self.index.write_settings("acme", {"enabled": value})
            table = await self.index.read_settings(seen[-1])
            assert table is not None
            assert table.version not in seen
            seen.append(table.version)
            assert await self.index.read_settings(table.version) is None

    async def test_two_keys_at_once(self) -> None:
        """Two owners who change one group at the same moment do not undo each other's change."""
        writes = [self.index.write_settings("acme", {key: b"1"}) for key in ("a", "b", "c")]
        await gatherResults([Deferred.fromCoroutine(write) for write in writes])
        assert await self.groups() == {"acme": dict.fromkeys("abc", b"1")}


class InMemory(Suite, TestCase):
    def setUp(self) -> None:
        self.index = MemoryIndex(Now())

    async def test_unavailable(self) -> None:
        self.index.available = False
        for work in (self.index.read_settings(None), self.index.write_settings("acme", {})):
            with pytest.raises(IndexUnavailable):
                await work


class InRedis(Suite, RedisTestCase):
    async def prepare(self) -> None:
        self.index = await self.started()

    async def test_another_process_sees_it(self) -> None:
        other = await self.started()
        table = await other.read_settings(None)
        assert table is not None
        await self.index.write_settings("acme", {"enabled": b"0"})
        changed = await other.read_settings(table.version)
        assert changed is not None
        assert changed.groups == {"acme": {"enabled": b"0"}}

    async def test_how_it_is_written(self) -> None:
        await self.index.write_settings("acme/tools", {"enabled": b"0"})
        assert await self.raw("HGETALL", "depproxy:2:settings") == [b"acme/tools enabled", b"0"]

    async def test_a_redis_that_lost_its_data(self) -> None:
        await self.index.write_settings("acme", {"enabled": b"0"})
        table = await self.index.read_settings(None)
        await self.raw("FLUSHALL")
        empty = await self.index.read_settings(table.version)
        assert empty.groups == {}
        await self.index.write_settings("acme", {"enabled": b"1"})
        again = await self.index.read_settings(table.version)
        assert again.groups == {"acme": {"enabled": b"1"}}

    async def test_what_is_no_field_of_ours(self) -> None:
        await self.raw("HSET", "depproxy:2:settings", "nospace", "x", "acme enabled", "1", b"\xff key", "y")
        assert (await self.groups())["acme"] == {"enabled": b"1"}

    async def test_without_a_server(self) -> None:
        index = self.make(clock=Clock())
        with pytest.raises(IndexUnavailable):
            await index.read_settings(None)


NAMES = st.text("abc/._-0", min_size=1, max_size=12)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.binary(max_size=9), min_size=1), max_size=5))
def test_fields_are_read_as_they_were_written(table: dict[str, dict[str, bytes]]) -> None:
    fields = [
        (codec.settings_field(group, key).encode(), value)
        for group, values in table.items()
        for key, value in values.items()
    ]
    assert codec.decode_settings(fields) == table
