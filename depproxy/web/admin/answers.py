"""The documents of the admin face, and what an error looks like there."""

import json
from collections.abc import Mapping
from math import isinf

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import HTTPException

from depproxy import __version__
from depproxy.cache.interface import StorageError
from depproxy.cache.purge import Stopped
from depproxy.index.interface import IndexUnavailable
from depproxy.upstream.errors import UpstreamError

log = Logger()

# What JSON can hold; infinite numbers become null.
Document = Mapping[str, object]

SERVER = b"depproxy/" + __version__.encode("ascii")
NO_SUCH_COMMAND = f"the running service, depproxy {__version__}, does not know this command"


_EXPECTED: tuple[tuple[type[Exception], int, str], ...] = (
    (HTTPException, 404, NO_SUCH_COMMAND),
    (IndexUnavailable, 503, "the cache index is not available: {}"),
    (UpstreamError, 502, "{}"),
    (StorageError, 507, "{}"),
    (Stopped, 503, "{}: do it again once it runs"),
    (CancelledError, 503, "depproxy gave this up; it may be stopping"),
)


class AdminError(Exception):
    """A request that is not carried out. The message is for the operator, and says what to do."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def written(document: Document) -> bytes:
    """The document as JSON, ASCII, on one line."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def finite(number: float) -> float | None:
    """The number as JSON can hold it: None where there is no limit."""
    return None if isinf(number) else number


def answer(request: Request, document: Document, status: int = 200) -> bytes:
    """The whole of an answer; its headers are set."""
    body = written(document)
    request.setResponseCode(status)
    set_headers(request, b"application/json")
    request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    return body


def set_headers(request: Request, content_type: bytes) -> None:
    """The headers that all answers share."""
    request.responseHeaders.setRawHeaders(b"Server", [SERVER])
    request.responseHeaders.setRawHeaders(b"Content-Type", [content_type])
    request.responseHeaders.setRawHeaders(b"Cache-Control", [b"no-store"])


def as_error(failure: Failure) -> AdminError:
    """The error for whatever a handler raised. What nobody expected is logged."""
    error = failure.value
    if isinstance(error, AdminError):
        return error
    for kind, status, message in _EXPECTED:
        if isinstance(error, kind):
            return AdminError(message.format(error), status)
    log.failure("an admin request failed", failure)
    return AdminError("depproxy failed on this request; its log says why", 500)
