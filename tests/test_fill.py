"""The fill: one upstream download, followed by any number of readers, whatever upstream and disk do."""

import errno
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from depproxy.cache.fill import FRUITLESS_ATTEMPTS, LONGEST_RETRY_AFTER, NOTIFY_INTERVAL, Fill
from depproxy.cache.interface import Outcome as Answer
from depproxy.cache.sink import HIGH_WATER, LOW_WATER
from depproxy.cache.sources import FollowedBlob
from depproxy.oci.digest import Digest
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, Unavailable
from tests.cache_tools import NAME, Outcome, Place, some_bytes
from tests.fakes import MemoryUpstream
from tests.fill_tools import BROKEN, FillTestCase, Reader


class Whole(FillTestCase):
    """Bodies that arrive without trouble."""

    def test_bytes_are_there_as_they_arrive(self) -> None:
        self.start(5000)
        assert self.ready.value is None
        first = self.reader()
        self.stream.send(1000)
        assert self.fill.readable == 999
        first.check()
        second = self.reader()
        self.stream.send(3999)
        assert self.fill.readable == 4998
        self.stream.send(1)
        assert self.fill.readable == 4999
        assert not self.fill.verified
        second.check()
        self.stream.close()
        assert self.fill.readable == 5000
        self.served()
        assert self.upstream.count() == 1
        assert self.place.metrics.bytes_fetched.labels("docker.io")._value.get() == 5000

    def test_whether_it_is_stored_is_told_at_the_end(self) -> None:
        self.start(5000)
        early, left = Outcome(self.fill.ended()), Outcome(self.fill.ended())
        self.stream.send()
        left.leave()
        assert early.waits
        self.stream.close()
        assert early.value is True
        assert Outcome(self.fill.ended()).value is True
        assert self.fill.fetched == 5000
        self.served()

    def test_upstream_tells_the_size(self) -> None:
        self.start()
        assert self.fill.size == 5000
        self.stream.finish()
        self.served()

    def test_nobody_tells_the_size(self) -> None:
        self.upstream.sizes = False
        self.start()
        assert self.ready.value is None
        reader = self.reader()
        assert self.fill.size is None
        self.stream.send(4000)
        reader.check()
        self.stream.finish()
        assert reader.source.size == 5000
        self.served()

    def test_no_bytes_at_all(self) -> None:
        for known, sizes in ((0, True), (None, True), (0, False), (None, False)):
            self.blob(b"")
            self.place.blob(self.digest).unlink(missing_ok=True)
            self.upstream.sizes = sizes
            self.start(known)
            # Nothing may be said of a blob without a last byte to withhold, where that is known.
            assert self.ready.waits == (known == 0 or sizes)
            self.stream.close()
            assert self.ready.value is None
            assert (self.fill.size, self.fill.readable) == (0, 0)
            assert self.outcome.value is True
            assert self.place.stored(self.digest) == b""

    def test_no_bytes_where_there_should_be_some(self) -> None:
        """An empty body under another digest reaches nobody."""
        self.upstream.put_blob(NAME, b"", self.digest)
        self.start()
        self.stream.close()
        assert isinstance(self.ready.error, Invalid)
        assert self.outcome.value is False

    def test_one_byte(self) -> None:
        self.blob(b"x")
        self.start(1)
        reader = self.reader()
        self.stream.send(1)
        assert self.fill.readable == 0
        self.stream.close()
        assert reader.read() == b"x"

    def test_sha512(self) -> None:
        self.digest = self.upstream.put_blob(NAME, self.data, Digest.of(self.data, "sha512"))
        self.start(5000)
        self.stream.finish()
        self.served()

    def test_everybody_leaves(self) -> None:
        """The fill belongs to the cache: it goes on."""
        self.start(5000)
        for reader in [self.reader() for _ in range(3)]:
            self.stream.send(100)
            reader.leave()
        self.readers.clear()
        late = Outcome(self.fill.ready())
        assert late.value is None
        self.stream.finish()
        self.served()

    def test_a_reader_may_stay_after_the_end(self) -> None:
        self.start(5000)
        reader = self.reader()
        self.stream.finish()
        self.place.blob(self.digest).unlink()
        reader.check()
        assert reader.done
        assert len(self.place.open_files()) == 1
        reader.leave()
        assert self.place.open_files() == []

    def test_nobody_may_follow_before_it_is_ready(self) -> None:
        self.upstream.held = True
        self.start()
        assert self.ready.waits
        assert self.fill.readable == 0
        self.upstream.release()
        assert self.ready.value is None
        self.stream.finish()


class Broken(FillTestCase):
    """Bodies that break off."""

    def test_it_goes_on_from_where_it_stopped(self) -> None:
        self.start(5000)
        reader = self.reader()
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        assert self.upstream.count() == 1
        self.pause()
        self.stream.send(1500)
        self.stream.close()
        self.pause()
        assert reader.source.failure is None
        self.stream.finish()
        assert self.asked_from() == [0, 1000, 2500]
        self.served()

    def test_whose_patience(self) -> None:
        """Upstream's client retries before the first answer; afterwards the pauses here are enough."""
        self.start(5000)
        for _ in range(2):
            self.stream.send(1000)
            self.stream.break_off(BROKEN)
            self.pause()
        self.stream.finish()
        assert self.upstream.retries == [True, False, False]

    def test_upstream_ignores_ranges(self) -> None:
        """It is read again, and what is here already is skipped, in whatever pieces that comes."""
        self.upstream.ignores_range = True
        self.start(5000)
        reader = self.reader()
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        self.pause()
        assert self.stream.offset == 0
        self.stream.send(400)
        self.stream.send(500)
        assert self.fill.readable == 999
        self.stream.send(300)
        assert self.fill.readable == 1199
        reader.check()
        self.stream.finish()
        self.served()

    def test_a_range_that_is_ignored_and_breaks_before_anything_new(self) -> None:
        self.upstream.ignores_range = True
        self.start(5000)
        self.stream.send(1000)
        for _ in range(FRUITLESS_ATTEMPTS):
            assert self.outcome.waits
            self.stream.break_off(BROKEN)
            self.pause()
            self.stream.send(900)
        self.stream.break_off(BROKEN)
        assert self.fill.failure is BROKEN
        assert self.asked_from() == [0] + [1000] * FRUITLESS_ATTEMPTS

    def test_it_gives_up_when_nothing_comes_any_more(self) -> None:
        self.start(5000)
        reader = self.reader()
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        for _ in range(FRUITLESS_ATTEMPTS):
            assert self.outcome.waits
            self.pause()
            self.stream.close()
        assert isinstance(self.fill.failure, Unavailable)
        assert reader.seen == (999, self.fill.failure)
        assert self.outcome.value is False
        assert self.counted("failed") == 1
        # What is there was right as far as anybody knows.
        assert self.place.growing(self.digest).read_bytes() == self.data[:1000]

    def test_a_byte_each_time_is_enough(self) -> None:
        self.blob(self.data[:30])
        self.start(30)
        for _ in range(29):
            self.stream.send(1)
            self.stream.break_off(BROKEN)
            self.pause()
        self.stream.finish()
        self.served()

    def test_all_bytes_came_and_then_it_broke(self) -> None:
        self.start(5000)
        self.stream.send()
        self.stream.break_off(BROKEN)
        self.served()
        assert self.upstream.count() == 1

    def test_all_bytes_came_of_unknown_number_and_then_it_broke(self) -> None:
        """The digest tells that nothing is missing; to ask for more would be answered with 416."""
        self.upstream.sizes = False
        self.start()
        self.stream.send()
        self.stream.break_off(BROKEN)
        self.served()
        assert self.upstream.count() == 1

    def test_upstream_is_down_before_the_first_answer(self) -> None:
        """The client that waits is told at once: upstream's own retries were enough."""
        for error in (BROKEN, Throttled("docker.io", "slow down", 429), NotFound("docker.io", "no"), Refused("", "no")):
            self.upstream.errors["open_blob"] = error
            self.start(5000)
            assert self.ready.error is error
            assert self.fill.failure is error
            assert self.outcome.value is False

    def test_upstream_is_down_after_the_first_answer(self) -> None:
        self.start(5000)
        reader = self.reader()
        self.stream.send(1000)
        self.upstream.errors["open_blob"] = BROKEN
        self.stream.break_off(BROKEN)
        for _ in range(FRUITLESS_ATTEMPTS - 1):
            self.pause()
        del self.upstream.errors["open_blob"]
        self.pause()
        self.stream.finish()
        assert reader.source.failure is None
        self.served()

    def test_upstream_refuses_to_go_on(self) -> None:
        self.start(5000)
        reader = self.reader()
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        self.upstream.errors["open_blob"] = error = NotFound("docker.io", "it was deleted", 404)
        self.pause()
        assert reader.seen == (999, error)

    def test_upstream_says_when_to_come_back(self) -> None:
        """Not before it wants that, and not after any time that it may want."""
        for asked, wait in ((40.0, 40.0), (1e6, LONGEST_RETRY_AFTER)):
            self.upstream.errors.clear()
            self.start(5000)
            self.stream.send(1000)
            self.upstream.errors["open_blob"] = Throttled("docker.io", "slow down", 429, retry_after=asked)
            self.stream.break_off(BROKEN)
            self.pause()
            before = self.upstream.count()
            self.clock.advance(wait - 0.5)
            assert self.upstream.count() == before
            self.clock.advance(0.5)
            assert self.upstream.count() == before + 1
            self.outcome.cancel()

    def test_pauses_grow_and_differ(self) -> None:
        starts = []
        for seed in (0, 1):
            place = Place()
            self.addCleanup(place.close)
            clock = Clock()
            upstream = MemoryUpstream()
            upstream.put_blob(NAME, self.data)
            fill = Fill(self.digest, upstream, NAME, 5000, place.store, clock, Random(seed), place.metrics)
            outcome = Outcome(fill.start())
            times = []
            while outcome.waits:
                upstream.streams[-1].break_off(BROKEN)
                if outcome.waits:
                    (call,) = clock.getDelayedCalls()
                    times.append(call.getTime() - clock.seconds())
                    clock.advance(times[-1])
            assert len(times) == FRUITLESS_ATTEMPTS - 1
            assert times == sorted(times)
            starts.append(times)
        assert starts[0] != starts[1]


class Wrong(FillTestCase):
    """Bodies that cannot be right."""

    def corrupt(self) -> None:
        wrong = bytearray(self.data)
        wrong[1234] ^= 1
        self.upstream.put_blob(NAME, bytes(wrong), self.digest)

    def test_corrupt_bytes(self) -> None:
        self.corrupt()
        self.start(5000)
        reader = self.reader()
        self.stream.finish()
        assert isinstance(self.fill.failure, Invalid)
        assert reader.seen == (4999, self.fill.failure)
        assert self.outcome.value is False
        assert self.place.files() == []
        # The next one begins from zero, and nothing of the wrong bytes is left.
        self.upstream.put_blob(NAME, self.data)
        self.start(5000)
        self.readers.clear()
        self.stream.finish()
        assert self.asked_from() == [0, 0]
        self.served()

    def test_corrupt_after_a_break(self) -> None:
        self.start(5000)
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        self.corrupt()
        self.pause()
        self.stream.finish()
        assert isinstance(self.fill.failure, Invalid)
        assert self.place.files() == []

    def test_longer_than_announced(self) -> None:
        self.upstream.sizes = False
        self.start(3000)
        reader = self.reader()
        self.stream.send(2900)
        self.stream.send(101)
        assert self.stream.stopped
        assert isinstance(self.fill.failure, Invalid)
        assert self.fill.readable == 2899
        assert reader.seen == (2899, self.fill.failure)
        assert self.place.files() == []

    def test_longer_than_announced_after_all_was_right(self) -> None:
        """All bytes of the blob and then one more."""
        self.upstream.sizes = False
        self.upstream.put_blob(NAME, self.data + b"x", self.digest)
        self.start(5000)
        self.stream.send(5000)
        self.stream.send(1)
        assert isinstance(self.fill.failure, Invalid)

    def test_another_size_than_the_manifest_says(self) -> None:
        """It is known from the headers: nobody is told that bytes will come, nor are any read."""
        self.upstream.claimed_size = 4999
        self.start(5000)
        assert isinstance(self.ready.error, Invalid)
        assert self.stream.stopped
        assert self.outcome.value is False

    def test_another_size_than_the_first_time(self) -> None:
        self.start()
        self.reader()
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        self.upstream.claimed_size = 6000
        self.pause()
        assert self.stream.stopped
        assert isinstance(self.fill.failure, Invalid)
        assert self.place.files() == []

    def test_shorter_than_announced(self) -> None:
        """A body that is closed cleanly, but too early, is a broken one."""
        self.upstream.claimed_size = 6000
        self.start()
        reader = self.reader()
        self.stream.finish()
        assert self.outcome.waits
        assert reader.source.readable == 4999
        self.pause()
        # The double says what a registry says of bytes that it does not have.
        assert isinstance(self.fill.failure, Invalid)
        assert self.place.files() == []

    def test_short_without_any_length(self) -> None:
        self.upstream.sizes = False
        self.start()
        self.stream.send(4000)
        self.stream.close()
        assert isinstance(self.fill.failure, Invalid)

    def test_a_mistake_of_ours(self) -> None:
        """An error of no known kind is told like any other: nobody waits for ever."""
        self.upstream.errors["open_blob"] = ZeroDivisionError()
        self.start(5000)
        assert isinstance(self.ready.error, ZeroDivisionError)
        assert self.outcome.value is False
        assert self.counted("failed") == 1
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1  # type: ignore[no-untyped-call]


class Leftover(FillTestCase):
    """Growing files that are there already."""

    def test_it_goes_on(self) -> None:
        self.place.leave_behind(self.digest, self.data[:2000])
        self.start(5000)
        reader = self.reader()
        assert self.fill.readable == 1999
        reader.check()
        self.stream.finish()
        assert self.asked_from() == [2000]
        self.served()

    def test_it_goes_on_where_ranges_are_ignored(self) -> None:
        self.place.leave_behind(self.digest, self.data[:2000])
        self.upstream.ignores_range = True
        self.start()
        self.reader()
        self.stream.finish()
        self.served()

    def test_it_is_whole_already(self) -> None:
        """Killed between the last byte and the rename: upstream is not asked."""
        self.place.leave_behind(self.digest, self.data)
        self.start(5000)
        assert self.ready.value is None
        self.served()
        assert self.upstream.asked == []

    def test_it_is_whole_already_but_nobody_may_have_it_yet(self) -> None:
        """Without a proof upstream is asked, and what it gives counts."""
        self.place.leave_behind(self.digest, self.data)
        self.upstream.errors["open_blob"] = error = Refused("docker.io", "no", 403)
        self.start(5000, proven=False)
        assert self.ready.error is error
        self.upstream.errors.clear()
        self.start(5000, proven=False)
        assert self.ready.value is None
        self.stream.finish()
        self.served()

    def test_garbage_of_the_right_size(self) -> None:
        """No client notices: that it is of no use is known before anybody is told."""
        for known, sizes, ignores in ((5000, True, False), (None, True, True), (5000, False, True), (5000, True, True)):
            self.place.leave_behind(self.digest, some_bytes(5000, 7))
            self.upstream.sizes = sizes
            self.upstream.ignores_range = ignores
            self.start(known)
            self.readers.clear()
            self.reader()
            assert self.fill.readable == 0
            self.stream.finish()
            assert self.asked_from()[-1] == 0
            assert self.outcome.value is True
            assert self.place.stored(self.digest) == self.data
            self.readers[0].check()

    def test_garbage_that_is_too_long(self) -> None:
        for known, ignores in ((5000, False), (None, False), (5000, True), (None, True)):
            self.place.leave_behind(self.digest, self.data + b"x")
            self.upstream.ignores_range = ignores
            self.start(known)
            assert self.ready.value is None
            self.stream.finish()
            assert self.asked_from()[-1] == 0
            assert self.outcome.value is True
            assert self.place.stored(self.digest) == self.data

    def test_garbage_that_is_shorter(self) -> None:
        """It cannot be told from a good beginning until the end: this fill fails, the next one is clean."""
        self.place.leave_behind(self.digest, some_bytes(2000, 7))
        self.start(5000)
        self.stream.finish()
        assert isinstance(self.fill.failure, Invalid)
        self.start(5000)
        self.stream.finish()
        assert self.asked_from() == [2000, 0]
        self.served()

    def test_upstream_is_down(self) -> None:
        """The leftover stays."""
        self.place.leave_behind(self.digest, self.data[:2000])
        self.upstream.errors["open_blob"] = BROKEN
        self.start(5000)
        assert self.ready.error is BROKEN
        assert self.place.growing(self.digest).read_bytes() == self.data[:2000]

    def test_useless_and_then_the_disk_fails(self) -> None:
        self.place.leave_behind(self.digest, some_bytes(5000, 7))
        self.place.threads.held = True
        self.start(5000)
        self.place.threads.finish(2)
        self.place.threads.error = OSError(errno.EIO, "Input/output error")
        self.place.threads.finish()
        assert self.ready.error is self.place.threads.error


class Disk(FillTestCase):
    """Disks that are slow, or full."""

    held = True

    def paused(self) -> bool:
        return self.stream.paused

    def full(self) -> OSError:
        error = OSError(errno.ENOSPC, "No space left on device")
        self.place.threads.jobs[0].fail(error)
        return error

    def begin(self, size: int | None = 5000) -> None:
        self.start(size)
        self.place.threads.finish()
        assert self.ready.value is None

    def test_full_before_the_first_byte(self) -> None:
        self.start(5000)
        error = self.full()
        self.place.threads.finish()
        assert self.ready.error is error
        assert self.upstream.asked == []

    def test_full_while_writing(self) -> None:
        self.begin()
        reader = self.reader()
        self.stream.send(1000)
        self.place.threads.finish()
        self.stream.send(1000)
        error = self.full()
        self.place.threads.finish()
        assert self.stream.stopped
        assert reader.seen == (999, error)
        reader.check()
        assert self.outcome.value is False
        assert self.counted("failed") == 1
        assert self.place.metrics.errors.labels("fill")._value.get() == 1
        # It would keep the disk full.
        assert self.place.files() == []

    def test_full_when_all_bytes_have_come(self) -> None:
        """Upstream has closed, the last batch is still to be written."""
        self.begin()
        reader = self.reader()
        self.stream.finish()
        error = self.full()
        self.place.threads.finish()
        assert reader.seen == (0, error)

    def test_full_at_the_commit(self) -> None:
        """Readers have all bytes, so they are served; the blob is not kept."""
        self.begin()
        reader = self.reader()
        self.stream.finish()
        self.place.threads.finish(1)
        assert self.fill.verified
        self.full()
        self.place.threads.finish()
        assert self.outcome.value is False
        assert self.fill.failure is None
        reader.check()
        assert reader.done
        assert self.place.stored(self.digest) is None
        assert self.place.metrics.errors.labels("storage")._value.get() == 1
        # The bytes are still there for the next one.
        self.start(5000)
        self.place.threads.finish()
        self.served()
        assert self.upstream.count() == 1

    def test_a_slow_disk_holds_upstream_back(self) -> None:
        self.blob(bytes(HIGH_WATER * 3))
        self.begin(len(self.data))
        self.stream.send(HIGH_WATER // 2)
        self.stream.send(HIGH_WATER // 2)
        assert not self.paused()
        self.stream.send(1)
        assert self.paused()
        # The first batch is on disk, the second one is more than the low mark.
        self.place.threads.finish(1)
        assert self.paused()
        self.place.threads.finish(1)
        assert not self.paused()
        assert self.stream.resumed == 1
        self.stream.finish()
        self.place.threads.finish()
        self.served()

    def test_it_breaks_off_while_it_is_held_back(self) -> None:
        self.blob(bytes(HIGH_WATER * 2))
        self.begin(len(self.data))
        self.stream.send(HIGH_WATER + 1)
        self.stream.break_off(BROKEN)
        assert self.upstream.count() == 1
        self.place.threads.finish()
        self.pause()
        assert not self.paused()
        self.stream.finish()
        self.place.threads.finish()
        assert self.asked_from() == [0, HIGH_WATER + 1]
        self.served()

    @settings(max_examples=15)
    @given(st.lists(st.tuples(st.integers(1, 3 << 20), st.booleans()), max_size=40))
    def test_what_waits_is_bounded(self, steps: list[tuple[int, bool]]) -> None:
        """However chunks and writes alternate: little more than the high mark waits, and it is not paused in vain."""
        self.blob(bytes(HIGH_WATER * 4))
        self.place.blob(self.digest).unlink(missing_ok=True)
        self.begin(len(self.data))
        assert self.fill.file is not None
        for size, works in steps:
            if not self.paused():
                self.stream.send(size)
                assert self.fill.file.pending <= HIGH_WATER + size
            if works:
                self.place.threads.finish(1)
            assert self.paused() or self.fill.file.pending <= HIGH_WATER
            assert not self.paused() or self.fill.file.pending >= LOW_WATER
        self.place.threads.finish()
        assert not self.paused()
        self.stream.finish()
        self.place.threads.finish()
        assert self.outcome.value is True


class Notices(FillTestCase):
    """Who is told what, and how often."""

    def test_no_more_often_than_can_be_seen(self) -> None:
        self.clock.advance(100)
        self.start(5000)
        reader = self.reader()
        for _ in range(100):
            self.stream.send(10)
        assert reader.told == 1
        self.clock.advance(NOTIFY_INTERVAL)
        assert reader.told == 2
        assert reader.seen == (999, None)
        self.clock.advance(1)
        assert reader.told == 2
        self.stream.send(10)
        assert reader.told == 3
        self.stream.finish()

    def test_the_end_is_told_at_once(self) -> None:
        self.start(5000)
        reader = self.reader()
        self.stream.send(10)
        self.stream.finish()
        assert reader.seen == (5000, None)

    def test_the_failure_is_told_at_once(self) -> None:
        self.start(5000)
        reader = self.reader()
        self.stream.send(1000)
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        self.upstream.errors["open_blob"] = error = NotFound("docker.io", "gone", 404)
        self.pause()
        assert reader.seen == (1999, error)
        assert self.clock.getDelayedCalls() == []

    def test_a_reader_that_fails_harms_nobody(self) -> None:
        self.start(5000)
        first, second, third = self.reader(), self.reader(), self.reader()

        def fail() -> None:
            raise ZeroDivisionError

        second.source.subscribe(fail)
        self.stream.finish()
        assert first.seen == third.seen == (5000, None)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) >= 1  # type: ignore[no-untyped-call]
        self.served()

    def test_a_reader_that_sends_another_one_away(self) -> None:
        """One that left is not told, also if it left while others were."""
        self.start(5000)
        for _ in range(5):
            self.send_others_away_when_told(self.reader())
        self.stream.finish()
        self.readers.clear()
        self.served()

    def send_others_away_when_told(self, reader: Reader) -> None:
        def changed() -> None:
            reader.changed()
            for other in self.readers:
                if other is not reader:
                    other.leave()

        reader.source.subscribe(changed)

    def test_one_that_joins_when_another_is_told(self) -> None:
        self.start(5000)
        first = self.reader()
        late: list[Reader] = []
        first.source.subscribe(lambda: late.append(self.reader()))
        self.stream.finish()
        for reader in late:
            reader.check()
            assert reader.done


class Stopping(FillTestCase):
    """The service stops."""

    held = True

    def stop(self) -> None:
        self.outcome.cancel()
        assert self.outcome.value is False
        assert self.counted("stopped") == 1

    def test_in_mid_stream(self) -> None:
        self.start(5000)
        self.place.threads.finish()
        reader = self.reader()
        self.stream.send(1000)
        self.stop()
        assert self.stream.stopped
        assert isinstance(reader.source.failure, Unavailable)
        assert reader.seen == reader.now
        reader.leave()
        # The batch in its thread ends by itself, and closes the file.
        assert len(self.place.open_files()) == 1
        self.place.threads.finish()
        assert self.place.open_files() == []
        assert self.clock.getDelayedCalls() == []
        self.readers.clear()
        assert self.place.growing(self.digest).read_bytes() == self.data[:1000]
        self.start(5000)
        self.place.threads.finish()
        self.stream.finish()
        self.place.threads.finish()
        assert self.asked_from() == [0, 1000]
        self.served()

    def test_while_the_file_is_opened(self) -> None:
        self.start(5000)
        self.stop()
        assert isinstance(self.ready.error, Unavailable)
        self.place.threads.finish()
        assert self.place.open_files() == []

    def test_while_upstream_is_asked(self) -> None:
        self.upstream.held = True
        self.start(5000)
        self.place.threads.finish()
        self.stop()
        self.upstream.release()
        assert self.upstream.streams == []

    def test_during_a_pause(self) -> None:
        self.start(5000)
        self.place.threads.finish()
        self.stream.send(1000)
        self.stream.break_off(BROKEN)
        self.place.threads.finish()
        self.stop()
        assert self.clock.getDelayedCalls() == []

    def test_during_the_commit(self) -> None:
        """Readers have every byte by then and are not disturbed; the file gets its name all the same."""
        self.start(5000)
        self.place.threads.finish()
        reader = self.reader()
        self.stream.finish()
        self.place.threads.finish(1)
        self.stop()
        assert reader.source.failure is None
        reader.check()
        self.place.threads.finish()
        assert self.place.stored(self.digest) == self.data


def test_nobody_follows_what_is_not_ready() -> None:
    with Place() as place:
        upstream = MemoryUpstream()
        digest = upstream.put_blob(NAME, b"x")
        fill = Fill(digest, upstream, NAME, 1, place.store, Clock(), Random(0), place.metrics)
        with pytest.raises(AssertionError):
            FollowedBlob(fill, Answer.JOINED, closed=lambda: None)
