"""Hypothesis strategies, named after the nouns of the domain."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence

from attrs import frozen
from hypothesis import strategies as st

from depproxy.oci.byterange import MAX_RANGES, RangeSpec
from depproxy.oci.challenge import Challenge
from depproxy.oci.digest import Digest
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from depproxy.oci.platform import Platform
from depproxy.oci.reference import MAX_NAME, Name, Reference, Tag

ALPHANUMERIC = string.ascii_lowercase + string.digits
TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
OWS = st.text(" \t", max_size=3)


@st.composite
def almost(draw: st.DrawFn, valid: st.SearchStrategy[str], alphabet: str) -> str:
    """A valid text, or one with up to three characters replaced, inserted, removed: a grammar's edges."""
    text = draw(valid)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 1)))
        text = text[:start] + draw(st.text(alphabet, max_size=1)) + text[stop:]
    return text


# Digests, names, references


@st.composite
def digests(draw: st.DrawFn, algorithms: Sequence[str] = ("sha256", "sha512")) -> Digest:
    """Digests of nothing in particular."""
    algorithm = draw(st.sampled_from(algorithms))
    size = {"sha256": 32, "sha512": 64}[algorithm]
    return Digest(f"{algorithm}:{draw(st.binary(min_size=size, max_size=size)).hex()}")


def foreign_digests() -> st.SearchStrategy[str]:
    """Texts with the form of a digest, in algorithms that are not registered."""
    return st.from_regex(r"[a-z0-9]{1,8}([+._-][a-z0-9]{1,8}){0,2}:[A-Za-z0-9=_-]{1,80}", fullmatch=True).filter(
        lambda text: not text.startswith(("sha256:", "sha512:"))
    )


@st.composite
def components(draw: st.DrawFn) -> str:
    """Components of a name: runs of letters and digits, and what may part them."""
    runs = draw(st.lists(st.text(ALPHANUMERIC, min_size=1, max_size=12), min_size=1, max_size=4))
    separators = st.sampled_from([".", "_", "__", "-", "--", "-----"])
    return runs[0] + "".join(draw(separators) + run for run in runs[1:])


@st.composite
def names(draw: st.DrawFn, min_components: int = 1) -> Name:
    """Repository names, now and then as long as they may be."""
    parts = draw(st.lists(components(), min_size=min_components, max_size=min_components + 3))
    text = "/".join(parts)[:MAX_NAME].rstrip("._-/")
    if draw(st.integers(0, 9)) == 0:
        text = text.ljust(MAX_NAME, draw(st.sampled_from(ALPHANUMERIC)))
    return Name(text)


def tags() -> st.SearchStrategy[Tag]:
    """Tags."""
    word = string.ascii_letters + string.digits + "_"
    return st.builds(lambda first, rest: Tag(first + rest), st.sampled_from(word), st.text(word + ".-", max_size=127))


def references() -> st.SearchStrategy[Reference]:
    """Tags and digests."""
    return st.one_of(tags(), digests())


# Manifests


def media_types() -> st.SearchStrategy[str]:
    """Media types of layers and configs."""
    return st.sampled_from(
        [
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.empty.v1+json",
            "text/spdx; version=2",
        ]
    )


def some_platforms() -> st.SearchStrategy[Platform]:
    """Platforms of images."""
    variants = st.sampled_from(["", "v5", "v6", "v7", "v8", "v2", "power9"])
    architectures = st.sampled_from(["amd64", "arm", "arm64", "386", "s390x", "riscv64"])
    return st.builds(Platform.of, st.sampled_from(["linux", "windows", "freebsd"]), architectures, variants)


def sizes() -> st.SearchStrategy[int]:
    """Sizes of blobs, in bytes."""
    return st.integers(0, 2**63 - 1)


def descriptors() -> st.SearchStrategy[Descriptor]:
    """Descriptors."""
    return st.builds(Descriptor, media_types(), digests(), sizes())


@frozen
class SomeManifest:
    """A manifest as an upstream sends it, and the children that it was written with, but those with urls."""

    media_type: str
    body: bytes
    children: tuple[Descriptor, ...]


def write_descriptor(descriptor: Descriptor, **more: object) -> dict[str, object]:
    """The JSON form of a descriptor, with any further fields."""
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size, **more}


@st.composite
def manifests(draw: st.DrawFn) -> SomeManifest:
    """Manifests and image indexes of every type, some with a subject, annotations, platforms or urls."""
    media_type = draw(st.sampled_from([DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, OCI_ARTIFACT]))
    found = draw(st.lists(descriptors(), min_size=1, max_size=6))
    foreign: dict[str, object] = {"urls": ["https://example.com/layer"]}
    more: list[dict[str, object]] = [{}, {"urls": []}, foreign, {"platform": {"os": "linux"}}]
    chosen = [draw(st.sampled_from(more)) for _ in found]
    written = [write_descriptor(child, **fields) for child, fields in zip(found, chosen, strict=True)]
    document: dict[str, object] = {"schemaVersion": 2, "mediaType": media_type}
    if media_type in {DOCKER_MANIFEST, OCI_MANIFEST}:
        document |= {"config": written[0], "layers": written[1:]}
    else:
        document["blobs" if media_type == OCI_ARTIFACT else "manifests"] = written
    if draw(st.booleans()):
        document |= {"subject": write_descriptor(draw(descriptors())), "annotations": {"layers": "none"}}
    body = json.dumps(document, indent=draw(st.sampled_from([None, 3]))).encode()
    held = (child for child, fields in zip(found, chosen, strict=True) if fields is not foreign)
    return SomeManifest(media_type, body, tuple(held))


def json_values() -> st.SearchStrategy[object]:
    """Anything that JSON can hold."""
    leaves = (
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=12,
    )


# Challenges


def tokens() -> st.SearchStrategy[str]:
    """Tokens of RFC 9110 section 5.6.2."""
    return st.text(TOKEN, min_size=1, max_size=12)


def challenges() -> st.SearchStrategy[Challenge]:
    """Challenges with parameters, with a token68, and with nothing."""
    schemes = tokens().map(str.lower)
    values = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)
    params = st.dictionaries(tokens().map(str.lower), values, max_size=4)
    token68 = st.from_regex(r"[A-Za-z0-9._~+/-]{1,20}={0,2}", fullmatch=True)
    return st.one_of(st.builds(Challenge, schemes, params), st.builds(Challenge, schemes, token68=token68))


@st.composite
def challenge_headers(draw: st.DrawFn, written: Sequence[Challenge]) -> str:
    """The ways in which a registry may write these challenges into one header (RFC 9110 section 11.6.1)."""
    fields: list[str] = []
    for challenge in written:
        scheme = "".join(draw(st.sampled_from([letter, letter.upper()])) for letter in challenge.scheme)
        items = [draw(_written_param(name, value)) for name, value in challenge.params.items()]
        items = [challenge.token68] if challenge.token68 is not None else items
        if items:
            items[0] = scheme + " " * draw(st.integers(1, 3)) + items[0]
        fields += items or [scheme]
    comma = st.builds(lambda before, commas, after: before + commas + after, OWS, st.sampled_from([",", ",,"]), OWS)
    return "".join(draw(comma) + item for item in fields)[draw(st.integers(0, 1)) if fields else 0 :]


@st.composite
def _written_param(draw: st.DrawFn, name: str, value: str) -> str:
    if value and set(value) <= set(TOKEN) and draw(st.booleans()):
        written = value
    else:
        always = r'["\\]' if draw(st.booleans()) else r"."
        written = '"' + re.sub(always, lambda match: "\\" + match[0], value) + '"'
    return draw(st.sampled_from([name, name.upper()])) + draw(OWS) + "=" + draw(OWS) + written


# Ranges


def positions() -> st.SearchStrategy[int]:
    """Byte positions: small ones beside the largest that a header may hold."""
    return st.integers(0, 80) | st.integers(0, 10**20 - 1)


def range_specs() -> st.SearchStrategy[RangeSpec]:
    """Ranges as written: bounded, open, suffix."""
    bounded = st.tuples(positions(), positions()).map(lambda pair: RangeSpec(min(pair), max(pair)))
    opened = st.builds(RangeSpec, positions(), st.none())
    suffix = st.builds(RangeSpec, st.none(), positions())
    return st.one_of(bounded, opened, suffix)


def range_sets() -> st.SearchStrategy[tuple[RangeSpec, ...]]:
    """What one Range header may ask for."""
    return st.lists(range_specs(), min_size=1, max_size=MAX_RANGES).map(tuple)


def write_spec(spec: RangeSpec) -> str:
    """The text of one range."""
    first = "" if spec.first is None else str(spec.first)
    last = "" if spec.last is None else str(spec.last)
    return f"{first}-{last}"


@st.composite
def range_headers(draw: st.DrawFn, specs: Sequence[RangeSpec]) -> str:
    """The ways in which a client may write these ranges (RFC 9110 section 14.1.1)."""
    unit = draw(st.sampled_from(["bytes", "Bytes", "BYTES"]))
    comma = draw(st.sampled_from([",", ", ", " ,\t", ",,"]))
    return f"{unit}={draw(OWS)}{comma.join(map(write_spec, specs))}{draw(OWS)}"


# Errors


def codes() -> st.SearchStrategy[Code]:
    """Error codes."""
    return st.sampled_from(Code)


def oci_errors() -> st.SearchStrategy[OCIError]:
    """Errors with any message and detail, and with or without a status of their own."""
    return st.builds(
        OCIError,
        codes(),
        st.text(),
        status=st.none() | st.integers(400, 599),
        detail=json_values(),
        headers=st.none() | st.just({"Retry-After": "3"}),
    )
