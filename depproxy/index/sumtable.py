"""What Redis keeps count of beside the entries, and how a wrong count is put right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from depproxy.index import codec
from depproxy.index.connection import Connection
from depproxy.index.interface import IndexUnavailable, Share, Sums
from depproxy.index.wire import Reply, Script, Word

TOTALS = Script(f"return {{redis.call('HLEN', '{codec.BLOBS}'), redis.call('GET', '{codec.BYTES}') or '0'}}")
# The number of blobs, all bytes, then of each group name, number and bytes.
COUNTED = (
    f"local P = '{codec.PREFIX}'"
    + """
local function counted()
  local answer = {redis.call('HLEN', P .. 'blobs'), redis.call('GET', P .. 'bytes') or '0'}
  local groups = redis.call('HGETALL', P .. 'groups')
  for i = 1, #groups, 2 do
    answer[#answer + 1] = groups[i]
    answer[#answer + 1] = redis.call('ZCARD', P .. 'held:' .. groups[i])
    answer[#answer + 1] = groups[i + 1]
  end
  return answer
end
"""
)
SUMS = Script(COUNTED + "return counted()")
# What was counted, in any order of the groups, each with its right bytes at the end; in front all right bytes.
REPLACE = Script(
    COUNTED
    + """
local now = counted()
if #now ~= 2 + (#ARGV - 3) / 4 * 3 or tostring(now[1]) ~= ARGV[2] or now[2] ~= ARGV[3] then return 0 end
local found = {}
for i = 3, #now, 3 do found[now[i]] = now[i + 1] .. ' ' .. now[i + 2] end
for i = 4, #ARGV, 4 do
  if found[ARGV[i]] ~= ARGV[i + 1] .. ' ' .. ARGV[i + 2] then return 0 end
end
redis.call('SET', P .. 'bytes', ARGV[1])
for i = 4, #ARGV, 4 do redis.call('HSET', P .. 'groups', ARGV[i], ARGV[i + 3]) end
return 1
"""
)


class SumTable:
    """`ICacheIndex` and `IGroupIndex`, as far as they are about sums, over a connection that `name` calls by its
    name."""

    def __init__(self, redis: Connection, name: str) -> None:
        self._redis = redis
        self._name = name

    async def totals(self) -> tuple[int, int]:
        """See `ICacheIndex.totals`."""
        match await self._redis.run(TOTALS, (), ()):
            case [int(count), bytes(total)]:
                return count, int(total)
            case reply:
                raise self._unexpected("totals", reply)

    async def groups(self) -> Mapping[str, Share]:
        """See `IGroupIndex.groups`."""
        return (await self.sums()).groups

    async def sizes(self, groups: Sequence[str]) -> Mapping[str, int]:
        """See `IGroupIndex.sizes`."""
        if not groups:
            return {}
        reply = await self._redis.call("HMGET", codec.GROUPS, *groups)
        if not isinstance(reply, list) or len(reply) != len(groups):
            raise self._unexpected("sizes", reply)
        pairs = zip(groups, reply, strict=True)
        return {group: int(size) if isinstance(size, bytes) else 0 for group, size in pairs}

    async def sums(self) -> Sums:
        """See `IGroupIndex.sums`."""
        reply = await self._redis.run(SUMS, (), ())
        match reply:
            case [int(count), bytes(total), *words]:
                groups: dict[str, Share] = {}
                for name, number, size in zip(words[::3], words[1::3], words[2::3], strict=True):
                    if not (isinstance(name, bytes) and isinstance(number, int) and isinstance(size, bytes)):
                        raise self._unexpected("group", name)
                    groups[name.decode("utf-8", "replace")] = Share(number, int(size))
                return Sums(count, int(total), groups)
        raise self._unexpected("sums", reply)

    async def replace_sums(self, seen: Sums, right: Sums) -> bool:
        """See `IGroupIndex.replace_sums`."""
        words: list[Word] = [right.size, seen.blobs, seen.size]
        for group, share in seen.groups.items():
            words += (group, share.blobs, share.size, right.groups.get(group, Share(0, 0)).size)
        return await self._redis.run(REPLACE, (), words) == 1

    def _unexpected(self, what: str, reply: Reply) -> IndexUnavailable:
        return IndexUnavailable(f"cache index at {self._name}: unexpected {what} {reply!r}")
