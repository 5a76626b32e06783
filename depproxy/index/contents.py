"""All that Redis holds of ours, some of it at a time, in no format of Redis' own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from depproxy.index import codec
from depproxy.index.connection import Connection
from depproxy.index.interface import KINDS, IndexUnavailable, Kind, Record
from depproxy.index.wire import Reply

KEYS_PER_STEP = 500
# So many entries hold up the reactor for a few milliseconds.
ITEMS_PER_STEP = 200
# Items of a record have about so many bytes at most; one item may have more.
LARGEST_RECORD = 256 << 10
_STEPS = {"hash": "HSCAN", "set": "SSCAN", "zset": "ZSCAN"}
# What is of no use later, and what is counted anew; the entries of blobs have come before.
_LEFT_OUT = frozenset(map(str.encode, (codec.BLOBS, codec.BYTES)))
_BUCKETS = codec.bucket_key("").encode()


class Contents:
    """`IIndexContents` over a connection, which `name` calls by its name."""

    def __init__(self, redis: Connection, name: str) -> None:
        self._redis = redis
        self._name = name

    async def records(self) -> AsyncIterator[Record]:
        """See `IIndexContents.records`."""
        # First, so that a restore can tell which other keys are of another moment.
        async for record in self._of(codec.BLOBS.encode()):
            yield record
        async for keys in self.keys(f"{codec.PREFIX}*"):
            for key in keys:
                if key not in _LEFT_OUT and not key.startswith(_BUCKETS):
                    async for record in self._of(key):
                        yield record

    async def keys(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """The keys that are there all the while, each at least once, some at a time."""
        cursor = b"0"
        while True:
            match await self._redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PER_STEP):
                case [bytes(after), [*found]]:
                    yield [key for key in found if isinstance(key, bytes)]
                    cursor = after
                case reply:
                    raise self._unexpected("keys", reply)
            if cursor == b"0":
                return

    async def steps(self, kind: Kind, key: bytes) -> AsyncIterator[list[bytes]]:
        """What a hash, set or zset holds, some of it at a time."""
        cursor = b"0"
        while True:
            match await self._redis.call(_STEPS[kind], key, cursor, "COUNT", ITEMS_PER_STEP):
                case [bytes(after), [*found]]:
                    yield [item for item in found if isinstance(item, bytes)]
                    cursor = after
                case reply:
                    raise self._unexpected("step of a scan", reply)
            if cursor == b"0":
                return

    async def _of(self, key: bytes) -> AsyncIterator[Record]:
        kind = await self._redis.call("TYPE", key)
        if kind == "none":
            # It went meanwhile.
            return
        if kind not in KINDS:
            raise self._unexpected("kind of a key", kind)
        if kind == "string":
            value = await self._redis.call("GET", key)
            if isinstance(value, bytes):
                yield Record(key, "string", (value,))
            return
        known = cast(Kind, kind)
        async for items in self.steps(known, key):
            for part in _parts(items, 1 if known == "set" else 2):
                yield Record(key, known, part)

    def _unexpected(self, what: str, reply: Reply) -> IndexUnavailable:
        return IndexUnavailable(f"cache index at {self._name}: unexpected {what} {reply!r}")


def _parts(items: list[bytes], together: int) -> list[tuple[bytes, ...]]:
    """The items in records that are not too large, none of them empty."""
    parts: list[tuple[bytes, ...]] = []
    part: list[bytes] = []
    size = 0
    for start in range(0, len(items), together):
        some = items[start : start + together]
        size += sum(map(len, some))
        if part and size > LARGEST_RECORD:
            parts.append(tuple(part))
            part, size = [], sum(map(len, some))
        part += some
    return [*parts, tuple(part)] if part else parts
