"""depproxy.oci.manifest"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.digest import Digest
from depproxy.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_CHILDREN,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    InvalidManifest,
    children,
    essence,
    is_manifest,
)
from tests.strategies import (
    SomeManifest,
    descriptors,
    foreign_digests,
    json_values,
    manifests,
    write_descriptor,
)

LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(b"layer"), 5)
WRITTEN = write_descriptor(LAYER)


def written(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@given(manifests())
def test_finds_the_children_that_were_written(manifest: SomeManifest) -> None:
    assert children(manifest.media_type, manifest.body) == manifest.children


@given(manifests())
def test_parameters_and_case_of_the_media_type_do_not_matter(manifest: SomeManifest) -> None:
    assert children(manifest.media_type.upper() + " ; charset=utf-8", manifest.body) == manifest.children


@given(st.sampled_from(MANIFEST_TYPES), st.binary() | json_values().map(lambda value: json.dumps(value).encode()))
def test_any_body_has_children_or_is_invalid(media_type: str, body: bytes) -> None:
    try:
        found = children(media_type, body)
    except InvalidManifest:
        return
    assert isinstance(json.loads(body), dict)
    assert found == ()


@given(
    st.sampled_from(MANIFEST_TYPES),
    st.fixed_dictionaries(
        {},
        optional={
            field: json_values() | st.lists(st.just(WRITTEN) | json_values(), max_size=3) | st.just(WRITTEN)
            for field in ("config", "layers", "blobs", "manifests", "subject")
        },
    ),
)
def test_any_shape_has_children_or_is_invalid(media_type: str, document: dict[str, object]) -> None:
    try:
        found = children(media_type, json.dumps(document).encode())
    except InvalidManifest:
        return
    assert set(found) <= {LAYER}


@given(
    st.sampled_from(["mediaType", "digest", "size"]),
    json_values() | st.just(-1) | st.just(2**63) | st.just(True) | st.just("a\r\nb") | st.just("\ud800"),
)
def test_a_descriptor_is_right_or_invalid(field: str, value: object) -> None:
    body = json.dumps({"layers": [WRITTEN | {field: value}]}).encode()
    try:
        (found,) = children(OCI_MANIFEST, body)
    except InvalidManifest:
        return
    assert 0 <= found.size < 2**63
    assert type(found.size) is int
    assert found.media_type.isascii()
    assert found.media_type.isprintable()
    assert Digest(found.digest) == found.digest


@pytest.mark.parametrize("size", [-1, 2**63, True, 1.0, "5", None])
def test_a_size_is_a_whole_number_of_63_bits(size: object) -> None:
    with pytest.raises(InvalidManifest, match="size"):
        children(OCI_MANIFEST, written(layers=[WRITTEN | {"size": size}]))


@pytest.mark.parametrize("media_type", ["a\r\nb", "\ud800", "é", " a", "a ", "a" * 256, 7, ["a"]])
def test_a_media_type_fits_into_a_header(media_type: object) -> None:
    with pytest.raises(InvalidManifest, match="mediaType"):
        children(OCI_MANIFEST, written(layers=[WRITTEN | {"mediaType": media_type}]))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "../../etc/passwd", None, 7])
def test_a_malformed_digest_makes_the_manifest_invalid(digest: object) -> None:
    with pytest.raises(InvalidManifest, match="digest"):
        children(OCI_MANIFEST, written(layers=[WRITTEN | {"digest": digest}]))


@given(foreign_digests())
def test_a_child_in_an_unregistered_algorithm_is_left_out(digest: str) -> None:
    body = written(config=WRITTEN | {"digest": digest}, layers=[WRITTEN])
    assert children(OCI_MANIFEST, body) == (LAYER,)


@pytest.mark.parametrize("omitted", [{"mediaType": None}, {"mediaType": ""}])
def test_a_missing_media_type_means_octets(omitted: dict[str, object]) -> None:
    (child,) = children(OCI_MANIFEST, written(layers=[WRITTEN | omitted]))
    assert child == Descriptor("application/octet-stream", LAYER.digest, LAYER.size)


@pytest.mark.parametrize("media_type", MANIFEST_TYPES)
@pytest.mark.parametrize("body", [b"{}", b'{"layers":null,"config":null,"blobs":null,"manifests":null}'])
def test_absent_and_null_fields_are_empty(media_type: str, body: bytes) -> None:
    assert children(media_type, body) == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"\xff{}",
        "\ufeff{}".encode(),
        '{"layers":[]}'.encode("utf-16"),
        b'{"a":NaN}',
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b'{"layers":[{"size":' + b"9" * 10_000 + b"}]}",
        b'{"layers":{}}',
        b'{"layers":[[]]}',
        b'{"config":[]}',
    ],
)
def test_hostile_bodies_are_invalid(body: bytes) -> None:
    with pytest.raises(InvalidManifest) as caught:
        children(OCI_MANIFEST, body)
    assert len(str(caught.value)) < 300


def test_the_number_of_children_is_bounded() -> None:
    assert len(children(OCI_INDEX, written(manifests=[WRITTEN] * MAX_CHILDREN))) == MAX_CHILDREN
    with pytest.raises(InvalidManifest, match="10001 descriptors"):
        children(OCI_MANIFEST, written(config=WRITTEN, layers=[WRITTEN] * MAX_CHILDREN))


@given(descriptors())
def test_each_type_reads_its_own_fields_only(child: Descriptor) -> None:
    one = write_descriptor(child)
    body = written(config=one, layers=[one], blobs=[one], manifests=[one], subject=one)
    counts = {media_type: len(children(media_type, body)) for media_type in MANIFEST_TYPES}
    assert counts == {DOCKER_MANIFEST: 2, OCI_MANIFEST: 2, OCI_ARTIFACT: 1, DOCKER_LIST: 1, OCI_INDEX: 1}


@given(st.binary(), st.text())
def test_what_is_no_manifest_has_no_children(body: bytes, media_type: str) -> None:
    if essence(media_type) not in MANIFEST_TYPES:
        assert children(media_type, body) == ()


def test_image_indexes_are_manifests() -> None:
    assert set(MANIFEST_TYPES) > INDEX_TYPES == {DOCKER_LIST, OCI_INDEX}


def test_which_types_are_manifests() -> None:
    """A layer's or a config's digest, asked for as a manifest, is none."""
    assert all(is_manifest(kind) and is_manifest(kind.upper() + "; charset=utf-8") for kind in MANIFEST_TYPES)
    assert is_manifest("application/vnd.docker.distribution.manifest.v1+prettyjws")
    for kind in (
        "",
        "application/octet-stream",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.container.image.v1+json",
    ):
        assert not is_manifest(kind)
