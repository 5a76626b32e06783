"""What owners have set for their groups, in Redis."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from depproxy.index import codec
from depproxy.index.connection import Connection
from depproxy.index.interface import IndexUnavailable, SettingsTable
from depproxy.index.wire import Script, Word

# In one script each, so that nobody sees values of one version and the number of another.
READ = Script("""\
local version = redis.call('GET', KEYS[2]) or ''
if version == ARGV[1] then return false end
return {version, redis.call('HGETALL', KEYS[1])}
""")
WRITE = Script("""\
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('SET', KEYS[2], ARGV[1])
""")
KEYS = (codec.SETTINGS, codec.SETTINGS_VERSION)
# What no version is.
NOTHING_SEEN = "-"


class GroupSettingsTable:
    """`IGroupSettings` over a connection, which `name` calls by its name."""

    def __init__(self, redis: Connection, name: str) -> None:
        self._redis = redis
        self._name = name

    async def read(self, seen: str | None) -> SettingsTable | None:
        """See `IGroupSettings.read_settings`."""
        match await self._redis.run(READ, KEYS, (NOTHING_SEEN if seen is None else seen,)):
            case None:
                return None
            case [bytes(version), [*words]]:
                fields = [word for word in words if isinstance(word, bytes)]
                pairs = zip(fields[::2], fields[1::2], strict=True)
                return SettingsTable(version.decode("utf-8", "replace"), codec.decode_settings(pairs))
            case reply:
                raise IndexUnavailable(f"cache index at {self._name}: unexpected settings {reply!r}")

    async def write(self, group: str, values: Mapping[str, bytes | None]) -> None:
        """See `IGroupSettings.write_settings`."""
        # Not a number that counts: after a loss of data it would come to the same one again.
        words: list[Word] = [secrets.token_hex(8)]
        for key, value in values.items():
            words += (codec.settings_field(group, key), b"" if value is None else value)
        await self._redis.run(WRITE, KEYS, words)
