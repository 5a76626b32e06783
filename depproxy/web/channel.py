"""One client's connection, and its requests: limits on what may be sent, and as few system calls as it takes."""

from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes as unquote

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request

from depproxy.access.interface import ClientCertificate
from depproxy.oci.errors import Code, OCIError
from depproxy.web.origin import Origin
from depproxy.web.render import write_document
from depproxy.web.tcpinfo import progress

# The request line: a name of 255 characters, a digest, a prefix and a query fit several times.
MAX_REQUEST_LINE = 8 << 10
# Request line and headers together; a JWT with many grants has some KiB.
MAX_HEADERS = 32 << 10
# The largest body that any endpoint reads is a token request's form.
MAX_BODY = 64 << 10
# What is still read, and for how long (seconds), from a client that was refused while it was sending: closing at
# once would reset the connection, and the client would never read why.
LINGER_BYTES = 1 << 20
LINGER_TIME = 5.0


class Owner(Protocol):
    """What a connection needs of its site."""

    channels: "set[BoundedChannel]"
    draining: bool
    origin: Origin

    def lost(self, channel: "BoundedChannel") -> None: ...

    def constant_headers(self) -> bytes: ...

    def refusal(self, request: Request) -> OCIError | None: ...

    def face(self, request: Request) -> IResource: ...


class BoundedChannel(HTTPChannel):
    """HTTP/1.1 with limits that answer in error documents. HTTP/2 is not offered: over TLS it is far slower."""

    MAX_LENGTH = totalHeadersSize = MAX_HEADERS
    site: Owner
    # What `caller` found out about the client of this connection.
    certificate: ClientCertificate | None = None
    transport: ITCPTransport
    # Whether a request is being answered, which was received as a whole; and whether one has had its answer.
    busy = answered = False
    _refused = False
    _aborted = False
    _lingering = 0
    _taken = 0
    _body_wanted = True
    _head = b""

    def connectionMade(self) -> None:
        self.site.channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.site.lost(self)

    def requestDone(self, request: Request) -> None:
        self.busy, self.answered = False, True
        if self._head:
            self.write(b"")
        if self.site.draining:
            self.persistent = False
        super().requestDone(request)

    def dataReceived(self, data: bytes) -> None:
        if not self._refused:
            if self.line_mode and data.startswith(_TLS_HANDSHAKE):
                # docker and podman try TLS first, and plain HTTP as soon as they learn that it was in vain.
                self.refuse(_NOT_TLS)
                return
            super().dataReceived(data)
            return
        self._lingering += len(data)
        if self._lingering > LINGER_BYTES:
            self.transport.abortConnection()

    def lineReceived(self, line: bytes) -> None:
        if self._receivedHeaderSize == 0:
            self._body_wanted = not line.startswith(b"HEAD ")
        if self._receivedHeaderSize == 0 and len(line) > MAX_REQUEST_LINE:
            self.refuse(_TOO_LONG)
        elif self._receivedHeaderSize + len(line) > MAX_HEADERS or self._receivedHeaderCount >= self.maxHeaders:
            self.refuse(_TOO_MANY_HEADERS)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        if self._receivedHeaderSize == 0:
            self._body_wanted = not line.startswith(b"HEAD ")
            self.refuse(_TOO_LONG)
        else:
            self.refuse(_TOO_MANY_HEADERS)

    def headerReceived(self, line: bytes) -> bool:
        # int() refuses more than 4,300 digits, with an exception that Twisted does not expect.
        if len(line) > 80 and line[:15].lower() == b"content-length:":
            self.refuse(_TOO_LARGE)
            return False
        accepted: bool = super().headerReceived(line)
        return accepted

    def _send100Continue(self) -> None:
        if not self._refused:
            super()._send100Continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own answer has no body, which docker reports as broken JSON.
        self.refuse(_MALFORMED)

    def refuse(self, error: OCIError) -> None:
        """Answer with an error document, take nothing more, and close."""
        if self._refused:
            return
        self._refused = True
        body = error.document()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n"
            b"Docker-Distribution-Api-Version: registry/2.0\r\n\r\n%s"
            % (error.status, RESPONSES.get(error.status, b"Error"), len(body), body if self._body_wanted else b"")
        )
        self.setTimeout(None)
        self.clearLineBuffer()
        self._abortingCall = self.callLater(LINGER_TIME, self.forceAbortClient)
        if ITCPTransport.providedBy(self.transport) and not self.isSecure():
            self.transport.loseWriteConnection()
        else:
            # With TLS this waits for the client's own goodbye.
            self.loseConnection()

    def timeoutConnection(self) -> None:
        now = progress(self.transport)
        if now.waiting and now.taken > self._taken:
            # The end of the last answer is on its way still, to a slow client.
            self._taken = now.taken
            self.setTimeout(self.timeOut)
        else:
            super().timeoutConnection()

    @property
    def leaving(self) -> bool:
        """Whether the connection is about to close: below TLS, when the client said goodbye before its answer's end."""
        below: Any = getattr(self.transport, "transport", self.transport)
        return bool(below.disconnecting)

    def abortConnection(self) -> None:
        """End the connection at once: nothing that is written from now on is sent."""
        self._aborted = True
        self.transport.abortConnection()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """The head waits for the first bytes of the body, so that both leave in one system call."""
        lines = [b"%s %s %s\r\n%s" % (version, code, reason, self.site.constant_headers())]
        for name, values in headers.getAllRawHeaders():
            lines += [b"%s: %s\r\n" % (name, value) for value in values]
        lines.append(b"\r\n")
        self._head = b"".join(lines)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        self._send(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def flush(self) -> bool:
        """Send what waits; whether all that was written so far has been handed to the kernel."""
        if self._head:
            self.write(b"")
        transport = self.transport
        return isinstance(transport, Connection) and not transport.dataBuffer and not transport._tempDataBuffer

    def _send(self, data: bytes) -> None:
        if self._aborted:
            return
        # Most answers fit the socket's buffer at once: asking the reactor to wait for it costs two system calls.
        transport = self.transport
        if isinstance(transport, Connection) and not transport.TLS and transport.connected and self.flush():
            sent = transport.writeSomeData(data)
            if isinstance(sent, int):
                data = data[sent:]
        if data:
            transport.write(data)


# The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
_TLS_HANDSHAKE = b"\x16"
_NOT_TLS = OCIError(Code.UNSUPPORTED, "this port speaks plain HTTP, not TLS", status=400)
_TOO_LONG = OCIError(Code.NAME_INVALID, f"the request line is longer than {MAX_REQUEST_LINE} bytes", status=414)
_TOO_MANY_HEADERS = OCIError(Code.UNSUPPORTED, f"the headers are longer than {MAX_HEADERS} bytes", status=431)
_TOO_LARGE = OCIError(Code.SIZE_INVALID, f"the request body is larger than {MAX_BODY} bytes")
_MALFORMED = OCIError(Code.UNSUPPORTED, "this is not a well-formed HTTP/1.1 request", status=400)


class BoundedRequest(Request):
    """A request whose body is bounded before it is read."""

    defaultContentType = None
    displayTracebacks = False
    channel: BoundedChannel
    _received = 0

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0 if length is None else min(length, MAX_BODY))
        if length is not None and length > MAX_BODY:
            self.channel.refuse(_TOO_LARGE)

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_BODY:
            self.channel.refuse(_TOO_LARGE)
        else:
            super().handleContentChunk(data)

    def process(self) -> None:
        if self.channel._refused:
            # The rest of a body that was refused.
            return
        self.channel.busy = True
        site = self.channel.site
        self.prepath = []
        self.postpath = [unquote(segment) for segment in self.path[1:].split(b"/")]
        try:
            error = site.refusal(self)
            if error is None:
                site.face(self).render(self)
                return
        except Exception:
            self._log.failure("request failed")
            error = OCIError(Code.UNKNOWN, "depproxy failed on this request; its log says why")
        write_document(self, error)
        self.finish()
