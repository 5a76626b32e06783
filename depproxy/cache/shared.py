"""Questions that all who ask at the moment share, each waiting no longer than its own deadline."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from depproxy.cache.deadline import Deadline, Late
from depproxy.coalesce import Coalescer

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """
    A coalescer in which a question that was late for somebody takes no more askers.

    Upstream may have recovered without that connection noticing, so who asks next asks anew. Those who are late
    one after the other must not part those who came later: each lets go of the run that it waited for, no other.
    """

    def __init__(self) -> None:
        self._runs: Coalescer[K, V] = Coalescer()

    def __contains__(self, key: K) -> bool:
        """Whether an ask() now would share a run."""
        return key in self._runs

    async def ask(self, key: K, start: Callable[[], Awaitable[V]], deadline: Deadline, upstream: str, what: str) -> V:
        """What the run under `key` gives; `start` begins one if there is none. Raises Late, and what the run does."""
        answer = self._runs.join(key, start)
        run = self._runs.running(key)
        try:
            return await deadline.wait(answer, upstream, what)
        except Late:
            self._runs.detach(key, run)
            raise

    def cancel(self) -> None:
        """Cancel what is running: those who wait get CancelledError."""
        self._runs.cancel()
