"""
Eviction: above `max_size` the coldest blobs go, until the cache is down to nine tenths of it.

What is in use stays. The index entry goes first, the file second: a crash between leaves a file without an entry,
which the sweep (`reconcile`) finds, and never an entry without its bytes.
"""

import math
import time
from collections.abc import Callable

from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.cache.entries import Entries
from depproxy.cache.uses import Uses
from depproxy.index.interface import Entry, ICacheIndex, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.storage.interface import IBlobStore

# How much of the limit is left when an eviction ends: the next one is then not due with the next blob.
LOW_MARK = 0.9
# Entries that are read at a time, and then looked at one by one.
BATCH = 100


class Evictor:
    """Keeps the sum of sizes in the index below `max_size` bytes (infinity: any), and tells `forget` what goes."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        entries: Entries,
        uses: Uses,
        background: Background,
        forget: Callable[[Digest], None],
        max_size: float,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._index = index
        self._entries = entries
        self._uses = uses
        self._background = background
        self._forget = forget
        self._metrics = metrics
        self._now = now
        self._running = self._wanted = self._stopped = self._failed = False
        self._max_size = max_size
        metrics.max_bytes.set(max_size)
        entries.observe(self.check)

    def resize(self, max_size: float) -> None:
        """Another limit, which counts from now on."""
        self._max_size = max_size
        self._metrics.max_bytes.set(max_size)
        self.check()

    def check(self) -> None:
        """See soon whether something has to go. One eviction runs at a time."""
        self._wanted = True
        if not self._running and not self._stopped:
            self._running = True
            self._background.spawn(self._run(), "eviction")

    def stop(self) -> None:
        """Begin nothing more; what is under way ends with the blob that it is at."""
        self._stopped = True

    async def _run(self) -> None:
        try:
            while self._wanted and not self._stopped:
                self._wanted = False
                await self._evict()
            self._failed = False
        except IndexUnavailable as error:
            if not self._failed:
                # Not again with each blob that is stored.
                self._metrics.errors.labels("index").inc()
                self._log.warn("nothing is evicted while the cache index is down: {error}", error=error)
            self._failed = True
        finally:
            self._running = False

    async def _evict(self) -> None:
        if self._max_size == math.inf:
            return
        _, total = await self._index.totals()
        if self._entries.behind:
            # The index is there again.
            await self._entries.catch_up()
            _, total = await self._index.totals()
        if total <= self._max_size:
            return
        evicted: list[int] = []
        seen: set[Digest] = set()
        try:
            while total > self._max_size * LOW_MARK and not self._stopped:
                if not await self._uses.removing.run(self._evict_batch, total, evicted, seen):
                    # All that is left is in use.
                    break
                _, total = await self._index.totals()
        finally:
            if evicted:
                self._log.info("{count} blobs evicted, {size} bytes", count=len(evicted), size=sum(evicted))

    async def _evict_batch(self, total: int, evicted: list[int], seen: set[Digest]) -> bool:
        """Evict from the coldest until `total` is low enough. False where all of them were `seen` before."""
        # Uses that wait to be written are the latest ones.
        await self._index.flush()
        batch = [entry for entry in await self._index.coldest(BATCH) if entry.digest not in seen]
        for entry in batch:
            if total <= self._max_size * LOW_MARK or self._stopped:
                break
            if entry.digest in self._uses:
                seen.add(entry.digest)
                # With the next flush it is not among the coldest any more.
                self._index.touch(entry.digest)
            elif self._index.touched(entry.digest) or not await self._index.forget_unused(entry):
                # Used since they were read.
                seen.add(entry.digest)
            elif await self._remove(entry):
                evicted.append(entry.size)
                total -= entry.size
        return bool(batch)

    async def _remove(self, entry: Entry) -> bool:
        digest = entry.digest
        if digest in self._uses or self._index.touched(digest):
            # Somebody has found the file while the index was told.
            await self._index.adopt([Entry(digest, entry.size, int(self._now()))])
            return False
        self._forget(digest)
        try:
            # Who opens it before it is gone reads on; who comes later fetches it.
            await self._store.remove(digest)
        except OSError as error:
            # The next sweep gives it back its entry.
            self._log.error("{digest} is evicted, but its file stays: {error}", digest=digest, error=error)
            self._metrics.errors.labels("storage").inc()
            return False
        self._metrics.evicted_blobs.inc()
        self._metrics.evicted_bytes.inc(entry.size)
        return True
