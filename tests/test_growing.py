"""The growing file: one writer in a thread, many readers, and a descriptor that lives as long as somebody needs it."""

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from depproxy.oci.digest import Digest
from depproxy.storage.files import FileStore
from depproxy.storage.growing import MAX_VECTORS, GrowingFile, write_and_hash
from depproxy.storage.interface import IGrowingFile
from tests.cache_tools import Outcome, Place, some_bytes

reactor: Any = _reactor


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full once a file has so many bytes: write(2) is cut short there, then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def grow(place: Place, digest: Digest) -> GrowingFile:
    """The growing file of `digest`, without waiting."""
    outcome: Outcome[Any] = Outcome(place.store.grow(digest))
    place.threads.finish()
    assert isinstance(outcome.value, GrowingFile)
    return outcome.value


class Growing(RuleBasedStateMachine):
    """Any sequence of appends, batches that end, holds, releases and a commit or discard, as a fill may cause."""

    @initialize(size=st.integers(0, 3000), left=st.integers(0, 1000))
    def begin(self, size: int, left: int) -> None:
        self.place = Place()
        self.data = some_bytes(size)
        self.digest = Digest.of(self.data)
        self.place.threads.held = True
        self.place.leave_behind(self.digest, self.data[:left])
        self.grow()

    def grow(self) -> None:
        self.file = grow(self.place, self.digest)
        self.sent = self.file.written
        self.holds = 1
        self.broken = False
        self.ended = ""
        self.seen: tuple[int, object] = (self.file.written, None)
        self.idlers: list[Outcome[None]] = []
        self.file.observe(self.observe)

    def observe(self) -> None:
        assert (self.file.written, self.file.error) != self.seen, "told of nothing"
        self.seen = (self.file.written, self.file.error)

    @precondition(lambda self: self.holds and not self.ended and self.sent < len(self.data))
    @rule(count=st.integers(1, 500))
    def append(self, count: int) -> None:
        piece = self.data[self.sent : self.sent + count]
        self.file.append(piece)
        self.sent += len(piece)

    @precondition(lambda self: self.place.threads.jobs)
    @rule()
    def thread_works(self) -> None:
        """The thread is done with its job, but the reactor has not heard of it yet."""
        self.place.threads.jobs[0].run()

    @precondition(lambda self: self.place.threads.jobs)
    @rule()
    def job_ends(self) -> None:
        self.place.threads.finish(1)

    @precondition(lambda self: not self.ended and any(not job.has_run for job in self.place.threads.jobs))
    @rule()
    def disk_is_full(self) -> None:
        self.place.threads.jobs[0].fail(OSError(errno.ENOSPC, "No space left on device"))
        self.place.threads.finish(1)
        self.broken = True

    @precondition(lambda self: self.holds)
    @rule()
    def hold(self) -> None:
        self.file.hold()
        self.holds += 1

    @precondition(lambda self: self.holds)
    @rule()
    def release(self) -> None:
        self.file.release()
        self.holds -= 1

    @precondition(lambda self: not self.holds and not self.place.threads.jobs)
    @rule()
    def another_fill(self) -> None:
        """It finds what the one before has left."""
        self.check_what_is_left()
        left = 0 if self.ended else self.sent
        broken = self.broken
        self.grow()
        assert self.file.written == left or broken

    @precondition(lambda self: self.holds)
    @rule()
    def wait_until_idle(self) -> None:
        self.idlers.append(Outcome(self.file.idle()))

    @precondition(lambda self: self.holds and not self.ended and not self.broken and not self.file.pending)
    @rule(end=st.sampled_from(["commit", "discard"]), leave=st.booleans())
    def end(self, end: str, leave: bool) -> None:
        """With `leave`, whoever waits for it is cancelled while the thread is at it."""
        if end == "commit" and self.sent < len(self.data):
            return
        assert self.file.matches() or self.sent < len(self.data)
        self.ended = end
        outcome = Outcome(self.file.commit() if end == "commit" else self.file.discard())
        assert outcome.waits
        if leave:
            outcome.leave()

    @precondition(lambda self: self.holds)
    @rule()
    def read(self) -> None:
        """A follower reads what there is, through the descriptor that is shared by all."""
        assert os.pread(self.file.fd, self.file.written, 0) == self.data[: self.file.written]

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "file"):
            return
        if self.broken:
            assert isinstance(self.file.error, OSError)
        else:
            assert self.file.error is None
            assert self.file.written + self.file.pending == self.sent
        assert self.seen == (self.file.written, self.file.error), "nobody was told"
        idle = not any(job.name == "write_and_hash" for job in self.place.threads.jobs)
        assert all(not waiter.waits for waiter in self.idlers) or not idle

    @invariant()
    def the_descriptor_lives_as_long_as_it_is_needed(self) -> None:
        if hasattr(self, "file"):
            needed = self.holds > 0 or bool(self.place.threads.jobs)
            assert (self.file.fd >= 0) == needed

    def teardown(self) -> None:
        if not hasattr(self, "file"):
            return
        while self.holds:
            self.release()
        self.place.threads.finish()
        self.the_descriptor_lives_as_long_as_it_is_needed()
        self.check_what_is_left()
        assert self.place.open_files() == []
        self.place.close()

    def check_what_is_left(self) -> None:
        if self.ended == "commit":
            assert self.place.stored(self.digest) == self.data
            assert not self.place.growing(self.digest).exists()
        elif self.ended == "discard":
            assert not self.place.growing(self.digest).exists()
        elif not self.broken:
            assert self.place.growing(self.digest).read_bytes() == self.data[: self.sent]


TestGrowing = Growing.TestCase


class PlaceTestCase(SynchronousTestCase):
    """With a store of its own, whose descriptors are all closed in the end."""

    def setUp(self) -> None:
        self.place = Place()
        self.addCleanup(self.place.close)
        self.addCleanup(self.nothing_is_open)
        self.data = some_bytes(5000)
        self.digest = Digest.of(self.data)

    def nothing_is_open(self) -> None:
        assert self.place.open_files() == []


class OneFile(PlaceTestCase):
    def test_provides_the_interface(self) -> None:
        file = grow(self.place, self.digest)
        verifyObject(IGrowingFile, file)
        file.release()

    def test_pieces_that_come_during_a_batch_are_the_next_one(self) -> None:
        file = grow(self.place, self.digest)
        self.place.threads.held = True
        for number in range(50):
            file.append(self.data[number * 100 : number * 100 + 100])
        assert file.pending == 5000
        assert self.place.threads.finish() == 2
        assert (file.written, file.pending) == (5000, 0)
        assert file.matches()
        file.release()

    def test_wrong_bytes(self) -> None:
        file = grow(self.place, self.digest)
        file.append(self.data[:-1] + bytes([self.data[-1] ^ 1]))
        assert not file.matches()
        file.release()

    def test_sha512(self) -> None:
        digest = Digest.of(self.data, "sha512")
        file = grow(self.place, digest)
        file.append(self.data)
        assert file.matches()
        file.commit()
        file.release()
        assert self.place.stored(digest) == self.data

    def test_after_an_error_nothing_is_taken(self) -> None:
        file = grow(self.place, self.digest)
        self.place.threads.error = OSError(errno.ENOSPC, "No space left on device")
        told = []
        file.observe(lambda: told.append(file.error))
        file.append(self.data)
        file.append(self.data)
        assert told == [self.place.threads.error]
        assert file.written == 0
        Outcome(file.idle()).value  # noqa: B018 - it has fired, which is the point
        file.release()

    def test_an_error_that_is_no_oserror_is_one_for_the_fill(self) -> None:
        file = grow(self.place, self.digest)
        self.place.threads.error = MemoryError("no memory")
        file.append(self.data)
        assert isinstance(file.error, OSError)
        file.release()

    def test_an_observer_that_fails(self) -> None:
        """The file goes on; what is wrong with the observer is in the log."""
        file = grow(self.place, self.digest)
        told: list[int] = []
        file.observe(lambda: told.append(1 // len(told)))
        file.append(self.data[:1000])
        file.append(self.data[1000:])
        assert file.matches()
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 2  # type: ignore[no-untyped-call]
        file.release()

    def test_commit_that_fails(self) -> None:
        file = grow(self.place, self.digest)
        file.append(self.data)
        self.place.threads.error = OSError(errno.ENOSPC, "No space left on device")
        assert Outcome(file.commit()).error is self.place.threads.error
        assert os.pread(file.fd, 5000, 0) == self.data
        file.release()

    def test_a_commit_whose_waiter_leaves_keeps_its_descriptor(self) -> None:
        """A thread cannot be cancelled: were the descriptor closed under it, it would sync somebody else's file."""
        file = grow(self.place, self.digest)
        file.append(self.data)
        self.place.threads.held = True
        Outcome(file.commit()).leave()
        file.release()
        assert file.fd >= 0
        self.place.threads.finish()
        assert file.fd == -1
        assert self.place.stored(self.digest) == self.data

    def test_a_file_whose_waiter_leaves_is_closed(self) -> None:
        self.place.threads.held = True
        Outcome(self.place.store.grow(self.digest)).leave()
        self.place.threads.finish()

    def test_discarding_what_is_gone(self) -> None:
        file = grow(self.place, self.digest)
        self.place.growing(self.digest).unlink()
        assert Outcome(file.discard()).value is None
        file.release()


class FullDisk(PlaceTestCase):
    """Writes that the kernel cuts short."""

    def test_what_is_written_before_it_is_full_is_resumed(self) -> None:
        file = grow(self.place, self.digest)
        file.append(self.data[:1000])
        with largest_file(3000):
            file.append(self.data[1000:])
        assert isinstance(file.error, OSError)
        assert file.error.errno == errno.EFBIG
        assert file.written == 1000
        file.release()
        again = grow(self.place, self.digest)
        assert again.written == 3000
        again.append(self.data[3000:])
        assert again.matches()
        again.release()

    @given(st.lists(st.integers(0, 40), max_size=60), st.integers(0, 500))
    def test_any_batch_on_any_disk(self, sizes: list[int], room: int) -> None:
        """Either every byte is in the file and in the hash, or it is an error."""
        chunks = [some_bytes(size, number) for number, size in enumerate(sizes)]
        whole = b"".join(chunks)
        path = self.place.root / "batch"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        hasher = Digest.of(b"").hasher()
        written = None
        with largest_file(room), contextlib.suppress(OSError):
            written = write_and_hash(fd, hasher, chunks)
        os.close(fd)
        assert path.read_bytes() == whole[:room]
        assert written == (len(whole) if len(whole) <= room else None)
        if written is not None:
            assert Digest.from_hasher(hasher) == Digest.of(whole)

    def test_more_pieces_than_one_call_takes(self) -> None:
        chunks = [b"%d," % number for number in range(MAX_VECTORS * 2 + 7)]
        file = grow(self.place, Digest.of(b"".join(chunks)))
        self.place.threads.held = True
        for chunk in chunks:
            file.append(chunk)
        assert self.place.threads.finish() == 2
        assert file.matches()
        file.release()


class RealThreads(TestCase):
    """With the reactor's own way into threads."""

    timeout = 30

    def setUp(self) -> None:
        self.pool = ThreadPool(0, 2, "test")
        self.pool.start()
        self.addCleanup(self.pool.stop)
        self.place = Place()
        self.addCleanup(self.place.close)
        self.store = FileStore(self.place.root, self.run_in_thread)

    def run_in_thread(self, function: Callable[..., Any], *args: object) -> Any:
        return deferToThreadPool(reactor, self.pool, function, *args)

    async def test_many_files_at_once(self) -> None:
        blobs = [some_bytes(300_000, seed) for seed in range(8)]
        files: list[IGrowingFile] = [await self.store.grow(Digest.of(blob)) for blob in blobs]
        for at in range(0, 300_000, 10_000):
            for blob, file in zip(blobs, files, strict=True):
                file.append(blob[at : at + 10_000])
        for blob, file in zip(blobs, files, strict=True):
            await file.idle()
            assert file.matches()
            await file.commit()
            file.release()
            assert self.place.stored(Digest.of(blob)) == blob
        assert self.place.open_files() == []

    async def test_leaving_while_threads_are_at_work(self) -> None:
        """Everything is let go in mid-write and in mid-commit; the files are whole and closed all the same."""
        data = some_bytes(3_000_000)
        digest = Digest.of(data)
        file: IGrowingFile = await self.store.grow(digest)
        file.append(data)
        idle = file.idle()
        file.release()
        await idle
        assert file.fd == -1
        again: IGrowingFile = await self.store.grow(digest)
        assert again.matches()
        committing = again.commit()
        committing.addErrback(lambda failure: failure.trap(CancelledError) and None)
        committing.cancel()
        again.release()
        await self.store.read(Digest.of(b"a job behind it, in one of two threads"))
        while again.fd >= 0:
            await self.store.read(Digest.of(b"another one"))
        assert self.place.stored(digest) == data
        assert self.place.open_files() == []
