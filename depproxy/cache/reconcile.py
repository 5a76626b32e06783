"""
The sweep: files and index entries are made to agree, both ways.

A file without an entry (a crash between the two, an index that was lost) gets one, last used when it was stored. An
entry without a file is forgotten. A shard, or a few hundred entries, at a time, so that memory is bounded.
"""

from collections.abc import Sequence
from itertools import islice

from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.cache.entries import Entries
from depproxy.cache.uses import Uses
from depproxy.index.interface import Entry, ICacheIndex, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.storage.interface import SHARDS, IBlobStore, StoredFile

# Files that the index is asked about at a time.
BATCH = 500


class Reconciler:
    """Sweeps when it is told to, in the background; one sweep runs at a time."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        entries: Entries,
        uses: Uses,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._entries = entries
        self._uses = uses
        self._background = background
        self._metrics = metrics
        self._running = self._stopped = False

    def sweep(self) -> None:
        """Begin a sweep, unless one is under way."""
        if not self._running and not self._stopped:
            self._running = True
            self._background.spawn(self._run(), "sweep")

    def stop(self) -> None:
        """Begin nothing more; what is under way ends with its batch."""
        self._stopped = True

    async def _run(self) -> None:
        adopted = forgotten = 0
        try:
            for number in range(SHARDS):
                files = iter([] if self._stopped else await self._store.shard(number))
                while (batch := list(islice(files, BATCH))) and not self._stopped:
                    adopted += await self._uses.removing.run(self._adopt, batch)
            cursor = "0"
            while not self._stopped:
                cursor, entries = await self._index.scan(cursor)
                forgotten += await self._uses.removing.run(self._forget, await self._store.missing(list(entries)))
                if cursor == "0":
                    break
        except IndexUnavailable as error:
            self._metrics.errors.labels("index").inc()
            self._log.warn("files and cache index are not compared to the end: {error}", error=error)
        finally:
            self._running = False
            if adopted or forgotten:
                self._log.info(
                    "{adopted} files had no entry in the cache index, {forgotten} entries had no file",
                    adopted=adopted,
                    forgotten=forgotten,
                )
        if adopted:
            self._entries.tell()

    async def _adopt(self, files: Sequence[StoredFile]) -> int:
        known = await self._index.known([file.digest for file in files])
        # What is in use gets its entry from who stores it. What was evicted after the listing is not there.
        new = [
            Entry(file.digest, file.size, max(0, int(file.modified)))
            for file in files
            if known.get(file.digest) != file.size
            and file.digest not in self._uses
            and self._store.contains(file.digest) == file.size
        ]
        if new:
            await self._index.adopt(new)
        return len(new)

    async def _forget(self, digests: Sequence[Digest]) -> int:
        count = 0
        for digest in digests:
            # Unless it was stored meanwhile.
            if digest not in self._uses and self._store.contains(digest) is None:
                await self._index.forget_blob(digest)
                count += 1
        return count
