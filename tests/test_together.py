"""Several pieces of work at once: their results, their errors, their end, and the slots that they take."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from depproxy.cache.together import Slots, together
from tests.cache_tools import Outcome


async def waiting(for_what: "Deferred[str]") -> str:
    return await for_what


class Together(SynchronousTestCase):
    def setUp(self) -> None:
        self.works: list[Deferred[str]] = [Deferred() for _ in range(3)]
        self.outcome = Outcome(together(map(waiting, self.works)))

    def test_results_are_in_order(self) -> None:
        for number in (2, 0):
            self.works[number].callback(str(number))
        assert self.outcome.waits
        self.works[1].callback("1")
        assert self.outcome.value == ["0", "1", "2"]

    def test_an_error_comes_when_all_have_ended(self) -> None:
        self.works[1].errback(ValueError("one"))
        self.works[2].errback(ValueError("two"))
        assert self.outcome.waits
        self.works[0].callback("0")
        assert str(self.outcome.error) == "one"

    def test_cancelled(self) -> None:
        ended = Outcome(self.works[0])
        self.outcome.cancel()
        assert isinstance(self.outcome.error, CancelledError)
        assert not ended.waits
        assert all(work.called for work in self.works)

    def test_nothing_to_do(self) -> None:
        assert Outcome(together(map(waiting, []))).value == []


@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["end", "fail", "cancel"]))))
def test_slots(number: int, moves: list[tuple[int, str]]) -> None:
    """Never more than there are, and none is lost, however those that have one end."""
    clock = Clock()
    slots = Slots(number, clock)
    inside: set[int] = set()
    works: list[Deferred[None]] = [Deferred() for _ in range(10)]

    async def work(which: int) -> None:
        async with slots.taken():
            inside.add(which)
            try:
                assert len(inside) <= number
                await works[which]
            finally:
                inside.discard(which)

    outcomes = [Outcome(work(which)) for which in range(10)]
    for which, how in moves:
        if not outcomes[which].waits or (which not in inside and how != "cancel"):
            continue
        if how == "end":
            works[which].callback(None)
        elif how == "fail":
            works[which].errback(ValueError())
        else:
            before = set(inside)
            outcomes[which].cancel()
            assert inside == before - {which}, "another one began in the same moment"
        clock.advance(0)
        assert len(inside) == min(number, sum(outcome.waits for outcome in outcomes))
