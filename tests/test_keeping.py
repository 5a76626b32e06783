"""What groups hold, and for how long: TTL policies, quotas, pins and purges, and the book-keeping under all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from depproxy.cache import expiry, purge
from depproxy.cache.purge import Purged
from depproxy.index.interface import Entry, Home, IndexUnavailable, Link, Share
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from depproxy.oci.reference import Reference, Tag
from tests.cache_tools import ELSEWHERE, HOME, NAME, NEIGHBOUR, STRANGER, Cache, CacheTestCase, Outcome, some_bytes
from tests.fakes import MemoryIndex, MemoryUpstream
from tests.index_tools import Log

DAY = 24 * 60 * 60
LAYERS = [some_bytes(100 + 10 * number, number) for number in range(5)]
# Each with some of the layers: no two with the same ones, and none without sharing any.
IMAGES = [(0, 1), (1, 2), (2, 3, 4), (0, 4)]
HOMES = [HOME, Home("acme", "docker.io", ELSEWHERE), NEIGHBOUR, STRANGER]
GROUPS = ["acme", "other"]


def manifest(layers: list[bytes], **more: object) -> bytes:
    """A manifest of layers."""
    named = [{"mediaType": "layer", "digest": Digest.of(layer), "size": len(layer)} for layer in layers]
    return json.dumps({"schemaVersion": 2, "layers": named, **more}).encode()


def image_index(*manifests: bytes) -> bytes:
    named = [{"mediaType": OCI_MANIFEST, "digest": Digest.of(body), "size": len(body)} for body in manifests]
    return json.dumps({"schemaVersion": 2, "manifests": named}).encode()


BODIES = [manifest([LAYERS[number] for number in numbers]) for numbers in IMAGES]
PARTS = [[Digest.of(body), *(Digest.of(LAYERS[number]) for number in IMAGES[at])] for at, body in enumerate(BODIES)]
SIZES = {Digest.of(data): len(data) for data in (*LAYERS, *BODIES)}
TAGS = [Tag(f"t{number}") for number in range(len(IMAGES))]
numbers = st.integers(0, len(IMAGES) - 1)
homes = st.sampled_from(HOMES)
groups = st.sampled_from(GROUPS)


def offer(upstream: MemoryUpstream) -> None:
    """Have all images in both repositories."""
    for name in (NAME, ELSEWHERE):
        for tag, body in zip(TAGS, BODIES, strict=True):
            upstream.put_manifest(name, body, tag)
        for layer in LAYERS:
            upstream.put_blob(name, layer)


def read(cache: Cache, home: Home, digest: Digest) -> None:
    """A blob, from its first byte to its last."""
    opening = Outcome(cache.blobs.open(home, digest))
    if cache.blobs.filling():
        cache.upstream.streams[-1].finish()
    opening.value.close()


def pull(cache: Cache, home: Home, number: int) -> None:
    """An image with all its layers."""
    assert Outcome(cache.manifests.get(home, TAGS[number])).value.body == BODIES[number]
    for digest in PARTS[number][1:]:
        read(cache, home, digest)
    assert Outcome(cache.index.flush()).value is None


class Holdings(RuleBasedStateMachine):
    """
    Whatever happens, but for a purge or a cache that is too small: nothing that was read is lost, nothing that was
    unlinked stays, and the sum of sizes is the size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache()
        # Only the rules evict.
        self.cache.entries.observe(lambda: None)
        self.index, self.store = self.cache.index, self.cache.place.store
        offer(self.cache.upstream)
        # What the model knows: the last read of what each group holds; and what lies in the store for nobody.
        self.held: dict[str, dict[Digest, int]] = {group: {} for group in GROUPS}
        self.ownerless: set[Digest] = set()
        self.pins: set[tuple[Home, int]] = set()

    def teardown(self) -> None:
        self.cache.close()

    @property
    def clock(self) -> int:
        return int(self.cache.now())

    def stored(self) -> set[Digest]:
        return {digest for digest in SIZES if self.store.contains(digest) is not None}

    def protected(self, *groups: str) -> set[Digest]:
        """What these groups have pinned, as far as its tag is known and its manifest is here."""
        found: set[Digest] = set()
        for home, number in self.pins:
            if home.group in groups and Outcome(self.index.get_tag(home, TAGS[number])).value is not None:
                found |= {*PARTS[number]} if PARTS[number][0] in self.stored() else {PARTS[number][0]}
        return found

    def let_go(self, group: str, gone: set[Digest]) -> None:
        """The model's side: the rest of what they hold, they hold on."""
        for digest in gone:
            self.held[group].pop(digest, None)

    def homes_of(self, group: str) -> list[Home]:
        return [home for home in HOMES if home.group == group]

    def links(self, home: Home) -> Mapping[Digest, Link]:
        return Outcome(self.index.linked(home, list(SIZES))).value

    @rule(home=homes, number=numbers)
    def pull(self, home: Home, number: int) -> None:
        pull(self.cache, home, number)
        for digest in PARTS[number]:
            self.held[home.group][digest] = self.clock
            self.ownerless.discard(digest)
        assert self.links(home).keys() >= set(PARTS[number])

    @rule(home=homes, number=numbers)
    def read_one(self, home: Home, number: int) -> None:
        digest = Digest.of(LAYERS[number])
        read(self.cache, home, digest)
        assert Outcome(self.index.flush()).value is None
        self.held[home.group][digest] = self.clock
        self.ownerless.discard(digest)

    @rule(home=homes, number=numbers)
    def pin(self, home: Home, number: int) -> None:
        assert Outcome(self.index.pin(home, TAGS[number])).value
        self.pins.add((home, number))

    @rule(home=homes, number=numbers)
    def unpin(self, home: Home, number: int) -> None:
        assert Outcome(self.index.unpin(home, TAGS[number])).value == ((home, number) in self.pins)
        self.pins.discard((home, number))

    @rule(hours=st.integers(1, 100))
    def time_passes(self, hours: int) -> None:
        self.cache.clock.advance(hours * 3600)

    @rule()
    def restart(self) -> None:
        self.cache.start()
        self.cache.entries.observe(lambda: None)

    @rule(number=numbers)
    def store_and_crash(self, number: int) -> None:
        """The file is in place, the entry is not."""
        layer = LAYERS[number]
        if Digest.of(layer) not in self.stored():
            assert Outcome(self.store.write(Digest.of(layer), layer)).value is None
            self.cache.reconciler.sweep()
            self.ownerless.add(Digest.of(layer))

    @rule(number=numbers)
    def forget_and_crash(self, number: int) -> None:
        """The entry is gone, the file is not."""
        digest = Digest.of(LAYERS[number])
        assert Outcome(self.index.forget_blob(digest)).value is None
        for group in GROUPS:
            self.let_go(group, {digest})
        if digest in self.stored():
            self.cache.reconciler.sweep()
            self.ownerless.add(digest)

    @rule(group=groups, days=st.integers(1, 3))
    def expire(self, group: str, days: int) -> None:
        before = self.clock - days * DAY
        protected = self.protected(group)
        old = {digest for digest, last in self.held[group].items() if last < before and digest not in protected}
        self.cache.ttls.clear()
        self.cache.ttls[group] = days * DAY
        self.cache.expirer.expire()
        self.let_go(group, old)
        kept = {home for home, _ in self.pins}
        for home in set(self.homes_of(group)) - kept:
            links = self.links(home)
            for digest, link in links.items():
                assert digest in self.held[group] or link.since >= before - DAY
            for digest in SIZES:
                assert digest in links or self.cache.links.known(home, digest) is None
            for tag in TAGS:
                record = Outcome(self.index.get_tag(home, tag)).value
                assert record is None or record.digest in self.held[group] or record.checked >= before
                assert record is not None or self.cache.tags.known(home, tag) is None

    @rule(limit=st.integers(100, 3000))
    def evict(self, limit: int) -> None:
        used, protected = dict(self.index.used), self.protected(*GROUPS)
        size = sum(SIZES[digest] for digest in used)
        self.cache.evictor.resize(limit, {})
        self.cache.evictor.resize(float("inf"), {})
        left = dict(self.index.used)
        gone = used.keys() - left.keys()
        self.coldest_went(limit, size, gone, left, protected)
        for group in GROUPS:
            self.let_go(group, gone)
        self.ownerless -= gone

    @rule(group=groups, limit=st.integers(100, 2000))
    def hold_to_quota(self, group: str, limit: int) -> None:
        before, protected = dict(self.held[group]), self.protected(group)
        size = sum(SIZES[digest] for digest in before)
        self.cache.evictor.resize(float("inf"), {group: limit})
        self.cache.evictor.resize(float("inf"), {})
        left = {entry.digest: entry.used for entry in Outcome(self.index.coldest_of(group, 100)).value}
        gone = before.keys() - left.keys()
        self.coldest_went(limit, size, gone, left, protected)
        self.let_go(group, gone)

    def coldest_went(
        self, limit: int, size: int, gone: set[Digest], left: dict[Digest, int], protected: set[Digest]
    ) -> None:
        assert not gone & protected
        if size <= limit:
            assert not gone
            return
        after = sum(SIZES[digest] for digest in left)
        assert after <= limit * 0.9 or left.keys() <= protected
        # And not more than that takes.
        assert not gone or after + max(SIZES[digest] for digest in gone) > limit * 0.9

    @rule(group=groups)
    def purge(self, group: str) -> None:
        held = set(self.held[group])
        others = {digest for other in GROUPS if other != group for digest in self.held[other]}
        gone = held - others
        found = Outcome(self.cache.purger.group(group)).value
        assert found == Purged(len(held), len(gone), sum(SIZES[digest] for digest in gone))
        self.let_go(group, held)
        for home in self.homes_of(group):
            self.nothing_left(home)
        assert group not in Outcome(self.index.groups()).value

    @rule(home=homes)
    def purge_repository(self, home: Home) -> None:
        elsewhere = {digest for other in self.homes_of(home.group) if other != home for digest in self.links(other)}
        own = (self.links(home).keys() - elsewhere) & self.held[home.group].keys()
        assert Outcome(self.cache.purger.repository(home)).value.blobs == len(own)
        self.let_go(home.group, set(own))
        self.nothing_left(home)

    @rule(home=homes, number=numbers)
    def purge_image(self, home: Home, number: int) -> None:
        before = self.links(home)
        known = {tag for tag in TAGS if Outcome(self.index.get_tag(home, tag)).value is not None}
        here = self.stored()
        needed = {
            digest
            for at, tag in enumerate(TAGS)
            if tag in known and at != number
            for digest in (PARTS[at] if PARTS[at][0] in here else PARTS[at][:1])
        }
        own = set(PARTS[number] if PARTS[number][0] in here else PARTS[number][:1]) - needed
        elsewhere = {digest for other in self.homes_of(home.group) if other != home for digest in self.links(other)}
        found = Outcome(self.cache.purger.image(home, TAGS[number])).value
        if TAGS[number] not in known:
            assert found is None
            return
        self.let_go(home.group, own - elsewhere)
        assert Outcome(self.index.get_tag(home, TAGS[number])).value is None
        assert self.links(home).keys() == before.keys() - own
        for digest in own:
            assert self.cache.links.known(home, digest) is None

    def nothing_left(self, home: Home) -> None:
        assert self.links(home) == {}
        for tag in TAGS:
            assert Outcome(self.index.get_tag(home, tag)).value is None
            assert self.cache.tags.known(home, tag) is None
        for digest in SIZES:
            assert self.cache.links.known(home, digest) is None

    @invariant()
    def everything_is_held_as_it_was_read(self) -> None:
        for group in GROUPS:
            found = Outcome(self.index.coldest_of(group, 100)).value
            assert {entry.digest: entry.used for entry in found} == self.held[group]
            share = Outcome(self.index.groups()).value.get(group, Share(0, 0))
            assert share == Share(len(found), sum(SIZES[entry.digest] for entry in found))

    @invariant()
    def the_store_has_that_and_nothing_else(self) -> None:
        kept = {digest for held in self.held.values() for digest in held} | self.ownerless
        assert self.stored() == kept
        assert set(self.index.used) == kept
        assert Outcome(self.index.totals()).value == (len(kept), sum(SIZES[digest] for digest in kept))


TestHoldings = Holdings.TestCase
TestHoldings.settings = settings(max_examples=200)


class TellingIndex(MemoryIndex):
    """Counts how often something is let go. What is to be done `meanwhile` it does once, before or after a method."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.count = 0
        self.meanwhile: dict[str, Callable[[], object]] = {}

    async def let_go(self, group: str, entries: Sequence[Entry]) -> Sequence[Digest]:
        self.count += 1
        self._do("before let_go")
        return await super().let_go(group, entries)

    async def homes(self, group: str, cursor: str) -> tuple[str, Mapping[Home, int]]:
        found = await super().homes(group, cursor)
        self._do("after homes")
        return found

    async def forget_home(self, home: Home, used: int | None = None) -> bool:
        found = await super().forget_home(home, used)
        self._do("after forget_home")
        return found

    def _do(self, when: str) -> None:
        self.meanwhile.pop(when, lambda: None)()


class KeepingTestCase(CacheTestCase):
    """With all images on offer, and a log."""

    def setUp(self) -> None:
        super().setUp()
        offer(self.upstream)
        self.log = Log()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)

    def pull(self, home: Home, number: int) -> None:
        pull(self.cache, home, number)

    def questions(self, home: Home, number: int) -> list[str]:
        """What a pull asks upstream now, by method and kind."""
        self.asked()
        self.pull(home, number)
        return [f"{method} {kind.partition('/')[0]}" for method, _, kind, *_ in map(str.split, self.asked())]

    def use_telling(self) -> TellingIndex:
        """Have another cache, with such an index."""
        self.use(Cache(index=TellingIndex))
        offer(self.upstream)
        assert isinstance(self.index, TellingIndex)
        return self.index

    def held(self, group: str) -> set[Digest]:
        return {entry.digest for entry in Outcome(self.index.coldest_of(group, 10_000)).value}

    def linked(self, home: Home) -> set[Digest]:
        return set(Outcome(self.index.linked(home, list(SIZES))).value)

    def is_here(self, digest: Digest) -> bool:
        return self.place.store.contains(digest) is not None

    def removed(self, why: str) -> tuple[float, float]:
        metrics = self.cache.metrics
        blobs, size = metrics.removed_blobs.labels(why), metrics.removed_bytes.labels(why)
        return blobs._value.get(), size._value.get()


class Expiring(KeepingTestCase):
    """A group's TTL policy."""

    def expire(self, **days: float) -> None:
        self.cache.ttls.clear()
        self.cache.ttls.update({group: number * DAY for group, number in days.items()})
        self.cache.expirer.expire()

    def test_what_is_not_read_for_the_ttl_goes(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(10 * DAY)
        self.expire(acme=10)
        assert self.held("acme") == set(PARTS[0])
        self.clock.advance(1)
        self.expire(acme=10)
        assert self.held("acme") == self.linked(HOME) == set()
        assert not any(map(self.is_here, PARTS[0]))
        size = sum(SIZES[digest] for digest in PARTS[0])
        assert self.removed("expired") == (3, size)
        assert self.log.lines[-1] == (
            f"group acme has not read 3 blobs, {size} bytes, for its ttl: 3 of them, {size} bytes, are removed;"
            " 1 repository is forgotten"
        )
        assert self.questions(HOME, 0) == ["HEAD manifests", "GET manifests", "GET blobs", "GET blobs"]

    def test_without_a_policy_everything_stays(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(1000 * DAY)
        self.expire(other=1)
        assert self.held("acme") == set(PARTS[0])
        assert self.questions(HOME, 0) == ["HEAD manifests"]

    def test_a_read_of_either_kind_counts(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(3 * DAY)
        assert Outcome(self.cache.manifests.get(HOME, PARTS[0][0])).value.body == BODIES[0]
        read(self.cache, HOME, PARTS[0][1])
        # Not written yet.
        self.expire(acme=2)
        assert self.held("acme") == set(PARTS[0][:2])
        assert [self.is_here(digest) for digest in PARTS[0]] == [True, True, False]

    def test_what_another_group_holds_stays_for_that_group(self) -> None:
        self.pull(HOME, 0)
        self.pull(NEIGHBOUR, 1)
        self.clock.advance(2 * DAY)
        self.expire(acme=1)
        assert (self.held("acme"), self.held("other")) == (set(), set(PARTS[1]))
        assert [self.is_here(digest) for digest in PARTS[0]] == [False, False, True]
        # The bytes are here, but whether this group may have them, upstream is asked.
        assert self.questions(HOME, 1) == ["HEAD manifests"]
        self.expire(acme=1)
        assert self.questions(NEIGHBOUR, 1) == ["HEAD manifests"]

    def test_what_is_being_read_stays(self) -> None:
        self.pull(HOME, 0)
        source = Outcome(self.cache.blobs.open(HOME, PARTS[0][1])).value
        Outcome(self.index.flush()).value  # noqa: B018
        self.clock.advance(2 * DAY)
        self.expire(acme=1)
        assert self.held("acme") == {PARTS[0][1]}
        source.close()
        self.expire(acme=1)
        assert self.held("acme") == set()

    def test_more_than_a_batch_of_what_stays(self) -> None:
        digests = []
        for number in range(expiry.BATCH + 10):
            data = b"%d" % number
            digests.append(Digest.of(data))
            Outcome(self.place.store.write(digests[-1], data)).value  # noqa: B018
            Outcome(self.cache.entries.stored(digests[-1], len(data), [HOME])).value  # noqa: B018
        by_age = [entry.digest for entry in Outcome(self.index.coldest_of("acme", 1000)).value]
        for digest in by_age[: expiry.BATCH]:
            self.cache.uses.hold(digest)
        self.clock.advance(2 * DAY)
        self.expire(acme=1)
        assert self.held("acme") == set(by_age[: expiry.BATCH])

    def test_old_links_and_tags_of_a_home_that_is_read(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(3 * DAY)
        self.pull(HOME, 2)
        self.expire(acme=1)
        assert self.linked(HOME) == set(PARTS[2])
        tags = [Outcome(self.index.get_tag(HOME, tag)).value is not None for tag in TAGS]
        assert tags == [False, False, True, False]
        assert [self.cache.tags.known(HOME, tag) for tag in TAGS[:2]] == [None, None]

    def test_links_to_what_was_never_read_stay_while_they_are_young(self) -> None:
        body = image_index(*BODIES[:2])
        index = self.upstream.put_manifest(NAME, body, Tag("all"), OCI_INDEX)
        Outcome(self.cache.manifests.get(HOME, Tag("all"))).value  # noqa: B018
        named = {PARTS[0][0], PARTS[1][0]}
        self.clock.advance(DAY)
        self.expire(acme=1)
        assert self.linked(HOME) == named
        for _ in range(3):
            self.clock.advance(DAY)
            Outcome(self.cache.manifests.get(HOME, index)).value  # noqa: B018
            Outcome(self.index.flush()).value  # noqa: B018
        self.expire(acme=1)
        assert self.linked(HOME) == set()
        assert self.held("acme") == {index}

    def test_a_home_that_is_read_meanwhile(self) -> None:
        index = self.use_telling()
        self.pull(HOME, 0)
        self.clock.advance(2 * DAY)
        index.meanwhile["after homes"] = lambda: self.pull(HOME, 2)
        self.expire(acme=1)
        assert self.held("acme") == set(PARTS[2])
        assert self.linked(HOME) >= set(PARTS[2])
        assert self.questions(HOME, 2) == ["HEAD manifests"]

    def test_an_index_that_goes_down_in_the_middle(self) -> None:
        index = self.use_telling()
        for home in HOMES[:2]:
            self.pull(home, 0)
        self.clock.advance(2 * DAY)

        def down() -> None:
            index.available = False

        index.meanwhile["after forget_home"] = down
        self.expire(acme=1)
        index.available = True
        (gone,) = (home for home in HOMES[:2] if not self.linked(home))
        assert [self.cache.links.known(gone, digest) for digest in PARTS[0]] == [None] * 3
        assert self.cache.tags.known(gone, TAGS[0]) is None

    def test_pinned_images_stay(self) -> None:
        self.pull(HOME, 0)
        self.pull(HOME, 2)
        Outcome(self.index.pin(HOME, TAGS[0])).value  # noqa: B018
        self.clock.advance(2 * DAY)
        self.expire(acme=1)
        assert self.held("acme") == set(PARTS[0])
        assert self.questions(HOME, 0) == ["HEAD manifests"]
        Outcome(self.index.unpin(HOME, TAGS[0])).value  # noqa: B018
        self.clock.advance(2 * DAY)
        self.expire(acme=1)
        assert self.held("acme") == set()

    def test_an_index_that_is_down(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(2 * DAY)
        self.index.available = False
        self.expire(acme=1)
        assert "is not expired to the end" in self.log.lines[-1]
        late = [self.cache.expirer.late]
        assert self.errors("index") == 1
        self.index.available = True
        self.expire(acme=1)
        assert [*late, self.cache.expirer.late] == [True, False]
        assert self.held("acme") == set()

    def test_one_at_a_time_and_none_after_the_stop(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(2 * DAY)
        self.index.blocked = True
        self.expire(acme=1)
        self.expire(acme=1)
        self.cache.expirer.stop()
        self.index.release()
        self.expire(acme=1)
        assert self.held("acme") == set(PARTS[0])
        assert Outcome(self.cache.background.drain()).value is None


class KeepingToQuotas(KeepingTestCase):
    """A group's own limit."""

    def test_the_coldest_of_the_group_go(self) -> None:
        for home in (NEIGHBOUR, HOME):
            self.pull(home, 2)
            self.clock.advance(1)
        self.pull(HOME, 0)
        limit = sum(SIZES[digest] for digest in (*PARTS[0], *PARTS[2])) - 1
        self.cache.evictor.resize(float("inf"), {"acme": limit})
        # The others hold theirs.
        assert self.held("other") == set(PARTS[2])
        assert all(map(self.is_here, (*PARTS[0], *PARTS[2])))
        assert set(PARTS[0]) <= self.held("acme") < {*PARTS[0], *PARTS[2]}
        assert self.removed("evicted") == (0, 0)
        let_go = {*PARTS[2]} - self.held("acme")
        size = sum(SIZES[digest] for digest in let_go)
        assert self.log.lines[-1].endswith(f", {size} bytes: 0 of them, 0 bytes, are removed")
        self.cache.evictor.resize(float("inf"), {"other": 1})
        assert self.held("other") == set()
        assert self.removed("evicted")[0] > 0
        count, gone = self.removed("evicted")
        whole = sum(SIZES[digest] for digest in PARTS[2])
        assert self.log.lines[-1].startswith(
            f"group other was above its quota and lets go of {len(PARTS[2])} blobs, {whole} bytes:"
            f" {count:g} of them, {gone:g}"
        )

    def test_with_each_blob_that_is_stored(self) -> None:
        self.cache.evictor.resize(float("inf"), {"acme": 500})
        for number in (0, 2, 1, 3):
            self.pull(HOME, number)
            self.clock.advance(1)
            assert sum(SIZES[digest] for digest in self.held("acme")) <= 500

    def test_a_manifest_that_is_read_while_it_goes(self) -> None:
        threads = self.place.threads
        for told_first in (0, 1):
            self.pull(HOME, 0)
            self.cache.manifests.forget(PARTS[0][0])
            threads.held = True
            asking = Outcome(self.cache.manifests.get(HOME, PARTS[0][0]))
            self.cache.evictor.resize(1, {})
            jobs = threads.jobs[:2]
            assert [job.name for job in jobs] == ["_read", "_remove"]
            del threads.jobs[:2]
            jobs[0].run()
            for job in (jobs[told_first], jobs[1 - told_first]):
                job.tell()
            threads.held = False
            threads.finish()
            assert asking.value.body == BODIES[0]
            assert not self.is_here(PARTS[0][0])
            # It is not served from memory, as if it were.
            self.cache.evictor.resize(float("inf"), {})
            assert self.questions(HOME, 0)[:2] == ["HEAD manifests", "GET manifests"]

    def test_pinned_images_stay_though_the_coldest(self) -> None:
        self.pull(HOME, 0)
        self.clock.advance(1)
        self.pull(HOME, 2)
        Outcome(self.index.pin(HOME, TAGS[0])).value  # noqa: B018
        self.cache.evictor.resize(float("inf"), {"acme": 1})
        assert self.held("acme") == set(PARTS[0])
        self.cache.evictor.resize(1, {})
        assert self.held("acme") == set(PARTS[0])
        Outcome(self.index.unpin(HOME, TAGS[0])).value  # noqa: B018
        self.cache.evictor.check()
        assert self.held("acme") == set()

    def test_pins_are_the_groups_own(self) -> None:
        for home in (HOME, NEIGHBOUR):
            self.pull(home, 0)
        Outcome(self.index.pin(HOME, TAGS[0])).value  # noqa: B018
        self.cache.evictor.resize(float("inf"), {"other": 1})
        assert (self.held("acme"), self.held("other")) == (set(PARTS[0]), set())
        self.pull(NEIGHBOUR, 0)
        self.cache.evictor.resize(1, {})
        assert self.held("other") == set(PARTS[0])

    def test_a_pin_follows_its_tag(self) -> None:
        self.pull(HOME, 0)
        Outcome(self.index.pin(HOME, TAGS[0])).value  # noqa: B018
        self.upstream.put_manifest(NAME, BODIES[2], TAGS[0])
        assert Outcome(self.cache.manifests.get(HOME, TAGS[0])).value.body == BODIES[2]
        self.pull(HOME, 2)
        self.cache.evictor.resize(1, {})
        assert self.held("acme") == set(PARTS[2])

    def test_a_pinned_image_of_several_platforms(self) -> None:
        index = self.upstream.put_manifest(NAME, image_index(*BODIES[:2]), Tag("all"), OCI_INDEX)
        Outcome(self.cache.manifests.get(HOME, Tag("all"))).value  # noqa: B018
        self.pull(HOME, 0)
        Outcome(self.index.pin(HOME, index)).value  # noqa: B018
        self.cache.evictor.resize(1, {})
        assert self.held("acme") == {index, *PARTS[0]}


class FailingIndex(MemoryIndex):
    """Goes down when something is to be let go, until it is `mended`."""

    mended = False

    async def let_go(self, group: str, entries: Sequence[Entry]) -> Sequence[Digest]:
        if not self.mended:
            raise IndexUnavailable("it is down")
        return await super().let_go(group, entries)


class Purging(KeepingTestCase):
    """What is to go now."""

    def test_a_group(self) -> None:
        self.pull(HOME, 0)
        self.pull(NEIGHBOUR, 1)
        shared = set(PARTS[0]) & set(PARTS[1])
        assert len(shared) == 1
        gone = set(PARTS[0]) - shared
        found = Outcome(self.cache.purger.group("acme")).value
        assert found == Purged(3, 2, sum(SIZES[digest] for digest in gone))
        assert self.removed("purged") == (2, found.removed_bytes)
        assert Outcome(self.index.groups()).value.keys() == {"other"}
        assert self.linked(HOME) == set()
        # The layer that is here for the other group has to be proved by the manifest, which names it.
        assert self.questions(HOME, 0) == ["HEAD manifests", "GET manifests", "GET blobs"]

    def purge(self, reference: Reference) -> int:
        found = Outcome(self.cache.purger.image(HOME, reference)).value
        assert found is not None
        return found.blobs

    def test_waiting_for_its_end(self) -> None:
        assert Outcome(self.cache.purges.carry_out("alice", "acme")).value is None
        self.pull(HOME, 0)
        self.index.blocked = True
        waiting = Outcome(self.cache.purges.carry_out("alice", "acme", HOME, TAGS[0]))
        assert waiting.waits
        self.index.release()
        assert waiting.value == Purged(3, 3, sum(SIZES[digest] for digest in PARTS[0]))
        assert self.log.count("alice has ordered a purge of ") == 1
        assert Outcome(self.cache.purges.carry_out("alice", "acme", HOME, TAGS[0])).value is None

    def test_who_leaves_does_not_end_it(self) -> None:
        self.pull(HOME, 0)
        gate: Deferred[None] = Deferred()

        async def another() -> None:
            await gate

        turn = Outcome(self.cache.uses.removing.run(another))
        Outcome(self.cache.purges.carry_out("alice", "acme")).leave()
        assert self.held("acme") == set(PARTS[0])
        gate.callback(None)
        assert turn.value is None
        assert self.held("acme") == set()

    def test_an_order_that_cannot_be_carried_out(self) -> None:
        self.use(Cache(index=FailingIndex))
        offer(self.upstream)
        self.pull(HOME, 0)
        assert Outcome(self.cache.purges.order("alice", "acme")).value
        assert self.log.lines[-1].startswith("the purge of group acme is not complete, order it again: ")
        # It is forgotten, and so can be ordered again.
        assert Outcome(self.cache.purges.order("alice", "acme")).value
        assert self.log.count("alice has ordered a purge of group acme") == 2

    def test_what_was_let_go_of_and_not_removed(self) -> None:
        """A crash between: the sweep removes it, and nothing else that nobody holds."""
        self.pull(HOME, 0)
        self.pull(HOME, 2)
        adopted = Digest.of(b"adopted")
        Outcome(self.place.store.write(adopted, b"adopted")).value  # noqa: B018
        held = Outcome(self.index.coldest_of("acme", 100)).value
        assert len(Outcome(self.index.let_go("acme", held)).value) == len(held)
        read(self.cache, HOME, again := PARTS[2][1])
        source = Outcome(self.cache.blobs.open(HOME, reading := PARTS[0][1])).value
        self.cache.reconciler.sweep()
        assert {entry.digest for entry in Outcome(self.index.coldest(100)).value} == {adopted, again, reading}
        source.close()
        assert self.removed("expired")[0] == len(held) - 2
        self.cache.reconciler.sweep()
        assert self.is_here(adopted)

    def test_an_order_that_is_given_again(self) -> None:
        orders: list[tuple[Home | None, Reference | None]] = [
            (None, None),
            (HOME, None),
            (HOME, TAGS[0]),
            (HOME, PARTS[0][0]),
        ]
        for home, reference in orders:
            self.use(Cache(index=FailingIndex))
            offer(self.upstream)
            self.pull(HOME, 0)
            assert Outcome(self.cache.purges.order("alice", "acme", home, reference)).value
            assert self.held("acme") == set(PARTS[0])
            assert isinstance(self.index, FailingIndex)
            self.index.mended = True
            assert Outcome(self.cache.purges.order("alice", "acme", home, reference)).value
            assert self.held("acme") == self.linked(HOME) == set()
            assert Outcome(self.index.get_tag(HOME, TAGS[0])).value is None
            assert not Outcome(self.cache.purges.order("alice", "acme", HOME, reference)).value

    def test_a_stop_waits_for_a_batch_alone(self) -> None:
        index = self.use_telling()
        for number in range(2 * purge.BATCH + 1):
            Outcome(index.put_blob(Digest.of(b"%d" % number), 1, [HOME])).value  # noqa: B018
        index.meanwhile["before let_go"] = self.cache.purges.stop
        assert Outcome(self.cache.purges.order("alice", "acme")).value
        assert index.count == 1
        assert len(self.held("acme")) == purge.BATCH + 1
        assert self.log.lines[-1] == "the purge of group acme is not complete, order it again: depproxy is stopping"

    def test_a_group_of_which_nothing_is_known(self) -> None:
        assert Outcome(self.cache.purger.group("nobody")).value == Purged(0, 0, 0)

    def test_what_another_group_has_just_read(self) -> None:
        index = self.use_telling()
        self.pull(HOME, 0)
        Outcome(self.cache.manifests.get(NEIGHBOUR, TAGS[0])).value  # noqa: B018
        index.meanwhile["before let_go"] = lambda: read(self.cache, NEIGHBOUR, PARTS[0][1])
        assert Outcome(self.cache.purger.group("acme")).value.removed == 1
        Outcome(self.index.flush()).value  # noqa: B018
        assert [self.is_here(digest) for digest in PARTS[0]] == [True, True, False]
        assert self.held("other") == set(PARTS[0][:2])

    def test_who_reads_it_reads_on(self) -> None:
        self.pull(HOME, 0)
        source = Outcome(self.cache.blobs.open(HOME, PARTS[0][1])).value
        assert Outcome(self.cache.purger.group("acme")).value.removed == 3
        assert os.pread(source.fd, 1000, 0) == LAYERS[0]
        source.close()

    def test_what_is_pulled_meanwhile_may_stay(self) -> None:
        self.pull(HOME, 0)
        self.index.blocked = True
        purge = Outcome(self.cache.purger.group("acme"))
        self.index.blocked = False
        self.clock.advance(1)
        self.pull(HOME, 2)
        self.index.release()
        assert purge.value.blobs == 3
        assert self.held("acme") == set(PARTS[2])

    def test_a_link_that_was_asked_for_before_is_not_remembered_after(self) -> None:
        self.pull(HOME, 0)
        self.cache.links.forget_homes(lambda _: True)
        self.cache.tags.forget_homes(lambda _: True)
        self.index.blocked = True
        link, tag = Outcome(self.cache.links.find(HOME, PARTS[0][1])), Outcome(self.cache.tags.find(HOME, TAGS[0]))
        self.cache.links.forget_homes(lambda _: True)
        self.cache.tags.forget_homes(lambda _: True)
        self.index.release()
        assert link.value is not None
        assert tag.value is not None
        assert self.cache.links.known(HOME, PARTS[0][1]) is None
        assert self.cache.tags.known(HOME, TAGS[0]) is None

    def test_a_repository(self) -> None:
        self.pull(HOME, 0)
        self.pull(HOMES[1], 1)
        shared = set(PARTS[0]) & set(PARTS[1])
        assert Outcome(self.cache.purger.repository(HOME)).value.blobs == 2
        assert self.held("acme") == set(PARTS[1])
        assert (self.linked(HOME), self.linked(HOMES[1])) == (set(), set(PARTS[1]))
        assert shared < self.held("acme")

    def test_a_tag(self) -> None:
        for number in (0, 1):
            self.pull(HOME, number)
        found = Outcome(self.cache.purger.image(HOME, TAGS[0])).value
        assert found is not None
        assert (found.blobs, found.removed) == (2, 2)
        assert self.held("acme") == self.linked(HOME) == set(PARTS[1])
        assert Outcome(self.cache.purger.image(HOME, TAGS[0])).value is None

    def test_a_tag_of_what_has_another_one(self) -> None:
        self.upstream.put_manifest(NAME, BODIES[0], Tag("again"))
        self.pull(HOME, 0)
        Outcome(self.cache.manifests.get(HOME, Tag("again"))).value  # noqa: B018
        assert Outcome(self.cache.purger.image(HOME, Tag("again"))).value == Purged(0, 0, 0)
        assert self.held("acme") == set(PARTS[0])
        assert Outcome(self.index.get_tag(HOME, TAGS[0])).value is not None

    def test_a_digest(self) -> None:
        self.upstream.put_manifest(NAME, BODIES[0], Tag("again"))
        self.pull(HOME, 0)
        self.pull(HOME, 1)
        Outcome(self.cache.manifests.get(HOME, Tag("again"))).value  # noqa: B018
        assert self.purge(PARTS[0][0]) == 2
        assert self.held("acme") == set(PARTS[1])
        for tag in (TAGS[0], Tag("again")):
            assert Outcome(self.index.get_tag(HOME, tag)).value is None

    def test_a_damaged_manifest_takes_itself_alone(self) -> None:
        self.pull(HOME, 0)
        self.place.blob(PARTS[0][0]).write_bytes(b"x")
        assert self.purge(TAGS[0]) == 1
        assert self.held("acme") == set(PARTS[0][1:])
