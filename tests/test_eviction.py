"""The cache looks after its size: eviction, and the sweep that makes files and index entries agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.logger import globalLogPublisher

from depproxy.cache.interface import BlobSource
from depproxy.index.interface import Entry
from depproxy.oci.digest import Digest
from depproxy.storage.interface import SHARDS
from tests.cache_tools import HOME, NAME, Cache, CacheTestCase, Outcome, some_bytes
from tests.fakes import MemoryIndex
from tests.index_tools import Log

# Blobs of one to nine bytes, and room for a quarter of them.
BLOBS = [some_bytes(1 + number % 9, number) for number in range(12)]
DIGESTS = [Digest.of(blob) for blob in BLOBS]
LIMIT = 12
numbers = st.integers(0, len(BLOBS) - 1)


class BookKeeping(RuleBasedStateMachine):
    """Whatever happens: the coldest go first, nothing in use goes, and a sweep makes the sum right."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache(max_size=float(LIMIT))
        # Only the rules evict.
        self.cache.entries.observe(lambda: None)
        self.index, self.place = self.cache.index, self.cache.place
        # What the model knows: when each file was used last, as far as an index that was lost can know.
        self.used: dict[Digest, int] = {}
        self.readers: list[tuple[Digest, BlobSource]] = []
        for blob in BLOBS:
            self.cache.upstream.put_blob(NAME, blob)

    def teardown(self) -> None:
        while self.readers:
            self.close(0)
        self.cache.close()

    @property
    def clock(self) -> int:
        return int(self.cache.now())

    @property
    def in_use(self) -> set[Digest]:
        return {digest for digest, _ in self.readers}

    def files(self) -> dict[Digest, int]:
        sizes = {digest: self.place.store.contains(digest) for digest in DIGESTS}
        return {digest: size for digest, size in sizes.items() if size is not None}

    def entries(self) -> dict[Digest, int]:
        return {entry.digest: entry.size for entry in Outcome(self.index.coldest(100)).value}

    def stored(self, number: int) -> list[Digest]:
        """One of the blobs that are stored, if any is."""
        files = sorted(self.files())
        return files[number % len(files) :][:1] if files else []

    @rule(some=st.lists(numbers, min_size=1, max_size=8), seconds=st.integers(0, 2))
    def put(self, some: list[int], seconds: int) -> None:
        for number in some:
            digest = DIGESTS[number]
            assert Outcome(self.place.store.write(digest, BLOBS[number])).value is None
            os.utime(self.place.blob(digest), (self.clock, self.clock))
            assert Outcome(self.cache.entries.stored(digest, len(BLOBS[number]), [HOME])).value is None
            self.used[digest] = self.clock
            self.cache.clock.advance(seconds)

    @rule(number=numbers)
    def put_and_crash(self, number: int) -> None:
        """The file is in place, the entry is not."""
        digest = DIGESTS[number]
        if digest not in self.files():
            assert Outcome(self.place.store.write(digest, BLOBS[number])).value is None
            os.utime(self.place.blob(digest), (self.clock, self.clock))
            self.used[digest] = self.clock

    @rule(number=numbers)
    def evict_and_crash(self, number: int) -> None:
        """The entry is gone, the file is not; of when it was used, its file alone tells."""
        for digest in self.stored(number):
            if digest in self.entries() and digest not in self.in_use:
                Outcome(self.index.forget_blob(digest)).value  # noqa: B018
                self.write_last_uses()
                self.used[digest] = int(self.place.blob(digest).stat().st_mtime)

    @rule(number=numbers)
    def lose_the_file(self, number: int) -> None:
        for digest in self.stored(number):
            if digest not in self.in_use:
                self.place.blob(digest).unlink()

    @rule()
    def lose_the_index(self) -> None:
        for digest in self.entries():
            Outcome(self.index.forget_blob(digest)).value  # noqa: B018
        self.write_last_uses()
        for digest in self.files():
            self.used[digest] = int(self.place.blob(digest).stat().st_mtime)

    @rule(number=numbers)
    def read(self, number: int) -> None:
        """Opened and closed at once."""
        before = len(self.readers)
        self.open(number)
        if len(self.readers) > before:
            self.close(before)

    @rule(number=numbers)
    def open(self, number: int) -> None:
        for digest in self.stored(number):
            self.readers.append((digest, Outcome(self.cache.blobs.open(HOME, digest)).value))
            if digest in self.entries():
                self.used[digest] = self.clock
            else:
                # A use of what has no entry is not known once it was to be written.
                self.write_last_uses()

    @rule(number=numbers)
    def close(self, number: int) -> None:
        if self.readers:
            _, source = self.readers.pop(number % len(self.readers))
            source.close()

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.cache.clock.advance(seconds)

    @rule()
    def write_last_uses(self) -> None:
        Outcome(self.index.flush()).value  # noqa: B018

    @rule(available=st.booleans())
    def evict(self, available: bool) -> None:
        before, files = self.entries(), self.files()
        self.index.available = available
        self.cache.evictor.check()
        self.index.available = True
        after = self.entries()
        gone = before.keys() - after.keys()
        assert after.items() <= before.items()
        assert files.keys() - self.files().keys() == gone & files.keys()
        assert not gone & self.in_use
        if not available or sum(before.values()) <= LIMIT:
            assert not gone
            return
        # The used ones are touched on the way, or not: that is no use of a client's.
        left = after.keys() - self.in_use
        for one in gone:
            assert all(self.used[one] <= self.used[other] for other in left)
        assert sum(after.values()) <= LIMIT * 0.9 or not left
        # And not more than that takes.
        assert not gone or sum(after.values()) + max(before[one] for one in gone) > LIMIT * 0.9
        for digest in self.in_use & after.keys():
            self.used[digest] = max(self.used[digest], self.index.used[digest])

    @rule()
    def sweep(self) -> None:
        self.cache.reconciler.sweep()
        files, known = self.files(), self.entries()
        # Who reads a file without an entry keeps it from being adopted, until the next sweep.
        assert {digest: size for digest, size in known.items() if digest not in self.in_use} == {
            digest: size for digest, size in files.items() if digest not in self.in_use
        }
        assert known.items() <= files.items()
        if not self.in_use:
            assert Outcome(self.index.totals()).value == (len(files), sum(files.values()))

    @invariant()
    def readers_keep_their_bytes(self) -> None:
        for digest, source in self.readers:
            blob = BLOBS[DIGESTS.index(digest)]
            assert os.pread(source.fd, 100, 0) == blob
            assert self.files().get(digest) == len(blob)


TestBookKeeping = BookKeeping.TestCase


class MeddlingIndex(MemoryIndex):
    """Does something in the moment in which an entry is forgotten."""

    meddle: Any = None

    async def forget_unused(self, entries: Sequence[Entry]) -> Sequence[Digest]:
        forgotten = await super().forget_unused(entries)
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return forgotten


class Evicting(CacheTestCase):
    """One case each."""

    def setUp(self) -> None:
        super().setUp()
        self.log = Log()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)

    def store(self, *sizes: int) -> list[Digest]:
        """Blobs of these sizes, stored a second apart."""
        found = []
        for number, size in enumerate(sizes):
            data = some_bytes(size, number)
            found.append(self.upstream.put_blob(NAME, data))
            assert Outcome(self.place.store.write(found[-1], data)).value is None
            assert Outcome(self.cache.entries.stored(found[-1], size, [HOME])).value is None
            self.clock.advance(1)
        return found

    def here(self, digests: list[Digest]) -> list[bool]:
        entries = Outcome(self.index.known(digests)).value
        files = [self.place.store.contains(digest) is not None for digest in digests]
        assert [digest in entries for digest in digests] == files
        return files

    def test_down_to_the_low_mark(self) -> None:
        digests = self.store(*[10] * 10)
        self.cache.evictor.resize(100, {})
        assert all(self.here(digests))
        self.cache.evictor.resize(99, {})
        assert self.here(digests) == [False] * 2 + [True] * 8
        assert self.log.lines[-1] == "2 blobs evicted, 20 bytes"
        metrics = self.cache.metrics
        values = [
            value._value.get()
            for value in (
                metrics.removed_blobs.labels("evicted"),
                metrics.removed_bytes.labels("evicted"),
                metrics.max_bytes,
            )
        ]
        assert values == [2, 20, 99]

    def test_with_each_blob_that_is_stored(self) -> None:
        self.cache.evictor.resize(50, {})
        digests = self.store(*[10] * 12)
        assert self.here(digests) == [False] * 8 + [True] * 4

    def test_many_batches(self) -> None:
        digests = self.store(*[9] * 450)
        self.cache.evictor.resize(900, {})
        assert self.here(digests) == [False] * 360 + [True] * 90

    def test_more_in_use_than_a_batch(self) -> None:
        digests = self.store(*[9] * 300)
        for digest in digests[:250]:
            self.cache.uses.hold(digest)
        self.cache.evictor.resize(900, {})
        assert self.here(digests) == [True] * 250 + [False] * 50
        for digest in digests[:250]:
            self.cache.uses.release(digest)
        self.clock.advance(1)
        self.cache.evictor.check()
        assert sum(self.here(digests)) == 90

    def test_a_use_that_waits_to_be_written_counts(self) -> None:
        digests = self.store(10, 10)
        Outcome(self.cache.blobs.open(HOME, digests[0])).value.close()
        self.cache.evictor.resize(15, {})
        assert self.here(digests) == [True, False]

    def test_what_is_opened_while_its_entry_goes_stays(self) -> None:
        cache = Cache(index=MeddlingIndex)
        self.use(cache)
        digests = self.store(10, 10)
        Outcome(cache.blobs.open(HOME, digests[0])).value.close()
        Outcome(self.index.flush()).value  # noqa: B018
        Outcome(cache.blobs.open(HOME, digests[1])).value.close()
        Outcome(self.index.flush()).value  # noqa: B018
        opened: list[Any] = []
        self.index.meddle = lambda: opened.append(Outcome(cache.blobs.open(HOME, digests[0])).value)  # type: ignore[attr-defined]
        cache.evictor.resize(15, {})
        assert self.here(digests) == [True, False]
        opened[0].close()

    def test_an_index_that_is_lost_on_the_way_leaves_no_file_of_what_is_forgotten(self) -> None:
        cache = Cache(index=MeddlingIndex)
        self.use(cache)
        digests = self.store(10, 10, 10, 10)
        opened: list[Any] = []

        def meddle() -> None:
            opened.append(Outcome(cache.blobs.open(HOME, digests[1])).value)
            self.index.available = False

        self.index.meddle = meddle  # type: ignore[attr-defined]
        cache.evictor.resize(11, {})
        self.index.available = True
        assert [self.place.store.contains(digest) is not None for digest in digests] == [False, True, False, False]
        opened[0].close()
        # The sweep finds the file whose entry could not be given back.
        cache.reconciler.sweep()
        assert Outcome(self.index.totals()).value == (1, 10)

    def test_an_index_that_is_down_evicts_nothing(self) -> None:
        digests = self.store(10, 10)
        self.index.available = False
        self.cache.evictor.resize(15, {})
        for _ in range(3):
            self.cache.evictor.check()
        assert all(self.place.store.contains(digest) for digest in digests)
        assert self.log.count("nothing is evicted") == 1
        self.index.available = True
        self.cache.evictor.check()
        assert self.here(digests) == [False, True]
        self.index.available = False
        self.cache.evictor.check()
        assert self.log.count("nothing is evicted") == 2

    def test_what_the_index_has_missed_counts(self) -> None:
        self.index.available = False
        digests = self.store(10, 10)
        self.cache.evictor.resize(15, {})
        self.index.available = True
        self.cache.evictor.check()
        assert sum(self.here(digests)) == 1

    def test_a_file_that_cannot_be_removed(self) -> None:
        """Its entry is gone, the next one goes in its place, and the sweep finds it."""
        digests = self.store(10, 10, 10)
        blob = self.place.blob(digests[0])
        blob.unlink()
        (blob / "x").mkdir(parents=True)
        self.cache.evictor.resize(25, {})
        assert self.errors("storage") == 1
        assert self.place.store.contains(digests[1]) is None
        assert Outcome(self.index.totals()).value == (1, 10)

    def test_one_at_a_time_and_none_after_the_stop(self) -> None:
        digests = self.store(10, 10)
        self.index.blocked = True
        for _ in range(5):
            self.cache.evictor.resize(15, {})
        self.cache.evictor.stop()
        self.index.release()
        self.cache.evictor.check()
        self.cache.reconciler.stop()
        self.cache.reconciler.sweep()
        assert all(self.here(digests))
        assert Outcome(self.cache.background.drain()).value is None

    def test_a_fill_is_in_use_until_its_last_reader_has_left(self) -> None:
        self.cache.evictor.resize(15, {})
        digest = self.upstream.put_blob(NAME, some_bytes(100, 9))
        reading = Outcome(self.cache.blobs.open(HOME, digest))
        assert digest in self.cache.uses
        self.upstream.streams[-1].send()
        self.upstream.streams[-1].close()
        assert self.cache.blobs.filling() == 0
        assert self.here([digest]) == [True]
        reading.value.close()
        assert digest not in self.cache.uses
        self.cache.evictor.check()
        assert self.here([digest]) == [False]

    def test_an_evicted_manifest_is_fetched_again(self) -> None:
        body = b'{"schemaVersion": 2, "layers": []}'
        digest = self.upstream.put_manifest(NAME, body)
        for expected in (["get"], [], ["get"]):
            self.asked()
            assert Outcome(self.cache.manifests.get(HOME, digest)).value.body == body
            assert [question.partition(" ")[0].lower()[:3] for question in self.asked()] == expected
            if not expected:
                self.cache.evictor.resize(1, {})
                assert self.here([digest]) == [False]
                self.cache.evictor.resize(1000, {})

    def test_the_sweep_leaves_to_others_what_they_store(self) -> None:
        (digest,) = self.store(10)
        Outcome(self.index.forget_blob(digest)).value  # noqa: B018
        self.cache.uses.hold(digest)
        self.cache.reconciler.sweep()
        assert Outcome(self.index.totals()).value == (0, 0)
        self.cache.uses.release(digest)
        os.utime(self.place.blob(digest), (1234.5, 1234.5))
        self.cache.reconciler.sweep()
        assert Outcome(self.index.coldest(9)).value == [Entry(digest, 10, 1234)]
        assert self.log.lines[-1] == "1 files had no entry in the cache index, 0 entries had no file"

    def sweep_held(self, name: str, meanwhile: Callable[[], object]) -> None:
        """A sweep, and what happens after a thread has done that job, and before the reactor hears of it."""
        threads = self.place.threads
        threads.held = True
        self.cache.reconciler.sweep()
        while threads.jobs:
            if threads.jobs[0].name == name:
                threads.jobs[0].run()
                meanwhile()
            threads.finish(1)
        threads.held = False

    def test_what_is_evicted_after_the_listing_is_not_adopted(self) -> None:
        (digest,) = self.store(10)

        shards = iter(range(SHARDS))

        def evict() -> None:
            if next(shards) == int(digest.encoded[:2], 16):
                Outcome(self.index.forget_blob(digest)).value  # noqa: B018
                self.place.blob(digest).unlink()

        self.sweep_held("_shard", evict)
        assert self.here([digest]) == [False]
        assert self.log.count("had no entry") == 0

    def test_what_is_stored_after_it_was_missed_is_not_forgotten(self) -> None:
        (digest,) = self.store(10)
        blob = self.place.blob(digest)
        blob.rename(self.place.root / "away")
        self.sweep_held("_missing", lambda: (self.place.root / "away").rename(blob))
        assert self.here([digest]) == [True]

    def test_what_is_adopted_counts(self) -> None:
        self.cache.evictor.resize(15, {})
        digest = Digest.of(some_bytes(20))
        assert Outcome(self.place.store.write(digest, some_bytes(20))).value is None
        self.cache.reconciler.sweep()
        assert self.here([digest]) == [False]

    def test_a_wrong_size_is_set_right(self) -> None:
        (digest,) = self.store(10)
        Outcome(self.index.put_blob(digest, 99, [HOME])).value  # noqa: B018
        self.cache.reconciler.sweep()
        assert Outcome(self.index.totals()).value == (1, 10)

    def test_a_file_of_a_wrong_size_is_removed(self) -> None:
        digest, other = self.store(10, 20)
        self.place.blob(digest).write_bytes(b"")
        self.cache.reconciler.sweep()
        assert self.here([digest, other]) == [False, True]
        assert Outcome(self.index.totals()).value == (1, 20)
        assert self.log.count(f"{digest} is damaged, and removed: it has 0 bytes instead of 10") == 1

    def test_a_sweep_without_the_index(self) -> None:
        self.store(10)
        self.index.available = False
        self.cache.reconciler.sweep()
        assert "not compared to the end" in self.log.lines[-1]
        late = [self.cache.reconciler.late]
        self.index.available = True
        self.cache.reconciler.sweep()
        assert [*late, self.cache.reconciler.late] == [True, False]
