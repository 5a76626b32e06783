"""The cache index in a backup: whatever is in it comes back equal, on a real Redis, and nothing by halves."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread
from zope.interface.verify import verifyObject

from depproxy.backup.records import document, line, record, records
from depproxy.index import codec, contents
from depproxy.index.interface import (
    Home,
    IIndexContents,
    IIndexRestore,
    IncompatibleSchema,
    IndexUnavailable,
    Kind,
    Link,
    Record,
)
from depproxy.index.restoring import RestoringIndex
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Tag
from tests.index_tools import BESIDE, DIGESTS, HOME, OTHER, REACTOR, RECORD, A, B, RedisTestCase, until

# What a key of each kind may hold: any bytes, at least something.
scores = st.floats(allow_nan=False).map(lambda score: repr(score).encode()) | st.integers(0, 2**40).map(b"%d".__mod__)
some = st.binary(max_size=200)
values: st.SearchStrategy[tuple[Kind, Any]] = st.one_of(
    st.tuples(st.just("string"), some),
    st.tuples(st.just("hash"), st.dictionaries(some, some, min_size=1, max_size=40)),
    st.tuples(st.just("set"), st.sets(some, min_size=1, max_size=40)),
    st.tuples(st.just("zset"), st.dictionaries(some, scores, min_size=1, max_size=40)),
)
RESERVED = tuple(f"depproxy:2:{name}".encode() for name in ("blobs", "used", "bytes", "groups", "held:", "bucket:"))
keys = some.map(b"depproxy:2:".__add__).filter(lambda key: not key.startswith(RESERVED))

HOMES = [HOME, OTHER, BESIDE]
uses = st.lists(
    st.tuples(st.sampled_from(HOMES), st.sampled_from(DIGESTS), st.integers(0, 2**40), st.integers(0, 1000)),
    max_size=20,
)


class BackupTestCase(RedisTestCase):
    """With a second database, which a backup is put into."""

    async def restoring(self, database: int = 0) -> RestoringIndex:
        index = RestoringIndex(REACTOR, self.now, self.server, "R", database=database)
        await index.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(index.stop()))
        return index

    async def all(self) -> dict[bytes, Any]:
        """Every key with what it holds."""
        found: dict[bytes, Any] = {}
        for key in cast(list[bytes], await self.raw("KEYS", "*")):
            match await self.raw("TYPE", key):
                case "string":
                    found[key] = await self.raw("GET", key)
                case "hash":
                    words: Any = await self.raw("HGETALL", key)
                    found[key] = dict(zip(words[::2], words[1::2], strict=True))
                case "set":
                    found[key] = set(cast(list[bytes], await self.raw("SMEMBERS", key)))
                case "zset":
                    words = await self.raw("ZRANGE", key, 0, -1, "WITHSCORES")
                    found[key] = dict(zip(words[::2], words[1::2], strict=True))
        return found

    async def backed_up(self, index: IIndexContents) -> bytes:
        return b"".join([line(found) async for found in index.records()])

    async def restore(self, lines: bytes) -> None:
        index = await self.restoring()
        await index.begin()
        for found in records(lines):
            await index.put(found)
        await index.end()
        await index.stop()

    async def for_any(self, check: Callable[[Any], Awaitable[None]], strategy: st.SearchStrategy[Any]) -> None:
        from_reactor: Any = blockingCallFromThread

        @given(strategy)
        def from_thread(drawn: Any) -> None:
            from_reactor(REACTOR, lambda: Deferred.fromCoroutine(cast(Any, check(drawn))))

        await deferToThread(from_thread)


class Comes(BackupTestCase):
    """Back, and equal."""

    async def test_provides_the_interfaces(self) -> None:
        index = await self.started()
        verifyObject(IIndexContents, index)
        verifyObject(IIndexRestore, await self.restoring())
        assert index.schema == codec.SCHEMA

    async def test_any_keys(self) -> None:
        """Whatever a later part of the layout holds."""
        index = await self.started()

        async def check(drawn: dict[bytes, tuple[Kind, Any]]) -> None:
            await self.raw("FLUSHALL")
            await self.raw("SET", codec.SCHEMA_KEY, codec.SCHEMA)
            for key, (kind, value) in drawn.items():
                match kind:
                    case "string":
                        await self.raw("SET", key, value)
                    case "hash":
                        await self.raw("HSET", key, *(word for pair in value.items() for word in pair))
                    case "set":
                        await self.raw("SADD", key, *value)
                    case "zset":
                        await self.raw("ZADD", key, *(word for name, score in value.items() for word in (score, name)))
            before = await self.all()
            lines = await self.backed_up(index)
            await self.raw("FLUSHALL")
            await self.restore(lines)
            assert await self.all() == before

        await self.for_any(check, st.dictionaries(keys, values, max_size=6))

    async def test_any_book_keeping(self) -> None:
        """What an index has written, sums and all."""
        index = await self.started()

        async def check(drawn: list[tuple[Home, Digest, int, int]]) -> None:
            await self.raw("FLUSHALL")
            await self.raw("SET", codec.SCHEMA_KEY, codec.SCHEMA)
            for home, digest, when, size in drawn:
                self.now.time = float(when)
                await index.put_links(home, {digest: Link("text/x \u00e9|", size)})
                await index.put_tag(home, Tag(f"v{size}"), RECORD)
                if size % 3:
                    await index.put_blob(digest, size, [home] if size % 2 else [])
                if size % 7 == 0:
                    await index.forget_blob(digest)
                if size % 5 == 0:
                    await index.pin(home, Tag("kept"))
                await index.write_settings(home.group, {"ttl": b"%d" % size})
                await index.take("somebody", 5, 1)
            before = {key: held for key, held in (await self.all()).items() if b":bucket:" not in key}
            # A sum that was never needed is nothing.
            before = {key: held for key, held in before.items() if (key, held) != (codec.BYTES.encode(), b"0")}
            lines = await self.backed_up(index)
            await self.raw("FLUSHALL")
            await self.restore(lines)
            after = await self.all()
            assert {key: held for key, held in after.items() if (key, held) != (codec.BYTES.encode(), b"0")} == before

        await self.for_any(check, uses)

    async def test_a_large_one_in_small_steps(self) -> None:
        index = await self.started()
        count = 3000
        digests = [Digest.of(b"%d" % number) for number in range(count)]
        for number, digest in enumerate(digests):
            await index.put_blob(digest, number, [HOME])
        await index.put_links(HOME, {digest: Link("x" * 500, 1) for digest in digests})
        before = await self.all()
        found = [part async for part in index.records()]
        assert max(len(part.items) for part in found) <= 4 * contents.ITEMS_PER_STEP
        assert max(sum(map(len, part.items)) for part in found) <= contents.LARGEST_RECORD + 1000
        await self.raw("FLUSHALL")
        await self.restore(b"".join(map(line, found)))
        assert await self.all() == before
        assert await index.totals() == (count, sum(range(count)))

    async def test_one_item_that_is_larger_than_a_record(self) -> None:
        index = await self.started()
        await self.raw("HSET", "depproxy:2:x", "a", b"x" * contents.LARGEST_RECORD, "b", b"y" * 100, "c", "z")
        found = [part.items async for part in index.records()]
        assert sum(map(len, found)) == 6
        # Alone, whatever comes before or after it.
        assert (b"a", b"x" * contents.LARGEST_RECORD) in found

    async def test_what_is_left_out(self) -> None:
        index = await self.started()
        await index.take("somebody", 5, 1)
        await self.raw("SET", "theirs", 1)
        assert await self.backed_up(index) == b""

    async def test_a_kind_that_we_do_not_write(self) -> None:
        index = await self.started()
        await self.raw("RPUSH", "depproxy:2:x", 1)
        with pytest.raises(IndexUnavailable, match="unexpected kind of a key 'list'"):
            await self.backed_up(index)


class Moments(BackupTestCase):
    """The keys of a backup are of different moments, and what comes of them is an index all the same."""

    async def put(self, *found: Record) -> None:
        await self.restore(b"".join(map(line, found)))
        self.index = await self.started()

    @staticmethod
    def blobs(**values: bytes) -> Record:
        digests = {"a": A, "b": B}
        items = [item for name, value in values.items() for item in (codec.encode_digest(digests[name]), value)]
        return Record(codec.BLOBS.encode(), "hash", tuple(items))

    async def test_an_entry_that_comes_twice(self) -> None:
        await self.put(self.blobs(a=b"5 acme"), self.blobs(a=b"5"), self.blobs(b=b"7 acme other", a=b"9 acme"))
        assert await self.index.totals() == (2, 12)
        assert {name: share.size for name, share in (await self.index.groups()).items()} == {"acme": 12, "other": 7}

    async def test_an_entry_alone_has_all_that_belongs_to_it(self) -> None:
        """Nothing would ever evict or expire it."""
        await self.put(self.blobs(a=b"5 acme"))
        assert [entry.digest for entry in await self.index.coldest(9)] == [A]
        assert [(entry.digest, entry.used) for entry in await self.index.coldest_of("acme", 9)] == [
            (A, int(self.now.time))
        ]
        assert await self.index.known([A]) == {A: 5}

    async def test_what_has_no_entry_is_not_held(self) -> None:
        held, used = codec.held_key("acme").encode(), codec.USED.encode()
        items = (codec.encode_digest(A), b"100", codec.encode_digest(B), b"200")
        await self.put(self.blobs(a=b"5 acmes"), Record(held, "zset", items), Record(used, "zset", items))
        assert await self.index.coldest_of("acme", 9) == []
        assert [(entry.digest, entry.used) for entry in await self.index.coldest(9)] == [(A, 100)]
        assert [entry.digest for entry in await self.index.coldest_of("acmes", 9)] == [A]

    async def test_sums_of_another_moment_do_not_count(self) -> None:
        groups = Record(codec.GROUPS.encode(), "hash", (b"acme", b"1000", b"other", b"7"))
        await self.put(groups, self.blobs(a=b"5 acme"), groups)
        assert {name: share.size for name, share in (await self.index.groups()).items()} == {"acme": 5, "other": 0}

    async def test_an_entry_that_is_none(self) -> None:
        await self.put(self.blobs(a=b"x acme", b=b"7"))
        assert await self.index.totals() == (1, 7)


class Halves(BackupTestCase):
    """What is not whole is not taken for it."""

    async def test_until_its_end_no_service_takes_it(self) -> None:
        index = await self.restoring()
        await index.begin()
        with pytest.raises(IncompatibleSchema, match="is restored in part only: run depproxy restore again"):
            await self.started()
        await index.put(Record(b"depproxy:2:x", "string", (b"1",)))
        with pytest.raises(IncompatibleSchema):
            await self.started()
        await index.end()
        await self.started()

    async def test_the_next_one_begins_anew(self) -> None:
        index = await self.restoring()
        await self.raw("SET", "depproxy:1:older", 1)
        await self.raw("SET", "theirs", 1)
        await index.begin()
        await index.put(Record(b"depproxy:2:x", "set", (b"1",)))
        again = await self.restoring()
        assert await again.vacant()
        await again.begin()
        assert await self.all() == {b"depproxy:schema": b"restoring", b"theirs": b"1"}

    async def test_what_is_vacant(self) -> None:
        index = await self.restoring()
        assert await index.vacant()
        service = await self.started()
        assert await index.vacant()
        await service.take("somebody", 5, 1)
        assert await index.vacant()
        await service.pin(HOME, Tag("1"))
        assert not await index.vacant()
        await self.raw("FLUSHALL")
        await self.raw("SET", codec.SCHEMA_KEY, 1)
        assert not await index.vacant()

    async def test_a_redis_that_was_lost_meanwhile(self) -> None:
        """It may be another one, or have lost something."""
        index = await self.restoring()
        await index.begin()
        await self.raw("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for _ in range(2):
            with pytest.raises(IndexUnavailable):
                await index.put(Record(b"depproxy:2:x", "set", (b"1",)))
        await until(lambda: self.log.count("the connection was lost; restore again"))
        with pytest.raises(IndexUnavailable, match="the connection was lost; restore again"):
            await index.end()
        assert await self.raw("GET", codec.SCHEMA_KEY) == b"restoring"

    async def test_a_redis_that_is_not_there(self) -> None:
        await self.server.stop()
        index = await self.restoring()
        with pytest.raises(IndexUnavailable, match="cache index at R is unavailable"):
            await index.vacant()


some_records = st.builds(
    lambda key, kind, items: Record(key, kind, tuple(items * 2 if kind in ("hash", "zset") else items[:1])),
    st.binary(),
    st.sampled_from(["string", "hash", "set", "zset"]),
    st.lists(st.binary(), min_size=1, max_size=5),
)


@given(st.lists(some_records))
def test_lines_hold_any_record(found: list[Record]) -> None:
    assert list(records(b"".join(map(line, found)))) == found
    assert [record(json.loads(json.dumps(document(one)))) for one in found] == found


GOOD = {"key": "eA==", "kind": "hash", "items": ["eA==", ""]}


@pytest.mark.parametrize(
    "told",
    [
        {**GOOD, "kind": "list"},
        {**GOOD, "kind": None},
        {**GOOD, "items": ["eA=="]},
        {**GOOD, "items": []},
        {**GOOD, "items": "eA=="},
        {**GOOD, "items": [1, 2]},
        {**GOOD, "key": "\u00e9"},
        {**GOOD, "key": "e"},
        {**GOOD, "key": None},
        {"kind": "hash", "items": []},
        {},
        [],
        None,
    ],
)
def test_what_is_no_record(told: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(records(json.dumps(told).encode()))
    assert list(records(json.dumps(GOOD).encode())) == [Record(b"x", "hash", (b"x", b""))]


@given(st.binary())
def test_anything_can_be_tried(data: bytes) -> None:
    try:
        list(records(data))
    except ValueError:
        return
    assert not data.strip()
