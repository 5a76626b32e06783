"""Work that goes on by itself."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from depproxy.cache.background import Background
from depproxy.index.interface import IndexUnavailable
from depproxy.metrics import Metrics
from tests.cache_tools import Outcome


class WorkTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()
        self.background = Background(self.metrics)

    def spawn(self) -> Deferred[None]:
        """Begin something that ends when the result fires."""
        work: Deferred[None] = Deferred()
        self.background.spawn(work, "this")
        return work

    def counted(self, where: str) -> float:
        value: float = self.metrics.errors.labels(where)._value.get()
        return value


class Working(WorkTestCase):
    def test_it_runs_at_once(self) -> None:
        done = []

        async def work() -> None:
            done.append(1)

        self.background.spawn(work(), "this")
        assert done == [1]
        assert Outcome(self.background.drain()).value is None

    def test_draining_waits_for_all_that_was_spawned_before(self) -> None:
        works = [self.spawn() for _ in range(3)]
        drained = Outcome(self.background.drain())
        later = self.spawn()
        for work in works:
            assert drained.waits
            work.callback(None)
        assert drained.value is None
        later.callback(None)

    def test_who_waits_for_the_end_may_leave(self) -> None:
        work = self.spawn()
        Outcome(self.background.drain()).leave()
        drained = Outcome(self.background.drain())
        work.callback(None)
        assert drained.value is None

    def test_what_fails_is_counted(self) -> None:
        for error, where in ((IndexUnavailable("down"), "index"), (OSError("full"), "storage")):
            work = self.spawn()
            drained = Outcome(self.background.drain())
            work.errback(error)
            assert drained.value is None
            assert self.counted(where) == 1

    def test_a_mistake_is_logged_with_its_traceback(self) -> None:
        work = self.spawn()
        work.errback(ZeroDivisionError())
        assert self.counted("internal") == 1
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1  # type: ignore[no-untyped-call]
        assert Outcome(self.background.drain()).value is None


class Carrying(WorkTestCase):
    """Work whose outcome somebody wants."""

    def begin(self) -> tuple[Deferred[int], Outcome[int]]:
        work: Deferred[int] = Deferred()
        return work, Outcome(self.background.carry(work, "this"))

    def test_its_outcome(self) -> None:
        work, outcome = self.begin()
        drained = Outcome(self.background.drain())
        assert drained.waits
        work.callback(7)
        assert (outcome.value, drained.value) == (7, None)

    def test_one_that_is_there_at_once(self) -> None:
        async def work() -> int:
            return 7

        assert Outcome(self.background.carry(work(), "this")).value == 7

    def test_its_error_is_for_who_waits(self) -> None:
        work, outcome = self.begin()
        work.errback(IndexUnavailable("down"))
        assert str(outcome.error) == "down"
        assert self.counted("index") == 0

    def test_it_goes_on_when_he_leaves(self) -> None:
        work, outcome = self.begin()
        outcome.leave()
        drained = Outcome(self.background.drain())
        assert drained.waits
        work.errback(IndexUnavailable("down"))
        assert drained.value is None
        # There is nobody else to tell.
        assert self.counted("index") == 1
