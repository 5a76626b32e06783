"""The fill in any order of events, and with real threads."""

import errno
import os
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import TestCase

from depproxy.cache.fill import FRUITLESS_ATTEMPTS, LONGEST_RETRY_AFTER, NOTIFY_INTERVAL, Fill
from depproxy.cache.interface import Outcome as Answer
from depproxy.cache.sources import FollowedBlob
from depproxy.oci.digest import Digest
from depproxy.storage.files import FileStore
from depproxy.upstream.errors import Invalid, Throttled, Unavailable, UpstreamError
from tests.cache_tools import NAME, Outcome, Place, some_bytes
from tests.fakes import MemoryStream, MemoryUpstream
from tests.fill_tools import BROKEN, Reader
from tests.index_tools import until


class Filling(RuleBasedStateMachine):
    """Any chunks, breaks, pauses of the disk, joins and departures; fills that fail are followed by others."""

    rarely = st.sampled_from([False] * 9 + [True])

    @initialize(
        size=st.sampled_from([800, 800, 800, 0, 1, 2]) | st.integers(0, 800),
        known=st.booleans(),
        sizes=st.booleans(),
        left=st.sampled_from([0, 0, 0, 0, 1, 100, 799, 800]),
        ignores_range=st.booleans(),
        wrong=st.sampled_from([False, False, False, True]),
        proven=st.booleans(),
        opened=st.booleans(),
    )
    def begin(
        self,
        size: int,
        known: bool,
        sizes: bool,
        left: int,
        ignores_range: bool,
        wrong: bool,
        proven: bool,
        opened: bool,
    ) -> None:
        self.place = Place(held=True)
        self.clock = Clock()
        self.upstream = MemoryUpstream()
        self.upstream.sizes = sizes
        self.upstream.ignores_range = ignores_range
        self.data = some_bytes(size)
        self.digest = self.upstream.put_blob(NAME, self.data)
        self.known = size if known else None
        self.readers: list[Reader] = []
        self.tainted = False
        self.proven = proven
        self.place.leave_behind(self.digest, self.data[:left])
        if wrong and size:
            self.corrupt(size // 2, True)
        self.start()
        if opened:
            # Most of what may happen happens afterwards.
            self.ask()
            self.disk_works(1)

    def start(self) -> None:
        upstream, place = self.upstream, self.place
        self.fill = Fill(self.digest, upstream, NAME, self.known, place.store, self.clock, Random(1), place.metrics)
        self.asked = self.upstream.count()
        # What was in the file when each attempt of this fill began.
        self.attempts: list[int] = []
        self.ready: Outcome[None] = Outcome(self.fill.ready())
        self.waiters = [self.ready]
        self.outcome = Outcome(self.fill.start(proven=self.proven))
        self.stopped = False

    # What upstream does

    @property
    def stream(self) -> MemoryStream | None:
        """The body that flows now."""
        return next((stream for stream in self.upstream.streams if stream.flows), None)

    @precondition(lambda self: self.stream)
    @rule(count=st.integers(1, 400))
    def send(self, count: int) -> None:
        assert self.stream is not None
        self.stream.send(count)

    @precondition(lambda self: self.stream)
    @rule(end=st.sampled_from(["finish", "break", "close"]))
    def end_body(self, end: str) -> None:
        assert self.stream is not None
        if end == "finish":
            self.stream.finish()
        elif end == "break":
            self.stream.break_off(BROKEN)
        elif self.upstream.sizes or self.known is not None:
            # Without any length a body that is too short looks whole.
            self.stream.close()

    @rule(error=st.sampled_from([None, None, None, BROKEN, Throttled("docker.io", "slow down", 429, retry_after=40.0)]))
    def refuse(self, error: UpstreamError | None) -> None:
        """How upstream answers from now on, before the body."""
        self.upstream.errors.pop("open_blob", None)
        if error is not None:
            self.upstream.errors["open_blob"] = error

    @rule(ignores=st.booleans())
    def ignore_range(self, ignores: bool) -> None:
        self.upstream.ignores_range = ignores

    @precondition(lambda self: self.data)
    @rule(at=st.integers(0, 799), happens=rarely)
    def corrupt(self, at: int, happens: bool) -> None:
        """Bodies that begin from now on have a wrong byte."""
        if not happens:
            return
        wrong = bytearray(self.data)
        wrong[at % len(wrong)] ^= 0xFF
        self.upstream.put_blob(NAME, bytes(wrong), self.digest)
        self.tainted = True

    # What the machine does

    @precondition(lambda self: self.place.threads.jobs)
    @rule(jobs=st.sampled_from([1, 2, 9]))
    def disk_works(self, jobs: int) -> None:
        while jobs and self.place.threads.finish(1):
            self.one_question_for_each_attempt()
            jobs -= 1

    @precondition(lambda self: any(not job.has_run for job in self.place.threads.jobs))
    @rule(happens=rarely)
    def disk_is_full(self, happens: bool) -> None:
        if not happens:
            return
        self.place.threads.jobs[0].fail(OSError(errno.ENOSPC, "No space left on device"))
        self.place.threads.finish(1)

    @rule(seconds=st.sampled_from([NOTIFY_INTERVAL / 3, NOTIFY_INTERVAL, 0.3, 50.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.outcome.waits)
    @rule(happens=rarely)
    def stop(self, happens: bool) -> None:
        """The service stops: the file stays."""
        if not happens:
            return
        self.stopped = True
        self.outcome.cancel()
        assert self.outcome.value is False

    @precondition(lambda self: not self.outcome.waits)
    @rule()
    def next_fill(self) -> None:
        if self.outcome.value:
            return
        self.check_failure()
        if self.stopped:
            # It is the next process's: nothing is begun in one that stops, and it ends after its threads.
            self.place.threads.finish()
        self.start()

    # What clients do

    @precondition(lambda self: self.outcome.waits)
    @rule()
    def ask(self) -> None:
        def ready(_: object) -> None:
            self.readers.append(Reader(fill, self.data))

        fill = self.fill
        self.waiters.append(Outcome(fill.ready().addCallback(ready)))

    @precondition(lambda self: any(waiter.waits for waiter in self.waiters[1:]))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([waiter for waiter in self.waiters[1:] if waiter.waits])).leave()

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), count=st.none() | st.integers(1, 300))
    def read(self, data: st.DataObject, count: int | None) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        if self.tainted:
            reader.read(count)
        else:
            reader.check(count)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        reader.leave()

    # What has to hold

    @invariant()
    def one_question_for_each_attempt(self) -> None:
        if not hasattr(self, "fill"):
            return
        assert sum(not stream.over for stream in self.upstream.streams) <= 1
        asked, self.asked = self.asked, self.upstream.count()
        assert self.asked <= asked + 1
        if self.asked > asked:
            assert self.fill.file is not None
            self.attempts.append(self.fill.file.written)
        assert len(set(self.attempts[-FRUITLESS_ATTEMPTS - 1 :])) > 1 or len(self.attempts) <= FRUITLESS_ATTEMPTS
        if not self.outcome.waits:
            assert all(stream.over for stream in self.upstream.streams)

    @invariant()
    def the_last_byte_waits_for_the_digest(self) -> None:
        if not hasattr(self, "fill") or self.fill.file is None:
            return
        written = self.fill.file.written
        assert self.fill.readable == (written if self.fill.verified else max(0, written - 1))
        if self.fill.size is not None and self.fill.size > 0 and not self.fill.verified:
            assert self.fill.readable < len(self.data)
        if self.fill.verified:
            assert self.fill.size == written == len(self.data)
            assert self.fill.failure is None

    @invariant()
    def readers_know_or_will_soon(self) -> None:
        if not hasattr(self, "fill"):
            return
        soon = self.clock.seconds() + NOTIFY_INTERVAL
        comes = any(call.getTime() <= soon for call in self.clock.getDelayedCalls())
        for reader in self.readers:
            if reader.seen != reader.now:
                # What is written after the end concerns nobody.
                assert comes or reader.fill.failure is not None
                assert reader.seen[1] is reader.fill.failure
                assert not reader.fill.verified

    @invariant()
    def waiters_are_told_once_and_in_time(self) -> None:
        for waiter in getattr(self, "waiters", ()):
            assert waiter.waits or len(waiter.results) == 1
            if not self.outcome.waits:
                assert not waiter.waits

    def check_failure(self) -> None:
        """A fill that is over failed for a reason."""
        error = self.fill.failure
        if self.fill.verified:
            # Served, but not stored: a full disk at the very end, or the stop.
            assert error is None
        elif self.stopped:
            assert isinstance(error, Unavailable)
        elif isinstance(error, Invalid):
            assert self.tainted
            assert not self.place.growing(self.digest).exists()
        elif isinstance(error, Unavailable | Throttled):
            # Before the first answer at once, afterwards not so soon.
            if self.ready.results == [None]:
                assert len(self.attempts) >= FRUITLESS_ATTEMPTS
                assert len(set(self.attempts[-FRUITLESS_ATTEMPTS:])) == 1
        else:
            assert isinstance(error, OSError)

    def teardown(self) -> None:
        """The trouble is over: at most two more fills, for one may find that its leftover is wrong."""
        if not hasattr(self, "fill"):
            return
        self.upstream.errors.clear()
        self.upstream.put_blob(NAME, self.data, self.digest)
        for _ in range(3):
            for _ in range(100):
                while self.place.threads.finish(1):
                    self.one_question_for_each_attempt()
                if self.stream is not None:
                    self.stream.finish()
                self.clock.advance(LONGEST_RETRY_AFTER)
                self.one_question_for_each_attempt()
                if not self.outcome.waits:
                    break
            if self.outcome.value:
                break
            self.check_failure()
            self.start()
        assert self.outcome.value is True
        self.place.threads.finish()
        assert self.place.stored(self.digest) == self.data
        for reader in self.readers:
            if reader.fill.verified:
                assert reader.source.readable == len(self.data)
                assert reader.seen == reader.now
            if not self.tainted:
                reader.check()
            reader.leave()
        assert self.place.open_files() == []
        self.place.close()
        assert self.place.metrics.followers._value.get() == 0
        assert self.place.metrics.fills_active._value.get() == 0


Filling.TestCase.settings = settings(stateful_step_count=80)
TestFilling = Filling.TestCase


reactor: Any = _reactor


class RealThreads(TestCase):
    """With real threads and the reactor's clock."""

    timeout = 60

    def setUp(self) -> None:
        self.pool = ThreadPool(0, 4, "test")
        self.pool.start()
        self.addCleanup(self.pool.stop)
        self.place = Place()
        self.addCleanup(self.place.close)
        self.store = FileStore(self.place.root, lambda f, *args: deferToThreadPool(reactor, self.pool, f, *args))

    async def test_forty_readers_of_a_broken_stream(self) -> None:
        data = some_bytes(6_000_000)
        upstream = MemoryUpstream()
        digest = upstream.put_blob(NAME, data)
        fill = Fill(digest, upstream, NAME, len(data), self.store, reactor, Random(0), self.place.metrics)
        running = fill.start()
        await fill.ready()
        whole: list[Deferred[bytes]] = []
        for _ in range(40):
            whole.append(self.follow(fill))
        sizes = Random(0)
        for _ in range(2):
            stream = upstream.streams[-1]
            for _ in range(60):
                await self.store.read(Digest.of(b"something that takes a thread"))
                if not stream.paused:
                    stream.send(sizes.randint(1, 60_000))
            stream.break_off(BROKEN)
            await until(lambda: upstream.streams[-1] is not stream)  # noqa: B023 - it is called here
        upstream.streams[-1].finish()
        for reading in whole:
            assert await reading == data
        assert await running
        assert self.place.stored(digest) == data
        assert self.place.open_files() == []

    def follow(self, fill: Fill) -> Deferred[bytes]:
        """What a client reads that takes whatever it is told of."""
        source = FollowedBlob(fill, Answer.JOINED, closed=lambda: None)
        pieces: list[bytes] = []
        done: Deferred[bytes] = Deferred()

        def changed() -> None:
            at = sum(map(len, pieces))
            pieces.append(os.pread(source.fd, source.readable - at, at))
            if source.readable == source.size:
                source.close()
                done.callback(b"".join(pieces))

        source.subscribe(changed)
        return done
