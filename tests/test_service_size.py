"""The service looks after the size of its cache: real HTTP, a real Redis, real files."""

from __future__ import annotations

import time

from depproxy.oci.digest import Digest
from tests.cache_tools import some_bytes
from tests.test_service import ServiceTestCase
from tests.upstream_fake import Registry
from tests.web_support import until

SIZE = 10 << 20


class SizeTestCase(ServiceTestCase):
    timeout = 120

    def limit(self, max_size: str, url: str) -> None:
        self.file.write_text(
            f'[storage]\npath = "{self.data}"\nmax_size = "{max_size}"\n[upstreams."docker.io"]\nurl = "{url}"\n'
        )

    def fill(self, registry: Registry, count: int) -> list[Digest]:
        return [registry.put_blob(some_bytes(SIZE, number)) for number in range(count)]

    async def pull(self, digest: Digest) -> str:
        """How the blob was answered."""
        answer = await self.get(f"/v2/team/app/blobs/{digest}")
        assert (answer.status, Digest.of(answer.body)) == (200, digest)
        await until(lambda: self.service.house.blobs.filling() == 0)
        return answer.headers["x-cache"]

    async def numbers(self) -> dict[str, float]:
        """The numbers, as Prometheus gets them."""
        lines = (await self.get("/metrics")).body.decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if "#" not in line)}

    async def next_second(self) -> None:
        """Last uses are kept in whole seconds."""
        now = int(time.time())
        await until(lambda: int(time.time()) > now)

    def is_here(self, digest: Digest) -> bool:
        return self.service.house.store.contains(digest) is not None


class Evicting(SizeTestCase):
    async def test_more_than_fits(self) -> None:
        registry = self.registry()
        digests = self.fill(registry, 11)
        self.limit("100 MiB", registry.url)
        await self.start()
        for digest in digests[:9]:
            assert await self.pull(digest) == "miss"
        await self.next_second()
        assert await self.pull(digests[0]) == "hit"
        await self.next_second()
        for digest in digests[9:]:
            assert await self.pull(digest) == "miss"
        await until(lambda: self.has_logged("2 blobs evicted, 20971520 bytes"))
        gone = [digest for digest in digests if not self.is_here(digest)]
        assert len(gone) == 2
        assert not {digests[0], *digests[9:]} & set(gone)
        found = await self.numbers()
        names = (
            "cache_blobs",
            "cache_bytes",
            "cache_max_bytes",
            'removed_blobs_total{why="evicted"}',
            'removed_bytes_total{why="evicted"}',
        )
        assert [found[f"depproxy_{name}"] for name in names] == [9, 9 * SIZE, 10 * SIZE, 2, 2 * SIZE]
        # It is a miss, never an error.
        assert await self.pull(gone[0]) == "miss"
        assert await self.pull(gone[0]) == "hit"
        assert registry.asked("GET").count(f"GET /v2/team/app/blobs/{gone[0]}") == 2

    async def test_another_limit_counts_from_the_reload(self) -> None:
        registry = self.registry()
        digests = self.fill(registry, 11)
        self.limit("unlimited", registry.url)
        await self.start()
        for digest in digests:
            await self.pull(digest)
        assert (await self.numbers())["depproxy_cache_max_bytes"] == float("inf")
        assert all(map(self.is_here, digests))
        self.limit("100 MiB", registry.url)
        self.hang_up()
        await until(lambda: self.has_logged("2 blobs evicted, 20971520 bytes"))
        assert not self.has_logged("a restart is needed")
        assert sum(map(self.is_here, digests)) == 9

    async def test_another_limit_counts_from_the_start(self) -> None:
        """Without a blob that is stored."""
        registry = self.registry()
        digests = self.fill(registry, 11)
        self.limit("unlimited", registry.url)
        await self.start()
        for digest in digests:
            await self.pull(digest)
        await self.service.stopService()
        self.limit("100 MiB", registry.url)
        self.logged.clear()
        self.listening.clear()
        await self.start()
        await until(lambda: self.has_logged("2 blobs evicted, 20971520 bytes"))
        assert sum(map(self.is_here, digests)) == 9


class Expiring(SizeTestCase):
    async def test_what_a_group_has_not_read_for_its_ttl(self) -> None:
        registry = self.registry()
        old, new = self.fill(registry, 2)
        self.limit("unlimited", registry.url)
        with self.file.open("a") as file:
            file.write('[groups.local]\nttl = "90d"\n')
        await self.start()
        for digest in (old, new):
            await self.pull(digest)
        index = self.service.house.index
        # Whoever moves the clock moves it for everything else, too.
        await index._redis.call("ZINCRBY", "depproxy:2:held:local", -91 * 86400, bytes.fromhex(old.encoded))
        await self.service.stopService()
        self.logged.clear()
        self.listening.clear()
        await self.start()
        line = f"group local has not read 1 blob, {SIZE} bytes, for its ttl: 1 of them, {SIZE} bytes, is removed"
        await until(lambda: self.has_logged(line))
        assert (self.is_here(old), self.is_here(new)) == (False, True)
        assert (await self.numbers())['depproxy_removed_blobs_total{why="expired"}'] == 1

    async def test_what_was_not_done_is_done_in_an_hour(self) -> None:
        """And what was, in a day."""
        registry = self.registry()
        (digest,) = self.fill(registry, 1)
        self.limit("unlimited", registry.url)
        with self.file.open("a") as file:
            file.write('[groups.local]\nttl = "90d"\n')
        await self.start()
        keeping = self.service.house.keeping
        await until(lambda: not any(self.working()))
        await self.pull(digest)
        index = self.service.house.index
        await index._redis.call("ZINCRBY", "depproxy:2:held:local", -91 * 86400, bytes.fromhex(digest.encoded))
        for _ in range(2):
            self.service._keep()
            assert self.working() == [False, False]
        keeping.expirer.late = True
        self.service._keep()
        assert self.working() == [True, False]
        await until(lambda: not any(self.working()))
        assert not self.is_here(digest)
        for _ in range(20):
            self.service._keep()
            assert self.working() == [False, False]
        self.service._keep()
        assert self.working() == [True, True]
        await until(lambda: not any(self.working()))

    def working(self) -> list[bool]:
        """Whether what groups have not read is looked for now, and whether files and entries are compared."""
        keeping = self.service.house.keeping
        return [keeping.expirer._running, keeping.reconciler._running]


class KeepingToQuotas(SizeTestCase):
    async def test_a_part_of_the_cache(self) -> None:
        registry = self.registry()
        digests = self.fill(registry, 6)
        self.limit("200 MiB", registry.url)
        await self.start()
        for digest in digests:
            await self.pull(digest)
            await self.next_second()
        with self.file.open("a") as file:
            file.write('[groups.local]\nquota = "25%"\n')
        self.hang_up()
        line = (
            "group local was above its quota and lets go of 2 blobs, 20971520 bytes:"
            " 2 of them, 20971520 bytes, are removed"
        )
        await until(lambda: self.has_logged(line))
        assert [self.is_here(digest) for digest in digests] == [False, False, True, True, True, True]
        assert not self.has_logged("a restart is needed")


class Sweeping(SizeTestCase):
    async def test_files_and_entries_agree_after_a_start(self) -> None:
        registry = self.registry()
        self.limit("100 MiB", registry.url)
        kept, lost = self.fill(registry, 2)
        await self.start()
        await self.pull(lost)
        path = self.data / "blobs" / "sha256" / lost.encoded[:2] / lost.encoded
        await self.service.stopService()
        # One file without an entry, one entry without a file.
        path.unlink()
        path = path.parent.parent / kept.encoded[:2] / kept.encoded
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(some_bytes(SIZE, 0))
        self.logged.clear()
        self.listening.clear()
        await self.start()
        await until(lambda: self.has_logged("1 files had no entry in the cache index, 1 entries had no file"))
        found = await self.numbers()
        assert (found["depproxy_cache_blobs"], found["depproxy_cache_bytes"]) == (1, SIZE)
        assert [await self.pull(digest) for digest in (kept, lost)] == ["hit", "miss"]
