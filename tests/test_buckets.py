"""Token buckets: one suite for those in Redis, those in memory and the fake, a model, and what is written how."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from depproxy.access.throttle import LocalBuckets
from depproxy.index.interface import IBuckets, IndexUnavailable
from tests.fakes import MemoryIndex
from tests.index_tools import REACTOR, Now, RedisTestCase, deferred


class BucketSuite:
    """What all buckets do."""

    index: Any
    now: Now

    async def take(self, cost: float = 1.0, debt: float = 0.0, key: str = "a") -> float:
        """Out of a bucket of four, that gains one in two seconds."""
        wait: float = await self.index.take(key, 4.0, 0.5, cost, debt)
        return wait

    async def peek(self, cost: float = 1.0, key: str = "a") -> float:
        wait: float = await self.index.peek(key, 4.0, 0.5, cost)
        return wait

    async def test_provides_the_interface(self) -> None:
        verifyObject(IBuckets, self.index)

    async def test_it_is_full_at_first_and_fills_again(self) -> None:
        assert [await self.take() for _ in range(6)] == [0.0, 0.0, 0.0, 0.0, 2.0, 2.0]
        self.now.time += 1.5
        assert await self.take() == 0.5
        self.now.time += 0.5
        assert [await self.take(), await self.take()] == [0.0, 2.0]
        self.now.time += 1_000_000
        assert [await self.take() for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 2.0]

    async def test_looking_takes_nothing(self) -> None:
        assert [await self.peek(4.0) for _ in range(3)] == [0.0] * 3
        assert await self.take(3.5) == 0.0
        assert [await self.peek() for _ in range(3)] == [1.0] * 3
        assert await self.peek(0.5) == 0.0

    async def test_buckets_are_apart(self) -> None:
        assert await self.take(4.0, key="a") == 0.0
        assert await self.take(4.0, key="b") == 0.0
        assert await self.peek(key="a") == await self.peek(key="b") == 2.0

    async def test_what_costs_too_much_takes_nothing(self) -> None:
        assert await self.take(3.0) == 0.0
        assert await self.take(2.0) == 2.0
        assert await self.take(1.0) == 0.0

    async def test_debt(self) -> None:
        assert [await self.take(debt=2.0) for _ in range(7)] == [0.0] * 6 + [2.0]
        assert await self.peek() == 6.0
        assert await self.take() == 6.0
        self.now.time += 6.0
        assert [await self.take(), await self.peek()] == [0.0, 2.0]

    async def test_other_numbers_for_the_same_bucket(self) -> None:
        assert await self.take(1.0) == 0.0
        # A smaller one holds no more than it can, a larger one no more than there was.
        assert await self.index.peek("a", 2.0, 1.0, 2.0) == 0.0
        assert await self.index.peek("a", 2.0, 1.0, 3.0) == 1.0
        assert await self.index.peek("a", 8.0, 1.0, 4.0) == 1.0

    async def test_a_clock_that_is_behind_adds_nothing(self) -> None:
        assert await self.take(4.0) == 0.0
        self.now.time -= 3.0
        assert await self.take() == 5.0
        self.now.time += 3.0
        assert await self.take() == 2.0
        # As if nothing had been between, however often the clocks take turns.
        for _ in range(10):
            self.now.time -= 3.0
            assert await self.peek() > 0.0
            self.now.time += 3.0
            assert await self.peek() == 2.0

    async def test_a_clock_that_was_wrong_is_not_waited_for(self) -> None:
        assert await self.take(4.0) == 0.0
        self.now.time -= 8.0
        assert await self.take() == 10.0
        self.now.time -= 0.5
        assert [await self.take() for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 2.0]
        self.now.time -= 100_000.0
        assert [await self.take() for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 2.0]
        self.now.time += 2.0
        assert await self.take() == 0.0

    async def test_however_many_ask_at_once(self) -> None:
        waits = await gatherResults([deferred(self.take()) for _ in range(50)])
        assert sorted(waits) == [0.0] * 4 + [2.0] * 46


class LocalBucketsTests(BucketSuite, TestCase):
    """Those of one process."""

    def setUp(self) -> None:
        self.now = Now()
        self.index = LocalBuckets(self.now)

    async def test_few_are_remembered(self) -> None:
        self.index = LocalBuckets(self.now, remembered=2)
        for key in ("a", "b", "a", "c"):
            await self.take(1.0, key=key)
        assert [await self.peek(4.0, key=key) for key in ("b", "a", "c")] == [0.0, 4.0, 2.0]


class MemoryIndexTests(BucketSuite, TestCase):
    """The fake."""

    def setUp(self) -> None:
        self.now = Now()
        self.index = MemoryIndex(self.now)

    async def test_can_be_made_unavailable(self) -> None:
        self.index.available = False
        for work in (self.take(), self.peek()):
            with pytest.raises(IndexUnavailable):
                await work
        self.index.available = True
        assert await self.peek(4.0) == 0.0


class RedisIndexTests(BucketSuite, RedisTestCase):
    """Those in Redis."""

    KEY = "depproxy:2:bucket:a"

    async def prepare(self) -> None:
        self.index = await self.started()

    async def test_what_is_written(self) -> None:
        await self.peek()
        await self.index.take("a", 10.0, 1 / 3, 0.1)
        keys = await self.raw("KEYS", "*")
        assert isinstance(keys, list)
        assert set(keys) == {b"depproxy:schema", self.KEY.encode()}
        found = await self.raw("HGETALL", self.KEY)
        # Each digit that a double has.
        assert found == [b"tokens", b"9.9000000000000004", b"at", b"1700000000.75"]

    async def test_it_goes_by_itself_a_minute_after_it_is_full(self) -> None:
        for cost, seconds in ((1.0, 62), (3.0, 68)):
            await self.take(cost)
            left = await self.raw("PTTL", self.KEY)
            # It began to count at most a few seconds ago.
            assert isinstance(left, int)
            assert (seconds - 30) * 1000 < left <= seconds * 1000
        # To be refused does not make it live longer.
        await self.raw("PEXPIRE", self.KEY, 50_000)
        assert await self.take(4.0) == 8.0
        await self.peek()
        left = await self.raw("PTTL", self.KEY)
        assert isinstance(left, int)
        assert left <= 50_000

    async def test_all_processes_share_it(self) -> None:
        other = await self.started()
        assert await other.take("a", 4.0, 0.5, 3.0) == 0.0
        assert await self.take(2.0) == 2.0

    async def test_what_cannot_be_read_is_full(self) -> None:
        for words in (("tokens", "rubbish", "at", "1"), ("tokens", "0"), ("at", "1")):
            await self.raw("DEL", self.KEY)
            await self.raw("HSET", self.KEY, *words)
            assert await self.peek(4.0) == 0.0
        await self.raw("SET", self.KEY, "x")
        with pytest.raises(IndexUnavailable, match="WRONGTYPE"):
            await self.peek()

    async def test_down(self) -> None:
        await self.server.stop()
        with pytest.raises(IndexUnavailable):
            await self.take()


numbers = st.floats(0.01, 100.0)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), numbers, st.just(0.0) | numbers),
        st.tuples(st.just("peek"), numbers),
        st.tuples(st.just("sleep"), st.floats(-50.0, 200.0)),
    ),
    max_size=20,
)


class SameAnswersTests(RedisTestCase):
    """Whatever is done to them, the script and Python tell the same, to the last digit."""

    async def test_any_sequence(self) -> None:
        real = await self.started()

        async def check(sequence: list[tuple[Any, ...]], capacity: float, per_second: float) -> None:
            await self.raw("FLUSHALL")
            local = LocalBuckets(self.now)
            for name, *args in sequence:
                if name == "sleep":
                    self.now.time += args[0]
                else:
                    told = await getattr(real, name)("key", capacity, per_second, *args)
                    assert told == await getattr(local, name)("key", capacity, per_second, *args), (name, args)
            assert await real.peek("key", capacity, per_second, capacity) == await local.peek(
                "key", capacity, per_second, capacity
            )

        from_reactor: Any = blockingCallFromThread

        @given(steps, numbers, st.floats(0.01, 1.0))
        def from_thread(sequence: list[tuple[Any, ...]], capacity: float, per_second: float) -> None:
            from_reactor(REACTOR, lambda: Deferred.fromCoroutine(check(sequence, capacity, per_second)))

        await deferToThread(from_thread)


class BucketMachine(RuleBasedStateMachine):
    """A bucket against its history: what it holds is told from the takes and their times alone.

    All numbers are multiples of 1/16 within bounds, so that floats are exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = Now()
        self.begin = self.now()
        self.buckets = LocalBuckets(self.now)
        self.capacity = self.per_second = Fraction(1)
        self.taken: list[tuple[Fraction, Fraction]] = []
        self.most_debt = Fraction(0)

    @initialize(capacity=st.integers(1, 6), per_second=st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(2)]))
    def begin_with(self, capacity: int, per_second: Fraction) -> None:
        self.capacity, self.per_second = Fraction(capacity), per_second

    @rule(sixteenths=st.integers(1, 400))
    def sleep(self, sixteenths: int) -> None:
        self.now.time += sixteenths / 16

    @rule(cost=st.integers(1, 12), debt=st.integers(0, 6))
    def take(self, cost: int, debt: int) -> None:
        wait = self.ask(self.buckets.take("k", float(self.capacity), float(self.per_second), cost / 2, float(debt)))
        missing = Fraction(cost, 2) - debt - self.holds()
        assert wait == (missing / self.per_second if missing > 0 else 0)
        if wait == 0:
            self.taken.append((Fraction(self.now.time), Fraction(cost, 2)))
            self.most_debt = max(self.most_debt, Fraction(debt))

    @rule(cost=st.integers(1, 12))
    def peek(self, cost: int) -> None:
        wait = self.ask(self.buckets.peek("k", float(self.capacity), float(self.per_second), cost / 2))
        missing = Fraction(cost, 2) - self.holds()
        assert wait == (missing / self.per_second if missing > 0 else 0)

    @invariant()
    def nobody_gets_more_than_was_there(self) -> None:
        for number, (since, _) in enumerate(self.taken):
            got = sum(cost for _, cost in self.taken[number:])
            assert got <= self.capacity + self.most_debt + self.per_second * (Fraction(self.now.time) - since)

    def holds(self) -> Fraction:
        """The least that any moment since then says: full at that moment, and as much in and out since."""
        now = Fraction(self.now.time)
        found = [self.capacity]
        for number, (since, _) in enumerate(self.taken):
            out = sum(cost for _, cost in self.taken[number:])
            found.append(self.capacity + self.per_second * (now - since) - out)
        return min(found)

    def ask(self, answer: Any) -> Fraction:
        results: list[float] = []
        deferred(answer).addCallback(results.append)
        return Fraction(results[0])


TestBucketMachine = BucketMachine.TestCase
