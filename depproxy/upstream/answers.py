"""What a registry's answers say: media types, digests, sizes, ranges. No I/O."""

from __future__ import annotations

import json
import re

from attrs import frozen
from twisted.web.http_headers import Headers

from depproxy.oci.digest import Digest, InvalidDigest
from depproxy.oci.manifest import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST, essence
from depproxy.upstream.http import header

_match_size = re.compile(r"[0-9]{1,18}").fullmatch
_match_range = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE).fullmatch


@frozen
class ContentRange:
    """The bytes from ``start`` to ``last``, both included, of ``total`` (None: not said)."""

    start: int
    last: int
    total: int | None


def content_range(text: str | None) -> ContentRange | None:
    """A Content-Range (RFC 9110 section 14.4) that can be right; None for anything else."""
    match = _match_range(text or "")
    if match is None:
        return None
    found = ContentRange(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))
    if found.start > found.last or (found.total is not None and found.last >= found.total):
        return None
    return found


def digest_of(headers: Headers) -> Digest | None:
    """Docker-Content-Digest, None where there is none that is well-formed."""
    try:
        return Digest(header(headers, "Docker-Content-Digest") or "")
    except InvalidDigest:
        return None


def media_type_of(headers: Headers) -> str | None:
    """Content-Type without its parameters."""
    return essence(header(headers, "Content-Type") or "") or None


def size_of(headers: Headers) -> int | None:
    """Content-Length of the answer to a HEAD."""
    text = header(headers, "Content-Length") or ""
    return int(text) if _match_size(text) else None


def json_object(body: bytes) -> dict[str, object] | None:
    """The JSON object that this is, whole; None for anything else, such as a login page or half an object."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def manifest_type(claimed: str | None, body: bytes) -> str | None:
    """The media type of a manifest: as its header claims, or where that says nothing, as its body does. None if
    it is no manifest at all, such as somebody's login page."""
    if claimed is not None and (claimed in MANIFEST_TYPES or claimed.startswith("application/vnd.")):
        return claimed
    document = json_object(body)
    if document is None:
        return None
    stated = document.get("mediaType")
    if stated in MANIFEST_TYPES or stated in INDEX_TYPES:
        return str(stated)
    # An OCI manifest need not repeat its type (image-spec, "Image Manifest").
    if isinstance(document.get("manifests"), list):
        return OCI_INDEX
    return OCI_MANIFEST if isinstance(document.get("layers"), list) else None
