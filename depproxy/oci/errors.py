"""Errors as clients see them (OCI distribution-spec, section "Error codes")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, unique
from typing import Self

__all__ = ["Code", "OCIError"]


@unique
class Code(Enum):
    """The codes of error documents, with the HTTP status that each has unless its error says otherwise.

    TAG_INVALID, RANGE_INVALID, UNAVAILABLE and UNKNOWN are distribution's, the others the specification's.
    """

    status: int

    def __new__(cls, code: str, status: int) -> Self:
        member = object.__new__(cls)
        member._value_ = code
        member.status = status
        return member

    UNAUTHORIZED = "UNAUTHORIZED", 401
    DENIED = "DENIED", 403
    NAME_INVALID = "NAME_INVALID", 400
    NAME_UNKNOWN = "NAME_UNKNOWN", 404
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN", 404
    MANIFEST_INVALID = "MANIFEST_INVALID", 400
    BLOB_UNKNOWN = "BLOB_UNKNOWN", 404
    DIGEST_INVALID = "DIGEST_INVALID", 400
    TAG_INVALID = "TAG_INVALID", 400
    SIZE_INVALID = "SIZE_INVALID", 413
    UNSUPPORTED = "UNSUPPORTED", 405
    TOOMANYREQUESTS = "TOOMANYREQUESTS", 429
    RANGE_INVALID = "RANGE_INVALID", 416
    UNAVAILABLE = "UNAVAILABLE", 504
    UNKNOWN = "UNKNOWN", 500


class OCIError(Exception):
    """An answer that is an error document.

    `message` is for the person who runs the pull, `detail` anything that JSON can hold (else its text),
    `headers` go out with the answer, `status` replaces the code's own.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        status: int | None = None,
        detail: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = code.status if status is None else status
        self.detail = detail
        self.headers: Mapping[str, str] = dict(headers or {})

    def document(self) -> bytes:
        """The JSON body, ASCII: `{"errors": [{"code", "message", "detail"}]}`; no `detail` if it is None."""
        entry: dict[str, object] = {"code": self.code.value, "message": self.message}
        if self.detail is not None:
            entry["detail"] = self.detail
        return json.dumps({"errors": [entry]}, default=str, separators=(",", ":")).encode("ascii")
