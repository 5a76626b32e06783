"""The index entries of what is stored."""

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from depproxy.index.interface import Home, ICacheIndex, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest

# About 200 bytes each; what is beyond is known by its file alone.
REMEMBERED = 100_000


class Entries:
    """Notes each stored blob in the index; what the index could not take is noted when it can again."""

    _log = Logger()

    def __init__(self, index: ICacheIndex, metrics: Metrics) -> None:
        self._index = index
        self._metrics = metrics
        self._missed: dict[Digest, tuple[int, frozenset[Home]]] = {}
        self._observer: Callable[[], None] | None = None

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer` when there are more entries than before."""
        self._observer = observer

    def tell(self) -> None:
        """There are more entries now."""
        if self._observer is not None:
            self._observer()

    async def stored(self, digest: Digest, size: int, homes: Iterable[Home]) -> None:
        """A blob of `size` bytes is in place now, for these homes. Never fails: the file is the truth, an index that is
        down waits."""
        _, waiting = self._missed.get(digest, (0, frozenset()))
        self._missed[digest] = size, waiting | frozenset(homes)
        await self.catch_up()
        while len(self._missed) > REMEMBERED:
            del self._missed[next(iter(self._missed))]
        self.tell()

    @property
    def behind(self) -> bool:
        """Whether something is still to be noted."""
        return bool(self._missed)

    async def catch_up(self) -> None:
        """Note what is missing, as far as the index takes it."""
        while self._missed:
            digest, noted = next(reversed(self._missed.items()))
            try:
                await self._index.put_blob(digest, *noted)
            except IndexUnavailable as error:
                self._log.warn("no index entry yet for {digest}: {error}", digest=digest, error=error)
                self._metrics.errors.labels("index").inc()
                return
            if self._missed.get(digest) == noted:
                del self._missed[digest]
