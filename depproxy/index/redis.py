"""The cache index in Redis."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence

from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from depproxy.index import codec
from depproxy.index.address import Credentials
from depproxy.index.blobtable import BlobTable
from depproxy.index.buckets import Buckets
from depproxy.index.connection import Connection, sign_in
from depproxy.index.contents import Contents
from depproxy.index.groupsettings import GroupSettingsTable
from depproxy.index.hometable import HomeTable
from depproxy.index.interface import (
    Entry,
    Holding,
    Home,
    IBuckets,
    ICacheIndex,
    IGroupIndex,
    IGroupSettings,
    IIndexContents,
    IncompatibleSchema,
    IndexUnavailable,
    Link,
    Record,
    SettingsTable,
    Share,
    Sums,
    TagRecord,
)
from depproxy.index.lastuse import LastUse, Use
from depproxy.index.server import EmbeddedRedis
from depproxy.index.sumtable import SumTable
from depproxy.index.wire import ReplyError, Wire
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Reference, Tag

USES_PER_COMMAND = 500
MAX_USES = 100_000


@implementer(ICacheIndex, IGroupIndex, IBuckets, IGroupSettings, IIndexContents)
class RedisIndex:
    """`ICacheIndex`, and what else is kept beside it, on one Redis.

    `name` is how messages call it (no password in it); `now` gives Unix time. Last uses are written every
    `flush_interval` seconds, and each operation is bounded to `limit` seconds. With a `server` of our own,
    that is started before and stopped after the connection to it.
    """

    _log = Logger()
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
        flush_interval: float = 5.0,
        limit: float = 2.0,
    ) -> None:
        self._now = now
        self._name = name
        self._credentials = credentials
        self._database = database
        self._server = server
        self._redis = Connection(clock, endpoint, name, self._prepare, limit)
        self._blobs = BlobTable(self._redis, name)
        self._homes = HomeTable(self._redis, name)
        self._sums = SumTable(self._redis, name)
        self._buckets = Buckets(self._redis, name, now)
        self._group_settings = GroupSettingsTable(self._redis, name)
        self._contents = Contents(self._redis, name)
        self._uses = LastUse(MAX_USES)
        self._flushing = DeferredLock()
        self._flush_failed = False
        self._flush_interval = flush_interval
        self._flusher = LoopingCall(self._flush_quietly)
        self._flusher.clock = clock
        self._policy: str | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start the server if it is ours, then connect.

        A Redis that cannot be reached is not an error: it is logged, and tried again in the background.
        Raises `IncompatibleSchema`, and what the server's start raises.
        """
        self._stopping = False
        if self._server is not None:
            await self._server.start()
        try:
            await self._redis.start()
        except IncompatibleSchema:
            await self._stop_server()
            raise
        if not self._stopping:
            self._flusher.start(self._flush_interval, now=False).addErrback(self._flusher_ended)

    async def stop(self) -> None:
        """Write the last uses that wait, as far as that works, then close the connection and stop our
        server."""
        self._stopping = True
        if self._flusher.running:
            self._flusher.stop()
        await self._flush_quietly()
        await self._redis.stop()
        await self._stop_server()

    async def get_tag(self, home: Home, tag: Tag) -> TagRecord | None:
        return await self._homes.get_tag(home, tag)

    async def put_tag(self, home: Home, tag: Tag, record: TagRecord) -> None:
        await self._homes.put_tag(home, tag, record, self._now())

    async def forget_tag(self, home: Home, tag: Tag) -> None:
        await self._homes.forget_tag(home, tag)

    async def get_link(self, home: Home, digest: Digest) -> Link | None:
        return await self._homes.get_link(home, digest)

    async def put_links(self, home: Home, links: Mapping[Digest, Link]) -> None:
        await self._homes.put_links(home, links, self._now())

    async def put_blob(self, digest: Digest, size: int, homes: Iterable[Home]) -> None:
        await self._blobs.put(digest, size, int(self._now()), homes)

    async def forget_blob(self, digest: Digest) -> None:
        await self._blobs.forget(digest)

    async def totals(self) -> tuple[int, int]:
        return await self._sums.totals()

    async def coldest(self, count: int, skip: int = 0) -> Sequence[Entry]:
        return await self._blobs.coldest(count, skip)

    async def forget_unused(self, entries: Sequence[Entry]) -> Sequence[Digest]:
        return await self._blobs.forget_unused(entries)

    async def known(self, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        return await self._blobs.known(digests)

    async def adopt(self, entries: Sequence[Entry]) -> None:
        await self._blobs.adopt(entries)

    async def scan(self, cursor: str) -> tuple[str, Mapping[Digest, Holding]]:
        return await self._blobs.scan(cursor)

    async def groups(self) -> Mapping[str, Share]:
        return await self._sums.groups()

    async def sizes(self, groups: Sequence[str]) -> Mapping[str, int]:
        return await self._sums.sizes(groups)

    async def coldest_of(self, group: str, count: int, skip: int = 0) -> Sequence[Entry]:
        return await self._blobs.coldest_of(group, count, skip)

    async def held(self, group: str, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        return await self._blobs.held(group, digests)

    async def holdings(self, digests: Sequence[Digest]) -> Mapping[Digest, Holding]:
        return await self._blobs.holdings(digests)

    async def sums(self) -> Sums:
        return await self._sums.sums()

    async def replace_sums(self, seen: Sums, right: Sums) -> bool:
        return await self._sums.replace_sums(seen, right)

    async def let_go(self, group: str, entries: Sequence[Entry]) -> Sequence[Digest]:
        return await self._blobs.let_go(group, entries)

    async def forget_unheld(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        return await self._blobs.forget_unheld(digests)

    async def count_homes(self, group: str) -> int:
        return await self._homes.count_homes(group)

    async def homes(self, group: str, cursor: str) -> tuple[str, Mapping[Home, int]]:
        return await self._homes.homes(group, cursor)

    async def tags(self, home: Home, cursor: str) -> tuple[str, Mapping[Tag, TagRecord]]:
        return await self._homes.tags(home, cursor)

    async def links(self, home: Home, cursor: str) -> tuple[str, Mapping[Digest, Link]]:
        return await self._homes.links(home, cursor)

    async def linked(self, home: Home, digests: Sequence[Digest]) -> Mapping[Digest, Link]:
        return await self._homes.linked(home, digests)

    async def unlink(self, home: Home, digests: Sequence[Digest]) -> None:
        await self._homes.unlink(home, digests)

    async def forget_home(self, home: Home, used: int | None = None) -> bool:
        return await self._blobs.forget_home(home, used)

    async def pin(self, home: Home, reference: Reference) -> bool:
        return await self._homes.pin(home, reference)

    async def unpin(self, home: Home, reference: Reference) -> bool:
        return await self._homes.unpin(home, reference)

    async def pins(self) -> Collection[tuple[Home, Reference]]:
        return await self._homes.pins()

    async def take(self, key: str, capacity: float, per_second: float, cost: float = 1.0, debt: float = 0.0) -> float:
        return await self._buckets.take(key, capacity, per_second, cost, debt)

    async def peek(self, key: str, capacity: float, per_second: float, cost: float = 1.0) -> float:
        return await self._buckets.peek(key, capacity, per_second, cost)

    async def read_settings(self, seen: str | None) -> SettingsTable | None:
        return await self._group_settings.read(seen)

    async def write_settings(self, group: str, values: Mapping[str, bytes | None]) -> None:
        await self._group_settings.write(group, values)

    def records(self) -> AsyncIterator[Record]:
        return self._contents.records()

    def touch(self, home: Home, digest: Digest) -> None:
        self._uses.touch(home, digest, int(self._now()))

    def touched(self, digest: Digest) -> bool:
        return digest in self._uses

    async def flush(self) -> None:
        until = self._redis.deadline()
        await self._flushing.acquire()
        try:
            # What is told meanwhile is for the next flush, or this one might never end.
            left = len(self._uses)
            while left > 0 and (batch := self._uses.take(min(left, USES_PER_COMMAND))):
                left -= len(batch)
                await self._write_uses(batch, until)
        finally:
            self._flushing.release()

    async def _write_uses(self, batch: Mapping[Use, int], until: float) -> None:
        try:
            await self._blobs.touch(batch, until)
        except BaseException:
            self._uses.put_back(batch)
            raise

    async def _flush_quietly(self) -> None:
        """Flush, and log a failure once, until it works again. Raises nothing: a LoopingCall ends at an
        exception."""
        try:
            await self.flush()
        except CancelledError:
            raise
        except IndexUnavailable as error:
            if not self._flush_failed:
                self._log.warn(
                    "cache index: the last uses of {count} blobs wait to be written: {error}",
                    count=len(self._uses),
                    error=str(error),
                )
            self._flush_failed = True
        except Exception:
            self._log.failure("cache index: could not write the last uses")
        else:
            self._flush_failed = False

    def _flusher_ended(self, failure: Failure) -> None:
        self._log.failure("cache index: last uses are not written any more", failure=failure)

    async def _stop_server(self) -> None:
        if self._server is not None:
            await self._server.stop()

    async def _prepare(self, wire: Wire) -> None:
        """What each new connection begins with."""
        await sign_in(wire, self._credentials, self._database)
        await self._check_schema(wire)
        await self._check_policy(wire)

    async def _check_schema(self, wire: Wire) -> None:
        found = await wire.send("GET", codec.SCHEMA_KEY)
        if found is None:
            await wire.send("SET", codec.SCHEMA_KEY, codec.SCHEMA, "NX")
            found = await wire.send("GET", codec.SCHEMA_KEY)
        text = found.decode("utf-8", "replace") if isinstance(found, bytes) else repr(found)
        if text == codec.RESTORING:
            raise IncompatibleSchema(
                f"the cache index at {self._name} is restored in part only: run depproxy restore again"
            )
        if text != str(codec.SCHEMA):
            raise IncompatibleSchema(
                f"the cache index at {self._name} has schema {text!r}, and this version of depproxy knows"
                f" {codec.SCHEMA}: run the version that wrote it, or use another database"
            )

    async def _check_policy(self, wire: Wire) -> None:
        """Warn where Redis may throw away entries by itself: then sums go wrong, and cached blobs are
        forgotten."""
        try:
            info = await wire.send("INFO", "memory")
        except ReplyError:
            info = b""
        found = re.search(rb"^maxmemory_policy:(\S+)", info, re.M) if isinstance(info, bytes) else None
        policy = found[1].decode("ascii", "replace") if found else "one that it does not tell"
        if policy not in ("noeviction", self._policy):
            self._log.warn(
                "cache index: the maxmemory-policy of Redis at {name} is {policy}. It must be noeviction, or Redis"
                " throws away entries of the cache index when its memory is full: cached blobs are forgotten, and"
                " sums are wrong.",
                name=self._name,
                policy=policy,
            )
        self._policy = policy
