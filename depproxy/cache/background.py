"""Work that goes on by itself after the answer is given."""

from collections.abc import Awaitable, Iterable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from depproxy.coalesce import Waiters
from depproxy.index.interface import IndexUnavailable
from depproxy.metrics import Metrics

T = TypeVar("T")


async def ended(tasks: Iterable[Deferred[None]]) -> None:
    """Returns when all of `tasks` have ended, however; their results are left to nobody else."""
    for task in tuple(tasks):
        done: Deferred[None] = Deferred()
        task.addBoth(done.callback)
        await done


class Background:
    """
    Book-keeping that no client needs to wait for. Its failure costs a later request some time, never a wrong
    answer, so it is logged and counted.
    """

    _log = Logger()

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._running: set[Deferred[None]] = set()

    def spawn(self, work: Awaitable[None], what: str) -> None:
        """Let `work` run; `what` names it in the log."""
        task = Deferred.fromCoroutine(self._run(work, what))
        if not task.called:
            self._running.add(task)
            task.addBoth(lambda _: self._running.discard(task))

    def carry(self, work: Awaitable[T], what: str) -> "Deferred[T]":
        """The outcome of `work`, which goes on to its end when who waits for it leaves by cancelling."""
        waiting: Waiters[T] = Waiters()
        outcome = waiting.add()
        self.spawn(_carry(work, waiting), what)
        return outcome

    async def drain(self) -> None:
        """Fires when all that was spawned before has ended."""
        await ended(self._running)

    async def _run(self, work: Awaitable[None], what: str) -> None:
        try:
            await work
        except IndexUnavailable as error:
            self._log.warn("{what} is not in the cache index: {error}", what=what, error=error)
            self._metrics.errors.labels("index").inc()
        except OSError as error:
            self._log.error("{what} is not stored: {error}", what=what, error=error)
            self._metrics.errors.labels("storage").inc()
        except Exception:
            self._log.failure("{what} failed", what=what)
            self._metrics.errors.labels("internal").inc()


async def _carry(work: Awaitable[T], waiting: Waiters[T]) -> None:
    try:
        value = await work
    except Exception as error:
        if not len(waiting):
            # There is nobody to tell but the log.
            raise
        waiting.errback(error)
    else:
        waiting.callback(value)
