"""Waiting for things that may never come: with a limit, or in a queue.

The rule for both: who is cancelled gets CancelledError, whatever the thing it waited for makes of that,
and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

_T = TypeVar("_T")


class TimedOut(Exception):
    """The limit passed."""


def bounded(inner: Deferred[_T], clock: IReactorTime, seconds: float, late: Callable[[_T], object]) -> Deferred[_T]:
    """What ``inner`` gives; TimedOut after ``seconds``.

    After TimedOut or CancelledError ``inner`` is cancelled, its failure dropped, and a result that it has
    nevertheless is given to ``late``, which disposes of it.
    """
    settled = False

    def leave() -> None:
        nonlocal settled
        settled = True
        if timer.active():
            timer.cancel()

    def arrived(result: _T | Failure) -> None:
        if not settled:
            leave()
            # callback() takes a Failure for what it is.
            outer.callback(result)
        elif not isinstance(result, Failure):
            late(result)

    def expired() -> None:
        leave()
        inner.cancel()
        outer.errback(TimedOut())

    def cancelled(_: object) -> None:
        leave()
        inner.cancel()

    outer: Deferred[_T] = Deferred(cancelled)
    timer = clock.callLater(seconds, expired)
    inner.addBoth(arrived)
    return outer


class Permit:
    """The right to hold one connection; given back once, however often ``release`` is called."""

    def __init__(self, *semaphores: DeferredSemaphore) -> None:
        self._semaphores = list(semaphores)

    def release(self) -> None:
        """Let the next one in."""
        while self._semaphores:
            self._semaphores.pop().release()


class Permits:
    """At most ``limit`` connections at once; an eighth of them (one at least, if there are two) is kept for
    short requests, so that a tag does not wait for long downloads."""

    def __init__(self, limit: int) -> None:
        self._any = DeferredSemaphore(limit)
        self._long = DeferredSemaphore(max(1, limit - max(1, limit // 8)))

    @property
    def held(self) -> int:
        """How many are in use now."""
        return self._any.limit - self._any.tokens

    async def acquire(self, *, long: bool) -> Permit:
        """Wait for a turn, without limit; cancelling gives the turn up."""
        if not long:
            return Permit(await self._any.acquire())
        # Always in this order, so that nobody who may wait for a long one holds a short one.
        first = await self._long.acquire()
        try:
            return Permit(first, await self._any.acquire())
        except BaseException:
            first.release()
            raise
