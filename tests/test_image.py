"""depproxy.oci.image"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.digest import Digest, InvalidDigest
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.image import LATEST, GroupInName, ImageNames, parse_image
from depproxy.oci.reference import InvalidTag, Name, Tag
from tests.strategies import digests, names, tags

NAMES = ImageNames("docker.io", {"docker.io": ("hub",), "ghcr.io": (), "registry.example:5000": ()})
HOSTS = st.sampled_from(["", "ghcr.io/", "registry.example:5000/", "localhost:5000/", "[::1]:5000/"])
DIGEST = Digest.of(b"")


@given(HOSTS, names(), tags(), digests())
def test_what_docker_pull_takes(host: str, name: Name, tag: Tag, digest: Digest) -> None:
    image = host + name
    assert parse_image(image) == (image, LATEST)
    assert parse_image(f"{image}:{tag}") == (image, tag)
    assert parse_image(f"{image}@{digest}") == (image, digest)
    # The digest says all; the tag is for those who read it.
    assert parse_image(f"{image}:{tag}@{digest}") == (image, digest)


@given(st.text("a/:@.-_A\n", max_size=30) | st.text(max_size=30))
def test_any_text_is_an_image_or_refused(text: str) -> None:
    refusal = ""
    try:
        name, _ = parse_image(text)
        NAMES.find(name)
    except (InvalidTag, InvalidDigest, OCIError) as error:
        refusal = str(error)
    # For a line of a terminal or a log.
    assert refusal.isprintable()


@pytest.mark.parametrize("text", ["alpine:", "alpine:-x", "alpine:a b", "alpine:a/b:", f"alpine:@{DIGEST}"])
def test_what_is_no_tag(text: str) -> None:
    with pytest.raises(InvalidTag):
        parse_image(text)


@pytest.mark.parametrize("host", ["", "localhost/", "cache.example/", "cache:5000/", "[::1]:5000/"])
@pytest.mark.parametrize("group", ["acme", "acme/my.tools"])
def test_an_address_is_no_name(host: str, group: str) -> None:
    with pytest.raises(GroupInName) as refused:
        parse_image(f"{host}{group}/dependency_proxy/containers/ghcr.io/app:3")
    assert f"write --group {group} ghcr.io/app:3, and leave out the host" in str(refused.value)


@pytest.mark.parametrize("text", ["alpine@", "alpine@3.19", "alpine@sha256:abc", f"alpine@{DIGEST}:3", "alpine@@"])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidDigest):
        parse_image(text)


@pytest.mark.parametrize(
    ("image", "upstream", "repository"),
    [
        ("alpine", "docker.io", "library/alpine"),
        ("team/app", "docker.io", "team/app"),
        ("docker.io/alpine", "docker.io", "library/alpine"),
        ("hub/alpine", "docker.io", "library/alpine"),
        ("ghcr.io/org/app", "ghcr.io", "org/app"),
        ("registry.example:5000/app", "registry.example:5000", "app"),
    ],
)
def test_where_it_is(image: str, upstream: str, repository: str) -> None:
    assert NAMES.find(image) == (upstream, repository)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("quay.io/org/app", Code.NAME_UNKNOWN),
        ("quay.io:443/app", Code.NAME_UNKNOWN),
        ("", Code.NAME_INVALID),
        ("Alpine", Code.NAME_INVALID),
        ("a.\nb/app", Code.NAME_INVALID),
    ],
)
def test_what_is_nowhere(image: str, code: Code) -> None:
    with pytest.raises(OCIError) as raised:
        NAMES.find(image)
    assert raised.value.code is code
