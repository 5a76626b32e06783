"""How long one request waits."""

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from depproxy.cache.deadline import ANSWER_TIMEOUT, Deadline, Late
from depproxy.upstream.errors import NotFound, Unavailable
from tests.cache_tools import Outcome


class Waiting(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)

    def test_all_questions_together(self) -> None:
        deadline = Deadline.after(self.clock)
        first: Deferred[int] = Deferred()
        waiting = Outcome(deadline.wait(first, "docker.io", "this"))
        self.clock.advance(ANSWER_TIMEOUT - 1)
        first.callback(1)
        assert waiting.value == 1
        left: list[Deferred[int]] = []
        second: Deferred[int] = Deferred(left.append)
        waiting = Outcome(deadline.wait(second, "docker.io", "that"))
        self.clock.advance(0.9)
        assert waiting.waits
        self.clock.advance(0.1)
        assert isinstance(waiting.error, Late)
        assert isinstance(waiting.error, Unavailable)
        assert waiting.error.status is None
        assert left == [second]
        assert self.clock.getDelayedCalls() == []

    def test_what_is_there_already_is_never_late(self) -> None:
        deadline = Deadline.after(self.clock, 1)
        self.clock.advance(2)
        assert Outcome(deadline.wait(succeed(1), "docker.io", "this")).value == 1

    def test_an_error_comes_through(self) -> None:
        answer: Deferred[int] = Deferred()
        waiting = Outcome(Deadline.after(self.clock).wait(answer, "docker.io", "this"))
        answer.errback(NotFound("docker.io", "no", 404))
        assert isinstance(waiting.error, NotFound)

    def test_leaving_is_not_being_late(self) -> None:
        answer: Deferred[int] = Deferred()
        waiting = Outcome(Deadline.after(self.clock).wait(answer, "docker.io", "this"))
        waiting.leave()
        assert isinstance(waiting.error, CancelledError)
        assert self.clock.getDelayedCalls() == []

    def test_within(self) -> None:
        deadline = Deadline.after(self.clock, 10)
        assert deadline.within(3).by == 1003
        assert deadline.within(30).by == 1010
        self.clock.advance(9)
        assert deadline.within(3).by == 1010
