"""The check of the store: what is damaged, lost or miscounted is found, and put right."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from depproxy.cache.check import ATTEMPTS, Checked, Found, Verified, WrongSum
from depproxy.cache.reconcile import Difference, Kind, Swept
from depproxy.index.interface import Entry
from depproxy.oci.digest import Digest
from depproxy.storage.interface import SHARDS
from tests.cache_tools import HOME, Cache, CacheTestCase, Outcome, Place, some_bytes
from tests.test_keeping import LAYERS, PARTS, SIZES, offer, pull

EVERYTHING = [0, 1, 2]
DIGESTS = sorted({digest for number in EVERYTHING for digest in PARTS[number]})


@frozen
class Heard:
    """What was told of a check, and what came of it."""

    found: Sequence[Found]
    verified: Sequence[Verified]
    checked: Checked


def check(cache: Cache, *, verify: bool = True, repair: bool = False) -> Heard:
    found: list[Found] = []
    verified: list[Verified] = []

    async def tell(step: Found | Verified) -> None:
        if isinstance(step, Found):
            found.append(step)
        else:
            verified.append(evolve(step))

    return Heard(found, verified, Outcome(cache.checker.check(tell, verify=verify, repair=repair)).value)


def damage(place: Place, digest: Digest) -> None:
    """One bit, of one byte in the middle."""
    path = place.blob(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


some = st.sets(st.sampled_from(DIGESTS), max_size=4)


@settings(max_examples=60)
@given(some, some, some, some, st.integers(-50, 50), st.integers(-50, 50))
def test_whatever_is_wrong_is_found_and_put_right(
    lost: set[Digest], forgotten: set[Digest], shorter: set[Digest], damaged: set[Digest], all_sizes: int, acme: int
) -> None:
    cache = Cache()
    try:
        offer(cache.upstream)
        for number in EVERYTHING:
            pull(cache, HOME, number)
        cache.entries.observe(lambda: None)
        damaged -= lost
        forgotten -= lost
        shorter -= lost | forgotten
        for digest in damaged:
            damage(cache.place, digest)
        for digest in lost:
            cache.place.blob(digest).unlink()
        for digest in forgotten:
            assert Outcome(cache.index.forget_blob(digest)).value is None
        Outcome(cache.index.adopt([Entry(digest, SIZES[digest] - 1, 1) for digest in shorter])).value  # noqa: B018
        cache.index.wrong.update({"": all_sizes, "acme": acme})
        expected = {
            *(Difference(Kind.NO_ENTRY, digest, SIZES[digest]) for digest in forgotten),
            *(Difference(Kind.NO_FILE, digest, SIZES[digest]) for digest in lost),
            *(Difference(Kind.WRONG_SIZE, digest, SIZES[digest]) for digest in shorter),
            *(Difference(Kind.DAMAGED, digest, SIZES[digest]) for digest in damaged),
        }
        files, before = cache.place.files(), dict(cache.index.used)
        for repair in (False, True):
            heard = check(cache, repair=repair)
            # What is removed for its size is not read any more.
            removed = {Difference(Kind.DAMAGED, digest, SIZES[digest]) for digest in damaged & shorter if repair}
            assert {found.difference for found in heard.found} == expected - removed
            assert {found.repaired for found in heard.found} <= {repair}
            checked = heard.checked
            assert checked.swept == Swept(len(forgotten) + len(shorter), len(lost))
            assert checked.sums is not None
            wrong = {one.group: one.kept - one.counted for one in checked.sums}
            assert wrong == {group: size for group, size in ((None, all_sizes), ("acme", acme)) if size}
            assert checked.repaired == (repair and bool(wrong))
            assert checked.clean == (not expected and not wrong)
            if not repair:
                assert (cache.place.files(), cache.index.used) == (files, before)
        again = check(cache)
        assert (again.found, again.checked.clean) == ([], True)
        kept = set(DIGESTS) - lost - damaged
        assert Outcome(cache.index.totals()).value == (len(kept), sum(SIZES[digest] for digest in kept))
        # What is missing is fetched again.
        for number in EVERYTHING:
            cache.start()
            pull(cache, HOME, number)
            for digest in PARTS[number]:
                assert Digest.of(cache.place.stored(digest) or b"") == digest
    finally:
        cache.close()


class Checking(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        offer(self.upstream)
        for number in EVERYTHING:
            pull(self.cache, HOME, number)

    def test_how_far_it_is(self) -> None:
        heard = check(self.cache)
        assert [verified.shards for verified in heard.verified] == list(range(1, SHARDS + 1))
        assert heard.checked.verified == Verified(len(DIGESTS), sum(SIZES[digest] for digest in DIGESTS), 0, SHARDS)

    def test_bytes_are_read_only_when_they_are_to_be(self) -> None:
        damage(self.place, DIGESTS[0])
        heard = check(self.cache, verify=False, repair=True)
        assert (heard.verified, heard.checked.verified, heard.checked.clean) == ([], None, True)

    def test_a_damaged_file_goes_though_it_is_read(self) -> None:
        digest = Digest.of(LAYERS[0])
        source = Outcome(self.cache.blobs.open(HOME, digest)).value
        damage(self.place, digest)
        (found,) = check(self.cache, repair=True).found
        assert (found.difference.digest, found.repaired) == (digest, True)
        assert self.place.store.contains(digest) is None
        source.close()

    def test_a_manifest_is_forgotten_in_memory_too(self) -> None:
        body = PARTS[0][0]
        damage(self.place, body)
        check(self.cache, repair=True)
        self.asked()
        pull(self.cache, HOME, 0)
        assert any(question.startswith("GET") for question in self.asked())

    def test_a_file_that_cannot_be_read_or_removed(self) -> None:
        self.place.blob(DIGESTS[0]).unlink()
        self.place.blob(DIGESTS[0]).mkdir()
        size = self.place.blob(DIGESTS[0]).stat().st_size
        (wrong, unreadable) = check(self.cache, repair=True).found
        assert wrong == Found(Difference(Kind.WRONG_SIZE, DIGESTS[0], size), True)
        assert unreadable == Found(Difference(Kind.UNREADABLE, DIGESTS[0], size), False)

    def test_what_an_index_that_was_down_has_missed_is_nothing_wrong(self) -> None:
        self.index.available = False
        blob = some_bytes(50, 50)
        assert Outcome(self.place.store.write(Digest.of(blob), blob)).value is None
        assert Outcome(self.cache.entries.stored(Digest.of(blob), len(blob), [HOME])).value is None
        self.index.available = True
        assert check(self.cache).checked.clean

    def test_sums_that_never_stand_still(self) -> None:
        scans = 0
        scan = self.index.scan

        async def busy(cursor: str) -> object:
            nonlocal scans
            if cursor == "0":
                scans += 1
                # No count of blobs tells of it.
                await self.index.adopt([Entry(DIGESTS[0], SIZES[DIGESTS[0]] + scans, 1)])
            return await scan(cursor)

        self.index.scan = busy  # type: ignore[method-assign,assignment]  # It does what it did, and a bit more.
        for repair in (False, True):
            scans = 0
            heard = check(self.cache, repair=repair)
            assert (heard.checked.sums, heard.checked.repaired) == (None, False)
            # The comparison of files with entries was one of them.
            assert scans == 1 + ATTEMPTS

    def test_a_sum_alone(self) -> None:
        self.index.wrong["acme"] = 5
        size = sum(SIZES[digest] for digest in DIGESTS)
        heard = check(self.cache, verify=False)
        assert heard.checked == Checked(Swept(0, 0), None, [WrongSum("acme", size + 5, size)], repaired=False)
        assert not heard.checked.clean


class Verifying(CacheTestCase):
    """The store's part."""

    def test_bytes_and_digests(self) -> None:
        store = self.place.store
        blob = some_bytes((1 << 20) + 7)
        digest = Digest.of(blob)
        assert Outcome(store.verify(digest)).value is None
        assert Outcome(store.write(digest, blob)).value is None
        assert Outcome(store.verify(digest)).value is True
        self.place.blob(digest).write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
        assert Outcome(store.verify(digest)).value is False
        self.place.blob(digest).write_bytes(blob[:-1])
        assert Outcome(store.verify(digest)).value is False
        other = Digest.of(blob, "sha512")
        assert Outcome(store.write(other, blob)).value is None
        assert Outcome(store.verify(other)).value is True

    def test_a_disk_that_fails(self) -> None:
        self.place.threads.error = OSError(errno.EIO, "the disk fails")
        error = Outcome(self.place.store.verify(DIGESTS[0])).error
        assert isinstance(error, OSError)

    def test_who_leaves_ends_it(self) -> None:
        """The thread reads no further."""
        blob = some_bytes(3 << 20)
        digest = Digest.of(blob)
        assert Outcome(self.place.store.write(digest, blob)).value is None
        self.place.threads.held = True
        Outcome(self.place.store.verify(digest)).leave()
        (job,) = self.place.threads.jobs
        job.run()
        # Right, had it read all.
        assert job._result is False
        self.place.threads.finish()
