"""Which blobs are in use, and the turns of those who take blobs away."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from depproxy.oci.digest import Digest

P = ParamSpec("P")
T = TypeVar("T")

# How many times as long as a step the rest after it is, and the longest one (seconds).
REST = 3
LONGEST_REST = 0.5


class Turns:
    """
    Work in steps, one step of all such work at a time. Nobody waits for it, so after each step it rests three
    times as long as that took, which is longer the more requests there are.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._lock = DeferredLock()

    async def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do one step, when it is its turn; what `function` returns."""
        async with self._lock:
            begin = self._clock.seconds()
            result = await function(*args, **kwargs)
            took = self._clock.seconds() - begin
        if took > 0:
            await deferLater(self._clock, min(took * REST, LONGEST_REST))
        return result


class Uses:
    """
    What is open for reading, being filled or being written now: that stays, however cold it is.

    `removing` has the turns of those who compare files with entries, or take one of them away: eviction between two
    looks of the sweep would make it adopt a file that is about to go.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.removing = Turns(clock)
        self._counts: dict[Digest, int] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._counts

    def hold(self, digest: Digest) -> None:
        """One more use, until the matching release()."""
        self._counts[digest] = self._counts.get(digest, 0) + 1

    def release(self, digest: Digest) -> None:
        """Undo one hold()."""
        left = self._counts.pop(digest) - 1
        if left:
            self._counts[digest] = left
