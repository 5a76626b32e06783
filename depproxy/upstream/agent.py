"""The agent under treq: connections, redirects and limits of time, and nothing that would change the bytes.

treq adds what suits a browser: it asks for gzip, decodes it, and normalises URLs. So this agent asks for
identity only, hides Content-Encoding from the decoder above it (the stored bytes are what the digest is of), and
follows redirects itself, with each URL as upstream wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web._newclient import HTTP11ClientProtocol, Request
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from depproxy.upstream.body import drain
from depproxy.upstream.connect import IRoutes
from depproxy.upstream.errors import Invalid, Unavailable, UpstreamError
from depproxy.upstream.failures import explain
from depproxy.upstream.redirects import MAX_REDIRECTS, REDIRECTS, BadUrl, Url
from depproxy.upstream.waiting import TimedOut, bounded

_T = TypeVar("_T")

# Seconds; most servers close idle connections later than this.
IDLE = 30


@frozen
class Limits:
    """Seconds until a connection stands, and from the request to the headers of its answer."""

    connect: float
    first_byte: float


class _Asked(Request):
    """A request that remembers its whole URL, of which ``target`` goes into the request line."""

    def __init__(self, method: bytes, url: Url, target: bytes, headers: Headers) -> None:
        super().__init__(method, target, headers, None, persistent=True)  # type: ignore[no-untyped-call]
        self._url = url

    @property
    def absoluteURI(self) -> bytes:
        return self._url.raw


def redirected_to(response: IResponse, asked: str) -> Url | None:
    """Where the answer comes from, if not from the origin of the URL ``asked``."""
    uri = response.request.absoluteURI
    url = Url.parse(uri) if uri else None
    return None if url is None or url.origin == Url.parse(asked.encode()).origin else url


@implementer(IAgent)
class UpstreamAgent:
    """GET and HEAD for one upstream, by way of the pool.

    ``answered(method, status)`` is called for each request, redirects too, with status 0 where no answer came.
    ``plain_http`` tells whether http is good enough; otherwise a redirect to it is Invalid. Raises
    UpstreamError.
    """

    def __init__(
        self,
        upstream: str,
        clock: IReactorTime,
        *,
        pool: HTTPConnectionPool,
        routes: IRoutes,
        limits: Limits,
        answered: Callable[[str, int], object],
        plain_http: bool,
    ) -> None:
        self._upstream = upstream
        self._clock = clock
        self._pool = pool
        self._routes = routes
        self._limits = limits
        self._answered = answered
        self._plain_http = plain_http

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """The answer behind all redirects, its body not yet read."""
        if bodyProducer is not None:
            raise ValueError("a pull-through cache has nothing to send")
        return Deferred.fromCoroutine(self._follow(method, uri, headers or Headers()))

    async def _follow(self, method: bytes, uri: bytes, headers: Headers) -> IResponse:
        url = Url.parse(uri)
        headers = headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(method, url, headers)
            locations = response.headers.getRawHeaders(b"Location")
            if response.code not in REDIRECTS or not locations:
                response.headers.removeHeader(b"Content-Encoding")
                return response
            await drain(response, self._upstream, self._clock)
            previous, url = url, self._target(url, locations[0])
            if url.origin != previous.origin:
                # For good: a redirect back must not make use of them either.
                headers.removeHeader(b"Authorization")
        raise Invalid(self._upstream, f"it redirects more than {MAX_REDIRECTS} times")

    def _target(self, url: Url, location: bytes) -> Url:
        try:
            target = url.join(location)
        except BadUrl as error:
            raise Invalid(self._upstream, f"{url.netloc} redirects to no valid URL: {error}") from None
        if target.scheme == "http" and not self._plain_http:
            raise Invalid(
                self._upstream,
                f"{url.netloc} redirects to http://{target.netloc}; an https upstream must stay with https",
            )
        return target

    async def _send(self, method: bytes, url: Url, headers: Headers) -> IResponse:
        status = 0
        try:
            response = await self._exchange(method, url, headers)
            status = response.code
        except (UpstreamError, CancelledError):
            raise
        except Exception as error:
            raise Unavailable(self._upstream, f"{url.netloc}: {explain(error)}") from error
        finally:
            self._answered(method.decode("ascii"), status)
        return response

    async def _exchange(self, method: bytes, url: Url, headers: Headers) -> IResponse:
        route = self._routes.route(url)
        headers = headers.copy()
        headers.setRawHeaders(b"Host", [url.netloc.encode()])
        request = _Asked(method, url, route.target, headers)
        connecting = self._pool.getConnection(route.key, route.endpoint)
        connection = await self._within(connecting, self._limits.connect, "connection", url, _close)
        answering = connection.request(request)
        return await self._within(answering, self._limits.first_byte, "answer", url, lambda _: None)

    async def _within(
        self, waiting: Deferred[_T], seconds: float, what: str, url: Url, late: Callable[[_T], object]
    ) -> _T:
        try:
            return await bounded(waiting, self._clock, seconds, late)
        except TimedOut:
            raise Unavailable(self._upstream, f"{url.netloc}: no {what} within {seconds:g} s") from None


def _close(connection: HTTP11ClientProtocol) -> None:
    connection.abort()
