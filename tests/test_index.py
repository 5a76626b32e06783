"""The cache index: one suite for the one in Redis and for the one in memory, and what is written how.

Every Redis here is a real redis-server.
"""

from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from depproxy.index import codec
from depproxy.index import redis as redis_module
from depproxy.index.interface import (
    MAX_PINS,
    Entry,
    Holding,
    Home,
    ICacheIndex,
    IGroupIndex,
    IncompatibleSchema,
    IndexUnavailable,
    Link,
    Share,
    Sums,
    TagRecord,
)
from depproxy.index.lastuse import LastUse
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Tag
from tests.fakes import MemoryIndex
from tests.index_tools import BESIDE, DIGESTS, HOME, OTHER, REACTOR, RECORD, A, B, Now, RedisTestCase, until

# Whatever JSON can hold in a string, lone surrogates too.
media_types = st.text(st.characters(), max_size=40) | st.sampled_from(
    [*codec._SHORT, *codec._LONG, "~", "=", "==", *(f"={short}" for short in codec._LONG)]
)
sizes = st.integers(-1, 2**50)
times = st.floats(0, 1e11)
records = st.builds(TagRecord, st.sampled_from(DIGESTS), media_types, sizes, times)
links = st.builds(Link, media_types, sizes)


class IndexSuite:
    """What every cache index does."""

    index: Any
    now: Now

    async def used(self) -> dict[Digest, int]:
        """The last use of each known blob, as it is written."""
        raise NotImplementedError

    async def skew(self, group: str, size: int) -> None:
        """Have so many bytes too many in a group's sum, or with "" in the sum of all."""
        raise NotImplementedError

    async def test_provides_the_interface(self) -> None:
        verifyObject(ICacheIndex, self.index)

    async def test_tags(self) -> None:
        tag = Tag("latest")
        assert await self.index.get_tag(HOME, tag) is None
        await self.index.put_tag(HOME, tag, RECORD)
        assert await self.index.get_tag(HOME, tag) == RECORD
        other = TagRecord(B, "application/json; charset=utf-8", 0, 1.5)
        await self.index.put_tag(HOME, tag, other)
        assert await self.index.get_tag(HOME, tag) == other
        await self.index.forget_tag(HOME, tag)
        assert await self.index.get_tag(HOME, tag) is None
        await self.index.forget_tag(HOME, tag)

    async def test_tags_that_look_like_numbers(self) -> None:
        tags = [Tag(text) for text in ("0123", "123", "3.10", "3.1", "1e3", "1000", "0x10")]
        for number, tag in enumerate(tags):
            await self.index.put_tag(HOME, tag, TagRecord(A, "3.10", number, 0.1))
        for number, tag in enumerate(tags):
            assert await self.index.get_tag(HOME, tag) == TagRecord(A, "3.10", number, 0.1)

    async def test_what_is_read_has_its_types(self) -> None:
        await self.index.put_tag(HOME, Tag("a"), RECORD)
        await self.index.put_links(HOME, {A: Link("0123", 7)})
        record, link = await self.index.get_tag(HOME, Tag("a")), await self.index.get_link(HOME, A)
        assert [type(value) for value in (record.digest, record.media_type, record.size, record.checked)] == [
            Digest,
            str,
            int,
            float,
        ]
        assert (type(link.media_type), link.media_type, type(link.size)) == (str, "0123", int)

    async def test_homes_are_apart(self) -> None:
        await self.index.put_tag(HOME, Tag("a"), RECORD)
        await self.index.put_links(HOME, {A: Link("x", 1)})
        assert await self.index.get_tag(OTHER, Tag("a")) is None
        assert await self.index.get_link(OTHER, A) is None

    async def test_links(self) -> None:
        assert await self.index.get_link(HOME, A) is None
        await self.index.put_links(HOME, {})
        await self.index.put_links(HOME, {A: Link("", -1), B: Link("a b\n \ud800", 2**50)})
        assert await self.index.get_link(HOME, A) == Link("", -1)
        assert await self.index.get_link(HOME, B) == Link("a b\n \ud800", 2**50)
        await self.index.put_links(HOME, {A: Link("known", 3)})
        assert await self.index.get_link(HOME, A) == Link("known", 3)

    async def test_ten_thousand_links(self) -> None:
        many = {Digest.of(b"%d" % number): Link("layer", number) for number in range(10_000)}
        await self.index.put_links(HOME, many)
        for digest in list(many)[::997]:
            assert await self.index.get_link(HOME, digest) == many[digest]

    async def test_totals(self) -> None:
        assert await self.index.totals() == (0, 0)
        await self.index.put_blob(A, 100, [HOME])
        await self.index.put_blob(A, 100, [HOME])
        await self.index.put_blob(B, 2**50 + 1, [HOME])
        assert await self.index.totals() == (2, 2**50 + 101)
        await self.index.put_blob(A, 7, [HOME])
        assert await self.index.totals() == (2, 2**50 + 8)
        await self.index.forget_blob(B)
        await self.index.forget_blob(B)
        assert await self.index.totals() == (1, 7)
        await self.index.forget_blob(A)
        assert await self.index.totals() == (0, 0)

    async def test_a_blob_counts_once_however_many_say_so_at_once(self) -> None:
        await gatherResults([Deferred.fromCoroutine(self.index.put_blob(A, 100, [HOME])) for _ in range(50)])
        assert await self.index.totals() == (1, 100)

    async def test_forgetting_a_blob_leaves_its_links(self) -> None:
        await self.index.put_links(HOME, {A: Link("x", 1)})
        await self.index.put_blob(A, 1, [HOME])
        await self.index.forget_blob(A)
        assert await self.index.get_link(HOME, A) == Link("x", 1)

    async def test_last_use_is_written_behind(self) -> None:
        await self.index.put_blob(A, 1, [HOME])
        await self.index.put_blob(B, 1, [HOME])
        begin = int(self.now())
        self.now.time += 10
        self.index.touch(HOME, A)
        assert await self.used() == {A: begin, B: begin}
        await self.index.flush()
        assert await self.used() == {A: begin + 10, B: begin}

    async def test_last_use_never_goes_back(self) -> None:
        self.index.touch(HOME, A)
        begin = int(self.now())
        self.now.time += 10
        await self.index.put_blob(A, 1, [HOME])
        await self.index.flush()
        assert await self.used() == {A: begin + 10}

    async def test_touching_does_not_bring_back_a_forgotten_blob(self) -> None:
        await self.index.put_blob(A, 1, [HOME])
        self.index.touch(HOME, A)
        self.index.touch(HOME, B)
        await self.index.forget_blob(A)
        await self.index.flush()
        assert await self.used() == {}
        assert await self.index.totals() == (0, 0)

    async def test_what_waits_to_be_written(self) -> None:
        await self.index.put_blob(A, 1, [HOME])
        assert not self.index.touched(A)
        self.index.touch(HOME, A)
        assert (self.index.touched(A), self.index.touched(B)) == (True, False)
        await self.index.flush()
        assert not self.index.touched(A)

    async def test_the_coldest(self) -> None:
        assert await self.index.coldest(10) == []
        begin = int(self.now())
        for number, digest in enumerate(DIGESTS):
            await self.index.put_blob(digest, 2**40 + number, [HOME])
            self.now.time += 10
        self.index.touch(HOME, A)
        expected = [Entry(digest, 2**40 + number, begin + 10 * number) for number, digest in enumerate(DIGESTS)]
        # As of the last flush.
        assert await self.index.coldest(2) == expected[:2]
        await self.index.flush()
        found = await self.index.coldest(100)
        assert found == [*expected[1:], Entry(A, 2**40, begin + 60)]
        assert [type(value) for value in (found[0].digest, found[0].size, found[0].used)] == [Digest, int, int]

    async def test_forgetting_what_is_still_unused(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        (entry,) = await self.index.coldest(1)
        self.now.time += 1
        self.index.touch(HOME, A)
        await self.index.flush()
        assert await self.index.forget_unused([entry]) == []
        assert await self.index.totals() == (1, 5)
        await self.index.put_blob(B, 7, [HOME])
        later, other = await self.index.coldest(2)
        assert await self.index.forget_unused([entry, other]) == [other.digest]
        assert await self.index.totals() == (1, {A: 5, B: 7}[later.digest])
        assert await self.index.forget_unused([later, other, later]) == [later.digest]
        assert (await self.index.totals(), await self.used()) == ((0, 0), {})
        assert await self.index.forget_unused([]) == []

    async def test_what_is_known(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        await self.index.put_blob(B, 0, [HOME])
        assert await self.index.known([]) == {}
        assert await self.index.known(DIGESTS[::-1]) == {A: 5, B: 0}

    async def test_adopting(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        begin = int(self.now())
        await self.index.adopt([])
        await self.index.adopt([Entry(A, 7, 3), Entry(B, 2**50, 1)])
        assert await self.used() == {A: begin, B: 1}
        assert await self.index.totals() == (2, 2**50 + 7)
        assert await self.index.known([A, B]) == {A: 7, B: 2**50}

    async def test_scanning(self) -> None:
        assert await self.index.scan("0") == ("0", {})
        many = {Digest.of(b"%d" % number) for number in range(3000)}
        await self.index.adopt([Entry(digest, 1, 1) for digest in many])
        found, cursor, steps = set[Digest](), "0", 0
        while not steps or cursor != "0":
            cursor, entries = await self.index.scan(cursor)
            found |= entries.keys()
            assert set(entries.values()) <= {Holding(1, frozenset())}
            # What goes meanwhile keeps nothing else from coming. A page may be empty before the end.
            for digest in list(entries)[:1]:
                await self.index.forget_blob(digest)
            steps += 1
        assert found == many
        assert steps > 3

    async def test_provides_the_groups(self) -> None:
        verifyObject(IGroupIndex, self.index)

    async def test_a_group_holds_what_is_read_from_its_homes(self) -> None:
        assert await self.index.groups() == {}
        begin = int(self.now())
        await self.index.put_blob(A, 100, [HOME, OTHER])
        await self.index.put_blob(B, 2**50, [BESIDE])
        assert await self.index.groups() == {"acme/tools": Share(1, 100), "acme": Share(2, 2**50 + 100)}
        assert await self.index.sizes(["acme", "nobody", "acme/tools"]) == {
            "acme": 2**50 + 100,
            "nobody": 0,
            "acme/tools": 100,
        }
        assert await self.index.sizes([]) == {}
        self.now.time += 10
        self.index.touch(HOME, B)
        self.index.touch(BESIDE, A)
        await self.index.flush()
        assert await self.index.groups() == {"acme/tools": Share(2, 2**50 + 100), "acme": Share(2, 2**50 + 100)}
        assert await self.index.coldest_of("acme/tools", 5) == [Entry(A, 100, begin), Entry(B, 2**50, begin + 10)]
        assert await self.index.coldest_of("acme", 5) == [Entry(B, 2**50, begin), Entry(A, 100, begin + 10)]
        assert await self.index.coldest_of("acme", 5, 1) == [Entry(A, 100, begin + 10)]
        assert await self.index.held("acme", [A, B, DIGESTS[2]]) == {A: begin + 10, B: begin}
        assert await self.index.holdings([]) == {}
        both = frozenset({"acme", "acme/tools"})
        assert await self.index.holdings([DIGESTS[2], B, A]) == {A: Holding(100, both), B: Holding(2**50, both)}
        assert await self.index.scan("0") == ("0", {A: Holding(100, both), B: Holding(2**50, both)})

    async def test_sums_of_groups_follow_a_size(self) -> None:
        await self.index.put_blob(A, 100, [HOME])
        await self.index.adopt([Entry(A, 7, 1)])
        assert await self.index.groups() == {"acme/tools": Share(1, 7)}
        await self.index.put_blob(A, 2**50, [])
        assert await self.index.groups() == {"acme/tools": Share(1, 2**50)}

    async def test_sums_that_are_wrong_are_replaced(self) -> None:
        await self.index.put_blob(A, 100, [HOME, OTHER])
        await self.index.put_blob(B, 2**50, [BESIDE])
        right = await self.index.sums()
        acme, tools = Share(2, 2**50 + 100), Share(1, 100)
        assert right == Sums(2, 2**50 + 100, {"acme": acme, "acme/tools": tools})
        await self.skew("", 7)
        await self.skew("acme", -9)
        seen = await self.index.sums()
        assert seen == Sums(2, 2**50 + 107, {"acme": Share(2, 2**50 + 91), "acme/tools": tools})
        assert await self.index.totals() == (2, 2**50 + 107)
        for other in (
            evolve(seen, blobs=3),
            evolve(seen, size=2**50),
            evolve(seen, groups={"acme": seen.groups["acme"]}),
            evolve(seen, groups={**seen.groups, "acme/tools": Share(2, 100)}),
            evolve(seen, groups={**seen.groups, "acme/tools": Share(1, 101)}),
            evolve(seen, groups={**seen.groups, "other": Share(0, 0)}),
            evolve(seen, groups={"acme": seen.groups["acme"], "other": tools}),
        ):
            assert not await self.index.replace_sums(other, right)
        assert await self.index.sums() == seen
        assert await self.index.replace_sums(seen, right)
        assert await self.index.sums() == right
        assert await self.index.groups() == right.groups

    async def test_what_leaves_the_store_is_held_by_nobody(self) -> None:
        await self.index.put_blob(A, 100, [HOME, OTHER])
        await self.index.forget_blob(A)
        assert await self.index.groups() == {"acme/tools": Share(0, 0), "acme": Share(0, 0)}
        assert await self.index.holdings([A]) == {}

    async def test_letting_go(self) -> None:
        for digest in (A, B):
            await self.index.put_blob(digest, 5, [HOME])
        self.index.touch(OTHER, B)
        await self.index.flush()
        entries = await self.index.coldest_of(HOME.group, 5)
        assert await self.index.let_go(HOME.group, []) == []
        assert await self.index.let_go(HOME.group, entries) == [A]
        assert await self.index.let_go(HOME.group, entries) == []
        assert await self.index.groups() == {"acme/tools": Share(0, 0), "acme": Share(1, 5)}
        assert await self.index.holdings([A, B]) == {
            A: Holding(5, frozenset(), let_go=True),
            B: Holding(5, frozenset({"acme"})),
        }
        assert await self.index.known([A, B]) == {A: 5, B: 5}
        assert await self.index.forget_unheld([A, A, B]) == [A]
        assert await self.index.totals() == (1, 5)

    async def test_what_was_let_go_can_be_held_again(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        await self.index.let_go(HOME.group, await self.index.coldest_of(HOME.group, 5))
        await self.index.put_blob(A, 7, [])
        await self.index.adopt([Entry(A, 9, 1)])
        assert await self.index.holdings([A]) == {A: Holding(9, frozenset(), let_go=True)}
        self.index.touch(OTHER, A)
        await self.index.flush()
        assert await self.index.holdings([A]) == {A: Holding(9, frozenset({"acme"}))}
        assert await self.index.forget_unheld([A]) == []
        assert await self.index.let_go("acme", await self.index.coldest_of("acme", 5)) == [A]
        await self.index.put_blob(A, 9, [HOME, OTHER])
        assert await self.index.holdings([A]) == {A: Holding(9, frozenset({"acme", "acme/tools"}))}
        await self.index.put_blob(B, 1, [])
        assert await self.index.holdings([B]) == {B: Holding(1, frozenset())}

    async def test_thousands_of_groups_hold_one_blob(self) -> None:
        homes = [Home(f"company/department/team-{number}", "docker.io", Name("a")) for number in range(10_000)]
        for start in range(0, len(homes), 1000):
            await self.index.put_blob(A, 100, homes[start : start + 1000])
        await self.index.put_blob(A, 100, homes[:1])
        first, middle, last = (homes[number].group for number in (0, 5000, 9999))
        for group in first, middle, last:
            assert await self.index.let_go(group, await self.index.coldest_of(group, 1)) == []
        left = (await self.index.holdings([A]))[A].groups
        assert sorted(left) == sorted({home.group for home in homes} - {first, middle, last})
        self.index.touch(homes[5000], A)
        self.index.touch(homes[5001], A)
        await self.index.flush()
        assert (await self.index.holdings([A]))[A] == Holding(100, left | {middle})
        assert await self.index.known([A]) == {A: 100}
        assert (await self.index.groups())[middle] == Share(1, 100)

    async def test_a_blob_without_bytes(self) -> None:
        await self.index.put_blob(A, 0, [HOME])
        await self.index.put_blob(A, 5, [HOME])
        await self.index.put_blob(A, 0, [HOME])
        assert await self.index.groups() == {"acme/tools": Share(1, 0)}
        assert await self.index.let_go(HOME.group, await self.index.coldest_of(HOME.group, 5)) == [A]
        assert await self.index.forget_unheld([A]) == [A]

    async def test_what_was_read_since_is_not_let_go(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        (entry,) = await self.index.coldest_of(HOME.group, 5)
        self.now.time += 1
        self.index.touch(HOME, A)
        await self.index.flush()
        assert await self.index.let_go(HOME.group, [entry]) == []
        assert await self.index.groups() == {"acme/tools": Share(1, 5)}

    async def test_homes(self) -> None:
        assert await self.index.homes("acme", "0") == ("0", {})
        begin = int(self.now())
        await self.index.put_tag(OTHER, Tag("a"), RECORD)
        self.now.time += 10
        await self.index.put_links(OTHER, {A: Link("x", 1)})
        await self.index.put_links(BESIDE, {A: Link("x", 1)})
        assert await self.index.homes("acme", "0") == ("0", {OTHER: begin, BESIDE: begin + 10})
        assert [await self.index.count_homes(group) for group in ("acme", "other")] == [2, 0]
        await self.index.put_blob(A, 1, [OTHER])
        assert await self.index.homes("acme", "0") == ("0", {OTHER: begin + 10, BESIDE: begin + 10})
        assert await self.index.groups() == {"acme": Share(1, 1)}
        await self.index.forget_home(BESIDE)
        await self.index.forget_home(OTHER)
        assert await self.index.homes("acme", "0") == ("0", {})
        assert (await self.index.get_tag(OTHER, Tag("a")), await self.index.get_link(OTHER, A)) == (None, None)
        assert await self.index.groups() == {"acme": Share(1, 1)}
        await self.index.forget_blob(A)
        assert await self.index.groups() == {}

    async def test_forgetting_a_home_that_is_still_unread(self) -> None:
        await self.index.put_blob(A, 5, [HOME])
        await self.index.put_links(HOME, {A: Link("x", 1)})
        _, homes = await self.index.homes(HOME.group, "0")
        self.now.time += 1
        self.index.touch(HOME, A)
        await self.index.flush()
        assert not await self.index.forget_home(HOME, homes[HOME])
        assert await self.index.get_link(HOME, A) is not None
        assert await self.index.forget_home(HOME, homes[HOME] + 1)
        assert await self.index.get_link(HOME, A) is None
        assert not await self.index.forget_home(HOME, homes[HOME] + 1)

    async def test_going_through_a_home(self) -> None:
        records = {Tag(f"t{number}"): TagRecord(A, "x", number, 0.5) for number in range(20)}
        for tag, record in records.items():
            await self.index.put_tag(HOME, tag, record)
        await self.index.put_tag(OTHER, Tag("elsewhere"), RECORD)
        many = {Digest.of(b"%d" % number): Link("layer", number) for number in range(1500)}
        await self.index.put_links(HOME, many)
        assert await self.everything(self.index.tags, HOME) == records
        found = await self.everything(self.index.links, HOME)
        assert found == many
        assert {link.since for link in found.values()} == {int(self.now()) // 86400 * 86400}

    async def everything(self, pages: Any, home: Home) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        cursor = "0"
        while True:
            cursor, page = await pages(home, cursor)
            found.update(page)
            if cursor == "0":
                return found

    async def test_unlinking(self) -> None:
        await self.index.put_links(HOME, {digest: Link("x", 1) for digest in DIGESTS})
        await self.index.unlink(HOME, [])
        await self.index.unlink(HOME, DIGESTS[2:])
        assert await self.index.linked(HOME, []) == {}
        assert await self.index.linked(HOME, DIGESTS[::-1]) == {A: Link("x", 1), B: Link("x", 1)}
        assert await self.index.linked(OTHER, DIGESTS) == {}

    async def test_pins(self) -> None:
        assert await self.index.pins() == []
        odd = Home("a|b c/%", "ghcr.io:443", Name("acme/tool"))
        for home, reference in (HOME, Tag("3.10")), (HOME, A), (odd, Tag("x")), (HOME, A):
            assert await self.index.pin(home, reference)
        pins = await self.index.pins()
        assert len(pins) == 3
        assert set(pins) == {(HOME, Tag("3.10")), (HOME, A), (odd, Tag("x"))}
        assert {type(reference) for home, reference in pins if home == HOME} == {Tag, Digest}
        assert await self.index.unpin(HOME, A)
        assert not await self.index.unpin(HOME, A)
        assert set(await self.index.pins()) == {(HOME, Tag("3.10")), (odd, Tag("x"))}

    async def test_there_are_so_many_pins_and_no_more(self) -> None:
        for number in range(MAX_PINS):
            assert await self.index.pin(HOME, Tag(f"t{number}"))
        assert not await self.index.pin(HOME, Tag("more"))
        assert await self.index.pin(HOME, Tag("t7"))
        assert len(await self.index.pins()) == MAX_PINS


class MemoryIndexTests(IndexSuite, TestCase):
    """The fake keeps what the suite asks."""

    def setUp(self) -> None:
        self.now = Now()
        self.index = MemoryIndex(self.now)

    async def used(self) -> dict[Digest, int]:
        return dict(self.index.used)

    async def skew(self, group: str, size: int) -> None:
        self.index.wrong[group] = size

    async def test_can_be_made_unavailable(self) -> None:
        self.index.available = False
        with pytest.raises(IndexUnavailable):
            await self.index.totals()


class RedisIndexTests(IndexSuite, RedisTestCase):
    """The real one keeps it too."""

    async def prepare(self) -> None:
        self.index = await self.started()

    async def used(self) -> dict[Digest, int]:
        return await self.raw.used()

    async def skew(self, group: str, size: int) -> None:
        if group:
            await self.raw("HINCRBY", codec.GROUPS, group, size)
        else:
            await self.raw("INCRBY", codec.BYTES, size)


@frozen
class Step:
    """One operation of the interface, by name."""

    name: str
    args: tuple[object, ...]


homes = st.sampled_from([HOME, OTHER, BESIDE])
groups = st.sampled_from([HOME.group, OTHER.group, "nobody"])
tags = st.sampled_from([Tag("latest"), Tag("0123"), Tag("123")])
digests = st.sampled_from(DIGESTS)


def step(name: str, *args: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(name), st.tuples(*args))


entries = st.builds(Entry, digests, st.integers(0, 2**50), st.integers(1_700_000_000, 1_700_000_200))
steps = st.lists(
    st.one_of(
        step("get_tag", homes, tags),
        step("put_tag", homes, tags, records),
        step("forget_tag", homes, tags),
        step("get_link", homes, digests),
        step("put_links", homes, st.dictionaries(digests, links)),
        step("put_blob", digests, st.integers(0, 2**50), st.lists(homes, max_size=3)),
        step("forget_blob", digests),
        step("touch", homes, digests),
        step("flush"),
        step("totals"),
        step("coldest", st.integers(1, 4), st.integers(0, 2)),
        step("groups"),
        step("sums"),
        step("count_homes", groups),
        step("holdings", st.lists(digests, unique=True)),
        step("scan", st.just("0")),
        step("coldest_of", groups, st.integers(1, 4), st.integers(0, 2)),
        step("held", groups, st.lists(digests, unique=True)),
        step("let_go", groups, st.lists(entries, max_size=3)),
        step("let_go_all", groups),
        step("forget_unheld", st.lists(digests, max_size=3)),
        step("homes", groups, st.just("0")),
        step("tags", homes, st.just("0")),
        step("linked", homes, st.lists(digests, unique=True)),
        step("unlink", homes, st.lists(digests, max_size=3)),
        step("forget_home", homes),
        step("forget_unused", st.lists(entries, max_size=3)),
        step("known", st.lists(digests, unique=True)),
        step("adopt", st.lists(entries, max_size=3)),
        step("sleep", st.integers(-5, 100)),
    ),
    max_size=40,
)


class SameAnswersTests(RedisTestCase):
    """Whatever is done to them, the real index and the fake tell the same."""

    async def test_any_sequence(self) -> None:
        real = await self.started()

        async def check(sequence: list[Step]) -> None:
            await self.raw("FLUSHALL")
            real._uses.take(redis_module.MAX_USES)
            fake = MemoryIndex(self.now)
            for one in sequence:
                if one.name == "sleep":
                    self.now.time += one.args[0]  # type: ignore[operator]
                elif one.name == "touch":
                    real.touch(*one.args)  # type: ignore[arg-type]
                    fake.touch(*one.args)  # type: ignore[arg-type]
                elif one.name == "let_go_all":
                    group: Any = one.args[0]
                    found = await real.coldest_of(group, 10)
                    assert await real.let_go(group, found) == await fake.let_go(group, found)
                else:
                    answer = await getattr(real, one.name)(*one.args)
                    assert answer == await getattr(fake, one.name)(*one.args), one
            assert await real.totals() == await fake.totals()
            assert await real.groups() == await fake.groups()
            for group in await real.groups():
                held = await real.coldest_of(group, 100)
                assert held == await fake.coldest_of(group, 100)
                assert sum(entry.size for entry in held) == (await real.groups())[group].size
                assert await real.sizes([group]) == await fake.sizes([group])
            assert await self.raw.used() == dict(fake.used)

        from_reactor: Any = blockingCallFromThread

        @given(steps)
        def from_thread(sequence: list[Step]) -> None:
            from_reactor(REACTOR, lambda: Deferred.fromCoroutine(check(sequence)))

        await deferToThread(from_thread)


class LayoutTests(RedisTestCase):
    """What is written, and how."""

    async def test_keys_values_and_their_prefix(self) -> None:
        index = await self.started()
        await index.put_tag(HOME, Tag("3.10"), RECORD)
        await index.put_links(HOME, {A: Link("layer", 5)})
        await index.put_blob(A, 5, [HOME, OTHER])
        keys = await self.raw("KEYS", "*")
        assert isinstance(keys, list)
        home = b"acme/tools|docker.io|library/alpine"
        assert {key for key in keys if isinstance(key, bytes)} == {
            b"depproxy:schema",
            b"depproxy:2:tags:" + home,
            b"depproxy:2:links:" + home,
            b"depproxy:2:homes:acme/tools",
            b"depproxy:2:homes:acme",
            b"depproxy:2:held:acme/tools",
            b"depproxy:2:held:acme",
            b"depproxy:2:groups",
            b"depproxy:2:blobs",
            b"depproxy:2:used",
            b"depproxy:2:bytes",
        }
        digest = bytes.fromhex(A.encoded)
        # 1,700,000,000 s are 19,675 days.
        assert await self.raw("HGET", b"depproxy:2:links:" + home, digest) == b"5 19675 layer"
        assert await self.raw("HGET", "depproxy:2:blobs", digest) == b"5 acme/tools acme"
        assert await self.raw("ZRANGE", "depproxy:2:held:acme", 0, -1, "WITHSCORES") == [digest, b"1700000000"]
        place = b"docker.io|library/alpine"
        assert await self.raw("ZRANGE", "depproxy:2:homes:acme", 0, -1, "WITHSCORES") == [place, b"1700000000"]
        assert await self.raw("HGETALL", "depproxy:2:groups") == [b"acme/tools", b"5", b"acme", b"5"]
        assert await self.raw("GET", "depproxy:schema") == b"2"

    async def test_many_links_go_in_bounded_commands(self) -> None:
        index = await self.started()
        await index.put_links(HOME, {A: Link("x", 1)})
        await self.raw("CONFIG", "RESETSTAT")
        await index.put_links(HOME, {Digest.of(b"%d" % number): Link("x", 1) for number in range(10_000)})
        assert await self.calls("evalsha") == 20

    async def test_many_last_uses_go_in_bounded_commands(self) -> None:
        index = await self.started()
        await index.flush()
        assert await self.calls("evalsha") == 0
        index.touch(HOME, A)
        await index.flush()
        await self.raw("CONFIG", "RESETSTAT")
        for number in range(1200):
            index.touch(HOME, Digest.of(b"%d" % number))
        await index.flush()
        assert await self.calls("evalsha") == 3
        await index.flush()
        assert await self.calls("evalsha") == 3

    async def calls(self, command: str) -> int:
        stats = await self.raw("INFO", "commandstats")
        assert isinstance(stats, bytes)
        lines = [line for line in stats.decode().splitlines() if line.startswith(f"cmdstat_{command}:")]
        return int(lines[0].partition("calls=")[2].partition(",")[0]) if lines else 0

    async def test_what_cannot_be_read_is_not_known(self) -> None:
        index = await self.started()
        for value in (b"", b"rubbish", b"sha256:12 1 1 x", b"\xff\xff 1 1 x", b"1"):
            await self.raw("HSET", codec.tags_key(HOME), "a", value)
            await self.raw("HSET", codec.links_key(HOME), bytes.fromhex(A.encoded), value)
            assert await index.get_tag(HOME, Tag("a")) is None
            assert await index.get_link(HOME, A) is None

    async def test_a_key_of_another_kind_is_an_unavailable_index(self) -> None:
        index = await self.started()
        await self.raw("SET", codec.links_key(HOME), "x")
        with pytest.raises(IndexUnavailable, match="HGET was refused: WRONGTYPE"):
            await index.get_link(HOME, A)
        with pytest.raises(IndexUnavailable, match=r"refused: .*WRONGTYPE"):
            await index.put_links(HOME, {A: Link("x", 1)})
        await self.raw("SET", codec.BLOBS, "x")
        with pytest.raises(IndexUnavailable, match=r"refused: .*WRONGTYPE"):
            await index.put_blob(A, 1, [HOME])

    async def test_scripts_are_sent_again_when_redis_forgot_them(self) -> None:
        index = await self.started()
        await index.put_blob(A, 1, [HOME])
        await self.raw("SCRIPT", "FLUSH")
        await index.put_blob(B, 1, [HOME])
        assert await index.totals() == (2, 2)

    async def test_what_only_half_of_the_keys_know(self) -> None:
        """As a Redis leaves it that throws keys away: what has no last use is adopted anew, what has no size can go."""
        index = await self.started()
        await index.put_blob(A, 5, [HOME])
        await self.raw("DEL", codec.USED)
        assert await index.known([A]) == {}
        await index.adopt([Entry(A, 5, 9)])
        assert (await self.raw.used(), await index.totals()) == ({A: 9}, (1, 5))
        await self.raw("DEL", codec.BLOBS)
        assert await index.coldest(5) == [Entry(A, 0, 9)]
        assert await index.forget_unused([Entry(A, 0, 9)]) == [A]
        assert await self.raw.used() == {}
        (held,) = await index.coldest_of(HOME.group, 5)
        assert held == Entry(A, 0, int(self.now()))
        assert await index.let_go(HOME.group, [held]) == []
        assert await index.coldest_of(HOME.group, 5) == []

    async def test_an_entry_that_cannot_be_read(self) -> None:
        index = await self.started()
        await self.raw("ZADD", codec.USED, 1, "rubbish")
        with pytest.raises(IndexUnavailable, match="unexpected digest"):
            await index.coldest(5)


class SchemaTests(RedisTestCase):
    """Data that is not of this version is left alone."""

    async def test_newer(self) -> None:
        await self.refuses("3")

    async def test_not_ours(self) -> None:
        await self.refuses("hello")

    async def refuses(self, schema: str) -> None:
        await self.raw("SET", "depproxy:schema", schema)
        index = self.make()
        with pytest.raises(IncompatibleSchema, match=f"at R has schema '{schema}', .* knows 2"):
            await index.start()
        with pytest.raises(IndexUnavailable):
            await index.put_blob(A, 1, [HOME])
        assert await self.raw("KEYS", "*") == [b"depproxy:schema"]

    async def test_changed_under_a_running_one(self) -> None:
        index = await self.started()
        await self.raw("SET", "depproxy:schema", "3")
        await self.raw("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: self.log.count("has schema '3'"))
        with pytest.raises(IndexUnavailable, match="has schema '3'"):
            await index.totals()


class EvictionPolicyTests(RedisTestCase):
    """A Redis that evicts is warned of."""

    async def test_noeviction(self) -> None:
        await self.started()
        assert self.log.count("maxmemory-policy") == 0

    async def test_evicting(self) -> None:
        await self.raw("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        index = await self.started()
        assert self.log.count("the maxmemory-policy of Redis at R is allkeys-lru") == 1
        assert await index.totals() == (0, 0)

    async def test_not_to_be_learnt(self) -> None:
        await self.raw("ACL", "SETUSER", "default", "-info")
        await self.started()
        assert self.log.count("the maxmemory-policy of Redis at R is one that it does not tell") == 1


class ValuesTests(SynchronousTestCase):
    """Keys, values, and the buffer of last uses."""

    @given(records)
    def test_tag_records_survive(self, record: TagRecord) -> None:
        assert codec.decode_tag(codec.encode_tag(record)) == record

    @given(links)
    def test_links_survive(self, link: Link) -> None:
        assert codec.decode_link(codec.encode_link(link, 1.5e9)) == link

    @given(st.binary())
    def test_anything_can_be_decoded(self, value: bytes) -> None:
        pin = codec.decode_pin(value)
        assert pin is None or type(pin[0]) is Home
        assert type(codec.decode_tag(value)) in (TagRecord, type(None))
        assert type(codec.decode_link(value)) in (Link, type(None))

    def test_the_key_of_a_home(self) -> None:
        assert str(HOME) == "acme/tools|docker.io|library/alpine"

    pieces = st.text("a|%/: é", max_size=3)

    @given(pieces, pieces, pieces, st.sampled_from("|%/: "))
    def test_homes_have_different_keys(self, one: str, two: str, three: str, between: str) -> None:
        name = Name("library/alpine")
        left = Home(one + between + two, three, name)
        right = Home(one, two + between + three, name)
        assert (str(left) == str(right)) == (left == right)

    @given(
        st.integers(1, 4),
        st.lists(st.tuples(st.sampled_from(["touch", "take", "put back"]), st.sampled_from([A, B]), st.integers(1, 5))),
    )
    def test_last_uses_stay_within_their_bound(self, limit: int, sequence: list[tuple[str, Digest, int]]) -> None:
        uses = LastUse(limit)
        latest: dict[Digest, int] = {}
        taken: dict[tuple[Home, Digest], int] = {}
        for when, (what, digest, count) in enumerate(sequence):
            if what == "touch":
                uses.touch(HOME, digest, when)
                latest[digest] = when
            elif what == "take":
                taken = uses.take(count)
                assert len(taken) <= count
            else:
                uses.put_back(taken)
            assert len(uses) <= limit
        # What is told is always the latest use of each, though some may be missing.
        for (_, digest), when in uses.take(limit).items():
            assert when == latest[digest]
        assert (len(uses), A in uses, B in uses) == (0, False, False)

    def test_putting_back_changes_nothing_newer(self) -> None:
        uses = LastUse(2)
        uses.touch(HOME, A, 1)
        taken = uses.take(1)
        uses.touch(HOME, A, 2)
        uses.put_back(taken)
        assert uses.take(5) == {(HOME, A): 2}

    def test_the_one_told_first_is_dropped_first(self) -> None:
        uses = LastUse(2)
        for digest in (A, B, A, DIGESTS[2]):
            uses.touch(HOME, digest, 1)
        assert list(uses.take(5)) == [(HOME, A), (HOME, DIGESTS[2])]
