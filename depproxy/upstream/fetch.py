"""Small requests to services that are no registries, such as a GitLab or an issuer of ID tokens: `Fetcher`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final, TypeVar

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.web._newclient import HTTP11ClientProtocol, Request
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from depproxy import __version__
from depproxy.metrics import Metrics
from depproxy.upstream.agent import IDLE, Limits
from depproxy.upstream.body import read
from depproxy.upstream.client import QuietPool
from depproxy.upstream.connect import Direct, IRoutes, ThroughProxy, https_policy
from depproxy.upstream.errors import Invalid, Unavailable, UpstreamError
from depproxy.upstream.failures import explain
from depproxy.upstream.interface import Fetched, IFetcher
from depproxy.upstream.redirects import Url
from depproxy.upstream.waiting import Permits, TimedOut, bounded

_T = TypeVar("_T")

MAX_BODY: Final = 1024 * 1024
# Requests at a time; more wait for their turn, which counts into their time.
MAX_CONNECTIONS: Final = 16

_AGENT: Final = f"depproxy/{__version__}"
# Seconds that connections in the pool get to say goodbye.
_FAREWELL: Final = 2.0


@implementer(IBodyProducer)
class _Bytes:
    """A body that is there already. treq's own would take the global reactor to send it in pieces."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written already."""

    def resumeProducing(self) -> None:
        """It is written already."""

    def stopProducing(self) -> None:
        """It is written already."""


@implementer(IAgent)
class _Agent:
    """One request, one answer, and nothing in between that would change either. Raises UpstreamError."""

    def __init__(self, clock: IReactorTime, pool: HTTPConnectionPool, routes: IRoutes, limits: Limits) -> None:
        self._clock = clock
        self._pool = pool
        self._routes = routes
        self._limits = limits

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """The answer, its body not yet read."""
        return Deferred.fromCoroutine(self._send(method, Url.parse(uri), headers or Headers(), bodyProducer))

    async def _send(self, method: bytes, url: Url, headers: Headers, body: IBodyProducer | None) -> IResponse:
        try:
            return await self._exchange(method, url, headers, body)
        except (UpstreamError, CancelledError):
            raise
        except Exception as error:
            raise Unavailable(url.netloc, explain(error)) from error

    async def _exchange(self, method: bytes, url: Url, headers: Headers, body: IBodyProducer | None) -> IResponse:
        route = self._routes.route(url)
        headers = headers.copy()
        headers.setRawHeaders(b"Host", [url.netloc.encode()])
        # Instead of the gzip that treq asks for, and would decode without a limit.
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        request = Request(method, route.target, headers, body, persistent=True)
        connecting = self._pool.getConnection(route.key, route.endpoint)
        connection = await self._within(connecting, self._limits.connect, "connection", url, _close)
        answering = connection.request(request)
        response: IResponse = await self._within(answering, self._limits.first_byte, "answer", url, lambda _: None)
        response.headers.removeHeader(b"Content-Encoding")
        return response

    async def _within(self, waiting: Deferred[_T], seconds: float, what: str, url: Url, late: Any) -> _T:
        try:
            return await bounded(waiting, self._clock, seconds, late)
        except TimedOut:
            raise Unavailable(url.netloc, f"no {what} within {seconds:g} s") from None


def _close(connection: HTTP11ClientProtocol) -> None:
    connection.abort()


@implementer(IFetcher)
class Fetcher:
    """`IFetcher`, with one pool of connections. Built by `make_fetcher`; to be closed.

    The whole of an answer must be there ``timeout`` seconds after it was asked for, and no two bytes of its body
    more than ``silence`` seconds apart. ``plain`` are the hosts that may be asked by http, with their ports where
    they have one. Errors name the host as their ``upstream``.
    """

    def __init__(
        self,
        reactor: Any,
        clock: IReactorTime,
        *,
        pool: HTTPConnectionPool,
        routes: IRoutes,
        limits: Limits,
        silence: float,
        timeout: float,
        plain: frozenset[str],
        metrics: Metrics | None,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._pool = pool
        self._silence = silence
        self._timeout = timeout
        self._plain = plain
        self._metrics = metrics
        # No cookie: it would carry one account's session into another one's request.
        jar = IndexableCookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._client = HTTPClient(_Agent(clock, pool, routes, limits), jar, _Bytes)
        self._permits = Permits(MAX_CONNECTIONS)
        self._running: set[Deferred[Fetched]] = set()

    @property
    def connections(self) -> int:
        """How many connections are in use."""
        return self._permits.held

    async def fetch(self, method: str, url: str, headers: Mapping[str, str] = {}, body: bytes | None = None) -> Fetched:
        """See `IFetcher`."""
        host = self._allowed(url).netloc
        sent = _headers(host, headers)
        waiting = Deferred.fromCoroutine(self._fetch(host, method, url, sent, body))
        self._running.add(waiting)
        waiting.addBoth(self._left, waiting)
        try:
            return await bounded(waiting, self._clock, self._timeout, lambda _: None)
        except TimedOut:
            raise Unavailable(host, f"no whole answer within {self._timeout:g} s") from None

    async def close(self) -> None:
        """Give up what is under way (who waits for it gets CancelledError), and close idle connections."""
        for waiting in tuple(self._running):
            waiting.cancel()
        with suppress(TimedOut):
            await bounded(self._pool.closeCachedConnections(), self._clock, _FAREWELL, lambda _: None)

    def _left(self, outcome: _T, waiting: Deferred[Fetched]) -> _T:
        self._running.discard(waiting)
        return outcome

    def _allowed(self, url: str) -> Url:
        try:
            parsed = Url.parse(url.encode())
        except ValueError:
            raise Invalid("a request", "its URL is no http or https URL with a host") from None
        if parsed.scheme != "https" and parsed.netloc not in self._plain:
            raise Invalid(parsed.netloc, "it is asked by https alone, and its URL is http")
        return parsed

    async def _fetch(self, host: str, method: str, url: str, headers: Headers, body: bytes | None) -> Fetched:
        permit = await self._permits.acquire(long=False)
        try:
            response = await self._answer(host, method, url, headers, body)
            content = await read(response, host, self._clock, self._silence, MAX_BODY)
        finally:
            permit.release()
        received = {
            name.decode("latin-1").lower(): values[0].decode("latin-1").strip()
            for name, values in response.headers.getAllRawHeaders()
        }
        return Fetched(response.code, received, content)

    async def _answer(self, host: str, method: str, url: str, headers: Headers, body: bytes | None) -> IResponse:
        status = 0
        try:
            response = await self._client.request(
                method, url, headers=headers, data=body, allow_redirects=False, unbuffered=True, reactor=self._reactor
            )
            status = response.code
            return response
        except (UpstreamError, CancelledError):
            raise
        except Exception as error:
            # Its text may be about the headers or the URL, and those may hold secrets.
            raise Unavailable(host, f"the request could not be sent ({type(error).__name__})") from None
        finally:
            if self._metrics is not None:
                self._metrics.upstream_requests.labels(host, method, str(status)).inc()


def _headers(host: str, headers: Mapping[str, str]) -> Headers:
    """Raises Invalid where a value cannot stand in a header (RFC 9110 section 5.5): a part of it would be lost, and it
    may be somebody's password."""
    made = Headers({"User-Agent": [_AGENT]})
    for name, value in headers.items():
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raw = b"\0"
        if any(byte < 32 or byte == 127 for byte in raw) or raw != raw.strip():
            raise Invalid(host, f"the value of the header {name} cannot be sent")
        made.setRawHeaders(name.encode("ascii"), [raw])
    return made


def make_fetcher(
    reactor: Any,
    *,
    named: Iterable[str] = (),
    ca_file: Path | None = None,
    proxy: str | None = None,
    connect_timeout: float = 5.0,
    first_byte_timeout: float = 10.0,
    silence_timeout: float = 10.0,
    timeout: float = 15.0,
    metrics: Metrics | None = None,
    clock: IReactorTime | None = None,
) -> Fetcher:
    """A fetcher with connections of its own.

    ``named`` are URLs that the configuration names: the host and port of one that is http may be asked by http.
    ``ca_file`` is trusted beside the platform's authorities, ``proxy`` is the URL of a forward proxy. ``timeout``
    bounds the whole of a request in seconds, the other three its parts. ``clock`` measures all limits of time; the
    reactor does by default.
    """
    time = reactor if clock is None else clock
    pool = QuietPool(time, persistent=True)  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated.
    pool.maxPersistentPerHost = MAX_CONNECTIONS
    pool.cachedConnectionTimeout = IDLE
    policy = https_policy(ca_file)
    routes: IRoutes = Direct(reactor, policy, connect_timeout)
    if proxy is not None:
        routes = ThroughProxy(reactor, policy, connect_timeout, proxy)
    urls = [Url.parse(url.encode()) for url in named]
    return Fetcher(
        reactor,
        time,
        pool=pool,
        routes=routes,
        limits=Limits(connect_timeout, first_byte_timeout),
        silence=silence_timeout,
        timeout=timeout,
        plain=frozenset(url.netloc for url in urls if url.scheme == "http"),
        metrics=metrics,
    )
