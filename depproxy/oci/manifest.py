"""Manifests: their media types, and the descriptors in them (OCI image-spec, Docker schema 2)."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from attrs import frozen

from depproxy.oci.digest import Digest, InvalidDigest, UnsupportedAlgorithm
from depproxy.oci.platform import UNKNOWN, InvalidPlatform, Platform

__all__ = [
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "INDEX_TYPES",
    "MANIFEST_TYPES",
    "MAX_CHILDREN",
    "MAX_MANIFEST",
    "OCI_ARTIFACT",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Descriptor",
    "InvalidManifest",
    "children",
    "essence",
    "is_index",
    "is_manifest",
    "platforms",
]

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"

# All that an upstream is asked for, so that it has no reason to convert or to pick a platform.
MANIFEST_TYPES: tuple[str, ...] = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT)
INDEX_TYPES: frozenset[str] = frozenset({OCI_INDEX, DOCKER_LIST})

# Bytes: the limit that the distribution-spec gives registries ("Pushing manifests").
MAX_MANIFEST = 4 * 1024 * 1024
MAX_CHILDREN = 10_000

_LARGEST_SIZE = 2**63 - 1

_CHILDREN: dict[str, tuple[str, ...]] = {
    DOCKER_MANIFEST: ("config", "layers"),
    OCI_MANIFEST: ("config", "layers"),
    OCI_ARTIFACT: ("blobs",),
    DOCKER_LIST: ("manifests",),
    OCI_INDEX: ("manifests",),
}

# It goes into headers and the cache index, so nothing but visible ASCII; no stricter, for pushers are not.
_match_media_type = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?").fullmatch


class InvalidManifest(ValueError):
    """The body is no manifest of the media type it came with."""


@frozen
class Descriptor:
    """What a manifest says about one of its children; size in bytes."""

    media_type: str
    digest: Digest
    size: int


def essence(media_type: str) -> str:
    """The media type without parameters, in lower case (RFC 9110 section 8.3.1)."""
    return media_type.partition(";")[0].strip().lower()


def is_manifest(media_type: str) -> bool:
    """Whether this is the type of a manifest or an index, of schema 1 too, and not that of a config or a layer."""
    kind = essence(media_type)
    return kind in INDEX_TYPES or ".manifest." in kind


def is_index(media_type: str) -> bool:
    """Whether this is the type of an image index."""
    return essence(media_type) in INDEX_TYPES


def children(media_type: str, body: bytes) -> tuple[Descriptor, ...]:
    """The config, layers, blobs or manifests that a manifest of this type is made of, in its order.

    The `subject` is none of them, and a media type unknown here has none. Left out are a layer with `urls`, for
    the registry need not hold it (image-spec, descriptor.md), and a child whose digest algorithm is unsupported,
    which is valid, but nobody can ask for it here. Raises InvalidManifest.
    """
    found = map(_descriptor, _all_items(media_type, body))
    return tuple(child for child in found if child is not None)


def platforms(media_type: str, body: bytes) -> tuple[tuple[Descriptor, Platform | None], ...]:
    """The children of a manifest, each with the platform that an image index says it is for; None where none is named.

    What is left out by `children` is left out here. Raises InvalidManifest.
    """
    found = ((_descriptor(item), _platform(item)) for item in _all_items(media_type, body))
    return tuple((child, platform) for child, platform in found if child is not None)


def _all_items(media_type: str, body: bytes) -> list[object]:
    fields = _CHILDREN.get(essence(media_type))
    if fields is None:
        return []
    document = _document(body)
    items = [item for field in fields for item in _items(document, field)]
    if len(items) > MAX_CHILDREN:
        raise InvalidManifest(f"manifest has {len(items)} descriptors, more than {MAX_CHILDREN}")
    return items


def _platform(item: object) -> Platform | None:
    """What a descriptor says of its platform. Some tools write an empty one, and some what is none."""
    platform = item.get("platform") if isinstance(item, dict) else None
    if not platform:
        return None
    try:
        return Platform.of(*(platform.get(field) or "" for field in ("os", "architecture", "variant")))
    except (AttributeError, TypeError, InvalidPlatform):
        return UNKNOWN


def _document(body: bytes) -> dict[str, object]:
    try:
        document: object = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"manifest is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidManifest("manifest is not a JSON object")
    return document


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _items(document: dict[str, object], field: str) -> list[object]:
    value = document.get(field)
    if value is None:
        # Absent, or null: a Go program's empty list.
        return []
    if field == "config":
        return [value]
    if not isinstance(value, list):
        raise InvalidManifest(f"manifest field {field!r} is not a list")
    return value


def _descriptor(item: object) -> Descriptor | None:
    if not isinstance(item, dict):
        raise InvalidManifest("descriptor is not a JSON object")
    # Some pushers leave it out; what has no type is octets (RFC 9110 section 8.3).
    media_type = item.get("mediaType") or "application/octet-stream"
    digest, size = item.get("digest"), item.get("size")
    if not isinstance(media_type, str) or _match_media_type(media_type) is None:
        raise InvalidManifest(f"descriptor's mediaType {str(media_type)[:80]!r} is not a media type")
    if type(size) is not int or not 0 <= size <= _LARGEST_SIZE:
        raise InvalidManifest(f"descriptor's size {str(size)[:80]!r} is not a number of bytes")
    if not isinstance(digest, str):
        raise InvalidManifest("descriptor has no digest")
    try:
        child = Descriptor(media_type, Digest(digest), size)
    except UnsupportedAlgorithm:
        return None
    except InvalidDigest as error:
        raise InvalidManifest(f"descriptor's {error}") from error
    return None if item.get("urls") else child
