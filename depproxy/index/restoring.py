"""A cache index that a backup is put into.

While it goes on, the key that tells the schema says so: no service takes the index for a whole one, whatever version it
is of, and the next restore begins anew.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from zope.interface import implementer

from depproxy.index import codec
from depproxy.index.address import Credentials
from depproxy.index.connection import Connection, sign_in
from depproxy.index.contents import Contents
from depproxy.index.interface import IIndexRestore, IndexUnavailable, Record
from depproxy.index.server import EmbeddedRedis
from depproxy.index.wire import Script, Wire, Word

# The keys of a backup are not of the same moment. What an entry says counts: sums follow from entries, what is held or
# used and has no entry is left out, and an entry without a last use, or whose group does not know of it, gets one.
SHARED = (
    f"local P, now = '{codec.PREFIX}', ARGV[1]"
    + """
local blobs, used, total, groups = P .. 'blobs', P .. 'used', P .. 'bytes', P .. 'groups'
local function size_of(value) return string.match(value, '^%d+') end
local function holders(value) return string.gmatch(value, ' (%S+)') end
"""
)
# Of an entry that comes twice, the first one counts.
PUT_BLOBS = Script(
    SHARED
    + """
for i = 2, #ARGV, 2 do
  local size = size_of(ARGV[i + 1])
  if size and redis.call('HSETNX', blobs, ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('INCRBY', total, size)
    for group in holders(ARGV[i + 1]) do redis.call('HINCRBY', groups, group, size) end
  end
end
"""
)
PUT_GROUPS = Script(SHARED + "for i = 2, #ARGV, 2 do redis.call('HSETNX', groups, ARGV[i], 0) end")
PUT_USED = Script(
    SHARED
    + """
for i = 2, #ARGV, 2 do
  if redis.call('HEXISTS', blobs, ARGV[i]) == 1 then redis.call('ZADD', used, ARGV[i + 1], ARGV[i]) end
end
"""
)
# The group stands after the time.
PUT_HELD = Script(
    SHARED
    + """
for i = 3, #ARGV, 2 do
  local value = (redis.call('HGET', blobs, ARGV[i]) or '') .. ' '
  if string.find(value, ' ' .. ARGV[2] .. ' ', 1, true) then
    redis.call('ZADD', P .. 'held:' .. ARGV[2], ARGV[i + 1], ARGV[i])
  end
end
"""
)
SETTLE = Script(
    SHARED
    + """
for i = 2, #ARGV, 2 do
  redis.call('ZADD', used, 'NX', now, ARGV[i])
  local last = redis.call('ZSCORE', used, ARGV[i])
  for group in holders(ARGV[i + 1]) do redis.call('ZADD', P .. 'held:' .. group, 'NX', last, ARGV[i]) end
end
"""
)
_BLOBS, _GROUPS, _USED = codec.BLOBS.encode(), codec.GROUPS.encode(), codec.USED.encode()
_HELD = codec.held_key("").encode()
_COMMANDS = {"string": "SET", "hash": "HSET", "set": "SADD"}


@implementer(IIndexRestore)
class RestoringIndex:
    """`IIndexRestore` on one Redis; the arguments are those of `RedisIndex`."""

    schema = codec.SCHEMA

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], float],
        endpoint: IStreamClientEndpoint,
        name: str,
        *,
        credentials: Credentials | None = None,
        database: int = 0,
        server: EmbeddedRedis | None = None,
        limit: float = 2.0,
    ) -> None:
        self._now = now
        self._credentials = credentials
        self._database = database
        self._server = server
        self._redis = Connection(clock, endpoint, name, self._prepare, limit)
        self._contents = Contents(self._redis, name)
        self._connected = False

    async def start(self) -> None:
        """Start the server if it is ours, then connect. Raises what the server's start raises; that Redis cannot be
        reached is told by the first method that is called."""
        if self._server is not None:
            await self._server.start()
        await self._redis.start()

    async def stop(self) -> None:
        """Close the connection and stop our server, whose data is on disk then."""
        await self._redis.stop()
        if self._server is not None:
            await self._server.stop()

    async def vacant(self) -> bool:
        schema = await self._redis.call("GET", codec.SCHEMA_KEY)
        if schema == codec.RESTORING.encode():
            return True
        if schema not in (None, str(codec.SCHEMA).encode()):
            return False
        buckets = codec.bucket_key("").encode()
        async for keys in self._contents.keys(f"{codec.PREFIX}*"):
            if any(not key.startswith(buckets) for key in keys):
                return False
        return True

    async def begin(self) -> None:
        await self._redis.call("SET", codec.SCHEMA_KEY, codec.RESTORING)
        async for keys in self._contents.keys(codec.ALL):
            ours = [key for key in keys if key != codec.SCHEMA_KEY.encode()]
            if ours:
                await self._redis.call("UNLINK", *ours)

    async def put(self, record: Record) -> None:
        key, items = record.key, record.items
        if key == _BLOBS:
            await self._run(PUT_BLOBS, *items)
        elif key == _GROUPS:
            await self._run(PUT_GROUPS, *items)
        elif key == _USED:
            await self._run(PUT_USED, *items)
        elif key.startswith(_HELD):
            await self._run(PUT_HELD, key.removeprefix(_HELD), *items)
        elif record.kind == "zset":
            # Redis wants the score first.
            turned = [word for pair in zip(items[1::2], items[::2], strict=True) for word in pair]
            await self._redis.call("ZADD", key, *turned)
        else:
            await self._redis.call(_COMMANDS[record.kind], key, *items)

    async def end(self) -> None:
        async for items in self._contents.steps("hash", _BLOBS):
            if items:
                await self._run(SETTLE, *items)
        await self._redis.call("SET", codec.SCHEMA_KEY, codec.SCHEMA)

    async def _run(self, script: Script, *words: Word) -> None:
        await self._redis.run(script, (), (int(self._now()), *words))

    async def _prepare(self, wire: Wire) -> None:
        if self._connected:
            # Another server than before, perhaps, or one that has lost something.
            raise IndexUnavailable("the connection was lost; restore again")
        await sign_in(wire, self._credentials, self._database)
        self._connected = True
