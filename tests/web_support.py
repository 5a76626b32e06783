"""The faces on real sockets of this process, a client that may misbehave, and what stands behind the faces."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, TypeVar, cast

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.resource import IResource

from depproxy.access.gate import Gate
from depproxy.access.groups import Groups
from depproxy.access.keys import KeyRing
from depproxy.access.networks import Networks
from depproxy.access.portal import Accounts
from depproxy.access.tokens import Tokens
from depproxy.cache.background import Background
from depproxy.cache.blobs import Blobs
from depproxy.cache.contents import Contents
from depproxy.cache.documents import Documents
from depproxy.cache.entries import Entries
from depproxy.cache.fill import Fill
from depproxy.cache.interface import BlobSource, Outcome
from depproxy.cache.links import Links
from depproxy.cache.manifests import Manifests
from depproxy.cache.purge import Purger, Purges
from depproxy.cache.questions import Questions
from depproxy.cache.removal import Remover
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.config import CacheSettings, GroupSettings, MirrorSettings, UpstreamSettings
from depproxy.index.interface import Home
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name
from depproxy.storage.files import FileStore
from depproxy.storage.interface import OpenBlob
from depproxy.upstream.errors import NotFound
from depproxy.upstream.interface import IBlobStream, IBodySink
from depproxy.web.addresses import Addresses
from depproxy.web.origin import Origin
from depproxy.web.registry import Registry
from depproxy.web.site import Faces
from depproxy.web.status import STATUS_PATHS, Status
from tests.certificates import Authority
from tests.fakes import MemoryIndex, MemoryStream, MemoryUpstream, MemoryUpstreams

REACTOR: Any = reactor
T = TypeVar("T")

LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
ELSEWHERE = (IPv4Network("192.0.2.0/24"),)
PUBLIC_URL = "http://cache.example:5000"


async def until(true: Callable[[], object]) -> None:
    """Wait for a condition; the test's own timeout ends it where that never comes."""
    while not true():
        await deferLater(REACTOR, 0.005)


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


class Turns:
    """A ThreadRunner without threads: in the reactor's next turn, because no thread is done sooner."""

    def __init__(self) -> None:
        self.pending = 0

    def __call__(self, function: Callable[..., T], *args: object) -> Deferred[T]:
        self.pending += 1
        return deferLater(REACTOR, 0, function, *args).addBoth(self._done)

    def _done(self, result: T) -> T:
        self.pending -= 1
        return result


# The client


class CutShort(Exception):
    """The connection ended before the answer did."""


@frozen
class Answer:
    """One response. `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The code of the error document, which must be one in every respect."""
        assert self.headers["content-type"] == "application/json", self.headers
        assert self.headers["content-length"] == str(len(self.body))
        (entry,) = json.loads(self.body)["errors"]
        assert set(entry) <= {"code", "message", "detail"}
        assert entry["message"]
        return cast(str, entry["code"])


class Client(Protocol):
    """A connection that sends any bytes, at any pace, and keeps what comes back."""

    def __init__(self) -> None:
        self.data = b""
        self.reason: Failure | None = None
        self.received = 0
        self._changed: list[Deferred[None]] = []
        self.opened: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.opened.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.received += len(data)
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, []
        for waiter in changed:
            waiter.callback(None)

    @property
    def socket(self) -> socket.socket:
        return cast(socket.socket, cast(Any, self.transport).getHandle())

    def send(self, *parts: bytes) -> None:
        cast(Any, self.transport).write(b"".join(parts))

    def ask(self, path: str, method: str = "GET", **headers: str) -> None:
        """Send a request; underscores in names of headers stand for hyphens."""
        lines = [f"{method} {path} HTTP/1.1", "Host: cache.test:5000"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def stop_sending(self) -> None:
        """Close our half of the connection."""
        cast(Any, self.transport).loseWriteConnection()

    def stop_reading(self) -> None:
        cast(Any, self.transport).pauseProducing()

    def read_on(self) -> None:
        cast(Any, self.transport).resumeProducing()

    async def read_some(self) -> int:
        """Let some more bytes in, then stop again; how many came."""
        before = self.received
        self.read_on()
        await self.until(lambda: self.received > before or self.reason is not None)
        self.stop_reading()
        return self.received - before

    def leave(self) -> None:
        """Be gone, as a killed process is."""
        cast(Any, self.transport).abortConnection()

    def say_goodbye(self) -> None:
        """Close, as a client does that has changed its mind."""
        self.read_on()
        cast(Any, self.transport).loseConnection()

    async def until(self, true: Callable[[], T]) -> T:
        """The first true value, asked whenever something was received."""
        while not (value := true()):
            changed: Deferred[None] = Deferred()
            self._changed.append(changed)
            await changed
        return value

    async def enough(self, count: int) -> None:
        """Wait until `count` bytes were received in all."""
        await self.until(lambda: self.received >= count)

    async def end(self) -> bool:
        """Wait for the end of the connection; whether it was a clean one."""
        await self.until(lambda: self.reason is not None)
        assert self.reason is not None
        return self.reason.check(ConnectionDone) is not None

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        await self.until(lambda: b"\r\n\r\n" in self.data or self.reason is not None)
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            raise CutShort(self.data)
        self.data = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.[01] ([0-9]{3}) .*", first)
        assert match, first
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} is there twice"
            headers[name.lower()] = value
        return int(match[1]), headers

    async def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        await self.until(lambda: len(self.data) >= count or self.reason is not None)
        taken, self.data = self.data[:count], self.data[count:]
        if len(taken) < count:
            raise CutShort(taken)
        return taken

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, read as a client of `method` has to."""
        status, headers = await self.head()
        return Answer(status, headers, await self._body(method, status, headers))

    async def _body(self, method: str, status: int, headers: Mapping[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            return await self._chunks()
        if "content-length" in headers:
            return await self.take(int(headers["content-length"]))
        if not await self.end():
            raise CutShort(self.data)
        body, self.data = self.data, b""
        return body

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            await self.until(lambda: b"\r\n" in self.data or self.reason is not None)
            line, found, self.data = self.data.partition(b"\r\n")
            if not found:
                raise CutShort(body)
            size = int(line, 16)
            chunk = await self.take(size + 2)
            if size == 0:
                return body
            body += chunk[:-2]


# The server


def upstream_settings(name: str = "docker.io", **more: Any) -> UpstreamSettings:
    return UpstreamSettings(name, url=f"https://{name}", **more)


UPSTREAMS = {
    "docker.io": upstream_settings(prefixes=("hub",)),
    "ghcr.io": upstream_settings("ghcr.io", prefixes=("github",)),
    "localhost:5001": upstream_settings("localhost:5001"),
}
GROUPS = {
    path: GroupSettings(path, enabled=path != "closed", anonymous=LOOPBACK)
    for path in ("local", "acme", "acme/tools", "a.b/c_d", "closed")
}
HOME = Home("local", "docker.io", Name("library/alpine"))


def addresses(mirror: MirrorSettings | None = None) -> Addresses:
    return Addresses(mirror or MirrorSettings(), UPSTREAMS)


def open_gate(mirror: MirrorSettings | None = None, groups: Mapping[str, GroupSettings] = GROUPS) -> Gate:
    """A gate without accounts: only addresses count, and no key was ever made."""
    tokens = Tokens(KeyRing(Path("/nonexistent"), "HS256"), "depproxy", 900.0, time.time)
    return Gate(Groups(groups, mirror or MirrorSettings()), Accounts([]), tokens)


class WebTestCase(TestCase):
    """Starts servers and clients that end with the test, and keeps the log's lines."""

    timeout = 30

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dpweb-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.logged: list[str] = []
        observer = cast(ILogObserver, self._observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self._clients: list[Client] = []

    def _observe(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def has_logged(self, words: str) -> bool:
        return any(words in line for line in self.logged)

    def failures(self, kind: type[Exception]) -> int:
        """How many failures of a kind were logged; they are no longer errors of the test."""
        return len(cast(Any, self).flushLoggedErrors(kind))

    def faces(
        self,
        registry: Registry,
        *,
        networks: Sequence[IPv4Network | IPv6Network] = LOOPBACK,
        unix_sockets: bool = False,
        status: Status | None = None,
        clock: Any = REACTOR,
        max_connections: int = 100,
        more: Mapping[bytes, IResource] = MappingProxyType({}),
        api: IResource | None = None,
    ) -> Faces:
        index = MemoryIndex(lambda: 0.0)
        status = status or Status(index, index, Metrics(), lambda: 0)
        return Faces(
            registry.app.resource(),
            {**dict.fromkeys(STATUS_PATHS, status.app.resource()), **more},
            api,
            Networks(networks, unix_sockets=unix_sockets),
            Origin((), PUBLIC_URL),
            max_connections,
            clock,
        )

    def listen(self, faces: Faces) -> int:
        """Listen on a port of loopback; which."""
        port = REACTOR.listenTCP(0, faces, interface="127.0.0.1")
        self._end(faces, port)
        return cast(int, port.getHost().port)

    def listen_tls(self, faces: Faces) -> tuple[int, Certificate]:
        """Listen with TLS; the port, and the authority to trust."""
        authority = Authority(str(self.directory / "tls"))
        port = REACTOR.listenSSL(0, faces, authority.server("localhost"), interface="127.0.0.1")
        self._end(faces, port)
        return port.getHost().port, Certificate.loadPEM(authority.file.read_bytes())

    def listen_unix(self, faces: Faces, name: str) -> str:
        path = str(self.directory / name)
        self._end(faces, REACTOR.listenUNIX(path, faces))
        return path

    def _end(self, faces: Faces, port: IListeningPort) -> None:
        async def end() -> None:
            await maybeDeferred(port.stopListening)
            for client in self._clients:
                if client.reason is None:
                    client.leave()
            # Nothing is left of anybody, on either side.
            await until(lambda: not faces.channels and all(client.reason for client in self._clients))

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))

    async def client(self, port: int | str, receive_buffer: int = 0) -> Client:
        """A connection to a port, or to a Unix socket."""
        factory = _Clients(receive_buffer)
        if isinstance(port, str):
            REACTOR.connectUNIX(port, factory)
        else:
            REACTOR.connectTCP("127.0.0.1", port, factory)
        await factory.client.opened
        self._clients.append(factory.client)
        return factory.client

    async def tls_client(
        self,
        port: int,
        trust: Certificate,
        protocols: Sequence[bytes] = (),
        receive_buffer: int = 0,
        certificate: PrivateCertificate | None = None,
    ) -> Client:
        factory = _Clients(receive_buffer)
        options = optionsForClientTLS("localhost", trust, certificate, acceptableProtocols=list(protocols) or None)
        REACTOR.connectSSL("127.0.0.1", port, factory, options)
        await factory.client.opened
        self._clients.append(factory.client)
        return factory.client


class _Clients(ClientFactory):
    noisy = False

    def __init__(self, receive_buffer: int) -> None:
        self._receive_buffer = receive_buffer
        self.client = Client()

    def startedConnecting(self, connector: Any) -> None:
        if self._receive_buffer:
            connector.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)

    def buildProtocol(self, addr: object) -> Client:
        return self.client

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.client.opened.errback(reason)


# Behind the faces: blobs that grow by hand


class Source:
    """A `BlobSource` over a real file, whose bytes become readable when the test says so."""

    def __init__(self, opened: OpenBlob, size: int | None, readable: int, outcome: Outcome = Outcome.HIT) -> None:
        self.fd = opened.fd
        self.size = size
        self.readable = readable
        self.failure: Exception | None = None
        self.outcome = outcome
        self.fetched = 0
        self.closed = False
        self._opened = opened
        self._changed: Callable[[], None] | None = None

    def stored(self) -> Deferred[bool]:
        return succeed(self.readable == self.size)

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        self._opened.close()

    def grow(self, readable: int) -> None:
        """Let the bytes up to `readable` be read."""
        self.readable = readable
        self.tell()

    def fail(self, error: Exception) -> None:
        self.failure = error
        self.tell()

    def tell(self) -> None:
        if self._changed is not None and not self.closed:
            self._changed()


class Shelf:
    """What the registry face needs of `Blobs`: whole blobs of a real store, and sources made by the test."""

    def __init__(self, root: Path) -> None:
        self.store = FileStore(root, Turns())
        self.store.prepare()
        self.sources: list[Source] = []
        self.make: Callable[[OpenBlob], Source] = lambda opened: Source(opened, opened.size, opened.size)

    async def put(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        await self.store.write(digest, data)
        return digest

    def path(self, digest: Digest) -> Path:
        (path,) = (self.store._root / "blobs").rglob(digest.encoded)
        return path

    async def open(self, home: Home, digest: Digest) -> BlobSource:
        opened = self.store.open(digest)
        if opened is None:
            raise NotFound(home.upstream, f"no blob {digest}", 404)
        self.sources.append(self.make(opened))
        return self.sources[-1]

    async def stat(self, home: Home, digest: Digest) -> tuple[int | None, Outcome]:
        size = self.store.contains(digest)
        if size is None:
            raise NotFound(home.upstream, f"no blob {digest}", 404)
        return size, Outcome.HIT


def shelf_registry(shelf: Shelf, clock: Any, stall_timeout: float, metrics: Metrics) -> Registry:
    """The registry face over a shelf; of manifests and documents it knows nothing."""
    nothing = cast(Any, None)
    return Registry(addresses(), open_gate(), nothing, cast(Blobs, shelf), nothing, clock, stall_timeout, metrics)


# Behind the faces: the real cache before an upstream in memory


class FlowingStream(MemoryStream):
    """A blob body that comes by itself; with a gate, no further than that before `finish()`."""

    def __init__(self, upstream: str, data: bytes, offset: int, size: int | None, gate: int | None) -> None:
        super().__init__(upstream, data, offset, size)
        self._gate = gate

    def start(self, sink: IBodySink) -> None:
        super().start(sink)
        if self._gate is None:
            self.finish()
        else:
            self.send(self._gate)


class FlowingUpstream(MemoryUpstream):
    """Its blob bodies come by themselves, up to `gate`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate: int | None = None

    async def open_blob(self, repository: Name, digest: Digest, offset: int = 0, *, retry: bool = True) -> IBlobStream:
        stream = await super().open_blob(repository, digest, offset, retry=retry)
        data = self.blobs[repository, digest]
        self.streams[-1] = FlowingStream(self.name, data, stream.offset, stream.size, self.gate)
        return self.streams[-1]

    def fail(self, error: Exception | None) -> None:
        """Raise `error` from now on, whatever is asked; None ends that."""
        methods = ("head_manifest", "get_manifest", "head_blob", "open_blob", "get_document")
        self.errors = {} if error is None else dict.fromkeys(methods, error)

    def answer(self) -> None:
        """Answer the questions that wait, and those to come."""
        self.held = False
        self.release()


class Cache:
    """The real cache: files below `root`, an index in memory, upstreams in memory."""

    def __init__(self, root: Path, clock: Any = REACTOR) -> None:
        self.metrics = metrics = Metrics()
        self.index = MemoryIndex(lambda: 1_700_000_000.0)
        self._turns = Turns()
        self.store = FileStore(root, self._turns)
        self.store.prepare()
        self.upstreams = {name: FlowingUpstream(name) for name in UPSTREAMS}
        self.hub = self.upstreams["docker.io"]
        self.background = Background(metrics)
        tags, links = Tags(self.index, self.background, metrics), Links(self.index, self.background, metrics)
        uses = Uses(clock)
        settings = CacheSettings()
        entries = Entries(self.index, metrics)
        upstreams = MemoryUpstreams(*self.upstreams.values())
        questions = Questions(upstreams, settings.negative_ttl, clock)
        self.manifests = Manifests(
            self.store,
            self.index,
            entries,
            tags,
            links,
            uses,
            questions,
            self.background,
            settings,
            UPSTREAMS,
            clock,
            metrics,
        )
        self.blobs = Blobs(self.store, self.index, entries, links, uses, upstreams, clock, Random(), metrics)
        contents = Contents(self.store, self.index)
        remover = Remover(self.store, self.index, self.index, uses, self.manifests.forget, metrics)
        purger = Purger(self.index, self.index, contents, tags, links, uses, remover, lambda: 1_700_000_000.0)
        self.purges = Purges(purger, self.background)
        self.documents = Documents(upstreams, settings.documents_ttl, clock)
        self._clock = clock

    async def settle(self) -> None:
        """Stop what is going on, and wait for what was begun."""
        await self.blobs.stop()
        await until(lambda: not self._turns.pending and not self.blobs.filling())
        await self.background.drain()
        # A fill that has ended may still have a notice to give, to nobody.
        calls = REACTOR.getDelayedCalls
        await until(lambda: not any(isinstance(getattr(call.func, "__self__", None), Fill) for call in calls()))
        self.store.close()

    def registry(
        self,
        mirror: MirrorSettings | None = None,
        stall_timeout: float = 60.0,
        groups: Mapping[str, GroupSettings] = GROUPS,
        gate: Gate | None = None,
    ) -> Registry:
        return Registry(
            addresses(mirror),
            gate or open_gate(mirror, groups),
            self.manifests,
            self.blobs,
            self.documents,
            self._clock,
            stall_timeout,
            self.metrics,
        )
