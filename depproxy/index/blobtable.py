"""What Redis knows about the stored blobs: size and last use of each, and the sum of all sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from depproxy.index import codec
from depproxy.index.connection import Connection
from depproxy.index.interface import Entry, IndexUnavailable
from depproxy.index.wire import Reply, Script
from depproxy.oci.digest import Digest, InvalidDigest

# How many entries a step of the scan takes, about.
SCAN_COUNT = 500

# Entry and sum change in one script, so that the sum is right whatever happens between. The numbers stay
# strings: Lua's are doubles.
PUT = Script("""\
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('INCRBY', KEYS[3], ARGV[2])
if old then redis.call('DECRBY', KEYS[3], old) end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
""")
# With a last use as second argument, only if it still is the last one.
FORGET = Script("""\
if ARGV[2] and tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '') ~= tonumber(ARGV[2]) then return 0 end
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old then redis.call('DECRBY', KEYS[3], old) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
""")
ADOPT = Script("""\
for i = 1, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  redis.call('INCRBY', KEYS[3], ARGV[i + 1])
  if old then redis.call('DECRBY', KEYS[3], old) end
  redis.call('ZADD', KEYS[2], 'NX', ARGV[i + 2], ARGV[i])
end
""")
TOTALS = Script("""\
return {redis.call('HLEN', KEYS[1]), redis.call('GET', KEYS[2]) or '0'}
""")
COLDEST = Script("""\
local found = redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')
local answer = {}
for i = 1, #found, 2 do
  answer[#answer + 1] = {found[i], redis.call('HGET', KEYS[1], found[i]) or '0', found[i + 1]}
end
return answer
""")
# What has no last use would never be evicted: it is not known.
KNOWN = Script("""\
local answer = {}
for i = 1, #ARGV do
  answer[i] = redis.call('ZSCORE', KEYS[2], ARGV[i]) and redis.call('HGET', KEYS[1], ARGV[i])
end
return answer
""")
# Only forward, and only what is still known. (ZADD XX GT would do, from Redis 6.2 on.)
TOUCH = Script("""\
for i = 1, #ARGV, 2 do
  local last = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if last and tonumber(last) < tonumber(ARGV[i + 1]) then
    redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
  end
end
""")
KEYS = (codec.SIZES, codec.USED, codec.BYTES)


class BlobTable:
    """The blobs' part of `ICacheIndex` over a connection, which `name` calls by its name."""

    def __init__(self, redis: Connection, name: str) -> None:
        self._redis = redis
        self._name = name

    async def put(self, digest: Digest, size: int, used: int) -> None:
        """See `ICacheIndex.put_blob`."""
        await self._redis.run(PUT, KEYS, (digest, size, used))

    async def forget(self, digest: Digest) -> None:
        """See `ICacheIndex.forget_blob`."""
        await self._redis.run(FORGET, KEYS, (digest,))

    async def forget_unused(self, entry: Entry) -> bool:
        """See `ICacheIndex.forget_unused`."""
        return await self._redis.run(FORGET, KEYS, (entry.digest, entry.used)) == 1

    async def adopt(self, entries: Sequence[Entry]) -> None:
        """See `ICacheIndex.adopt`."""
        words = [word for entry in entries for word in (entry.digest, entry.size, entry.used)]
        await self._redis.run(ADOPT, KEYS, words)

    async def touch(self, uses: Mapping[Digest, int], until: float) -> None:
        """Write last uses, each unless a later one is written already."""
        words = [word for digest, when in uses.items() for word in (digest, when)]
        await self._redis.run(TOUCH, (codec.USED,), words, until=until)

    async def totals(self) -> tuple[int, int]:
        """See `ICacheIndex.totals`."""
        match await self._redis.run(TOTALS, (codec.SIZES, codec.BYTES), ()):
            case [int(count), bytes(total)]:
                return count, int(total)
            case reply:
                raise self._unexpected("totals", reply)

    async def coldest(self, count: int) -> Sequence[Entry]:
        """See `ICacheIndex.coldest`."""
        reply = await self._redis.run(COLDEST, KEYS[:2], (count,))
        if not isinstance(reply, list):
            raise self._unexpected("answer about the coldest", reply)
        return [self._entry(item) for item in reply]

    async def known(self, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """See `ICacheIndex.known`."""
        reply = await self._redis.run(KNOWN, KEYS[:2], digests)
        if not isinstance(reply, list) or len(reply) != len(digests):
            raise self._unexpected("answer about what is known", reply)
        return {digest: int(size) for digest, size in zip(digests, reply, strict=True) if isinstance(size, bytes)}

    async def scan(self, cursor: str) -> tuple[str, Sequence[Digest]]:
        """See `ICacheIndex.scan`."""
        match await self._redis.call("HSCAN", codec.SIZES, cursor, "COUNT", SCAN_COUNT):
            case [bytes(after), [*words]]:
                return after.decode(), [Digest(word.decode()) for word in words[::2] if isinstance(word, bytes)]
            case reply:
                raise self._unexpected("step of a scan", reply)

    def _entry(self, item: Reply) -> Entry:
        try:
            match item:
                case [bytes(digest), bytes(size), bytes(used)]:
                    return Entry(Digest(digest.decode()), int(size), int(float(used)))
        except (InvalidDigest, ValueError):
            pass
        raise self._unexpected("entry", item)

    def _unexpected(self, what: str, reply: Reply) -> IndexUnavailable:
        return IndexUnavailable(f"cache index at {self._name}: unexpected {what} {reply!r}")
