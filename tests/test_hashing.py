"""Password checks in threads: shared, bounded, remembered."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase

from depproxy.access.hashing import REMEMBERED_FOR, Busy, Hashing
from depproxy.access.passwords import hash_password
from tests.fakes import Threads
from tests.index_tools import REACTOR, Now

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD, 10)
AGAIN = hash_password(PASSWORD, 10)
NOBODYS = hash_password("nobody", 10)


class HashingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = Now()
        self.threads = Threads(held=True)
        self.hashing = Hashing(self.threads, threads=2, waiting=3, now=self.now, remembered=3)

    def check(
        self, password: str = PASSWORD, hashed: str | None = HASH, account: str = "", stand_in: str = NOBODYS
    ) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.hashing.check(password, hashed, account, stand_in))

    def answer(self, *args: Any) -> bool:
        """What a check says, all threads being free."""
        asked = self.check(*args)
        self.threads.finish()
        return self.successResultOf(asked)

    def fails(self, asked: Any, kind: type[Exception]) -> None:
        self.failureResultOf(asked, kind)  # type: ignore[no-untyped-call]

    def costs(self, *args: Any) -> int:
        """How many runs in a thread a check takes."""
        asked = self.check(*args)
        count = self.threads.finish()
        self.successResultOf(asked)
        return count

    def test_right_and_wrong(self) -> None:
        assert self.answer() is True
        assert self.answer("wrong") is False
        assert self.answer(PASSWORD, "no hash") is False

    def test_a_cheap_hash_does_not_tell_by_the_time_that_it_is_there(self) -> None:
        cheap = hash_password(PASSWORD, 11)
        assert self.costs("wrong", cheap) == 2
        assert self.costs("wrong", HASH) == self.costs("wrong", None) == 1
        assert self.costs(PASSWORD, cheap) == 1

    def test_equal_checks_are_one(self) -> None:
        asked = [self.check() for _ in range(1000)] + [self.check("wrong") for _ in range(1000)]
        assert len(self.threads.jobs) == 2
        self.threads.finish()
        assert [self.successResultOf(each) for each in asked] == [True] * 1000 + [False] * 1000

    def test_different_checks_are_not(self) -> None:
        for args in ((PASSWORD, HASH), (PASSWORD, AGAIN), ("x", HASH), (PASSWORD, HASH, "alice"), (PASSWORD, None)):
            self.check(*args)
        assert len(self.threads.jobs) == 5

    def test_parts_do_not_run_into_each_other(self) -> None:
        self.check("b", HASH, "a")
        self.check("", HASH, "ab")
        self.check(HASH, "b", "a")
        assert len(self.threads.jobs) == 3

    def test_more_are_refused_at_once(self) -> None:
        asked = [self.check(str(number)) for number in range(5)]
        for _ in range(2):
            self.fails(self.check("one more"), Busy)
        assert len(self.threads.jobs) == 5
        # To share one takes no place.
        asked.append(self.check("3"))
        self.threads.finish(1)
        asked.append(self.check("one more"))
        self.fails(self.check("two more"), Busy)
        self.threads.finish()
        assert [self.successResultOf(each) for each in asked] == [False] * 7

    def test_a_right_password_is_remembered_for_a_while(self) -> None:
        assert self.costs() == 1
        self.now.time += REMEMBERED_FOR - 0.1
        assert self.costs() == 0
        assert self.answer() is True
        self.now.time += 0.1
        assert self.costs() == 1

    def test_it_is_remembered_even_when_busy(self) -> None:
        self.answer()
        for number in range(5):
            self.check(str(number))
        assert self.successResultOf(self.check()) is True

    def test_a_wrong_one_never(self) -> None:
        assert self.costs("wrong") == 1
        assert self.costs("wrong") == 1

    def test_a_changed_hash_is_checked(self) -> None:
        self.answer()
        assert self.costs(PASSWORD, AGAIN) == 1
        assert self.answer(PASSWORD, hash_password("other", 10)) is False

    def test_forgetting(self) -> None:
        self.answer()
        self.hashing.forget()
        assert self.costs() == 1

    def test_few_are_remembered(self) -> None:
        hashes = [hash_password(PASSWORD, 10) for _ in range(4)]
        for hashed in hashes:
            self.answer(PASSWORD, hashed)
        assert [self.costs(PASSWORD, hashed) for hashed in reversed(hashes)].count(0) == 3

    def test_who_is_unknown_costs_the_same_and_is_not_let_in(self) -> None:
        for _ in range(2):
            assert self.costs(PASSWORD, None) == 1
            assert self.answer(PASSWORD, None, "nobody", HASH) is False
        # Nor does it help anybody else.
        assert self.costs(PASSWORD, HASH, "nobody") == 1
        assert self.costs(PASSWORD, HASH, "nobody") == 0
        assert self.costs(PASSWORD, None, "nobody", HASH) == 1
        assert self.answer(PASSWORD, None, "nobody", HASH) is False

    def test_names_without_an_account_are_apart_like_others(self) -> None:
        self.check("x", None, "one")
        self.check("x", None, "two")
        self.check("x", None, "two")
        assert len(self.threads.jobs) == 2

    def test_who_leaves_takes_nobody_along(self) -> None:
        left, stayed = self.check(), self.check()
        left.cancel()
        self.fails(left, CancelledError)
        self.threads.finish()
        assert self.successResultOf(stayed) is True

    def test_who_leaves_alone_keeps_the_place_until_the_thread_is_done(self) -> None:
        asked = [self.check(str(number)) for number in range(5)]
        for each in asked:
            each.cancel()
            self.fails(each, CancelledError)
        self.fails(self.check("one more"), Busy)
        self.threads.finish(1)
        self.check("one more")
        assert len(self.threads.jobs) == 5

    def test_a_thread_that_fails_gives_its_place_back(self) -> None:
        self.threads.error = MemoryError()
        for _ in range(10):
            asked = self.check()
            self.threads.finish()
            self.fails(asked, MemoryError)
        self.threads.error = None
        assert self.answer() is True

    def test_no_password_is_kept(self) -> None:
        password = "".join(["only ", "here ", "once"])
        asked = self.check(password, hash_password(password, 10))
        self.threads.finish()
        assert self.successResultOf(asked)
        texts = [str(each) for each in reachable(self.hashing) if isinstance(each, str | bytes)]
        assert not any("only here once" in text for text in texts)
        # Where it is kept, it is found.
        self.check(password)
        assert password in reachable(self.hashing)

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("check"), st.sampled_from([PASSWORD, "wrong"]), st.sampled_from([HASH, AGAIN, None])),
                st.tuples(st.just("finish"), st.integers(1, 2)),
                st.tuples(st.just("sleep"), st.sampled_from([1.0, 200.0, REMEMBERED_FOR])),
            ),
            max_size=30,
        )
    )
    def test_any_sequence(self, steps: list[tuple[Any, ...]]) -> None:
        self.setUp()
        model = Model()
        for name, *args in steps:
            if name == "check":
                expected = model.check(self.now(), (args[0], args[1]))
                asked = self.check(args[0], args[1])
                if expected == "busy":
                    self.fails(asked, Busy)
                elif expected == "remembered":
                    assert self.successResultOf(asked) is True
                else:
                    self.assertNoResult(asked)  # type: ignore[no-untyped-call]
            elif name == "finish":
                model.finish(self.now(), args[0])
                self.threads.finish(args[0])
            else:
                self.now.time += args[0]
            assert len(self.threads.jobs) == len(model.running)


def reachable(root: object) -> list[object]:
    """What an object holds, directly or not; neither classes, functions and modules, nor what those hold."""
    found = {id(root): root}
    waiting = [root]
    while waiting:
        for inner in gc.get_referents(waiting.pop()):
            if id(inner) not in found and not isinstance(inner, type | ModuleType | FunctionType):
                found[id(inner)] = inner
                waiting.append(inner)
    return list(found.values())


@define
class Model:
    """What `Hashing` does, said plainly; there is room for five, and two right passwords are all that there are."""

    running: list[tuple[str, str | None]] = field(factory=list)
    right: dict[tuple[str, str | None], float] = field(factory=dict)

    def check(self, now: float, key: tuple[str, str | None]) -> str:
        if now < self.right.get(key, 0.0):
            return "remembered"
        if key in self.running:
            return "shared"
        if len(self.running) >= 5:
            return "busy"
        self.running.append(key)
        return "run"

    def finish(self, now: float, most: int) -> None:
        for key in self.running[:most]:
            if key[0] == PASSWORD and key[1] is not None:
                self.right[key] = now + REMEMBERED_FOR
        del self.running[:most]


class RealThreadsTests(TestCase):
    timeout = 60

    async def test_in_a_pool_of_its_own(self) -> None:
        pool = ThreadPool(0, 2, "hashing")
        pool.start()
        self.addCleanup(pool.stop)
        hashing = Hashing(lambda *work: deferToThreadPool(REACTOR, pool, *work))
        assert await hashing.check(PASSWORD, HASH)
        assert not await hashing.check("wrong", HASH)
        assert not await hashing.check(PASSWORD, None)

    async def test_a_flood_is_bounded(self) -> None:
        pool = ThreadPool(0, 2, "hashing")
        hashing = Hashing(lambda *work: deferToThreadPool(REACTOR, pool, *work))
        asked = [Deferred.fromCoroutine(hashing.check(str(number), HASH)) for number in range(66)]
        with pytest.raises(Busy):
            await hashing.check("one more", HASH)
        pool.start()
        self.addCleanup(pool.stop)
        assert [await each for each in asked] == [False] * 66
        assert await hashing.check(PASSWORD, HASH)
