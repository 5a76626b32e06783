"""The HTTP server around the faces: who may come in, which face answers, and an orderly end."""

import re
import time
from typing import Any
from urllib.parse import unquote_to_bytes as unquote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web import http
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from depproxy import __version__
from depproxy.access.networks import Networks
from depproxy.oci.errors import Code, OCIError
from depproxy.web.channel import BoundedChannel, BoundedRequest
from depproxy.web.status import OPEN_PATHS, STATUS_PATHS

IDLE_TIMEOUT = 60
# Group path, image and digest have up to 255, 255 and 135 characters; matching takes time with the square of it.
MAX_PATH = 1024
SERVER = b"depproxy/" + __version__.encode("ascii")


class Faces(Site):
    """
    The site: the status face for operators' paths, the registry face for everything else.

    `networks` says who may pull without a token; everybody else is challenged.
    """

    _log = Logger()
    noisy = False

    def __init__(
        self,
        registry: IResource,
        status: IResource,
        networks: Networks,
        public_url: str,
        max_connections: int,
        reactor: IReactorTime,
    ) -> None:
        super().__init__(registry, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
        self.networks = networks
        self.channels: set[BoundedChannel] = set()
        self._registry = registry
        self._status = status
        self._public_url = public_url.encode("ascii")
        self.max_connections = max_connections
        # Whether connections are to close after the request at hand.
        self.draining = False
        self._drained: Deferred[None] = Deferred()
        self._dated = 0
        self._constant = b""

    def protocol(self) -> BoundedChannel:  # type: ignore[override]  # Twisted types this as an attribute.
        """A channel of our own: no HTTP/2, and one indirection less than Twisted's."""
        return BoundedChannel()

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS clients may choose from."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.channels) >= self.max_connections:
            self._log.warn("{peer} is turned away: {count} connections are open", peer=addr, count=len(self.channels))
            return None
        return super().buildProtocol(addr)

    def constant_headers(self) -> bytes:
        """The headers that all answers share. The date costs more than the rest, and changes once a second."""
        now = int(time.time())
        if now != self._dated:
            self._dated = now
            self._constant = b"Server: %s\r\nDate: %s\r\nDocker-Distribution-Api-Version: registry/2.0\r\n" % (
                SERVER,
                datetimeToString(now),
            )
        return self._constant

    def log(self, request: http.Request) -> None:
        """No line per request: the metrics count them, and errors are logged where they happen."""

    def face(self, request: Request) -> IResource:
        """The resource that answers this request."""
        return self._status if request.path in STATUS_PATHS else self._registry

    def refusal(self, request: Request) -> OCIError | None:
        """Why this request gets no further, if so: checked before any routing."""
        if not self.networks.admits(request.getClientAddress()) and request.path not in OPEN_PATHS:
            return self._challenge(request)
        hosts = request.requestHeaders.getRawHeaders(b"Host", ())
        if (
            len(hosts) > 1
            or (hosts and hosts[0] and not _is_host(hosts[0]))
            or (not hosts and request.clientproto == b"HTTP/1.1")
        ):
            # RFC 9112 section 3.2.
            return OCIError(Code.UNSUPPORTED, "the Host header is missing or names no host", status=400)
        if request.method not in (b"GET", b"HEAD"):
            method = request.method.decode("latin-1")
            return OCIError(
                Code.UNSUPPORTED,
                f"{method} is not supported: this is a pull-through cache, push to the registry itself",
                headers={"Allow": "GET, HEAD"},
            )
        if len(request.path) > MAX_PATH:
            return OCIError(Code.NAME_INVALID, f"the path is longer than {MAX_PATH} bytes", status=414)
        try:
            unquote(request.path).decode("utf-8")
        except UnicodeDecodeError:
            return OCIError(Code.NAME_INVALID, "the path is not UTF-8")
        return None

    def _challenge(self, request: Request) -> OCIError:
        # crane, kaniko and distribution refuse a realm on another host than the one that they asked.
        host = request.requestHeaders.getRawHeaders(b"Host", [b""])[0]
        scheme = b"https" if request.isSecure() else b"http"
        base = scheme + b"://" + host if _is_host(host) else self._public_url
        challenge = f'Bearer realm="{base.decode("ascii")}/jwt/auth",service="dependency_proxy"'
        peer = getattr(request.getClientAddress(), "host", "a Unix socket")
        return OCIError(
            Code.UNAUTHORIZED,
            f"{peer} is in no network that may pull here; an operator admits networks by mirror.anonymous",
            headers={"WWW-Authenticate": challenge},
        )

    async def drain(self, timeout: float) -> None:
        """Close idle connections, let requests that are being answered end, and cut those that take longer."""
        self.draining = True
        for channel in tuple(self.channels):
            if not channel.busy:
                channel.loseConnection()
        call = self.reactor.callLater(timeout, self._cut_all)
        if self.channels:
            await self._drained
        if call.active():
            call.cancel()

    def lost(self, channel: BoundedChannel) -> None:
        """A connection has ended."""
        self.channels.discard(channel)
        if self.draining and not self.channels and not self._drained.called:
            self._drained.callback(None)

    def _cut_all(self) -> None:
        self._log.warn("{count} requests are cut off: they took too long to end", count=len(self.channels))
        for channel in tuple(self.channels):
            channel.transport.abortConnection()


_is_host = re.compile(rb"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?").fullmatch
