"""A registry, its token endpoint and its CDN on real loopback sockets, small but faithful, for tests of upstreams.

`Server` answers by path, counts, and knows which connections are open. `Registry` is one that speaks the pull part
of the distribution-spec with bearer or Basic authentication. `Raw` answers with bytes, for what no HTTP library
would send.
"""

from __future__ import annotations

import base64
import gc
import json
from collections.abc import Awaitable, Callable
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from attrs import define, field, frozen
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import TestCase
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from depproxy.config import UpstreamSettings
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_MANIFEST
from depproxy.upstream.client import RegistryClient, make_upstream
from depproxy.upstream.errors import UpstreamError
from depproxy.upstream.interface import IBodySink

# Typed as what it is at run time.
reactor: Any = _reactor

Error = TypeVar("Error", bound=UpstreamError)
Listens = TypeVar("Listens", bound="Listening")


@frozen
class Seen:
    """A request as it came in; names of headers in lower case."""

    method: str
    uri: bytes
    headers: dict[str, list[str]]

    @property
    def path(self) -> str:
        return self.uri.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.uri.decode("latin-1")).query)

    def header(self, name: str) -> str | None:
        """The only value, None if there is none."""
        values = self.headers.get(name.lower(), [])
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None


class Connections(WrappingFactory):
    """Knows the open connections of a server, and tells when something changes."""

    noisy = False

    def __init__(self, wrapped: Any, changed: Callable[[], object]) -> None:
        super().__init__(wrapped)  # type: ignore[no-untyped-call]
        self.accepted = 0
        self._changed = changed

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        super().registerProtocol(p)  # type: ignore[no-untyped-call]
        self.accepted += 1
        self._changed()

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        super().unregisterProtocol(p)  # type: ignore[no-untyped-call]
        self._changed()


class Listening:
    """A factory on a loopback port. `close` drops what is open, and fires when all is gone."""

    scheme = "http"

    def __init__(self, reactor: Any, factory: Any, *, context: Any = None) -> None:
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self.factory = Connections(factory, self.look)
        if context is None:
            self._port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        else:
            self.scheme = "https"
            self._port = reactor.listenSSL(0, self.factory, context, interface="127.0.0.1")
        self.port: int = self._port.getHost().port

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def alias(self) -> str:
        """Its URL by another host name."""
        return f"{self.scheme}://localhost:{self.port}"

    @property
    def accepted(self) -> int:
        """How many connections there were."""
        return self.factory.accepted

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self.factory.protocols)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as something happens here after which the condition holds, or at once."""
        done: Deferred[None] = Deferred()
        self._waiting.append((condition, done))
        self.look()
        return done

    def gone(self) -> Deferred[None]:
        """Fires when no connection is open."""
        return self.until(lambda: self.open == 0)

    def look(self) -> None:
        for entry in [entry for entry in self._waiting if entry[0]()]:
            self._waiting.remove(entry)
            entry[1].callback(None)

    async def close(self) -> None:
        await self._port.stopListening()
        for protocol in list(self.factory.protocols):
            protocol.transport.abortConnection()
        await self.gone()


# Writes the answer, or keeps the request for later if it returns NOT_DONE_YET.
Responder = Callable[["Call"], object]


class Call:
    """A request that is being answered."""

    def __init__(self, request: Request, seen: Seen) -> None:
        self.request = request
        self.seen = seen

    def answer(self, status: int, body: bytes = b"", **headers: str) -> object:
        """The whole answer; `Content_Type="..."` sets Content-Type. A HEAD gets the headers."""
        self.begin(status, length=len(body), **headers)
        self.request.write(b"" if self.seen.method == "HEAD" else body)
        return None

    def begin(self, status: int, length: int | None = None, **headers: str) -> object:
        """The headers alone; without a length the body comes in chunks. Go on with `request`."""
        self.request.setResponseCode(status)
        if length is not None:
            self.request.setHeader("Content-Length", str(length))
        for name, value in headers.items():
            self.request.setHeader(name.replace("_", "-"), value)
        return NOT_DONE_YET

    def cut(self) -> object:
        """Close the connection under the answer."""
        transport: Any = self.request.transport
        transport.abortConnection()
        return NOT_DONE_YET


def answers(status: int, body: bytes = b"", **headers: str) -> Responder:
    """A responder that always answers so."""
    return lambda call: call.answer(status, body, **headers)


@implementer(IResource)
class _Root:
    """Everything, at every path."""

    isLeaf = True

    def __init__(self, server: Server) -> None:
        self._server = server

    def getChildWithDefault(self, name: bytes, request: Request) -> _Root:
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        raise NotImplementedError

    def render(self, request: Request) -> object:
        return self._server.render(request)


class Server(Listening):
    """Answers each path by its responder in `paths`, others by `fallback`. `seen` has all requests in order."""

    def __init__(self, reactor: Any, *, context: Any = None) -> None:
        site = Site(_Root(self))
        site.noisy = False
        super().__init__(reactor, site, context=context)
        self.paths: dict[str, Responder] = {}
        self.seen: list[Seen] = []
        self.calls: list[Call] = []

    def fallback(self, call: Call) -> object:
        """The answer where nothing else is set."""
        return call.answer(404)

    def render(self, request: Request) -> object:
        headers = {
            name.decode().lower(): [value.decode("latin-1") for value in values]
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        seen = Seen(request.method.decode(), request.uri, headers)
        self.seen.append(seen)
        call = Call(request, seen)
        self.calls.append(call)
        request.defaultContentType = None
        request.notifyFinish().addErrback(lambda _: None)
        done = self.paths.get(seen.path, self.fallback)(call)
        self.look()
        return NOT_DONE_YET if done is NOT_DONE_YET else _finish(request)

    def asked(self, *methods: str) -> list[str]:
        """`METHOD path` of what was asked, of these methods or all."""
        return [f"{seen.method} {seen.path}" for seen in self.seen if not methods or seen.method in methods]

    def requests(self, number: int) -> Deferred[None]:
        """Fires when so many requests have come in."""
        return self.until(lambda: len(self.seen) >= number)


def _finish(request: HTTPRequest) -> object:
    request.finish()
    return NOT_DONE_YET


@define
class Account:
    """Who may pull, in bearer and Basic authentication."""

    username: str
    password: str

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Registry(Server):
    """The pull part of a registry. `authentication` is None, `bearer` or `basic`.

    Its own token endpoint is `/token`; `realm` may point to another one. Tokens are `t1`, `t2`, ...; each is good
    for its repository until it is taken out of `tokens`. With an `account` nobody else gets one.
    """

    def __init__(self, reactor: Any, *, context: Any = None) -> None:
        super().__init__(reactor, context=context)
        self.authentication: str | None = None
        self.account: Account | None = None
        self.realm = f"{self.url}/token"
        self.challenge_scope: str | None = None
        self.tokens: dict[str, str] = {}
        self.issued = 0
        self.life: object = 300
        self.token_name = "token"
        self.head_blobs = True
        self.ranges = True
        self.cdn: str | None = None
        self.headers: dict[str, str] = {}
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.paths["/token"] = self.token

    def put_blob(self, body: bytes) -> Digest:
        digest = Digest.of(body)
        self.blobs[digest] = body
        return digest

    def put_manifest(self, tag: str, body: bytes, media_type: str = OCI_MANIFEST) -> Digest:
        digest = Digest.of(body)
        self.manifests[tag] = self.manifests[digest] = (media_type, body)
        return digest

    @property
    def token_requests(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == "/token"]

    def token(self, call: Call) -> object:
        """The token endpoint."""
        if self.account is not None and call.seen.header("Authorization") != self.account.basic:
            return call.answer(401, json.dumps({"details": "incorrect username or password"}).encode())
        self.issued += 1
        value = f"t{self.issued}"
        for scope in call.seen.query.get("scope", []):
            self.tokens[value] = f"{self.tokens.get(value, '')} {scope}"
        answer = {self.token_name: value, "expires_in": self.life}
        return call.answer(200, json.dumps(answer).encode(), Content_Type="application/json")

    def fallback(self, call: Call) -> object:
        parts = call.seen.path.split("/")
        if parts[1] != "v2" or len(parts) < 5:
            return call.answer(404)
        name, kind, what = "/".join(parts[2:-2]), parts[-2], parts[-1]
        if not self._allowed(call, name) or (kind == "blobs" and call.seen.method == "HEAD" and not self.head_blobs):
            return self.challenge(call, name)
        if kind == "manifests":
            return self._manifest(call, what)
        if kind == "blobs":
            return self._blob(call, what)
        return self._not_found(call, "NAME_UNKNOWN")

    def challenge(self, call: Call, name: str) -> object:
        """401, with what to do about it."""
        scope = self.challenge_scope or f"repository:{name}:pull"
        wanted = f'Bearer realm="{self.realm}",service="fake",scope="{scope}"'
        if self.authentication == "basic":
            wanted = 'Basic realm="fake"'
        body = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        return call.answer(401, json.dumps(body).encode(), WWW_Authenticate=wanted)

    def _allowed(self, call: Call, name: str) -> bool:
        sent = call.seen.header("Authorization") or ""
        if self.authentication == "basic":
            return self.account is not None and sent == self.account.basic
        if self.authentication == "bearer":
            wanted = self.challenge_scope or f"repository:{name}:pull"
            return wanted in self.tokens.get(sent.removeprefix("Bearer "), "").split()
        return True

    def _manifest(self, call: Call, reference: str) -> object:
        if reference not in self.manifests:
            return self._not_found(call, "MANIFEST_UNKNOWN")
        media_type, body = self.manifests[reference]
        return call.answer(200, body, Content_Type=media_type, Docker_Content_Digest=Digest.of(body), **self.headers)

    def _blob(self, call: Call, reference: str) -> object:
        digest = Digest(reference)
        if digest not in self.blobs:
            return self._not_found(call, "BLOB_UNKNOWN")
        if self.cdn is not None:
            return call.answer(307, b"see there", Location=self.cdn)
        return send_blob(call, self.blobs[digest], ranges=self.ranges)

    def _not_found(self, call: Call, code: str) -> object:
        body = {"errors": [{"code": code, "message": "not here"}]}
        return call.answer(404, json.dumps(body).encode(), Content_Type="application/json")


def send_blob(call: Call, body: bytes, *, ranges: bool = True) -> object:
    """A blob as a static file server sends it, or its end from where an open-ended Range begins."""
    asked = call.seen.header("Range")
    if asked is None or not ranges:
        return call.answer(200, body, Content_Type="application/octet-stream")
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(body):
        return call.answer(416, Content_Range=f"bytes */{len(body)}")
    return call.answer(206, body[start:], Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")


class _RawProtocol(Protocol):
    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._got = b""

    def dataReceived(self, data: bytes) -> None:
        self._got += data
        while b"\r\n\r\n" in self._got:
            head, _, self._got = self._got.partition(b"\r\n\r\n")
            self._raw.heads.append(head)
            answer = self._raw.answers.pop(0) if self._raw.answers else None
            if answer is not None and self.transport is not None:
                self.transport.write(answer)
                if self._raw.close_after:
                    self.transport.loseConnection()
            self._raw.look()


@define
class _RawFactory(Factory):
    raw: Raw = field(init=False)
    noisy = False

    def buildProtocol(self, addr: object) -> Protocol:
        return _RawProtocol(self.raw)


class Raw(Listening):
    """Answers the requests with the bytes in `answers`, in order, then with nothing; `heads` are the requests."""

    def __init__(self, reactor: Any, *answers: bytes | None, close_after: bool = False, context: Any = None) -> None:
        self.answers = list(answers)
        self.close_after = close_after
        self.heads: list[bytes] = []
        factory = _RawFactory()
        factory.raw = self
        super().__init__(reactor, factory, context=context)

    def has_seen(self, number: int) -> bool:
        """Whether so many requests have come in."""
        return len(self.heads) >= number


class UpstreamCase(TestCase):
    """Builds servers and clients, and proves at the end that nothing is left: connections, permits, timers."""

    timeout = 20

    def setUp(self) -> None:
        self.metrics = Metrics()
        self._clients: list[RegistryClient] = []
        self._servers: list[Listening] = []

    async def tearDown(self) -> None:  # type: ignore[override]  # trial waits for it
        # Out of the call from the parser in which a test may have ended.
        await deferLater(reactor, 0)
        for client in self._clients:
            assert client.connections == 0
            await client.close()
        for server in self._servers:
            await server.close()
        # A forgotten failure is logged when it is collected, and what is logged fails the test.
        gc.collect()

    def directory(self) -> str:
        """A directory that is gone at the end."""
        made = TemporaryDirectory()
        self.addCleanup(made.cleanup)
        return made.name

    def serve(self, server: Listens) -> Listens:
        """Close this server at the end."""
        self._servers.append(server)
        return server

    def registry(self, **attributes: object) -> Registry:
        """A registry with these attributes."""
        registry = self.serve(Registry(reactor))
        for name, value in attributes.items():
            assert hasattr(registry, name)
            setattr(registry, name, value)
        return registry

    def client(
        self,
        url: str | Listening,
        *,
        clock: IReactorTime | None = None,
        jitter: Callable[[], float] = lambda: 0.0,
        **settings: Any,
    ) -> RegistryClient:
        """A client, which does not retry unless told to."""
        text = url if isinstance(url, str) else url.url
        made = UpstreamSettings(**{"name": "fake", "url": text, "retries": 0, **settings})
        client = make_upstream(reactor, made, self.metrics, clock=clock, jitter=jitter)
        self._clients.append(client)
        return client

    async def fails(self, kind: type[Error], waiting: Awaitable[object]) -> Error:
        """The error of exactly this kind."""
        try:
            found = await waiting
        except UpstreamError as error:
            if not isinstance(error, kind) or error.upstream != "fake":
                raise
            return error
        raise AssertionError(f"no error, but {found!r}")

    def counted(self, method: str, status: int) -> float:
        """The metric of upstream requests."""
        return float(self.metrics.upstream_requests.labels("fake", method, str(status))._value.get())


class Ready(Clock):
    """A clock for limits of time on real connections, which tells when somebody begins to wait."""

    def __init__(self) -> None:
        super().__init__()
        self._expected: list[tuple[float, Deferred[None]]] = []

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        call = super().callLater(delay, callable, *args, **kw)
        for entry in [entry for entry in self._expected if entry[0] == delay]:
            self._expected.remove(entry)
            # Not now: whoever waits has not seen its own timer yet.
            reactor.callLater(0, entry[1].callback, None)
        return call

    def waits(self, seconds: float) -> Deferred[None]:
        """Fires when somebody begins to wait for so long."""
        began: Deferred[None] = Deferred()
        self._expected.append((seconds, began))
        return began


@implementer(IBodySink)
class Sink:
    """Keeps what it gets, which `each` sees, too. `done` fires at the end, `first` with the first bytes."""

    def __init__(self, each: Callable[[bytes], object] = lambda data: None) -> None:
        self.data = bytearray()
        self.ends: list[UpstreamError | None] = []
        self.done: Deferred[None] = Deferred()
        self._enough: list[tuple[int, Deferred[None]]] = []
        self.first = self.holds(1)
        self._each = each

    def holds(self, number: int) -> Deferred[None]:
        """Fires when there are so many bytes."""
        enough: Deferred[None] = Deferred()
        self._enough.append((number, enough))
        return enough

    def received(self, data: bytes) -> None:
        assert not self.ends, "data after the end"
        self.data += data
        self._each(data)
        for entry in [entry for entry in self._enough if entry[0] <= len(self.data)]:
            self._enough.remove(entry)
            entry[1].callback(None)

    def ended(self, error: UpstreamError | None) -> None:
        self.ends.append(error)
        if not self.done.called:
            self.done.callback(None)
