"""What the benchmarks put into an index is what the service writes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.threads import deferToThread

from benchmarks.contents import Files, Filler, Repository, coldest, contents
from depproxy.storage.files import FileStore
from depproxy.storage.interface import SHARDS
from tests.cache_tools import Outcome
from tests.fakes import Threads
from tests.index_tools import RedisTestCase

NOW = 1_700_000_000


def some() -> list[Repository]:
    return [*contents(1_100, NOW), coldest(20, 12345, NOW, 0), coldest(3, 99, NOW, 1)]


class FillerTests(RedisTestCase):
    async def everything(self) -> dict[bytes, object]:
        """Every key, with what it has, and how Redis keeps that."""
        keys = await self.raw("KEYS", "*")
        assert isinstance(keys, list)
        found: dict[bytes, object] = {}
        for key in keys:
            assert isinstance(key, bytes)
            encoding = await self.raw("OBJECT", "ENCODING", key)
            match await self.raw("TYPE", key):
                case "hash":
                    words = await self.raw("HGETALL", key)
                    assert isinstance(words, list)
                    found[key] = encoding, dict(zip(words[::2], words[1::2], strict=True))
                case "zset":
                    found[key] = encoding, await self.raw("ZRANGE", key, 0, -1, "WITHSCORES")
                case _:
                    found[key] = await self.raw("GET", key)
        return found

    async def test_it_is_what_the_service_writes(self) -> None:
        index = await self.started()
        for repository in some():
            for entry in repository.blobs:
                self.now.time = entry.used
                await index.put_links(repository.home, {entry.digest: repository.links[entry.digest]})
                await index.put_blob(entry.digest, entry.size, [repository.home])
            for tag, record in repository.tags.items():
                await index.put_tag(repository.home, tag, record)
        expected = await self.everything()
        assert len(expected) > 20
        for key in expected.keys() - {b"depproxy:schema"}:
            await self.raw("DEL", key)

        def fill() -> int:
            filler = Filler(self.server.socket)
            filler.grow(iter(some()), sum(len(repository.blobs) for repository in some()))
            total, memory = filler.total(), filler.memory()
            filler.close()
            assert 500_000 < memory < 50_000_000
            return total

        total = await deferToThread(fill)
        assert total == (await index.totals())[1] == sum(entry.size for one in some() for entry in one.blobs)
        assert await self.everything() == expected
        assert await self.raw("CONFIG", "GET", "auto-aof-rewrite-percentage") == [b"auto-aof-rewrite-percentage", b"10"]


def test_counts() -> None:
    repositories = list(contents(12_345, NOW))
    blobs = [entry for repository in repositories for entry in repository.blobs]
    assert len({entry.digest for entry in blobs}) == 12_345
    assert abs(sum(len(repository.tags) for repository in repositories) - 12_345 / 5) < 10
    assert {repository.home.group for repository in repositories} == {"teams/00", "teams/01"}
    assert repositories == list(contents(12_345, NOW))
    cold, colder = coldest(5, 1, NOW, 0), coldest(5, 1, NOW, 1)
    used = [max(entry.used for entry in one.blobs) for one in (colder, cold)]
    assert used == sorted(used)
    assert used[-1] < min(entry.used for entry in blobs)


def test_files_are_those_of_the_store() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        (repository, *_), cold = contents(50, NOW), coldest(9, 12345, NOW, 0)
        files.link(repository.blobs)
        files.make(cold.blobs)
        store = FileStore(Path(folder), Threads())
        found = [file for number in range(SHARDS) for file in Outcome(store.shard(number)).value]
        expected = {entry.digest: entry.size for entry in (*repository.blobs, *cold.blobs)}
        assert {file.digest: file.size for file in found} == expected
        assert files.count(cold.blobs) == 9
        assert Outcome(store.remove([entry.digest for entry in cold.blobs[:4]])).value == {}
        assert files.count(cold.blobs) == 5
