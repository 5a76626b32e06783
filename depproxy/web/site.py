"""The HTTP server around the faces: who may come in, which face answers, and an orderly end."""

import time
from collections.abc import Mapping
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
from depproxy.access.networks import Networks, address_text
from depproxy.oci.errors import Code, OCIError
from depproxy.web.api import ADDRESSES, API, methods
from depproxy.web.caller import NO_CERTIFICATE
from depproxy.web.channel import BoundedChannel, BoundedRequest
from depproxy.web.origin import Origin, is_host
from depproxy.web.render import TOKEN_PATH
from depproxy.web.status import METRICS

IDLE_TIMEOUT = 60
# Group path, image and digest have up to 255, 255 and 135 characters; matching takes time with the square of it.
MAX_PATH = 1024
# How long (seconds) a stop waits for the first request of a connection.
PATIENCE = 1.0
READING = (b"GET", b"HEAD")
METHODS = {TOKEN_PATH: (b"GET", b"HEAD", b"POST")}
SERVER = b"depproxy/" + __version__.encode("ascii")


class Faces(Site):
    """
    The site: a face for each of the paths that `faces` names, `api` for those of the API, the registry face for
    everything else.

    `networks` says who may read the metrics. It, `origin` and `max_connections` may be replaced at any time.
    """

    _log = Logger()
    noisy = False

    def __init__(
        self,
        registry: IResource,
        faces: Mapping[bytes, IResource],
        api: IResource | None,
        networks: Networks,
        origin: Origin,
        max_connections: int,
        reactor: IReactorTime,
    ) -> None:
        super().__init__(registry, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
        self.networks = networks
        self.channels: set[BoundedChannel] = set()
        self._registry = registry
        self._faces = faces
        self._api = api
        self.origin = origin
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
        if self._api is not None and request.path.startswith(API):
            return self._api
        return self._faces.get(request.path, self._registry)

    def refusal(self, request: Request) -> OCIError | None:
        """Why this request gets no further, if so: checked before any routing."""
        hosts = request.requestHeaders.getRawHeaders(b"Host", ())
        if (
            len(hosts) > 1
            or (hosts and hosts[0] and not is_host(hosts[0]))
            or (not hosts and request.clientproto == b"HTTP/1.1")
        ):
            # RFC 9112 section 3.2.
            return OCIError(Code.UNSUPPORTED, "the Host header is missing or names no host", status=400)
        api = request.path.startswith(API)
        allowed = methods(request.path) if api else METHODS.get(request.path, READING)
        if request.method not in allowed:
            method = request.method.decode("latin-1")
            why = f" here: {ADDRESSES}" if api else ": this is a pull-through cache, push to the registry itself"
            return OCIError(
                Code.UNSUPPORTED,
                f"{method} is not supported{why}",
                headers={"Allow": ", ".join(name.decode() for name in allowed)},
            )
        if request.path == METRICS and not self.networks.admits(address := self.origin.address(request)):
            peer = address_text(address)
            return OCIError(Code.DENIED, f"{peer} is in no network that may read the metrics (server.metrics)")
        if len(request.path) > MAX_PATH:
            return OCIError(Code.NAME_INVALID, f"the path is longer than {MAX_PATH} bytes", status=414)
        try:
            unquote(request.path).decode("utf-8")
        except UnicodeDecodeError:
            return OCIError(Code.NAME_INVALID, "the path is not UTF-8")
        return None

    async def drain(self, timeout: float) -> None:
        """
        Close idle connections, let requests that are being answered end, and cut those that take longer.

        Who has connected and not asked yet is about to: it has `PATIENCE` seconds.
        """
        self.draining = True
        for channel in tuple(self.channels):
            if channel.answered and not channel.busy:
                channel.loseConnection()
        later = self.reactor.callLater
        calls = [
            later(min(PATIENCE, timeout), self._close_idle),
            # Over TLS an end waits for the client's own goodbye, which not all say.
            later(min(2 * PATIENCE, timeout), self._cut_idle),
            later(timeout, self._cut_all),
        ]
        if self.channels:
            await self._drained
        for call in calls:
            if call.active():
                call.cancel()

    def _close_idle(self) -> None:
        for channel in tuple(self.channels):
            if not channel.busy:
                channel.loseConnection()

    def _cut_idle(self) -> None:
        for channel in tuple(self.channels):
            if not channel.busy:
                channel.abortConnection()

    def forget_certificates(self) -> None:
        """Take nobody who is connected by his certificate any more: by what authority it was believed may have changed.
        Who connects anew is asked again."""
        for channel in self.channels:
            channel.certificate = NO_CERTIFICATE

    def lost(self, channel: BoundedChannel) -> None:
        """A connection has ended."""
        self.channels.discard(channel)
        if self.draining and not self.channels and not self._drained.called:
            self._drained.callback(None)

    def _cut_all(self) -> None:
        self._log.warn("{count} requests are cut off: they took too long to end", count=len(self.channels))
        for channel in tuple(self.channels):
            channel.transport.abortConnection()
