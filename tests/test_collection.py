"""Garbage collection now: what went is what a rehearsal said, and a rehearsal changes nothing."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import globalLogPublisher

from depproxy.cache import eviction, expiry, rehearsal
from depproxy.cache.collection import Collected
from depproxy.cache.reconcile import Swept
from depproxy.cache.removal import Removed, Why
from depproxy.oci.digest import Digest
from tests.cache_tools import HOME, Cache, CacheTestCase, Outcome, some_bytes
from tests.index_tools import Log
from tests.test_keeping import HOMES, LAYERS, PARTS, SIZES, TAGS, offer, pull

HOUR = 3600


def state(cache: Cache) -> object:
    """All that there is."""
    sums = Outcome(cache.index.sums()).value
    held = {group: Outcome(cache.index.coldest_of(group, 100)).value for group in sums.groups}
    homes = {group: Outcome(cache.index.homes(group, "0")).value for group in sums.groups}
    links = {home: Outcome(cache.index.linked(home, list(SIZES))).value for home in HOMES}
    return sums, held, homes, links, dict(cache.index.used), cache.place.files()


def collect(cache: Cache) -> Collected:
    return Outcome(cache.collector.collect()).value


pulls = st.lists(st.tuples(st.sampled_from(HOMES), st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=10)


@settings(max_examples=200)
@given(
    pulls,
    st.none() | st.integers(100, 3000),
    st.dictionaries(st.sampled_from(["acme", "other"]), st.integers(100, 2000)),
    st.dictionaries(st.sampled_from(["acme", "other"]), st.integers(1, 60)),
    st.sets(st.integers(0, 3), max_size=2),
    st.integers(1, 5),
    st.booleans(),
)
def test_a_rehearsal_says_what_goes(
    done: list[tuple[object, int, int]],
    limit: int | None,
    quotas: dict[str, int],
    ttls: dict[str, int],
    pinned: set[int],
    batch: int,
    stray: bool,
) -> None:
    cache = Cache()
    # Small ones, so that there are several.
    sizes = (eviction, "BATCH"), (expiry, "BATCH"), (rehearsal, "PAGE")
    before = [getattr(*size) for size in sizes]
    try:
        for module, name in sizes:
            setattr(module, name, batch)
        # Only the collector evicts.
        cache.entries.observe(lambda: None)
        offer(cache.upstream)
        for home, number, hours in done:
            pull(cache, home, number)  # type: ignore[arg-type]  # A home of HOMES.
            cache.clock.advance(hours * HOUR)
        for number in pinned:
            assert Outcome(cache.index.pin(HOME, TAGS[number])).value
        if stray:
            lost = some_bytes(50, 99)
            assert Outcome(cache.place.store.write(Digest.of(lost), lost)).value is None
        cache.limit = math.inf if limit is None else float(limit)
        cache.quotas.update(quotas)
        cache.ttls.update({group: hours * HOUR for group, hours in ttls.items()})
        whole = state(cache)
        said = Outcome(cache.collector.rehearse()).value
        assert state(cache) == whole
        cache.evictor.resize(math.inf, {})
        cache.evictor._max_size, cache.evictor._quotas = cache.limit, cache.quotas
        assert collect(cache) == said
        gone = sum(removed.size for removed in said.removed)
        size = Outcome(cache.index.totals()).value[1]
        assert size == whole[0].size - gone + (50 if stray else 0)  # type: ignore[index]  # The sums.
    finally:
        for (module, name), value in zip(sizes, before, strict=True):
            setattr(module, name, value)
        cache.close()


class Collecting(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        offer(self.upstream)
        self.log = Log()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)

    def test_one_after_the_other(self) -> None:
        """What has expired need not be evicted; and all is in the log once."""
        pull(self.cache, HOME, 0)
        self.clock.advance(61)
        pull(self.cache, HOME, 2)
        self.cache.ttls["acme"] = 60
        left = sum(SIZES[digest] for digest in PARTS[2])
        self.cache.limit = left + 1
        size = sum(SIZES[digest] for digest in PARTS[0])
        expired = Removed(Why.EXPIRED, "acme", 3, 3, size, 0, size)
        assert Outcome(self.cache.collector.rehearse()).value == Collected([expired], Swept(0, 0))
        assert self.log.lines == []
        assert collect(self.cache) == Collected([expired], Swept(0, 0))
        assert self.log.lines == [str(expired)]

    def test_it_waits_for_a_run_that_is_under_way(self) -> None:
        pull(self.cache, HOME, 0)
        self.cache.ttls["acme"] = 60
        self.clock.advance(61)
        self.index.blocked = True
        self.cache.expirer.expire()
        waiting = Outcome(self.cache.collector.collect())
        assert waiting.waits
        self.index.release()
        # Nothing of the group was left.
        assert waiting.value == Collected([], Swept(0, 0))
        assert self.cache.place.files() == []

    def test_who_leaves_does_not_end_it(self) -> None:
        pull(self.cache, HOME, 0)
        self.cache.ttls["acme"] = 60
        self.clock.advance(61)
        self.index.blocked = True
        Outcome(self.cache.collector.collect()).leave()
        self.index.release()
        assert self.cache.place.files() == []

    def test_what_is_read_stays(self) -> None:
        pull(self.cache, HOME, 0)
        source = Outcome(self.cache.blobs.open(HOME, PARTS[0][1])).value
        self.cache.ttls["acme"] = 60
        self.clock.advance(61)
        assert [removed.blobs for removed in Outcome(self.cache.collector.rehearse()).value.removed] == [2]
        assert [removed.blobs for removed in collect(self.cache).removed] == [2]
        source.close()
        assert self.place.stored(PARTS[0][1]) == LAYERS[0]

    def test_what_an_interrupted_run_has_left(self) -> None:
        """It is removed, and is no entry without a file."""
        pull(self.cache, HOME, 0)
        held = Outcome(self.index.coldest_of("acme", 100)).value
        assert len(Outcome(self.index.let_go("acme", held)).value) == 3
        swept = Swept(0, 0, 3, sum(SIZES[digest] for digest in PARTS[0]))
        assert Outcome(self.cache.collector.rehearse()).value.swept == swept
        assert len(self.cache.place.files()) == 3
        assert collect(self.cache).swept == swept
        assert self.cache.place.files() == []
        assert collect(self.cache).swept == Swept(0, 0)
