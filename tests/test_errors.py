"""depproxy.oci.errors"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.errors import Code, OCIError
from tests.strategies import codes, json_values, oci_errors

STATUSES = {
    "UNAUTHORIZED": 401,
    "DENIED": 403,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "MANIFEST_UNKNOWN": 404,
    "MANIFEST_INVALID": 400,
    "BLOB_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "TAG_INVALID": 400,
    "SIZE_INVALID": 413,
    "UNSUPPORTED": 405,
    "TOOMANYREQUESTS": 429,
    "RANGE_INVALID": 416,
    "UNAVAILABLE": 504,
    "UNKNOWN": 500,
}


def test_each_code_has_its_status() -> None:
    assert {code.value: code.status for code in Code} == STATUSES


@given(oci_errors())
def test_document_has_the_shape_of_the_specification(error: OCIError) -> None:
    body = error.document()
    assert body.isascii()
    document = json.loads(body)
    assert list(document) == ["errors"]
    (entry,) = document["errors"]
    expected: dict[str, object] = {"code": error.code.value, "message": error.message}
    if error.detail is not None:
        expected["detail"] = error.detail
    assert entry == expected


@given(codes(), st.text())
def test_an_error_reads_as_its_message(code: Code, message: str) -> None:
    error = OCIError(code, message)
    assert str(error) == message
    assert (error.status, error.detail, error.headers) == (code.status, None, {})


@given(codes(), st.integers(400, 599), json_values())
def test_status_and_headers_can_be_given(code: Code, status: int, detail: object) -> None:
    headers = {"Retry-After": "3"}
    error = OCIError(code, "later", status=status, detail=detail, headers=headers)
    headers.clear()
    assert (error.status, error.headers) == (status, {"Retry-After": "3"})


@pytest.mark.parametrize("detail", [Path("/x"), {"at": Path("/x")}])
def test_what_json_cannot_hold_becomes_text(detail: object) -> None:
    assert b'"/x"' in OCIError(Code.UNKNOWN, "oops", detail=detail).document()
