"""The one place that writes error documents."""

from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import HTTPException

from depproxy.access.errors import Unauthenticated
from depproxy.access.networks import address_text
from depproxy.cache.interface import StorageError
from depproxy.metrics import Metrics
from depproxy.oci.errors import Code, OCIError
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, UpstreamError
from depproxy.web.caller import Caller

if TYPE_CHECKING:
    from depproxy.web.channel import BoundedChannel

log = Logger()

# What the token endpoint issues tokens for; GitLab's name, so that clients need no change.
SERVICE = "dependency_proxy"
TOKEN_PATH = b"/jwt/auth"

# What an operator will be asked about, beside all 5xx. A 401 is every day's, because each pull begins with one; so is
# a 404, because docker asks for tags that few images have.
TOLD = frozenset({403, 405, 429})


def from_upstream(error: UpstreamError, missing: Code) -> OCIError:
    """
    What a client is told when upstream did not give what was asked for; `missing` is the code for a 404.

    504 is the only 5xx that every client retries (where it retries at all); a 404 is said only when upstream said it.
    """
    detail = {"upstream": error.upstream, "status": error.status}
    text = str(error)
    if isinstance(error, NotFound):
        return OCIError(missing, text, detail=detail)
    if isinstance(error, Refused):
        return OCIError(Code.DENIED, text, detail=detail)
    if isinstance(error, Throttled):
        wait = 60 if error.retry_after is None else max(1, round(error.retry_after))
        return OCIError(Code.TOOMANYREQUESTS, text, detail=detail, headers={"Retry-After": str(wait)})
    if isinstance(error, Invalid):
        return OCIError(Code.UNAVAILABLE, text, status=502, detail=detail)
    return OCIError(Code.UNAVAILABLE, text, detail=detail)


def challenge(request: Request, error: Unauthenticated) -> OCIError:
    """The answer that asks for a token, and says where to get one (RFC 6750 section 3)."""
    # crane, kaniko and distribution refuse a realm on another host than the one that they asked.
    base = cast("BoundedChannel", request.channel).site.origin.base_url(request)
    parts = [f'realm="{base}{TOKEN_PATH.decode()}"', f'service="{SERVICE}"']
    parts += [f'{name}="{value}"' for name, value in (("scope", error.scope), ("error", error.error)) if value]
    return OCIError(Code.UNAUTHORIZED, str(error), headers={"WWW-Authenticate": "Bearer " + ",".join(parts)})


def ask_login(error: Unauthenticated) -> OCIError:
    """The answer that asks for a user name and a password, where no token would do (RFC 7617)."""
    headers = {"WWW-Authenticate": f'Basic realm="{SERVICE}", charset="UTF-8"'}
    return OCIError(Code.UNAUTHORIZED, str(error), headers=headers)


def as_document(failure: Failure) -> OCIError:
    """The error document for whatever a handler raised."""
    error = failure.value
    if isinstance(error, OCIError):
        return error
    if isinstance(error, HTTPException):
        if error.code == 404:
            return OCIError(Code.NAME_UNKNOWN, "no such address; images are at /v2/<image>/manifests/<reference>")
        return OCIError(Code.UNSUPPORTED, str(error.description or error.name), status=error.code)
    if isinstance(error, StorageError):
        return OCIError(Code.UNAVAILABLE, str(error), status=507)
    if isinstance(error, CancelledError):
        return OCIError(Code.UNAVAILABLE, "depproxy gave this request up; it may be stopping")
    log.failure("request failed", failure)
    return OCIError(Code.UNKNOWN, "depproxy failed on this request; its log says why")


def write_document(request: Request, error: OCIError) -> None:
    """Answer with an error document; the caller finishes the request."""
    body = error.document()
    request.setResponseCode(error.status, HTTPStatus(error.status).phrase.encode("ascii"))
    headers = request.responseHeaders
    headers.setRawHeaders(b"Content-Type", [b"application/json"])
    headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    for name, value in error.headers.items():
        headers.setRawHeaders(name, [value])
    request.write(body)
    if error.status in TOLD or error.status >= 500:
        # docker asks by HEAD, and shows nothing of the body that it then does not get.
        log.warn(
            "{peer} {method} {path}: {status} {code}: {message}",
            peer=address_text(Caller(request).address),
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            status=error.status,
            code=error.code.value,
            message=error.message,
        )


def cut(request: Request) -> None:
    """End the connection at once, so that the client knows that the answer is not whole."""
    cast("BoundedChannel", request.channel).abortConnection()


def fail(request: Request, failure: Failure, kind: str | None, metrics: Metrics) -> None:
    """
    End a request that failed: with a document if nothing was sent yet, else by cutting the connection, so that
    no client takes a part for the whole. Of a client that has left Klein tells nothing here. It is counted as an error
    of its `kind`, where that is one that `depproxy_requests` knows.
    """
    cause = failure.value
    error = challenge(request, cause) if isinstance(cause, Unauthenticated) else as_document(failure)
    if kind is not None and not failure.check(HTTPException):
        # An address that means nothing is no error of a manifest or a blob.
        metrics.answered[kind, "error"].inc()
    if request.startedWriting:
        log.warn("{uri}: cut off: {error}", uri=request.uri.decode("latin-1"), error=failure.value)
        cut(request)
        return
    write_document(request, error)
