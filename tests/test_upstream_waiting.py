"""Limits of time, permits, and one run for many waiters."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from depproxy.upstream.waiting import Permit, Permits, Shared, TimedOut, bounded


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


class SharedMachine(RuleBasedStateMachine):
    """Join, leave, fire and fail in any order: one run per key, each waiter exactly one outcome."""

    @initialize()
    def begin(self) -> None:
        self.shared: Shared[int, str] = Shared()
        self.runs: dict[int, Deferred[str]] = {}
        self.started = 0
        self.waiters: dict[int, list[Outcome]] = {}

    async def run(self, key: int) -> str:
        self.started += 1
        gate = self.runs[key] = Deferred()
        return await gate

    @rule(key=st.integers(0, 2))
    def join(self, key: int) -> None:
        before = self.started
        running = key in self.runs
        waiter = Outcome(self.shared.join(key, lambda: self.run(key)))
        self.waiters.setdefault(key, []).append(waiter)
        assert self.started == before + (not running)

    @rule(key=st.integers(0, 2), number=st.integers(0, 5))
    def leave(self, key: int, number: int) -> None:
        waiters = self.waiters.get(key, [])
        if number < len(waiters):
            waiter = waiters.pop(number)
            waiter.waiting.cancel()
            assert waiter.failed is CancelledError

    @rule(key=st.integers(0, 2), fails=st.booleans(), rejoin=st.booleans())
    def end(self, key: int, fails: bool, rejoin: bool) -> None:
        gate = self.runs.pop(key, None)
        if gate is None:
            return
        waiters = self.waiters.pop(key, [])
        again: list[Outcome] = []
        if waiters and rejoin:
            # From within: what begins then is a new run, not the one that is ending.
            waiters[0].waiting.addCallback(
                lambda _: again.append(Outcome(self.shared.join(key, lambda: self.run(key))))
            )
        if fails:
            gate.errback(KeyError("failed"))
        else:
            gate.callback("done")
        for waiter in waiters:
            (result,) = waiter.results
            assert isinstance(result, KeyError) if fails else result == "done"
        if again:
            self.waiters[key] = again
            assert key in self.runs

    @rule()
    def cancel_all(self) -> None:
        self.shared.cancel()
        self.runs.clear()
        for waiters in self.waiters.values():
            for waiter in waiters:
                assert waiter.failed is CancelledError
        self.waiters.clear()

    @invariant()
    def who_waits_has_no_outcome_yet(self) -> None:
        assert not any(waiter.results for waiters in self.waiters.values() for waiter in waiters)


TestShared = SharedMachine.TestCase


def test_a_run_that_ends_at_once() -> None:
    shared: Shared[str, str] = Shared()

    async def done() -> str:
        return "done"

    async def fails() -> str:
        raise KeyError("failed")

    assert Outcome(shared.join("a", done)).results == ["done"]
    assert Outcome(shared.join("a", fails)).failed is KeyError
    assert Outcome(shared.join("a", done)).results == ["done"]


def test_a_waiter_that_makes_another_one_leave() -> None:
    shared: Shared[str, str] = Shared()
    gate: Deferred[str] = Deferred()

    async def run() -> str:
        return await gate

    first = shared.join("a", run)
    second, third = Outcome(shared.join("a", run)), Outcome(shared.join("a", run))
    first.addCallback(lambda _: second.waiting.cancel())
    gate.callback("done")
    assert second.failed is CancelledError
    assert third.results == ["done"]
