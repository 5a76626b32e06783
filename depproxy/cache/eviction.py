"""
Eviction: above `max_size` the coldest blobs go, until the cache is down to nine tenths of it; and above its quota a
group lets go of what it has not read for the longest time, which goes unless another group holds it.

What is in use stays, and what is pinned.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.cache.entries import Entries
from depproxy.cache.pins import Pins
from depproxy.cache.removal import Removed, Remover, Why
from depproxy.cache.uses import Uses
from depproxy.index.interface import Entry, ICacheIndex, IGroupIndex, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest

# How much of a limit is left when an eviction ends: the next one is then not due with the next blob.
LOW_MARK = 0.9
# Entries that are read at a time, and then looked at one by one.
BATCH = 40


class _Pool(Protocol):
    """What has a limit, a group's or that of all (None)."""

    @property
    def group(self) -> str | None:
        """Whose it is."""

    async def size(self) -> int:
        """Its bytes."""

    async def coldest(self, count: int, skip: int) -> Sequence[Entry]:
        """See `ICacheIndex.coldest`."""

    async def remove(self, entries: Sequence[Entry]) -> Sequence[int]:
        """Take these out, unless they were used since; the sizes of what is gone from the store."""


class _Everything:
    group = None

    def __init__(self, index: ICacheIndex, remover: Remover) -> None:
        self._index = index
        self._remover = remover
        self._stuck = remover.stuck

    async def size(self) -> int:
        _, total = await self._index.totals()
        # Where a file could not be removed, the next one goes in its place.
        return total + self._remover.stuck - self._stuck

    async def coldest(self, count: int, skip: int) -> Sequence[Entry]:
        return await self._index.coldest(count, skip)

    async def remove(self, entries: Sequence[Entry]) -> Sequence[int]:
        return await self._remover.evict(entries)


@frozen
class _GroupsOwn:
    group: str
    groups: IGroupIndex
    remover: Remover

    async def size(self) -> int:
        return (await self.groups.sizes([self.group]))[self.group]

    async def coldest(self, count: int, skip: int) -> Sequence[Entry]:
        return await self.groups.coldest_of(self.group, count, skip)

    async def remove(self, entries: Sequence[Entry]) -> Sequence[int]:
        return await self.remover.let_go(self.group, entries, Why.EVICTED)


class Evictor:
    """Keeps the sum of sizes in the index below `max_size` bytes (infinity: any), and each group's below its quota."""

    _log = Logger()

    def __init__(
        self,
        index: ICacheIndex,
        groups: IGroupIndex,
        entries: Entries,
        uses: Uses,
        pins: Pins,
        remover: Remover,
        background: Background,
        max_size: float,
        quotas: Mapping[str, float],
        metrics: Metrics,
    ) -> None:
        self._index = index
        self._groups = groups
        self._entries = entries
        self._uses = uses
        self._pins = pins
        self._remover = remover
        self._background = background
        self._metrics = metrics
        self._turn = DeferredLock()
        self._running = self._wanted = self._stopped = self._failed = False
        self._max_size = max_size
        self._quotas = quotas
        metrics.max_bytes.set(max_size)
        entries.observe(self.check)

    def resize(self, max_size: float, quotas: Mapping[str, float]) -> None:
        """Other limits, in bytes, which count from now on."""
        self._max_size = max_size
        self._quotas = quotas
        self._metrics.max_bytes.set(max_size)
        self.check()

    def check(self) -> None:
        """See soon whether something has to go. One eviction runs at a time."""
        self._wanted = True
        if not self._running and not self._stopped:
            self._running = True
            self._background.spawn(self._run(), "eviction")

    async def run(self) -> Sequence[Removed]:
        """Evict what has to go now; what that was. Raises IndexUnavailable."""
        report: list[Removed] = []
        await self._turn.run(self._evict, report)
        return report

    def stop(self) -> None:
        """Begin nothing more; what is under way ends with its batch."""
        self._stopped = True

    async def _run(self) -> None:
        try:
            while self._wanted and not self._stopped:
                self._wanted = False
                await self.run()
            self._failed = False
        except IndexUnavailable as error:
            if not self._failed:
                # Not again with each blob that is stored.
                self._metrics.errors.labels("index").inc()
                self._log.warn("nothing is evicted while the cache index is down: {error}", error=error)
            self._failed = True
        finally:
            self._running = False

    async def _evict(self, report: list[Removed]) -> None:
        if self._max_size == math.inf and not self._quotas:
            return
        if self._entries.behind:
            # Once the index is there again, what it has missed counts too.
            await self._index.totals()
            await self._entries.catch_up()
        # Groups first: then the others may not have to give anything.
        quotas = self._quotas
        for group, size in (await self._groups.sizes(list(quotas))).items():
            if size > quotas[group]:
                await self._shrink(_GroupsOwn(group, self._groups, self._remover), quotas[group], report)
        if self._max_size != math.inf:
            await self._shrink(_Everything(self._index, self._remover), self._max_size, report)

    async def _shrink(self, pool: _Pool, limit: float, report: list[Removed]) -> None:
        """Down to the low mark, if it is above its limit at all."""
        if (size := await pool.size()) <= limit:
            return
        pins = await self._pins.protected()
        # A group's pins are no concern of another group's quota.
        own = pins.values() if pool.group is None else [pins.get(pool.group, set())]
        protected = frozenset[Digest]().union(*own)
        gone: list[int] = []
        let_go: list[Entry] = []
        passed: int | None = 0
        try:
            while size > limit * LOW_MARK and passed is not None and not self._stopped:
                excess = size - limit * LOW_MARK
                passed = await self._uses.removing.run(self._remove, pool, excess, passed, protected, let_go, gone)
                size = await pool.size()
        finally:
            size = sum(entry.size for entry in let_go)
            report.append(Removed(Why.EVICTED, pool.group, len(let_go), len(gone), sum(gone), let_go=size))
            self._remover.tell(report[-1])

    async def _remove(
        self,
        pool: _Pool,
        excess: float,
        passed: int,
        protected: frozenset[Digest],
        let_go: list[Entry],
        gone: list[int],
    ) -> int | None:
        """
        Remove about `excess` bytes of the coldest, but for the first `passed`, which stay. How many stay by now; None
        where all of them do.
        """
        # Uses that wait to be written are the latest ones.
        await self._index.flush()
        entries = await pool.coldest(BATCH, passed)
        chosen: list[Entry] = []
        for entry in entries:
            if excess <= 0:
                break
            if entry.digest in protected or self._remover.busy(entry.digest):
                passed += 1
            else:
                chosen.append(entry)
                excess -= entry.size
        gone += await pool.remove(chosen)
        let_go += chosen
        return passed if entries else None
