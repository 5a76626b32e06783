"""depproxy.oci.platform, and the platforms of an image index"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.manifest import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Descriptor, InvalidManifest, platforms
from depproxy.oci.platform import MAX_PLATFORMS, UNKNOWN, InvalidPlatform, Platform, parse_platforms
from tests.strategies import descriptors, json_values, some_platforms, write_descriptor


@given(some_platforms())
def test_its_text_names_it(platform: Platform) -> None:
    assert Platform.parse(str(platform)) == platform


@given(st.text("linux/armd64v8. -", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_platform_or_refused(text: str) -> None:
    try:
        platform = Platform.parse(text)
    except InvalidPlatform as error:
        refusal = str(error)
    else:
        refusal = ""
        assert Platform.parse(str(platform)) == platform
    assert refusal.isprintable()


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/AMD64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armv6l", "linux/arm/v6"),
        ("linux/armv7l", "linux/arm/v7"),
        ("linux/i686", "linux/386"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_spellings(text: str, means: str) -> None:
    assert str(Platform.parse(text)) == means


@pytest.mark.parametrize("text", ["", "linux", "amd64", "linux/", "/amd64", "linux//v7", "a/b/c/d", "a b/c", "linux/é"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidPlatform, match="is no platform such as"):
        Platform.parse(text)


def test_several() -> None:
    amd64, arm64 = Platform("linux", "amd64"), Platform("linux", "arm64")
    assert parse_platforms(["linux/amd64", "linux/arm64/v8", "linux/aarch64"]) == frozenset({amd64, arm64})
    assert parse_platforms(["linux/amd64", "all"]) is None
    with pytest.raises(InvalidPlatform):
        parse_platforms(["all", "x"])
    with pytest.raises(InvalidPlatform, match="more than 100"):
        parse_platforms(["linux/amd64"] * (MAX_PLATFORMS + 1))


@given(st.lists(st.tuples(descriptors(), st.none() | some_platforms())), st.sampled_from([OCI_INDEX, DOCKER_LIST]))
def test_of_an_index(entries: list[tuple[Descriptor, Platform | None]], media_type: str) -> None:
    written = [
        write_descriptor(
            child,
            **{} if platform is None else {"platform": dict(zip(FIELDS, str(platform).split("/"), strict=False))},
        )
        for child, platform in entries
    ]
    assert platforms(media_type, json.dumps({"manifests": written}).encode()) == tuple(entries)


FIELDS = ("os", "architecture", "variant")


@given(descriptors(), json_values())
def test_any_platform_in_an_index(child: Descriptor, value: object) -> None:
    """Whatever a tool has written there, the other platforms of the image can be had."""
    body = json.dumps({"manifests": [write_descriptor(child, platform=value)]}).encode()
    ((found, platform),) = platforms(OCI_INDEX, body)
    assert found == child
    assert platform in (None, UNKNOWN) or isinstance(value, dict)


def test_attestations() -> None:
    assert Platform.parse("unknown/unknown") == UNKNOWN


def test_a_manifest_has_none_and_what_is_no_index_is_invalid() -> None:
    assert platforms("text/plain", b"") == ()
    with pytest.raises(InvalidManifest):
        platforms(OCI_MANIFEST, b"[]")
