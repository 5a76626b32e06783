"""How a stored blob goes: the index entry first, the file second.

A crash between leaves a file without an entry, which the sweep (`reconcile`) finds, and never an entry without its
bytes.
"""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum

from attrs import frozen
from twisted.logger import Logger

from depproxy.cache.uses import Uses
from depproxy.index.interface import Entry, ICacheIndex, IGroupIndex
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.storage.interface import IBlobStore


class Why(StrEnum):
    """Why a blob goes."""

    EVICTED = "evicted"
    EXPIRED = "expired"
    PURGED = "purged"


@frozen
class Removed:
    """
    What a run has let go, and why: so many blobs of a `group`, or of all (None). Of these `removed` are gone from the
    store, of `size` bytes in sum, for no other group holds them; and so many `repositories` are forgotten.
    """

    why: Why
    group: str | None
    blobs: int
    removed: int
    size: int
    repositories: int = 0

    def __str__(self) -> str:
        if self.why is Why.EXPIRED:
            return (
                f"group {self.group} has not read {self.blobs} blobs for its ttl: {self.removed} of them, {self.size}"
                f" bytes, are removed; {self.repositories} repositories are forgotten"
            )
        whose = "" if self.group is None else f" of group {self.group}"
        return f"{self.removed} blobs{whose} {self.why}, {self.size} bytes"


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

    async def evict(self, entry: Entry) -> bool:
        """Remove a blob, unless it was used since `entry` was read; whether it is gone."""
        return await self._index.forget_unused(entry) and await self._follow(entry.digest, entry.size, Why.EVICTED)

    async def let_go(self, group: str, entries: Sequence[Entry], why: Why) -> Sequence[int]:
        """
        A group holds these no more, but for those that it has read since they were asked for; and what no group holds
        then is removed. The sizes of what is gone.
        """
        sizes = {entry.digest: entry.size for entry in entries}
        return [
            sizes[digest]
            for digest in await self._groups.let_go(group, entries)
            if await self._groups.forget_unheld(digest) and await self._follow(digest, sizes[digest], why)
        ]

    async def _follow(self, digest: Digest, size: int, why: Why) -> bool:
        """The entry is gone; now the file."""
        # A purge stops at no reader; but who has read since it began may be of another group, which holds it now.
        if self.busy(digest) if why is not Why.PURGED else self._index.touched(digest):
            # Somebody has found the file while the index was told.
            await self._index.adopt([Entry(digest, size, int(self._now()))])
            return False
        self._forget(digest)
        try:
            # Who opens it before it is gone reads on; who comes later fetches it.
            await self._store.remove(digest)
            # Whoever has read it before it was gone has remembered it.
            self._forget(digest)
        except OSError as error:
            self.stuck += size
            self._log.error("{digest} is {why}, but its file stays: {error}", digest=digest, why=why, error=error)
            self._metrics.errors.labels("storage").inc()
            return False
        self._metrics.removed_blobs.labels(why).inc()
        self._metrics.removed_bytes.labels(why).inc(size)
        return True
