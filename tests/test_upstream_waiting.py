"""Limits of time, and permits."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from depproxy.upstream.waiting import Permit, Permits, TimedOut, bounded


class Outcome:
    """What became of a Deferred, once."""

    def __init__(self, waiting: Deferred[Any]) -> None:
        self.waiting = waiting
        self.results: list[object] = []
        waiting.addCallbacks(self.results.append, lambda failure: self.results.append(failure.value))

    @property
    def failed(self) -> type[object] | None:
        return type(self.results[0]) if self.results and isinstance(self.results[0], Exception) else None


class Waiting:
    """A bounded wait for something that, when cancelled, does as `stubborn` says."""

    def __init__(self, stubborn: str = "") -> None:
        self.clock = Clock()
        self.late: list[str] = []
        self.cancelled = 0

        def canceller(inner: Deferred[str]) -> None:
            self.cancelled += 1
            if stubborn == "errs":
                inner.errback(ValueError("not CancelledError"))
            elif stubborn == "succeeds":
                inner.callback("after all")

        self.inner: Deferred[str] = Deferred(canceller)
        self.outcome = Outcome(bounded(self.inner, self.clock, 10, self.late.append))


def test_in_time() -> None:
    for give, expected in (("x", "x"), (Failure(KeyError()), KeyError)):
        waiting = Waiting()
        waiting.inner.callback(give)
        result = waiting.outcome.results[0]
        assert result == expected or type(result) is expected
        assert not waiting.clock.getDelayedCalls()
        assert waiting.late == []


def test_out_of_time_and_cancelled() -> None:
    for stubborn, late in (("", []), ("errs", []), ("succeeds", ["after all"])):
        waiting = Waiting(stubborn)
        waiting.clock.advance(10)
        assert waiting.outcome.failed is TimedOut
        assert (waiting.cancelled, waiting.late) == (1, late)
        waiting = Waiting(stubborn)
        waiting.outcome.waiting.cancel()
        assert waiting.outcome.failed is CancelledError
        assert (waiting.cancelled, waiting.late) == (1, late)
        assert not waiting.clock.getDelayedCalls()


def test_what_comes_at_once() -> None:
    inner: Deferred[int] = Deferred()
    inner.callback(1)
    clock = Clock()
    assert Outcome(bounded(inner, clock, 10, lambda _: None)).results == [1]
    assert not clock.getDelayedCalls()


class PermitMachine(RuleBasedStateMachine):
    """Ask, cancel and release in any order: never more than allowed, never one lost, nobody waits for nothing."""

    @initialize(limit=st.integers(1, 20))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.most_long = max(1, limit - max(1, limit // 8))
        self.permits = Permits(limit)
        self.asked: list[tuple[bool, Outcome]] = []

    @rule(long=st.booleans(), number=st.integers(1, 5))
    def ask(self, long: bool, number: int) -> None:
        for _ in range(number):
            waiting = Deferred.fromCoroutine(self.permits.acquire(long=long))
            self.asked.append((long, Outcome(waiting)))

    @rule(data=st.data(), twice=st.booleans())
    def release(self, data: st.DataObject, twice: bool) -> None:
        if held := self.held():
            entry = data.draw(st.sampled_from(held))
            self.asked.remove(entry)
            (permit,) = entry[1].results
            assert isinstance(permit, Permit)
            permit.release()
            if twice:
                permit.release()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = [entry for entry in self.asked if not entry[1].results]
        if waiting:
            entry = data.draw(st.sampled_from(waiting))
            self.asked.remove(entry)
            entry[1].waiting.cancel()
            assert entry[1].failed is CancelledError

    def held(self) -> list[tuple[bool, Outcome]]:
        return [entry for entry in self.asked if entry[1].results]

    @invariant()
    def limits_hold(self) -> None:
        held = self.held()
        assert self.permits.held <= self.limit
        assert len(held) <= self.limit
        assert sum(long for long, _ in held) <= self.most_long

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        held = self.held()
        waiting = [long for long, outcome in self.asked if not outcome.results]
        if len(held) < self.limit:
            assert False not in waiting
            assert True not in waiting or sum(long for long, _ in held) == self.most_long

    @invariant()
    def none_is_lost(self) -> None:
        # A long one that has its first half waits for the second one without holding it.
        assert self.permits.held == len(self.held())


TestPermits = PermitMachine.TestCase
