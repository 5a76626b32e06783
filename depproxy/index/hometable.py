"""What Redis knows about homes: their tags, and their links."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from depproxy.index import codec
from depproxy.index.connection import Connection
from depproxy.index.interface import MAX_PINS, Home, IndexUnavailable, Link, TagRecord
from depproxy.index.wire import Reply, Script, Word
from depproxy.oci.digest import Digest, InvalidDigest
from depproxy.oci.reference import InvalidTag, Reference, Tag

LINKS_PER_COMMAND = 500
# How many fields or members a step of a scan takes, about.
SCAN_COUNT = 100

# A home that has tags or links is known, and with it its group: or nobody would find them again. Whoever is the first
# to write there has read there.
PUT = Script("""\
redis.call('HSETNX', KEYS[3], ARGV[1], 0)
redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[2])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
""")
# A set of at most so many members.
PIN = Script("""\
local full = redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2])
if full and redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
return 1
""")

K = TypeVar("K")
V = TypeVar("V")


class HomeTable:
    """`ICacheIndex` and `IGroupIndex`, as far as they are about homes, over a connection that `name` calls by its
    name."""

    def __init__(self, redis: Connection, name: str) -> None:
        self._redis = redis
        self._name = name

    async def get_tag(self, home: Home, tag: Tag) -> TagRecord | None:
        """See `ICacheIndex.get_tag`."""
        value = await self._redis.call("HGET", codec.tags_key(home), tag)
        return codec.decode_tag(value) if isinstance(value, bytes) else None

    async def put_tag(self, home: Home, tag: Tag, record: TagRecord, now: float) -> None:
        """See `ICacheIndex.put_tag`."""
        await self._put(home, codec.tags_key(home), now, [tag, codec.encode_tag(record)], self._redis.deadline())

    async def forget_tag(self, home: Home, tag: Tag) -> None:
        """See `ICacheIndex.forget_tag`."""
        await self._redis.call("HDEL", codec.tags_key(home), tag)

    async def get_link(self, home: Home, digest: Digest) -> Link | None:
        """See `ICacheIndex.get_link`."""
        value = await self._redis.call("HGET", codec.links_key(home), codec.encode_digest(digest))
        return codec.decode_link(value) if isinstance(value, bytes) else None

    async def put_links(self, home: Home, links: Mapping[Digest, Link], now: float) -> None:
        """See `ICacheIndex.put_links`."""
        until = self._redis.deadline()
        items = list(links.items())
        # One chunk after the other: the commands of others pass between them.
        for start in range(0, len(items), LINKS_PER_COMMAND):
            words: list[Word] = []
            for digest, link in items[start : start + LINKS_PER_COMMAND]:
                words += (codec.encode_digest(digest), codec.encode_link(link, now))
            await self._put(home, codec.links_key(home), now, words, until)

    async def linked(self, home: Home, digests: Sequence[Digest]) -> Mapping[Digest, Link]:
        """See `IGroupIndex.linked`."""
        if not digests:
            return {}
        reply = await self._redis.call("HMGET", codec.links_key(home), *map(codec.encode_digest, digests))
        if not isinstance(reply, list) or len(reply) != len(digests):
            raise self._unexpected("links", reply)
        found = {
            digest: codec.decode_link(value)
            for digest, value in zip(digests, reply, strict=True)
            if isinstance(value, bytes)
        }
        return {digest: link for digest, link in found.items() if link is not None}

    async def unlink(self, home: Home, digests: Sequence[Digest]) -> None:
        """See `IGroupIndex.unlink`."""
        for start in range(0, len(digests), LINKS_PER_COMMAND):
            chunk = digests[start : start + LINKS_PER_COMMAND]
            await self._redis.call("HDEL", codec.links_key(home), *map(codec.encode_digest, chunk))

    async def count_homes(self, group: str) -> int:
        """See `IGroupIndex.count_homes`."""
        reply = await self._redis.call("ZCARD", codec.homes_key(group))
        if not isinstance(reply, int):
            raise self._unexpected("number of homes", reply)
        return reply

    async def homes(self, group: str, cursor: str) -> tuple[str, Mapping[Home, int]]:
        """See `IGroupIndex.homes`."""
        return await self._scan(
            "ZSCAN",
            codec.homes_key(group),
            cursor,
            lambda place: codec.decode_place(group, place),
            lambda used: int(float(used)),
        )

    async def tags(self, home: Home, cursor: str) -> tuple[str, Mapping[Tag, TagRecord]]:
        """See `IGroupIndex.tags`."""
        return await self._scan("HSCAN", codec.tags_key(home), cursor, _tag, codec.decode_tag)

    async def links(self, home: Home, cursor: str) -> tuple[str, Mapping[Digest, Link]]:
        """See `IGroupIndex.links`."""
        return await self._scan("HSCAN", codec.links_key(home), cursor, _digest, codec.decode_link)

    async def pin(self, home: Home, reference: Reference) -> bool:
        """See `IGroupIndex.pin`."""
        return await self._redis.run(PIN, (codec.PINS,), (codec.encode_pin(home, reference), MAX_PINS)) == 1

    async def unpin(self, home: Home, reference: Reference) -> bool:
        """See `IGroupIndex.unpin`."""
        return await self._redis.call("SREM", codec.PINS, codec.encode_pin(home, reference)) == 1

    async def pins(self) -> Collection[tuple[Home, Reference]]:
        """See `IGroupIndex.pins`."""
        reply = await self._redis.call("SMEMBERS", codec.PINS)
        if not isinstance(reply, list | set):
            raise self._unexpected("pins", reply)
        found = (codec.decode_pin(member) for member in reply if isinstance(member, bytes))
        return [pin for pin in found if pin is not None]

    async def _put(self, home: Home, key: str, now: float, words: Sequence[Word], until: float) -> None:
        keys = (key, codec.homes_key(home.group), codec.GROUPS)
        await self._redis.run(PUT, keys, (home.group, codec.encode_place(home), int(now), *words), until=until)

    async def _scan(
        self,
        command: str,
        key: str,
        cursor: str,
        key_of: Callable[[bytes], K | None],
        value_of: Callable[[bytes], V | None],
    ) -> tuple[str, dict[K, V]]:
        """One step. What cannot be read, nobody of ours has written."""
        match await self._redis.call(command, key, cursor, "COUNT", SCAN_COUNT):
            case [bytes(after), [*words]]:
                found: dict[K, V] = {}
                for name, text in zip(words[::2], words[1::2], strict=True):
                    if isinstance(name, bytes) and isinstance(text, bytes):
                        one, value = key_of(name), value_of(text)
                        if one is not None and value is not None:
                            found[one] = value
                return after.decode(), found
            case reply:
                raise self._unexpected("step of a scan", reply)

    def _unexpected(self, what: str, reply: Reply) -> IndexUnavailable:
        return IndexUnavailable(f"cache index at {self._name}: unexpected {what} {reply!r}")


def _tag(name: bytes) -> Tag | None:
    try:
        return Tag(name.decode())
    except (InvalidTag, UnicodeDecodeError):
        return None


def _digest(name: bytes) -> Digest | None:
    try:
        return codec.decode_digest(name)
    except InvalidDigest:
        return None
