"""How stored blobs go: the index entry first, the file second; many at a time.

A crash between leaves files without entries, which the sweep (`reconcile`) finds, and never an entry without its
bytes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from attrs import frozen
from twisted.logger import Logger

from depproxy.cache.uses import Uses
from depproxy.index.interface import Entry, ICacheIndex, IGroupIndex
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.plural import counted, plural
from depproxy.storage.interface import IBlobStore


class Why(StrEnum):
    """Why a blob goes."""

    EVICTED = "evicted"
    EXPIRED = "expired"
    PURGED = "purged"
    DAMAGED = "damaged"


@frozen
class Removed:
    """
    What a run has let go, and why: so many blobs of a `group`, or of all (None), of `let_go` bytes in sum. Of
    these `removed` are gone from the store, of `size` bytes in sum, for no other group holds them; and so
    many `repositories` are forgotten.
    """

    why: Why
    group: str | None
    blobs: int
    removed: int
    size: int
    repositories: int = 0
    let_go: int = 0

    def __str__(self) -> str:
        let_go, are = f"{counted(self.blobs, 'blob')}, {self.let_go} bytes", plural(self.removed, "is", "are")
        removed = f"{self.removed} of them, {self.size} bytes, {are} removed"
        if self.why is Why.EXPIRED:
            forgotten = counted(self.repositories, "repository is", "repositories are")
            return f"group {self.group} has not read {let_go}, for its ttl: {removed}; {forgotten} forgotten"
        if self.group is not None:
            return f"group {self.group} was above its quota and lets go of {let_go}: {removed}"
        return f"{counted(self.removed, 'blob')} {self.why}, {self.size} bytes"


class Remover:
    """Tells `forget` what goes. Every method is called with `Uses.removing` held, and raises IndexUnavailable."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        groups: IGroupIndex,
        uses: Uses,
        forget: Callable[[Digest], None],
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._index = index
        self._groups = groups
        self._uses = uses
        self._forget = forget
        self._metrics = metrics
        self._now = now
        # Bytes that have lost their entries, but are still there: the next sweep finds them.
        self.stuck = 0

    def busy(self, digest: Digest) -> bool:
        """Whether the blob is read now, or was a moment ago."""
        return digest in self._uses or self._index.touched(digest)

    def tell(self, removed: Removed) -> None:
        """A run has ended, for the log."""
        if removed.blobs or removed.repositories:
            self._log.info("{removed}", removed=removed)

    async def evict(self, entries: Sequence[Entry]) -> Sequence[int]:
        """Remove blobs, but for those that were used since their entries were read. The sizes of what is gone."""
        sizes = {entry.digest: entry.size for entry in entries}
        return await self._follow(await self._index.forget_unused(entries), sizes, Why.EVICTED)

    async def let_go(self, group: str, entries: Sequence[Entry], why: Why) -> Sequence[int]:
        """
        A group holds these no more, but for those that it has read since they were asked for; and what no group holds
        then is removed. The sizes of what is gone.
        """
        sizes = {entry.digest: entry.size for entry in entries}
        unheld = await self._groups.let_go(group, entries)
        return await self._follow(await self._groups.forget_unheld(unheld), sizes, why)

    async def finish(self, let_go: Mapping[Digest, int]) -> Sequence[int]:
        """Remove what the last group has let go of, where that was interrupted: digests and sizes. Those of what is
        gone."""
        free = [digest for digest in let_go if not self.busy(digest)]
        return await self._follow(await self._groups.forget_unheld(free), let_go, Why.EXPIRED)

    async def discard(self, digest: Digest, size: int) -> bool:
        """Remove a blob whose bytes are wrong, used or not; whether it is gone. The next pull fetches it again."""
        await self._index.forget_blob(digest)
        return bool(await self._follow([digest], {digest: size}, Why.DAMAGED))

    def _found(self, digest: Digest, why: Why) -> bool:
        """Whether somebody has found the file while the index was told, and it stays for him."""
        if why is Why.DAMAGED:
            # It is good for nobody.
            return False
        # A purge stops at no reader; but who has read since it began may be of another group, which holds it now.
        return self._index.touched(digest) if why is Why.PURGED else self.busy(digest)

    async def _follow(self, forgotten: Sequence[Digest], sizes: Mapping[Digest, int], why: Why) -> Sequence[int]:
        """The entries are gone; now the files. The sizes of those that are gone."""
        busy = {digest for digest in forgotten if self._found(digest, why)}
        free = [digest for digest in forgotten if digest not in busy]
        for digest in free:
            self._forget(digest)
        # Who opens one before it is gone reads on; who comes later fetches it.
        stay = await self._store.remove(free) if free else {}
        for digest in free:
            # Whoever has read it before it was gone has remembered it.
            self._forget(digest)
        for digest, error in stay.items():
            self.stuck += sizes[digest]
            self._log.error("{digest} is {why}, but its file stays: {error}", digest=digest, why=why, error=error)
            self._metrics.errors.labels("storage").inc()
        gone = [sizes[digest] for digest in free if digest not in stay]
        self._metrics.removed_blobs.labels(why).inc(len(gone))
        self._metrics.removed_bytes.labels(why).inc(sum(gone))
        if busy:
            await self._index.adopt([Entry(digest, sizes[digest], int(self._now())) for digest in busy])
        return gone
