"""Shared questions, and those who are late for their answers."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from depproxy.cache.deadline import Deadline, Late
from depproxy.cache.shared import Shared
from tests.cache_tools import Outcome

PATIENCE = 10.0


class Asking(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.shared: Shared[str, int] = Shared()
        self.runs: list[Deferred[int]] = []

    def ask(self, seconds: float = PATIENCE) -> Outcome[int]:
        def start() -> Deferred[int]:
            self.runs.append(Deferred())
            return self.runs[-1]

        return Outcome(self.shared.ask("key", start, Deadline.after(self.clock, seconds), "docker.io", "this"))

    def test_all_at_once(self) -> None:
        asking = [self.ask() for _ in range(5)]
        assert "key" in self.shared
        self.runs[0].callback(7)
        assert [outcome.value for outcome in asking] == [7] * 5
        assert "key" not in self.shared
        assert len(self.runs) == 1

    def test_after_one_is_late(self) -> None:
        """Whoever waits goes on waiting, whoever comes asks anew, and runs end in any order."""
        patient, hasty = self.ask(30), self.ask(1)
        self.clock.advance(1)
        assert isinstance(hasty.error, Late)
        assert "key" not in self.shared
        later = self.ask()
        assert len(self.runs) == 2
        self.runs[1].callback(2)
        assert (later.value, patient.waits) == (2, True)
        self.runs[0].callback(1)
        assert patient.value == 1
        assert "key" not in self.shared

    def test_late_one_after_the_other(self) -> None:
        first = []
        for _ in range(10):
            first.append(self.ask())
            self.clock.advance(0.5)
        self.clock.advance(PATIENCE - 5)
        second = []
        for _ in range(10):
            second.append(self.ask())
            self.clock.advance(0.5)
        assert all(isinstance(outcome.error, Late) for outcome in first)
        assert len(self.runs) == 2
        self.runs[1].callback(2)
        assert [outcome.value for outcome in second] == [2] * 10

    def test_leaving(self) -> None:
        first, second = self.ask(), self.ask()
        first.leave()
        self.runs[0].callback(1)
        assert second.value == 1

    def test_giving_up(self) -> None:
        late, waiting = self.ask(1), self.ask(30)
        self.clock.advance(1)
        another = self.ask()
        self.shared.cancel()
        assert isinstance(late.error, Late)
        assert [type(outcome.error) for outcome in (waiting, another)] == [CancelledError] * 2

    @given(st.lists(st.tuples(st.sampled_from(["ask", "ask", "wait", "end"]), st.integers(1, 8)), max_size=60))
    def test_any_sequence(self, steps: list[tuple[str, int]]) -> None:
        """A run is shared until somebody has waited for it in vain, or it has ended; and no longer."""
        self.setUp()
        ended: set[int] = set()
        asked: list[tuple[Outcome[int], float, int]] = []
        joinable: int | None = None
        for what, number in steps:
            if what == "ask":
                before = len(self.runs)
                outcome = self.ask(float(number))
                assert (len(self.runs) == before) == (joinable is not None)
                if joinable is None:
                    joinable = before
                asked.append((outcome, self.clock.seconds() + number, joinable))
            elif what == "wait":
                for _ in range(number):
                    self.clock.advance(1)
                    late = {run for _, by, run in asked if by <= self.clock.seconds() and run not in ended}
                    joinable = None if joinable in late else joinable
            elif len(ended) < len(self.runs):
                going = [run for run in range(len(self.runs)) if run not in ended]
                run = going[number % len(going)]
                ended.add(run)
                joinable = None if joinable == run else joinable
                self.runs[run].callback(run)
        for run in range(len(self.runs)):
            if run not in ended:
                self.runs[run].callback(run)
        for outcome, _, run in asked:
            assert outcome.results == [run] or isinstance(outcome.error, Late)
        assert "key" not in self.shared
