"""One running operation per key, many independent waiters.

A Deferred that is shared is a trap: a client that leaves cancels it for all, and what one callback returns is
what the next one sees. Here every waiter owns its Deferred, whose canceller removes that waiter and nothing else;
the operation belongs to the coalescer and runs to its end even when nobody waits any more.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Waiters(Generic[V]):
    """Those who wait for one outcome; each gets it exactly once, or leaves by cancelling."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[V]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self) -> "Deferred[V]":
        """A Deferred of the caller's own. Cancelling it takes it off the list."""
        waiter: Deferred[V] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def callback(self, value: V) -> None:
        """Give `value` to all who wait now."""
        # One at a time off the list: what a waiter does may make another one leave.
        while self._waiting:
            self._waiting.pop(0).callback(value)

    def errback(self, error: BaseException) -> None:
        """Give `error` to all who wait now."""
        while self._waiting:
            # Each raise appends frames to the traceback; a thousand waiters would keep a thousand stacks alive.
            self._waiting.pop(0).errback(Failure(error.with_traceback(None)))


def apart(start: Callable[[], Awaitable[V]]) -> "Deferred[V]":
    """The outcome of an operation of the caller's own, which goes on to its end when he leaves by cancelling."""
    return Coalescer[None, V]().join(None, start)


class Coalescer(Generic[K, V]):
    """Runs at most one operation per key at a time."""

    def __init__(self) -> None:
        self._running: dict[K, Waiters[V]] = {}
        self._tasks: set[Deferred[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: K) -> bool:
        """Whether a join() now would share an operation."""
        return key in self._running

    def join(self, key: K, start: Callable[[], Awaitable[V]]) -> "Deferred[V]":
        """
        The outcome of the operation running under `key`; `start` begins one if there is none.

        May be cancelled: the operation goes on for the others, or for nobody.
        """
        waiters = self._running.get(key)
        if waiters is not None:
            return waiters.add()
        self._running[key] = waiters = Waiters()
        waiter = waiters.add()
        task = Deferred.fromCoroutine(self._run(key, waiters, start))
        if not task.called:
            self._tasks.add(task)
            task.addBoth(lambda _: self._tasks.discard(task))
        return waiter

    def running(self, key: K) -> Waiters[V] | None:
        """The operation that a join() now would share, by those who wait for it."""
        return self._running.get(key)

    def detach(self, key: K, run: Waiters[V] | None) -> None:
        """
        Let the next join() begin anew, if it would share `run`; no other operation is touched. Those who wait get the
        outcome of theirs.
        """
        if run is not None and self._running.get(key) is run:
            del self._running[key]

    def cancel(self) -> None:
        """Cancel what is running: those who wait get CancelledError."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _run(self, key: K, waiters: Waiters[V], start: Callable[[], Awaitable[V]]) -> None:
        # The key is free before anybody is told, so that a waiter which asks again starts anew.
        try:
            value = await start()
        except Exception as error:
            self.detach(key, waiters)
            waiters.errback(error)
        else:
            self.detach(key, waiters)
            waiters.callback(value)
