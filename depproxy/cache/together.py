"""Several pieces of work at once, of which none outlives who waits for them."""

from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """
    What `works` give, in their order, once the last of them has ended; raises the first error in that order.

    May be cancelled, which cancels all of them.
    """
    outcomes = await DeferredList([Deferred.fromCoroutine(work) for work in works], consumeErrors=True)
    results: list[T] = []
    for _, result in outcomes:
        if isinstance(result, Failure):
            result.raiseException()
        results.append(result)
    return results


class Slots:
    """So many pieces of work may be under way at a time; the others wait for their turn."""

    def __init__(self, number: int, clock: IReactorTime) -> None:
        self._free = DeferredSemaphore(number)
        self._clock = clock

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold one of them. May be cancelled."""
        await self._free.acquire()
        try:
            yield
        finally:
            # Not now: where several pieces are cancelled, the next in the row may be about to be, and must not begin.
            self._clock.callLater(0, self._free.release)
