"""What the tests of the cache index share: a real redis-server, an index on it, and a log that is kept."""

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from depproxy.index.address import Credentials
from depproxy.index.codec import decode_digest
from depproxy.index.interface import Home, TagRecord
from depproxy.index.redis import RedisIndex
from depproxy.index.server import EmbeddedRedis
from depproxy.index.wire import Reply, Word, dial
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name

REACTOR: Any = reactor
T = TypeVar("T")

HOME = Home("acme/tools", "docker.io", Name("library/alpine"))
OTHER = Home("acme", "docker.io", Name("library/alpine"))
BESIDE = Home("acme", "ghcr.io:443", Name("acme/tool"))
DIGESTS = [Digest.of(bytes([number])) for number in range(6)]
A, B, *_ = DIGESTS
RECORD = TagRecord(A, "application/vnd.oci.image.index.v1+json", 1234, 1700000000.25)


class Now:
    """A wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.75

    def __call__(self) -> float:
        return self.time


async def until(true: Callable[[], object]) -> None:
    """Wait for a condition; the test's own timeout ends it where that never comes."""
    while not true():
        await deferLater(REACTOR, 0.01)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def deferred(work: Awaitable[T]) -> Deferred[T]:
    return work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)  # type: ignore[arg-type]


def error_of(work: Awaitable[object]) -> Exception:
    """The error that `work` has failed with already, without a turn of the reactor."""
    errors: list[Exception] = []
    running: Any = deferred(work)
    running.addErrback(lambda failure: errors.append(failure.value))
    assert running.called, "it is still waiting"
    assert errors, "it did not fail"
    return errors[0]


@implementer(ILogObserver)
class Log:
    """Every line that is logged, as it reads."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))

    def count(self, words: str) -> int:
        return sum(words in line for line in self.lines)


class Raw:
    """Redis as it is, past the index."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, *words: Word) -> Reply:
        wire = await dial(self._endpoint)
        try:
            return await wire.send(*words)
        finally:
            wire.close()
            await wire.lost()

    async def used(self) -> dict[Digest, int]:
        reply = await self("ZRANGE", "depproxy:2:used", 0, -1, "WITHSCORES")
        assert isinstance(reply, list)
        words = [item for item in reply if isinstance(item, bytes)]
        return {decode_digest(member): int(score) for member, score in zip(words[::2], words[1::2], strict=True)}


class DirectoryTestCase(TestCase):
    """With a directory `data` for this test, and a `log`."""

    timeout = 60

    def setUp(self) -> None:
        self.now = Now()
        self.data = Path(tempfile.mkdtemp(prefix="dp-"))
        self.addCleanup(shutil.rmtree, self.data, ignore_errors=True)
        self.log = Log()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)

    def make_server(
        self, data: Path | None = None, environ: dict[str, str] | None = None, **limits: float
    ) -> EmbeddedRedis:
        """A private redis-server, not started; stopped when the test ends."""
        server = EmbeddedRedis(REACTOR, data or self.data, environ or dict(os.environ), **limits)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        return server


class RedisTestCase(DirectoryTestCase):
    """With a redis-server of its own."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.server = self.make_server()
        await self.server.start()
        self.raw = Raw(self.server)
        await self.prepare()

    async def prepare(self) -> None:
        """What else is to be there before each test."""

    def make(
        self,
        endpoint: IStreamClientEndpoint | None = None,
        clock: IReactorTime = REACTOR,
        credentials: Credentials | None = None,
        database: int = 0,
    ) -> RedisIndex:
        index = RedisIndex(clock, self.now, endpoint or self.server, "R", credentials=credentials, database=database)
        self.addCleanup(lambda: self.on(clock, index.stop()))
        return index

    async def started(self, **options: Any) -> RedisIndex:
        index = self.make(**options)
        await self.on(options.get("clock", REACTOR), index.start())
        return index

    def on(self, clock: IReactorTime, work: Awaitable[T]) -> Deferred[T]:
        """Run `work`; where its clock is a fake one, let no time pass on it, but turn it."""
        done = deferred(work)
        if not isinstance(clock, Clock):
            return done

        async def turned() -> T:
            while not done.called:
                clock.advance(0)
                await deferLater(REACTOR, 0.001)
            return await done

        return Deferred.fromCoroutine(turned())
