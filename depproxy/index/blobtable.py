"""What Redis knows about the stored blobs: size and last use of each, which groups hold it, and all sums.

What belongs together changes in one script, so that the sums are right whatever happens between. Sizes stay strings:
Lua's numbers are doubles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from depproxy.index import codec
from depproxy.index.connection import Connection
from depproxy.index.interface import Entry, Holding, Home, IndexUnavailable
from depproxy.index.lastuse import Use
from depproxy.index.wire import Reply, Script, Word
from depproxy.oci.digest import Digest, InvalidDigest

# How many entries a step of the scan takes, about.
SCAN_COUNT = 100

# The value of a blob is its size, then the groups that hold it, each after a space; or one space alone, where the last
# group has let go of it: it is to be removed, also if that was interrupted.
SHARED = (
    f"local P = '{codec.PREFIX}'"
    + """
local blobs, used, total, groups = P .. 'blobs', P .. 'used', P .. 'bytes', P .. 'groups'
local function size_of(value) return string.match(value, '^%d+') end
-- Redis takes -0 for no number.
local function minus(size) return size == '0' and size or '-' .. size end
local function unheld(value) return not string.find(value, ' [^ ]') end
local function holders(value) return string.gmatch(value, ' (%S+)') end
-- Only forward. (ZADD GT would do, from Redis 6.2 on.)
local function later(key, member, when)
  local last = redis.call('ZSCORE', key, member)
  if not last or tonumber(last) < tonumber(when) then redis.call('ZADD', key, when, member) end
  return last
end
local function read(group, place, when)
  redis.call('HSETNX', groups, group, 0)
  later(P .. 'homes:' .. group, place, when)
end
-- Whether the group did not hold it before.
local function hold(digest, group, when) return not later(P .. 'held:' .. group, digest, when) end
local function without(value, group)
  local first, last = string.find(value .. ' ', ' ' .. group .. ' ', 1, true)
  return first and string.sub(value, 1, first - 1) .. string.sub(value, last) or value
end
local function tidy(group)
  if redis.call('EXISTS', P .. 'held:' .. group, P .. 'homes:' .. group) == 0 then redis.call('HDEL', groups, group) end
end
local function release(digest, value, group)
  redis.call('ZREM', P .. 'held:' .. group, digest)
  redis.call('HINCRBY', groups, group, minus(size_of(value)))
  tidy(group)
end
local function resize(digest, size)
  local value = redis.call('HGET', blobs, digest)
  if value and size_of(value) == size then return value end
  redis.call('INCRBY', total, size)
  if not value then return size end
  local old = size_of(value)
  redis.call('DECRBY', total, old)
  for group in holders(value) do
    redis.call('HINCRBY', groups, group, size)
    redis.call('HINCRBY', groups, group, minus(old))
  end
  return size .. string.sub(value, #old + 1)
end
local function forget(digest, value)
  redis.call('DECRBY', total, size_of(value))
  redis.call('HDEL', blobs, digest)
  redis.call('ZREM', used, digest)
  for group in holders(value) do release(digest, value, group) end
end
local function coldest(key, first, count)
  local found = redis.call('ZRANGE', key, first, first + count - 1, 'WITHSCORES')
  local answer = {}
  for i = 1, #found, 2 do
    local value = redis.call('HGET', blobs, found[i])
    answer[#answer + 1] = {found[i], value and size_of(value) or '0', found[i + 1]}
  end
  return answer
end
"""
)


def _script(source: str) -> Script:
    return Script(SHARED + source)


# digest, size, when, then group and place of each home
PUT = _script("""\
local parts = {resize(ARGV[1], ARGV[2])}
later(used, ARGV[1], ARGV[3])
for i = 4, #ARGV, 2 do
  read(ARGV[i], ARGV[i + 1], ARGV[3])
  if hold(ARGV[1], ARGV[i], ARGV[3]) then
    redis.call('HINCRBY', groups, ARGV[i], ARGV[2])
    parts[#parts + 1] = ARGV[i]
  end
end
redis.call('HSET', blobs, ARGV[1], table.concat(parts, ' '))
""")
FORGET = _script("""\
local value = redis.call('HGET', blobs, ARGV[1])
if value then forget(ARGV[1], value) end
redis.call('ZREM', used, ARGV[1])
""")
# digest and last use of each; forgotten if that still is the last one
FORGET_UNUSED = _script("""\
local answer = {}
for i = 1, #ARGV, 2 do
  local last = redis.call('ZSCORE', used, ARGV[i])
  if last and tonumber(last) == tonumber(ARGV[i + 1]) then
    local value = redis.call('HGET', blobs, ARGV[i])
    if value then forget(ARGV[i], value) end
    redis.call('ZREM', used, ARGV[i])
    answer[#answer + 1] = ARGV[i]
  end
end
return answer
""")
FORGET_UNHELD = _script("""\
local answer = {}
for i = 1, #ARGV do
  local value = redis.call('HGET', blobs, ARGV[i])
  if value and unheld(value) then
    forget(ARGV[i], value)
    answer[#answer + 1] = ARGV[i]
  end
end
return answer
""")
# group, then digest and last read of each
LET_GO = _script("""\
local answer = {}
for i = 2, #ARGV, 2 do
  local last = redis.call('ZSCORE', P .. 'held:' .. ARGV[1], ARGV[i])
  if last and tonumber(last) == tonumber(ARGV[i + 1]) then
    local value = redis.call('HGET', blobs, ARGV[i])
    release(ARGV[i], value or '0', ARGV[1])
    if value then
      local left = without(value, ARGV[1])
      if unheld(left) then
        left = size_of(left) .. ' '
        answer[#answer + 1] = ARGV[i]
      end
      redis.call('HSET', blobs, ARGV[i], left)
    end
  end
end
return answer
""")
ADOPT = _script("""\
for i = 1, #ARGV, 3 do
  redis.call('HSET', blobs, ARGV[i], resize(ARGV[i], ARGV[i + 1]))
  redis.call('ZADD', used, 'NX', ARGV[i + 2], ARGV[i])
end
""")
# digest, when, group and place of each use; of what is not known any more, nothing
TOUCH = _script("""\
for i = 1, #ARGV, 4 do
  local digest, when, group = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HEXISTS', blobs, digest) == 1 then
    later(used, digest, when)
    read(group, ARGV[i + 3], when)
    -- Most often it does already, and then nobody needs the names of all that do.
    if hold(digest, group, when) then
      local value = redis.call('HGET', blobs, digest)
      redis.call('HINCRBY', groups, group, size_of(value))
      redis.call('HSET', blobs, digest, value .. ' ' .. group)
    end
  end
end
""")
COLDEST = _script("return coldest(used, ARGV[1], ARGV[2])")
COLDEST_OF = _script("return coldest(P .. 'held:' .. ARGV[1], ARGV[2], ARGV[3])")
# What has no last use would never be evicted: it is not known.
KNOWN = _script("""\
local answer = {}
for i = 1, #ARGV do
  local value = redis.call('ZSCORE', used, ARGV[i]) and redis.call('HGET', blobs, ARGV[i])
  answer[i] = value and size_of(value)
end
return answer
""")
HELD = _script("""\
local answer = {}
for i = 2, #ARGV do answer[i - 1] = redis.call('ZSCORE', P .. 'held:' .. ARGV[1], ARGV[i]) end
return answer
""")
# place of a home, and its group; with a last read as third, only if it still is the last one
FORGET_HOME = _script("""\
local last = ARGV[3] and redis.call('ZSCORE', P .. 'homes:' .. ARGV[2], ARGV[1])
if ARGV[3] and tonumber(last or '') ~= tonumber(ARGV[3]) then return 0 end
redis.call('UNLINK', P .. 'tags:' .. ARGV[2] .. '|' .. ARGV[1], P .. 'links:' .. ARGV[2] .. '|' .. ARGV[1])
redis.call('ZREM', P .. 'homes:' .. ARGV[2], ARGV[1])
tidy(ARGV[2])
return 1
""")


class BlobTable:
    """`ICacheIndex` and `IGroupIndex`, as far as they are about blobs, over a connection that `name` calls by its
    name."""

    def __init__(self, redis: Connection, name: str) -> None:
        self._redis = redis
        self._name = name

    async def put(self, digest: Digest, size: int, used: int, homes: Iterable[Home]) -> None:
        """See `ICacheIndex.put_blob`."""
        words: list[Word] = [codec.encode_digest(digest), size, used]
        for home in homes:
            words += (home.group, codec.encode_place(home))
        await self._redis.run(PUT, (), words)

    async def forget(self, digest: Digest) -> None:
        """See `ICacheIndex.forget_blob`."""
        await self._redis.run(FORGET, (), (codec.encode_digest(digest),))

    async def forget_unused(self, entries: Sequence[Entry]) -> Sequence[Digest]:
        """See `ICacheIndex.forget_unused`."""
        words = [word for entry in entries for word in (codec.encode_digest(entry.digest), entry.used)]
        reply = await self._redis.run(FORGET_UNUSED, (), words) if words else []
        return [self._digest(item) for item in self._list(reply, "answer about what is forgotten")]

    async def forget_unheld(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        """See `IGroupIndex.forget_unheld`."""
        reply = await self._redis.run(FORGET_UNHELD, (), _words(digests)) if digests else []
        return [self._digest(item) for item in self._list(reply, "answer about what is forgotten")]

    async def adopt(self, entries: Sequence[Entry]) -> None:
        """See `ICacheIndex.adopt`."""
        words = [word for entry in entries for word in (codec.encode_digest(entry.digest), entry.size, entry.used)]
        await self._redis.run(ADOPT, (), words)

    async def touch(self, uses: Mapping[Use, int], until: float) -> None:
        """Write last uses, each unless a later one is written already."""
        words: list[Word] = []
        for (home, digest), when in uses.items():
            words += (codec.encode_digest(digest), when, home.group, codec.encode_place(home))
        await self._redis.run(TOUCH, (), words, until=until)

    async def let_go(self, group: str, entries: Sequence[Entry]) -> Sequence[Digest]:
        """See `IGroupIndex.let_go`."""
        words = [word for entry in entries for word in (codec.encode_digest(entry.digest), entry.used)]
        reply = await self._redis.run(LET_GO, (), (group, *words))
        return [self._digest(item) for item in self._list(reply, "answer about what is let go")]

    async def coldest(self, count: int, skip: int) -> Sequence[Entry]:
        """See `ICacheIndex.coldest`."""
        reply = await self._redis.run(COLDEST, (), (skip, count))
        return [self._entry(item) for item in self._list(reply, "answer about the coldest")]

    async def coldest_of(self, group: str, count: int, skip: int) -> Sequence[Entry]:
        """See `IGroupIndex.coldest_of`."""
        reply = await self._redis.run(COLDEST_OF, (), (group, skip, count))
        return [self._entry(item) for item in self._list(reply, "answer about the coldest")]

    async def known(self, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """See `ICacheIndex.known`."""
        reply = self._list(await self._redis.run(KNOWN, (), _words(digests)), "answer about what is known")
        pairs = zip(digests, reply, strict=True)
        return {digest: int(value) for digest, value in pairs if isinstance(value, bytes)}

    async def held(self, group: str, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """See `IGroupIndex.held`."""
        reply = self._list(await self._redis.run(HELD, (), (group, *_words(digests))), "answer about what is held")
        pairs = zip(digests, reply, strict=True)
        return {digest: int(float(used)) for digest, used in pairs if isinstance(used, bytes)}

    async def holdings(self, digests: Sequence[Digest]) -> Mapping[Digest, Holding]:
        """See `IGroupIndex.holdings`."""
        if not digests:
            return {}
        reply = self._list(await self._redis.call("HMGET", codec.BLOBS, *_words(digests)), "answer about holdings")
        pairs = zip(digests, reply, strict=True)
        return {digest: self._holding(value) for digest, value in pairs if value is not None}

    async def forget_home(self, home: Home, used: int | None) -> bool:
        """See `IGroupIndex.forget_home`."""
        only = () if used is None else (used,)
        return await self._redis.run(FORGET_HOME, (), (codec.encode_place(home), home.group, *only)) == 1

    async def scan(self, cursor: str) -> tuple[str, Mapping[Digest, Holding]]:
        """See `ICacheIndex.scan`."""
        match await self._redis.call("HSCAN", codec.BLOBS, cursor, "COUNT", SCAN_COUNT):
            case [bytes(after), [*words]]:
                pairs = zip(words[::2], words[1::2], strict=True)
                return after.decode(), {self._digest(word): self._holding(value) for word, value in pairs}
            case reply:
                raise self._unexpected("step of a scan", reply)

    def _digest(self, item: Reply) -> Digest:
        try:
            if isinstance(item, bytes):
                return codec.decode_digest(item)
        except InvalidDigest:
            pass
        raise self._unexpected("digest", item)

    def _entry(self, item: Reply) -> Entry:
        match item:
            case [bytes(digest), bytes(size), bytes(used)] if size.isdigit():
                return Entry(self._digest(digest), int(size), int(float(used)))
        raise self._unexpected("entry", item)

    def _holding(self, value: Reply) -> Holding:
        if isinstance(value, bytes):
            match value.split():
                case [size, *groups] if size.isdigit():
                    names = frozenset(group.decode("utf-8", "replace") for group in groups)
                    return Holding(int(size), names, let_go=value.endswith(b" "))
        raise self._unexpected("size", value)

    def _list(self, reply: Reply, what: str) -> list[Reply]:
        if isinstance(reply, list):
            return reply
        raise self._unexpected(what, reply)

    def _unexpected(self, what: str, reply: Reply) -> IndexUnavailable:
        return IndexUnavailable(f"cache index at {self._name}: unexpected {what} {reply!r}")


def _words(digests: Iterable[Digest]) -> list[Word]:
    return [codec.encode_digest(digest) for digest in digests]
