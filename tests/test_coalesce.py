"""The coalescer: one run per key, and for each waiter one outcome of its own."""

from collections.abc import Callable
from typing import Any

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from depproxy.coalesce import Coalescer, Waiters
from tests.cache_tools import Outcome


class Broken(Exception):
    """What an operation fails with; `run` tells which one."""

    def __init__(self, run: "Run") -> None:
        super().__init__()
        self.run = run


@define(eq=False)
class Run:
    """One run of an operation, as the test knows it."""

    key: str
    result: Deferred[object] = field(factory=Deferred)
    ended: bool = False
    cancelled: bool = False


@define(eq=False)
class Waiter:
    """One waiter, what it will do when it is told, and what it was told."""

    key: str
    reaction: str
    waiter: Deferred[object]
    run: Run | None = None
    leaving: bool = False
    told: list[object] = field(factory=list)


class Coalescing(RuleBasedStateMachine):
    """Any sequence of joins, departures, successes and failures, some from within a waiter's callback."""

    keys = st.sampled_from("abc")
    reactions = st.sampled_from(["none", "join same", "join other", "leave others", "raise", "replace"])

    @initialize()
    def begin(self) -> None:
        self.coalescer: Coalescer[str, object] = Coalescer()
        self.running: dict[str, Run] = {}
        # Those that nobody can join any more.
        self.detached: list[Run] = []
        self.waiters: list[Waiter] = []
        # Bounds what reactions to reactions may cause.
        self.fuel = 40

    def waiting(self, key: str | None = None) -> list[Waiter]:
        return [waiter for waiter in self.waiters if not waiter.told and key in (None, waiter.key)]

    def join_one(self, key: str, reaction: str, instant: str = "") -> None:
        shared = key in self.running
        assert (key in self.coalescer) == shared
        started: list[Run] = []

        async def operation() -> object:
            # One at a time per key.
            assert key not in self.running
            run = Run(key)
            started.append(run)
            if instant == "value":
                run.ended = True
                return run
            if instant == "error":
                run.ended = True
                raise Broken(run)
            self.running[key] = run
            return await run.result

        def start() -> Any:
            if instant == "no coroutine":
                run = Run(key, ended=True)
                started.append(run)
                raise Broken(run)
            return operation()

        joined = self.coalescer.join(key, start)
        assert len(started) == (0 if shared else 1)
        waiter = Waiter(key, reaction, joined, self.running[key] if shared else started[0])
        self.waiters.append(waiter)
        joined.addBoth(self.tell, waiter)
        joined.addErrback(lambda failure: failure.trap(RuntimeError))

    def tell(self, outcome: object, waiter: Waiter) -> object:
        assert not waiter.told
        if isinstance(outcome, Failure):
            error = outcome.value
            if isinstance(error, CancelledError):
                assert waiter.leaving or (waiter.run is not None and waiter.run.cancelled), "somebody else left"
            else:
                assert isinstance(error, Broken)
                assert error.run is waiter.run
        else:
            assert outcome is waiter.run
        assert waiter.leaving or (waiter.run is not None and waiter.run.ended)
        waiter.told.append(outcome)
        return self.react(waiter, outcome)

    def react(self, waiter: Waiter, outcome: object) -> object:
        """What a request may do in the very moment in which it is told."""
        self.fuel -= 1
        if self.fuel > 0:
            if waiter.reaction == "join same":
                self.join_one(waiter.key, "none")
            elif waiter.reaction == "join other":
                self.join_one("abc".replace(waiter.key, "")[0], "join same")
            elif waiter.reaction == "leave others":
                for other in self.waiting()[::2]:
                    self.leave_one(other)
        if waiter.reaction == "raise":
            raise RuntimeError("this waiter's own trouble")
        return None if waiter.reaction == "replace" or isinstance(outcome, Failure) else outcome

    def leave_one(self, waiter: Waiter) -> None:
        others = [other for other in self.waiting() if other is not waiter]
        told = [len(other.told) for other in others]
        waiter.leaving = True
        if waiter.reaction == "leave others":
            waiter.reaction = "none"
        waiter.waiter.cancel()
        assert len(waiter.told) == 1
        assert [len(other.told) for other in others] == told, "its departure told others"

    def end(self, run: Run, give: Callable[[Run], None]) -> None:
        if run in self.detached:
            self.detached.remove(run)
        else:
            del self.running[run.key]
        run.ended = True
        mine = [waiter for waiter in self.waiting(run.key) if waiter.run is run]
        give(run)
        assert all(len(waiter.told) == 1 for waiter in mine), "a result was lost"

    def runs(self) -> list[Run]:
        return [*self.running.values(), *self.detached]

    @rule(key=keys, reaction=reactions)
    def join(self, key: str, reaction: str) -> None:
        self.join_one(key, reaction)

    @precondition(lambda self: len(self.running) < 3)
    @rule(data=st.data(), instant=st.sampled_from(["value", "error", "no coroutine"]))
    def join_what_ends_at_once(self, data: st.DataObject, instant: str) -> None:
        key = data.draw(st.sampled_from([key for key in "abc" if key not in self.running]))
        self.join_one(key, "none", instant)
        assert len(self.waiters[-1].told) == 1

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.leave_one(data.draw(st.sampled_from(self.waiting())))

    @precondition(lambda self: self.runs())
    @rule(data=st.data())
    def fire(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.runs())), lambda run: run.result.callback(run))

    @precondition(lambda self: self.runs())
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.runs())), lambda run: run.result.errback(Broken(run)))

    @rule(key=keys)
    def detach(self, key: str) -> None:
        """Who waits goes on waiting; who comes begins anew."""
        self.coalescer.detach(key, self.coalescer.running(key))
        if key in self.running:
            self.detached.append(self.running.pop(key))

    @rule(happens=st.sampled_from([False] * 9 + [True]))
    def cancel_all(self, happens: bool) -> None:
        """The service stops. What is begun by those who are told is theirs."""
        if not happens:
            return
        runs = self.runs()
        self.fuel = 0
        self.running.clear()
        self.detached.clear()
        for run in runs:
            run.ended = run.cancelled = True
        self.coalescer.cancel()
        assert all(run.result.called for run in runs)
        assert all(waiter.told for waiter in self.waiters if waiter.run in runs)

    @invariant()
    def the_coalescer_knows_what_runs(self) -> None:
        if hasattr(self, "coalescer"):
            assert len(self.coalescer) == len(self.running)
            assert all((key in self.coalescer) == (key in self.running) for key in "abc")

    @invariant()
    def everybody_told_or_waiting_for_what_runs(self) -> None:
        for waiter in getattr(self, "waiters", ()):
            assert len(waiter.told) <= 1
            assert waiter.told or waiter.run in self.runs()

    def teardown(self) -> None:
        if not hasattr(self, "coalescer"):
            return
        while self.runs():
            self.end(self.runs()[0], lambda run: run.result.callback(run))
        assert len(self.coalescer) == 0
        assert all(len(waiter.told) == 1 for waiter in self.waiters)


TestCoalescing = Coalescing.TestCase


class OneWaiterAndAnother(SynchronousTestCase):
    """The cases for which the coalescer was made, by name."""

    def setUp(self) -> None:
        self.coalescer: Coalescer[str, list[str]] = Coalescer()
        self.results: list[Deferred[list[str]]] = []

    def join(self) -> Deferred[list[str]]:
        def start() -> Deferred[list[str]]:
            self.results.append(Deferred())
            return self.results[-1]

        return self.coalescer.join("key", start)

    def test_the_first_one_leaves(self) -> None:
        first, second = self.join(), Outcome(self.join())
        first.addErrback(lambda failure: failure.trap(CancelledError) and None)
        first.cancel()
        assert second.waits
        self.results[0].callback(["value"])
        assert second.value == ["value"]
        assert len(self.results) == 1

    def test_everybody_leaves_and_it_runs_on(self) -> None:
        for waiter in (Outcome(self.join()), Outcome(self.join())):
            waiter.leave()
        late = Outcome(self.join())
        assert len(self.results) == 1
        self.results[0].callback(["value"])
        assert late.value == ["value"]

    def test_it_fails_and_nobody_waits(self) -> None:
        """Nor is it logged as an error that nobody has handled: the test would fail."""
        Outcome(self.join()).leave()
        self.results[0].errback(OSError())
        self.results.clear()
        assert "key" not in self.coalescer

    def test_what_one_callback_returns_is_its_own(self) -> None:
        first = self.join().addCallback(lambda _: "something else")
        second = Outcome(self.join())
        self.results[0].callback(["value"])
        assert second.value == ["value"]
        assert self.successResultOf(first) == "something else"

    def test_asking_again_when_told_starts_anew(self) -> None:
        again: list[Outcome[list[str]]] = []
        self.join().addCallback(lambda _: again.append(Outcome(self.join())))
        self.results[0].callback(["value"])
        assert again[0].waits
        assert len(self.results) == 2

    def test_an_operation_that_is_itself_cancelled(self) -> None:
        """Upstream's client is closed: those who wait are told, and the key is free."""
        waiters = [Outcome(self.join()), Outcome(self.join())]
        self.results[0].cancel()
        assert [type(waiter.error) for waiter in waiters] == [CancelledError] * 2
        assert "key" not in self.coalescer

    def test_all_is_given_up(self) -> None:
        """At a stop: every waiter is told, and every key is free."""
        waiters = [Outcome(self.join()), Outcome(self.join())]
        self.coalescer.cancel()
        assert [type(waiter.error) for waiter in waiters] == [CancelledError] * 2
        assert len(self.coalescer) == 0

    def test_a_run_that_is_detached(self) -> None:
        """Who asks after a deadline asks anew; who waits for the old run gets the old run's outcome."""
        patient = Outcome(self.join())
        self.coalescer.detach("key", self.coalescer.running("key"))
        assert "key" not in self.coalescer
        later = Outcome(self.join())
        assert len(self.results) == 2
        self.results[0].callback(["old"])
        assert (patient.value, later.waits) == (["old"], True)
        assert "key" in self.coalescer, "the end of the old run freed the key of the new one"
        self.results[1].callback(["new"])
        assert later.value == ["new"]

    def test_a_detached_run_is_given_up_with_the_others(self) -> None:
        patient = Outcome(self.join())
        self.coalescer.detach("key", self.coalescer.running("key"))
        self.coalescer.cancel()
        assert type(patient.error) is CancelledError

    def test_tracebacks_do_not_pile_up(self) -> None:
        """A thousand waiters share one exception; what the one's stack was, the next one need not carry."""

        async def waits() -> None:
            await self.join()

        waiters = [Outcome(waits()) for _ in range(50)]
        self.results[0].errback(OSError())
        lengths = set()
        for waiter in waiters:
            length, traceback = 0, waiter.error.__traceback__
            while traceback is not None:
                length, traceback = length + 1, traceback.tb_next
            lengths.add(length)
        assert max(lengths) < 10


class AllWhoWait(SynchronousTestCase):
    """`Waiters` by itself."""

    def test_one_who_makes_others_leave(self) -> None:
        waiters: Waiters[int] = Waiters()
        first, second, third = waiters.add(), waiters.add(), waiters.add()
        first.addCallback(lambda _: second.cancel())
        outcome = Outcome(second)
        waiters.callback(1)
        assert isinstance(outcome.error, CancelledError)
        assert self.successResultOf(third) == 1
        assert len(waiters) == 0

    def test_leaving_when_told_is_nothing(self) -> None:
        waiters: Waiters[int] = Waiters()
        first = waiters.add()
        inner: Deferred[int] = Deferred()
        first.addCallback(lambda _: inner)
        waiters.callback(1)
        first.addErrback(lambda failure: failure.trap(CancelledError) and None)
        first.cancel()
        assert len(waiters) == 0

    def test_nobody(self) -> None:
        waiters: Waiters[int] = Waiters()
        waiters.callback(1)
        waiters.errback(OSError())
        assert len(waiters) == 0

    def test_an_operation_that_is_a_deferred(self) -> None:
        coalescer: Coalescer[str, int] = Coalescer()
        assert self.successResultOf(coalescer.join("key", lambda: succeed(1))) == 1
        assert "key" not in coalescer
