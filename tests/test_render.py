"""What clients read when something goes wrong, and what they must not take for an answer."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from depproxy.access.networks import Networks
from depproxy.metrics import Metrics
from depproxy.oci.errors import Code, OCIError
from depproxy.upstream import errors
from depproxy.web.origin import Origin
from depproxy.web.render import as_document, fail, from_upstream
from depproxy.web.routing import Application
from depproxy.web.site import Faces
from tests.strategies import codes, oci_errors
from tests.web_support import LOOPBACK, PUBLIC_URL, REACTOR, Client, CutShort, WebTestCase

UPSTREAM_ERRORS: list[tuple[type[errors.UpstreamError], int, Code]] = [
    (errors.NotFound, 404, Code.BLOB_UNKNOWN),
    (errors.Refused, 403, Code.DENIED),
    (errors.Throttled, 429, Code.TOOMANYREQUESTS),
    (errors.Unavailable, 504, Code.UNAVAILABLE),
    (errors.Invalid, 502, Code.UNAVAILABLE),
]


@pytest.mark.parametrize(("kind", "status", "code"), UPSTREAM_ERRORS)
@pytest.mark.parametrize("upstream_status", [None, 401, 404, 429, 500, 503])
def test_upstream_errors(
    kind: type[errors.UpstreamError], status: int, code: Code, upstream_status: int | None
) -> None:
    """By what the client may do about it; upstream's own status is told, never passed on."""
    error = from_upstream(kind("ghcr.io", "as you see", upstream_status), Code.BLOB_UNKNOWN)
    assert (error.status, error.code) == (status, code)
    assert error.message == "ghcr.io: as you see"
    assert error.detail == {"upstream": "ghcr.io", "status": upstream_status}


def test_every_kind_of_upstream_error_is_decided() -> None:
    assert {kind for kind, _, _ in UPSTREAM_ERRORS} == set(errors.UpstreamError.__subclasses__())


@given(codes())
def test_what_is_missing_is_named(missing: Code) -> None:
    assert from_upstream(errors.NotFound("docker.io", "no", 404), missing).code is missing


@given(st.none() | st.floats(0, 10**6))
def test_retry_after_is_a_whole_number_of_seconds(retry_after: float | None) -> None:
    """RFC 9110 section 10.2.3. Zero would make a client come back at once."""
    error = from_upstream(errors.Throttled("docker.io", "slowly", 429, retry_after=retry_after), Code.BLOB_UNKNOWN)
    wait = int(error.headers["Retry-After"])
    assert wait >= 1
    assert retry_after is None or abs(wait - retry_after) <= 1


def test_unknown_addresses_and_what_else_routing_raises() -> None:
    found = as_document(Failure(NotFound()))
    assert (found.status, found.code) == (404, Code.NAME_UNKNOWN)
    assert "/v2/" in found.message
    found = as_document(Failure(MethodNotAllowed()))
    assert (found.status, found.code) == (405, Code.UNSUPPORTED)
    assert "<" not in found.message
    # Every one has a status, or else our own.
    assert as_document(Failure(HTTPException("odd"))).status == 405


@given(oci_errors())
def test_an_error_document_is_itself(error: OCIError) -> None:
    assert as_document(Failure(error)) is error


class Handlers:
    """A face whose handlers fail in every way."""

    app = Application()

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.error: BaseException = ZeroDivisionError("a defect")
        self.before: Callable[[Request], None] = lambda request: None

    @app.route("/")
    async def handler(self, request: Request) -> bytes:
        self.before(request)
        raise self.error

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein types handlers by IRequest.
    def failed(self, request: Request, failure: Failure) -> None:
        fail(request, failure, "document", self.metrics)


class Failing(WebTestCase):
    async def ask(self, method: str = "GET") -> Client:
        resource = self.handlers.app.resource()
        site = Faces(resource, {}, None, Networks(LOOPBACK), Origin((), PUBLIC_URL), 10, REACTOR)
        client = await self.client(self.listen(site))
        client.ask("/", method)
        return client

    def setUp(self) -> None:
        super().setUp()
        self.handlers = Handlers()

    @property
    def counted(self) -> float:
        value: float = self.handlers.metrics.answered["document", "error"]._value.get()
        return value

    async def test_error_documents(self) -> None:
        """With the headers that the error brings, and those that were set before."""
        more = {"Retry-After": "7", "X-Odd": "a\r\nb: c"}
        self.handlers.error = OCIError(Code.TOOMANYREQUESTS, 'say "slowly"\r\né', detail={"a": [1]}, headers=more)
        self.handlers.before = lambda request: request.responseHeaders.setRawHeaders(b"Content-Type", [b"text/html"])
        client = await self.ask()
        answer = await client.answer()
        assert (answer.status, answer.error) == (429, "TOOMANYREQUESTS")
        assert json.loads(answer.body) == {
            "errors": [{"code": "TOOMANYREQUESTS", "message": 'say "slowly"\r\né', "detail": {"a": [1]}}]
        }
        assert answer.headers["retry-after"] == "7"
        assert "b" not in answer.headers
        assert self.counted == 1

    async def test_to_a_head(self) -> None:
        self.handlers.error = OCIError(Code.DENIED, "no")
        client = await self.ask("HEAD")
        answer = await client.answer("HEAD")
        assert answer.status == 403
        assert answer.headers["content-length"] == str(len(self.handlers.error.document()))
        client.ask("/")
        assert (await client.answer()).status == 403

    async def test_a_defect_is_not_told_but_logged(self) -> None:
        client = await self.ask()
        answer = await client.answer()
        assert (answer.status, answer.error) == (500, "UNKNOWN")
        assert b"defect" not in answer.body
        assert self.failures(ZeroDivisionError) == 1

    async def test_a_part_is_never_ended_as_if_it_were_the_whole(self) -> None:
        for headers in ({}, {b"Content-Length": b"100"}):

            def before(request: Request, headers: dict[bytes, bytes] = headers) -> None:
                for name, value in headers.items():
                    request.responseHeaders.setRawHeaders(name, [value])
                request.write(b"some bytes")

            self.handlers.before = before
            client = await self.ask()
            with pytest.raises(CutShort):
                await client.answer()
            assert not await client.end()
            assert b"0\r\n\r\n" not in client.data
            assert self.has_logged("cut off: a defect")
        assert self.counted == self.failures(ZeroDivisionError) == 2

    async def test_work_that_was_given_up_is_no_empty_answer(self) -> None:
        """A cancelled handler whose client is still there, as when the service stops."""
        self.handlers.error = CancelledError()
        client = await self.ask()
        answer = await client.answer()
        assert (answer.status, answer.error) == (504, "UNAVAILABLE")
