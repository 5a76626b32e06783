"""
The sweep: files and index entries are made to agree, both ways.

A file without an entry (a crash between the two, an index that was lost) gets one, last used when it was stored. An
entry without a file is forgotten. A shard, or a few hundred entries, at a time, so that memory is bounded.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from itertools import islice

from attrs import frozen
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.cache.entries import Entries
from depproxy.cache.paging import pages
from depproxy.cache.removal import Remover
from depproxy.cache.uses import Uses
from depproxy.index.interface import Entry, ICacheIndex, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.storage.interface import SHARDS, IBlobStore, StoredFile

# Files that the index is asked about at a time.
BATCH = 100


class Kind(StrEnum):
    """What is wrong with a blob: its file and its entry, or its bytes and its digest, do not agree."""

    NO_ENTRY = "no entry"
    NO_FILE = "no file"
    WRONG_SIZE = "wrong size"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


@frozen
class Difference:
    """A blob with which something is wrong; `size` is that of its file, or of its entry where there is none."""

    kind: Kind
    digest: Digest
    size: int


@frozen
class Swept:
    """
    So many files had no entry, or a wrong one; and so many entries had no file. So many blobs, of `size` bytes in sum,
    were removed, of which the last group had let go before somebody was interrupted.
    """

    adopted: int
    forgotten: int
    removed: int = 0
    size: int = 0


class Reconciler:
    """Sweeps when it is told to, in the background; one sweep runs at a time."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        entries: Entries,
        uses: Uses,
        remover: Remover,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._entries = entries
        self._uses = uses
        self._remover = remover
        self._background = background
        self._metrics = metrics
        self._turn = DeferredLock()
        self._running = self._stopped = False
        # Whether the last run that was begun by itself has not come to its end.
        self.late = False

    def sweep(self) -> None:
        """Begin a sweep, unless one is under way."""
        if not self._running and not self._stopped:
            self._running = True
            self._background.spawn(self._run(), "sweep")

    def stop(self) -> None:
        """Begin nothing more; what is under way ends with its batch."""
        self._stopped = True

    async def run(self) -> Swept:
        """Sweep now; what was made to agree. Raises IndexUnavailable, and OSError."""
        return await self.compare(_nobody, repair=True)

    async def compare(self, tell: Callable[[Difference], Awaitable[None]], *, repair: bool) -> Swept:
        """
        Compare all files with all entries, make them agree where `repair` is set, and tell each difference. Raises
        IndexUnavailable, and OSError.
        """
        return await self._turn.run(self._compare, tell, repair)

    async def _run(self) -> None:
        try:
            await self.run()
            self.late = False
        except IndexUnavailable as error:
            self.late = True
            self._metrics.errors.labels("index").inc()
            self._log.warn("files and cache index are not compared to the end: {error}", error=error)
        finally:
            self._running = False

    async def _compare(self, tell: Callable[[Difference], Awaitable[None]], repair: bool) -> Swept:
        adopted = forgotten = 0
        removed: list[int] = []
        try:
            for number in range(SHARDS):
                files = iter([] if self._stopped else await self._store.shard(number))
                while (batch := list(islice(files, BATCH))) and not self._stopped:
                    found = await self._uses.removing.run(self._adopt, batch, repair)
                    adopted += len(found)
                    for difference in found:
                        await tell(difference)
            async for entries in pages(self._index.scan):
                if self._stopped:
                    break
                missing = await self._store.missing(list(entries))
                let_go = {
                    digest: holding.size
                    for digest, holding in entries.items()
                    if holding.let_go and digest not in missing and not self._remover.busy(digest)
                }
                if let_go and repair:
                    removed += await self._uses.removing.run(self._remover.finish, let_go)
                else:
                    removed += let_go.values()
                for digest in await self._uses.removing.run(self._forget, missing, repair):
                    forgotten += 1
                    await tell(Difference(Kind.NO_FILE, digest, entries[digest].size))
        finally:
            if repair and (adopted or forgotten):
                self._log.info(
                    "{adopted} files had no entry in the cache index, {forgotten} entries had no file",
                    adopted=adopted,
                    forgotten=forgotten,
                )
        if repair and adopted:
            self._entries.tell()
        return Swept(adopted, forgotten, len(removed), sum(removed))

    async def _adopt(self, files: Sequence[StoredFile], repair: bool) -> Sequence[Difference]:
        known = await self._index.known([file.digest for file in files])
        # What is in use gets its entry from who stores it. What was evicted after the listing is not there.
        new = [
            file
            for file in files
            if known.get(file.digest) != file.size
            and file.digest not in self._uses
            and self._store.contains(file.digest) == file.size
        ]
        if repair:
            wrong = [file for file in new if file.digest in known]
            damaged = {file.digest for file in wrong if await self._discard(file, known[file.digest])}
            whole = [file for file in new if file.digest not in damaged]
            await self._index.adopt([Entry(file.digest, file.size, max(0, int(file.modified))) for file in whole])
        return [
            Difference(Kind.WRONG_SIZE if file.digest in known else Kind.NO_ENTRY, file.digest, file.size)
            for file in new
        ]

    async def _discard(self, file: StoredFile, known: int) -> bool:
        """Remove a file whose size is not that of its entry, where its bytes are not those of its digest; whether they
        are not."""
        try:
            if await self._store.verify(file.digest) is not False:
                return False
        except OSError as error:
            self._log.error("{digest} cannot be read: {error}", digest=file.digest, error=error)
            self._metrics.errors.labels("storage").inc()
            return False
        self._log.error(
            "{digest} is damaged, and removed: it has {size} bytes instead of {known}",
            digest=file.digest,
            size=file.size,
            known=known,
        )
        await self._remover.discard(file.digest, file.size)
        return True

    async def _forget(self, digests: Sequence[Digest], repair: bool) -> Sequence[Digest]:
        gone: list[Digest] = []
        for digest in digests:
            # Unless it was stored meanwhile.
            if digest not in self._uses and self._store.contains(digest) is None:
                if repair:
                    await self._index.forget_blob(digest)
                gone.append(digest)
        return gone


async def _nobody(difference: Difference) -> None:
    """Is told nothing."""
