"""Token buckets in Redis."""

from __future__ import annotations

from collections.abc import Callable

from depproxy.index import codec
from depproxy.index.connection import Connection
from depproxy.index.interface import IndexUnavailable
from depproxy.index.wire import Script

# The time is the caller's, in Unix seconds, for the clocks of several hosts may differ a little: what one has written
# counts as of then, and another that is behind adds nothing. But what is so far ahead that an empty bucket were full by
# then was written by a clock that is wrong: it does not count, for nobody shall have to wait until then. Numbers go as
# texts, with all of their digits: as numbers Redis would make integers of them.
#
# The key goes a minute after the bucket is full, which says the same.
BUCKET = Script("""\
local now, capacity, per_second = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local cost, debt, take = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == 'take'
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(state[1] or ''), tonumber(state[2] or '')
if not tokens or not at or at > now + capacity / per_second then tokens, at = capacity, now end
if now > at then
  tokens, at = tokens + (now - at) * per_second, now
end
local left = math.min(tokens, capacity) - cost
if left < -debt then
  return string.format('%.17g', (-debt - left) / per_second + (at - now))
end
if take then
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', left), 'at', string.format('%.17g', at))
  redis.call('EXPIRE', KEYS[1], string.format('%d', math.ceil((capacity - left) / per_second) + 60))
end
return '0'
""")


class Buckets:
    """`IBuckets` over a connection, which `name` calls by its name. `now` gives Unix time."""

    def __init__(self, redis: Connection, name: str, now: Callable[[], float]) -> None:
        self._redis = redis
        self._name = name
        self._now = now

    async def take(self, key: str, capacity: float, per_second: float, cost: float, debt: float) -> float:
        """See `IBuckets.take`."""
        return await self._run(key, (self._now(), capacity, per_second, cost, debt), "take")

    async def peek(self, key: str, capacity: float, per_second: float, cost: float) -> float:
        """See `IBuckets.peek`."""
        return await self._run(key, (self._now(), capacity, per_second, cost, 0.0), "peek")

    async def _run(self, key: str, numbers: tuple[float, ...], word: str) -> float:
        reply = await self._redis.run(BUCKET, (codec.bucket_key(key),), (*map(repr, numbers), word))
        try:
            if isinstance(reply, bytes):
                return float(reply)
        except ValueError:
            pass
        raise IndexUnavailable(f"cache index at {self._name}: unexpected answer about a bucket {reply!r}")
