"""Redis goes, hangs and comes back."""

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from depproxy.index.interface import IndexUnavailable, Link
from depproxy.index.redis import RedisIndex
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Tag
from tests.index_tools import HOME, REACTOR, RECORD, A, RedisTestCase, error_of, until


class Slow(Link):
    """A link that takes some time to be written, by a clock that stands still otherwise."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__("x", 1)
        object.__setattr__(self, "_written", [lambda: clock.advance(seconds)])

    def then(self, call: Callable[[], None]) -> None:
        self._written.append(call)

    def __getattribute__(self, name: str) -> Any:
        if name == "size":
            for call in self._written:
                call()
        return super().__getattribute__(name)


@implementer(IReadDescriptor)
class Reading:
    """Calls `work` once, when the reactor reads."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._read, self._write = os.pipe()
        os.write(self._write, b"x")
        REACTOR.addReader(self)

    def fileno(self) -> int:
        return self._read

    def doRead(self) -> None:
        REACTOR.removeReader(self)
        os.close(self._read)
        os.close(self._write)
        self._work()

    def connectionLost(self, reason: Failure) -> None:
        pass

    def logPrefix(self) -> str:
        return "reading"


class OutageTests(RedisTestCase):
    """Redis goes, hangs and comes back. The index lives by a clock that stands still unless it is told."""

    async def prepare(self) -> None:
        self.clock = Clock()
        self.index = await self.started(clock=self.clock)

    def signal(self, number: int) -> None:
        assert self.server.pid is not None
        os.kill(self.server.pid, number)

    def hang(self) -> None:
        self.signal(signal.SIGSTOP)
        self.addCleanup(self.signal, signal.SIGCONT)

    def ask(self) -> Deferred[tuple[int, int]]:
        return Deferred.fromCoroutine(self.index.totals())

    async def connected(self, times: int) -> None:
        """Let time pass until a connection was made for so many times."""

        def so_often() -> bool:
            self.clock.advance(0.1)
            return self.log.count("connected to R") >= times

        await until(so_often)

    def assert_down(self, words: str) -> None:
        """Every operation fails, and before anything could have been sent and answered."""
        for work in (
            self.index.get_tag(HOME, Tag("a")),
            self.index.put_tag(HOME, Tag("a"), RECORD),
            self.index.forget_tag(HOME, Tag("a")),
            self.index.get_link(HOME, A),
            self.index.put_links(HOME, {A: Link("x", 1)}),
            self.index.put_blob(A, 1, [HOME]),
            self.index.forget_blob(A),
            self.index.totals(),
        ):
            error = error_of(work)
            assert isinstance(error, IndexUnavailable)
            assert words in str(error)

    async def test_killed_and_back(self) -> None:
        await self.on(self.clock, self.index.put_blob(A, 5, [HOME]))
        self.signal(signal.SIGKILL)
        await until(lambda: self.log.count("the connection was lost"))
        self.assert_down("R is unavailable: the connection was lost")
        await until(lambda: self.log.count("is ready") == 2)
        await self.connected(2)
        assert await self.ask() == (1, 5)

    async def test_killed_under_a_command(self) -> None:
        self.hang()
        asked = self.ask()
        self.signal(signal.SIGKILL)
        with pytest.raises(IndexUnavailable):
            await asked
        await self.connected(2)

    async def test_away_for_long(self) -> None:
        await self.server.stop()
        await until(lambda: self.log.count("the connection was lost"))
        for _ in range(100):
            self.clock.advance(1)
            await deferLater(REACTOR, 0)
        self.assert_down("No such file or directory")
        # Once for the loss, once for what came after: not once for each attempt.
        assert self.log.count("R is unavailable") == 2
        await self.server.start()
        await self.connected(2)
        assert await self.ask() == (0, 0)

    async def test_hanging(self) -> None:
        await self.on(self.clock, self.index.put_blob(A, 5, [HOME]))
        self.hang()
        asked, later = self.ask(), []
        self.clock.advance(1.5)
        later.append(self.ask())
        assert not asked.called
        self.clock.advance(0.5)
        self.clock.advance(0)
        assert isinstance(error_of(asked), IndexUnavailable)
        self.assert_down("no answer for 2 s")
        with pytest.raises(IndexUnavailable):
            await later[0]
        self.signal(signal.SIGCONT)
        await self.connected(2)
        assert await self.ask() == (1, 5)

    async def test_an_answer_that_is_there_counts_though_we_are_late(self) -> None:
        """As after a pause of this very process: all its timers are due before it reads."""
        index = RedisIndex(REACTOR, self.now, self.server, "R", limit=1.0)
        self.addCleanup(lambda: Deferred.fromCoroutine(index.stop()))
        await index.start()
        await index.totals()
        self.hang()
        asked = Deferred.fromCoroutine(index.totals())
        while self.descriptor(index).dataBuffer or self.descriptor(index)._tempDataBuffer:
            await deferLater(REACTOR, 0)

        def stand_still() -> None:
            self.signal(signal.SIGCONT)
            select.select([self.descriptor(index)], [], [])
            time.sleep(1.1)

        # While the reactor reads: what it does next is look at its timers.
        Reading(stand_still)
        assert await asked == (0, 0)

    def descriptor(self, index: RedisIndex) -> Any:
        wire = index._redis._wire
        assert wire is not None
        return wire._protocol.transport

    async def test_hanging_when_a_connection_is_made(self) -> None:
        self.hang()
        index = self.make(clock=self.clock)
        starting = Deferred.fromCoroutine(index.start())

        def started() -> bool:
            self.clock.advance(0.1)
            return bool(starting.called)

        await until(started)
        await starting
        error = error_of(index.totals())
        assert "no answer for 2 s" in str(error)

    async def test_stop_while_a_connection_is_made(self) -> None:
        self.hang()
        index = self.make(clock=self.clock)
        starting = Deferred.fromCoroutine(index.start())
        await deferLater(REACTOR, 0.01)
        await self.on(self.clock, index.stop())
        await self.on(self.clock, starting)
        assert not index._flusher.running

    async def test_started_without_redis(self) -> None:
        await self.server.stop()
        index = await self.started(clock=self.clock)
        error = error_of(index.totals())
        assert "No such file or directory" in str(error)
        await self.server.start()
        await self.connected(3)
        assert await index.totals() == (0, 0)

    async def test_before_start_and_after_stop(self) -> None:
        index = self.make()
        with pytest.raises(IndexUnavailable, match="it was not started"):
            await index.totals()
        await self.on(self.clock, self.index.stop())
        self.assert_down("it was stopped")

    async def test_may_be_started_again(self) -> None:
        await self.on(self.clock, self.index.stop())
        await self.on(self.clock, self.index.start())
        assert await self.ask() == (0, 0)

    async def test_a_cancelled_command_takes_no_answer_from_another(self) -> None:
        await self.on(self.clock, self.index.put_blob(A, 5, [HOME]))
        self.hang()
        given_up = Deferred.fromCoroutine(self.index.get_tag(HOME, Tag("a")))
        asked = self.ask()
        given_up.cancel()
        assert isinstance(error_of(given_up), CancelledError)
        self.signal(signal.SIGCONT)
        assert await asked == (1, 5)

    async def test_an_operation_of_many_commands_has_one_deadline(self) -> None:
        # Each command takes half a second: it is up before the sixth.
        many = self.slow(10_000, 0.001)
        with pytest.raises(IndexUnavailable):
            await self.on(self.clock, self.index.put_links(HOME, many))
        assert isinstance(await self.index.get_link(HOME, next(iter(many))), Link)
        assert await self.index.get_link(HOME, list(many)[-1]) is None
        assert self.log.count("connected to R") == 1

    async def test_a_command_that_had_but_a_moment_is_not_held_against_the_connection(self) -> None:
        many = self.slow(1000, 0.0015)
        many[list(many)[-1]].then(self.hang)
        putting = Deferred.fromCoroutine(self.index.put_links(HOME, many))
        # The first 500 are sent in 0.75 s, the others in as long; half a second is left.
        await until(lambda: self.clock.seconds() >= 1.49)
        self.clock.advance(0.51)
        self.clock.advance(0)
        assert isinstance(error_of(putting), IndexUnavailable)
        self.signal(signal.SIGCONT)
        assert await self.ask() == (0, 0)
        assert self.log.count("connected to R") == 1

    def slow(self, count: int, seconds: float) -> dict[Digest, "Slow"]:
        return {Digest.of(b"%d" % number): Slow(self.clock, seconds) for number in range(count)}

    async def test_last_uses_are_written_every_five_seconds(self) -> None:
        await self.touched()
        self.clock.advance(4.9)
        assert len(self.index._uses) == 1
        self.clock.advance(0.1)
        await self.written()

    async def test_last_uses_outlive_an_outage(self) -> None:
        await self.touched()
        await self.server.stop()
        await until(lambda: self.log.count("the connection was lost"))
        for _ in range(4):
            self.clock.advance(5)
            await deferLater(REACTOR, 0)
        assert self.log.count("the last uses of 1 blobs wait to be written") == 1
        await self.server.start()
        await self.connected(2)
        self.clock.advance(5)
        await self.written()

    async def test_last_uses_are_written_at_stop(self) -> None:
        await self.touched()
        await self.on(self.clock, self.index.stop())
        await self.written()

    async def test_stop_without_redis(self) -> None:
        await self.touched()
        await self.server.stop()
        await self.on(self.clock, self.index.stop())
        assert len(self.index._uses) == 1

    async def touched(self) -> None:
        await self.on(self.clock, self.index.put_blob(A, 1, [HOME]))
        self.now.time += 60
        self.index.touch(HOME, A)

    async def written(self) -> None:
        while await self.raw.used() != {A: int(self.now())}:
            await deferLater(REACTOR, 0.01)
