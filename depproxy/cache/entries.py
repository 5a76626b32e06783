"""The index entries of what is stored."""

from collections.abc import Callable

from twisted.logger import Logger

from depproxy.index.interface import ICacheIndex, IndexUnavailable
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
        self._missed: dict[Digest, int] = {}
        self._observer: Callable[[], None] | None = None

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer` when there are more entries than before."""
        self._observer = observer

    def tell(self) -> None:
        """There are more entries now."""
        if self._observer is not None:
            self._observer()

    async def stored(self, digest: Digest, size: int) -> None:
        """A blob of `size` bytes is in place now. Never fails: the file is the truth, an index that is down waits."""
        self._missed[digest] = size
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
            digest, size = next(reversed(self._missed.items()))
            try:
                await self._index.put_blob(digest, size)
            except IndexUnavailable as error:
                self._log.warn("no index entry yet for {digest}: {error}", digest=digest, error=error)
                self._metrics.errors.labels("index").inc()
                return
            self._missed.pop(digest, None)
