"""Guessing: who has to wait, for how long, and who has not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from depproxy.access.throttle import FREE_FOR, Throttle, TooManyGuesses, network
from depproxy.config import AccessSettings
from depproxy.index.interface import IBuckets
from tests.configurations import load_text
from tests.fakes import MemoryIndex
from tests.index_tools import Now, RedisTestCase

HERE, THERE = "192.0.2.1", "198.51.100.7"


class ThrottleCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = Now()
        self.index = MemoryIndex(self.now)
        self.throttle = self.make()

    def make(self, settings: AccessSettings | None = None) -> Throttle:
        """One of the processes that share the index."""
        return Throttle(self.index, self.now, settings or AccessSettings())

    def wait(self, account: str = "alice", address: str = HERE, throttle: Throttle | None = None) -> float:
        """How long somebody has to wait before his login is looked at; 0.0 if not at all."""
        asked: Any = Deferred.fromCoroutine((throttle or self.throttle).check(account, address))
        told: list[float] = []
        asked.addErrback(lambda failure: told.append(failure.trap(TooManyGuesses) and failure.value.retry_after))
        self.successResultOf(asked)
        return told[0] if told else 0.0

    def fail_once(self, account: str = "alice", address: str = HERE, throttle: Throttle | None = None) -> None:
        self.successResultOf(Deferred.fromCoroutine((throttle or self.throttle).failed(account, address)))

    def guess(self, count: int, account: str = "alice", address: str = HERE, throttle: Throttle | None = None) -> int:
        """Log in so many times with a wrong password; how many of those were looked at."""
        looked_at = 0
        for _ in range(count):
            if self.wait(account, address, throttle) == 0.0:
                looked_at += 1
                self.fail_once(account, address, throttle)
        return looked_at


class GuessingTests(ThrottleCase):
    """One after the other."""

    def test_tries_of_an_account(self) -> None:
        assert self.guess(20) == 10
        assert self.wait() == pytest.approx(6.0)
        # Wherever they come from.
        assert self.guess(20, "alice", THERE) == 0
        # Others are not concerned.
        assert self.wait("bob") == 0.0

    def test_tries_of_an_address(self) -> None:
        for number in range(3):
            assert self.guess(20, f"user{number}") == 10
        assert self.wait("bob") == pytest.approx(2.0)
        assert self.guess(20, "bob") == 0
        assert self.wait("bob", THERE) == 0.0

    def test_the_longer_wait_is_told(self) -> None:
        for number in range(3):
            self.guess(20, f"user{number}")
        assert self.wait("user2") == pytest.approx(6.0)

    def test_tries_come_back_over_a_minute(self) -> None:
        self.guess(20)
        self.now.time += 5.9
        assert self.wait() == pytest.approx(0.1)
        self.now.time += 0.2
        assert self.guess(5) == 1
        self.now.time += 30.1
        assert self.guess(20) == 5
        self.now.time += 3600
        assert self.guess(20) == 10

    def test_a_wait_that_is_told_is_enough(self) -> None:
        self.guess(20)
        for _ in range(20):
            self.now.time += self.wait() + 0.001
            assert self.wait() == 0.0
            self.fail_once()
            assert self.wait() > 0.0

    def test_ci_jobs_are_counted_by_address_alone(self) -> None:
        assert self.guess(50, "gitlab-ci-token") == 30
        assert self.guess(50, "gitlab-ci-token", THERE) == 30
        assert self.guess(50, "gitlab-ci-token", "203.0.113.1") == 30

    def test_names_of_any_bytes(self) -> None:
        for number, name in enumerate(("", "\0", "\ud800", "x" * 255, "a b\r\nDEL *", "é", "\u0130")):
            assert self.guess(11, name, f"10.0.0.{number}") == 10
        assert self.index.asked
        for _, key in self.index.asked:
            assert re.fullmatch("(account|address):[0-9a-f]{32}", key)

    def test_upper_and_lower_case_are_one_account(self) -> None:
        assert sum(self.guess(5, name, f"10.0.0.{number}") for number, name in enumerate(("bob", "Bob", "BOB"))) == 10

    def test_settings(self) -> None:
        throttle = self.make(AccessSettings(guesses_per_account=2, guesses_per_address=3))
        assert self.guess(9, "a", throttle=throttle) == 2
        assert self.wait("a", throttle=throttle) == pytest.approx(30.0)
        assert self.guess(9, "b", throttle=throttle) == 1
        assert self.wait("c", throttle=throttle) == pytest.approx(20.0)
        throttle.settings = AccessSettings(guesses_per_account=5, guesses_per_address=100)
        assert self.guess(9, "d", THERE, throttle) == 5

    def test_settings_have_limits(self) -> None:
        found = load_text("[access]\nguesses_per_account = 1\nguesses_per_address = 1_000_000\n").access
        assert (found.guesses_per_account, found.guesses_per_address) == (1, 1_000_000)
        for wrong in ("0", "-1", "1_000_001", "true", "1.5", '"10"'):
            for key in ("guesses_per_account", "guesses_per_address"):
                with pytest.raises(Exception, match=f"access.{key} = .*: must be a whole number from 1 to 1000000"):
                    load_text(f"[access]\n{key} = {wrong}\n")

    @given(
        st.lists(
            st.one_of(
                st.floats(0.0, 40.0),
                st.tuples(st.sampled_from(["alice", "bob", "carol", "dave"]), st.sampled_from([HERE, THERE])),
            ),
            max_size=150,
        ),
        st.booleans(),
    )
    def test_no_sequence_gets_more_tries(self, steps: list[float | tuple[str, str]], available: bool) -> None:
        self.setUp()
        self.index.available = available
        begin = self.now()
        looked_at: dict[str, int] = {}
        for step in steps:
            if isinstance(step, float):
                self.now.time += step
            elif self.guess(1, *step):
                for key in step:
                    looked_at[key] = looked_at.get(key, 0) + 1
        minutes = (self.now() - begin) / 60
        for key, count in looked_at.items():
            assert count <= (30 if key in (HERE, THERE) else 10) * (1 + minutes) + 1e-6


class ManyTests(ThrottleCase):
    """Many at once, in several processes."""

    def test_those_under_way_together_are_made_up_for(self) -> None:
        assert [self.wait() for _ in range(15)] == [0.0] * 15
        for _ in range(15):
            self.fail_once()
        # Five more than there were: six have to come back before the next.
        assert self.wait() == pytest.approx(36.0)

    def test_that_wait_has_an_end(self) -> None:
        for _ in range(1000):
            self.fail_once()
        assert self.wait() == pytest.approx(66.0)

    def test_processes_share_the_tries(self) -> None:
        others = [self.make() for _ in range(5)]
        assert sum(self.guess(5, throttle=throttle) for throttle in others) == 10
        assert self.wait() == pytest.approx(6.0)

    def test_a_process_that_saw_tries_left_hears_of_it_soon(self) -> None:
        assert self.wait() == 0.0
        self.guess(20, throttle=self.make())
        assert self.wait() == 0.0
        self.now.time += FREE_FOR
        assert self.wait() == pytest.approx(1.0)


class CostTests(ThrottleCase):
    """How often the index is asked."""

    def asked(self) -> int:
        count = len(self.index.asked)
        self.index.asked.clear()
        return count

    def test_right_logins_cost_nothing_however_many(self) -> None:
        for _ in range(1000):
            assert self.wait() == 0.0
        assert self.index.asked == [("peek", key) for _, key in self.index.asked]
        assert self.asked() == 2
        self.now.time += FREE_FOR - 0.1
        assert self.wait() == 0.0
        assert self.asked() == 0
        self.now.time += 0.1
        assert self.wait() == 0.0
        assert self.asked() == 2

    def test_they_take_nothing_out_even_where_wrong_ones_are(self) -> None:
        self.guess(9)
        for _ in range(1000):
            self.wait()
        assert self.guess(2) == 1

    def test_after_a_wrong_one_it_is_looked_up_at_once(self) -> None:
        self.guess(1)
        self.asked()
        self.wait()
        assert self.asked() == 2

    def test_a_flood_that_is_refused_costs_nothing(self) -> None:
        self.guess(20)
        self.wait()
        self.asked()
        for _ in range(1000):
            assert self.wait() > 0.0
        assert self.asked() == 0
        # The account's bucket is asked again once there may be a try in it, the address's every few seconds.
        self.now.time += 5.9
        assert self.wait() > 0.0
        assert self.asked() == 1
        self.now.time += 0.2
        assert self.wait() == 0.0
        assert self.asked() == 1


class OutageTests(ThrottleCase):
    """While the index is down."""

    def test_each_process_counts_for_itself(self) -> None:
        self.index.available = False
        other = self.make()
        assert self.guess(20) == 10
        assert self.wait() == pytest.approx(6.0)
        assert self.guess(20, throttle=other) == 10
        self.now.time += 6.1
        assert self.guess(5) == 1

    def test_when_it_is_back_it_counts(self) -> None:
        self.guess(20)
        self.index.available = False
        # What was found out counts on, until a try would have come back.
        assert self.wait() == pytest.approx(6.0)
        self.now.time += 6.1
        assert self.wait() == 0.0
        self.index.available = True
        self.fail_once()
        assert self.wait() == pytest.approx(5.9)


class ClockTests(ThrottleCase):
    """A clock that is set back locks nobody out."""

    def test_set_back_far(self) -> None:
        self.guess(20)
        assert self.wait() == pytest.approx(6.0)
        self.now.time -= 1_000_000
        assert self.guess(20) == 10
        assert self.wait() == pytest.approx(6.0)

    def test_tries_left_are_not_believed_from_the_future(self) -> None:
        assert self.wait() == 0.0
        self.guess(20, throttle=self.make())
        self.now.time -= 1
        assert self.wait() > 0.0


@implementer(IBuckets)
@define
class Slow:
    """Buckets that never answer; `told` lists the keys that were taken from."""

    told: list[str] = field(factory=list)

    async def take(self, key: str, capacity: float, per_second: float, cost: float = 1.0, debt: float = 0.0) -> float:
        self.told.append(key)
        return await Deferred()

    async def peek(self, key: str, capacity: float, per_second: float, cost: float = 1.0) -> float:
        return await Deferred()


class LeavingTests(RedisTestCase):
    """Who leaves before he is told has guessed all the same."""

    def test_both_are_told_before_either_is_waited_for(self) -> None:
        slow = Slow()
        asked: Any = Deferred.fromCoroutine(Throttle(slow, self.now).failed("alice", HERE))
        asked.addErrback(lambda _: None)
        assert len(slow.told) == 2
        asked.cancel()

    async def test_it_counts(self) -> None:
        index = await self.started()
        throttle = Throttle(index, self.now, AccessSettings(guesses_per_account=1))
        await throttle.check("alice", HERE)
        asked: Any = Deferred.fromCoroutine(throttle.failed("alice", HERE))
        asked.addErrback(lambda _: None)
        asked.cancel()
        with pytest.raises(TooManyGuesses) as caught:
            await throttle.check("alice", HERE)
        assert caught.value.retry_after == pytest.approx(60.0)
        assert str(caught.value) == "too many wrong logins: try again in 60 s"

    async def test_on_redis(self) -> None:
        index = await self.started()
        throttle = Throttle(index, self.now)
        for _ in range(10):
            await throttle.check("alice", HERE)
            await throttle.failed("alice", HERE)
        with pytest.raises(TooManyGuesses):
            await throttle.check("alice", HERE)
        await throttle.check("bob", HERE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:0DB8:0:0:1:2:3:4", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("a Unix socket", "a Unix socket", True),
        ("a Unix socket", "192.0.2.1", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (network(one) == network(other)) == same


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_ipv6_addresses_count_by_their_network(address: Any, other: int) -> None:
    neighbour = type(address)((int(address) >> 64 << 64) | other)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert network(str(address)) == network(str(neighbour))
        assert network(str(address)).endswith("/64")
    far = type(address)(int(address) ^ (1 << 64))
    assert network(str(far)) != network(str(address))
