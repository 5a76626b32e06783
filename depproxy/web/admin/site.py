"""The HTTP server of the admin socket."""

from collections.abc import Mapping

from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from depproxy.web.admin.answers import NO_SUCH_COMMAND, answer

# A thousand names of images fit.
MAX_BODY = 256 << 10
IDLE_TIMEOUT = 60
PREFIX = "/v1/"


class AdminRequest(Request):
    """A request whose body is bounded: what is too much is not kept."""

    defaultContentType = None
    channel: "AdminChannel"
    _received = 0

    def gotLength(self, length: int | None) -> None:
        # With a length a small body stays in memory.
        super().gotLength(0 if length is None else min(length, MAX_BODY))

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= MAX_BODY:
            super().handleContentChunk(data)

    def process(self) -> None:
        if self._received <= MAX_BODY:
            super().process()
            return
        self.write(answer(self, {"error": f"the request's body is larger than {MAX_BODY} bytes"}, 413))
        self.finish()


class AdminChannel(HTTPChannel):
    """A connection that its site knows."""

    site: "AdminSite"
    transport: ITCPTransport

    def connectionMade(self) -> None:
        self.site.channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.site.channels.discard(self)

    def abortConnection(self) -> None:
        """End the connection at once."""
        self.transport.abortConnection()


class AdminSite(Site):
    """Answers for `faces`, by their names: `/v1/status` and all below it is for the face `status`."""

    noisy = False

    def __init__(self, faces: Mapping[str, IResource], reactor: IReactorTime) -> None:
        super().__init__(_Nothing(), requestFactory=AdminRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
        self.channels: set[AdminChannel] = set()
        self._faces = faces

    def protocol(self) -> AdminChannel:  # type: ignore[override]  # Twisted types this as an attribute.
        """A channel of ours."""
        return AdminChannel()

    def getResourceFor(self, request: Request) -> IResource:
        """The face that answers this request."""
        path = request.path.decode("latin-1")
        name = path.removeprefix(PREFIX).partition("/")[0] if path.startswith(PREFIX) else ""
        return self._faces.get(name, self.resource)

    def log(self, request: HTTPRequest) -> None:
        """No line per request."""

    def close(self) -> None:
        """Cut all connections: operations under way are cancelled."""
        for channel in tuple(self.channels):
            channel.abortConnection()


class _Nothing(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        return answer(request, {"error": NO_SUCH_COMMAND}, 404)
