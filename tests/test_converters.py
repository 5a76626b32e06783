"""URL segments as domain types: what stands in a reference's place and is none is the client's error, and said."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.exceptions import NotFound
from werkzeug.routing import Rule

from depproxy.oci.digest import Digest
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.reference import Name, Reference, Tag
from depproxy.web.routing import RememberingMap
from tests.strategies import digests, foreign_digests, names, references, tags

PATHS = RememberingMap()
PATHS.add(Rule("/v2/<path:path>/manifests/<reference:reference>", endpoint="manifest"))
PATHS.add(Rule("/v2/<path:path>/blobs/<digest:digest>", endpoint="blob"))

# Everything but the slash, which parts segments, and surrogates, which no UTF-8 holds.
SEGMENTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1)


def match(path: str) -> dict[str, Any]:
    """The arguments that a handler gets for a path."""
    rule, arguments = PATHS.bind("cache.test", path_info=path).match(return_rule=True)
    assert rule.endpoint == ("manifest" if "/manifests/" in path else "blob")
    found: dict[str, Any] = dict(arguments)
    return found


def refused(path: str) -> Code:
    with pytest.raises(OCIError) as raised:
        match(path)
    assert raised.value.status == 400
    return raised.value.code


def outcome(path: str) -> dict[str, Any] | Code:
    """The arguments, or the code of the error document; nothing else may be raised."""
    try:
        return match(path)
    except OCIError as error:
        return error.code


@given(names(), references())
def test_references(name: Name, reference: Reference) -> None:
    found = match(f"/v2/{name}/manifests/{reference}")
    assert found == {"path": name, "reference": reference}
    assert type(found["reference"]) is type(reference)


@given(names(), digests())
def test_digests(name: Name, digest: Digest) -> None:
    found = match(f"/v2/{name}/blobs/{digest}")
    assert found == {"path": name, "digest": digest}
    assert type(found["digest"]) is Digest


@given(SEGMENTS)
def test_any_other_segment_is_refused(segment: str) -> None:
    """In one of two ways, by whether it has a digest's colon; nothing else is ever raised."""
    found = outcome(f"/v2/a/manifests/{segment}")
    invalid = Code.DIGEST_INVALID if ":" in segment else Code.TAG_INVALID
    assert found in (invalid, {"path": "a", "reference": segment})
    assert outcome(f"/v2/a/blobs/{segment}") in (Code.DIGEST_INVALID, {"path": "a", "digest": segment})


@given(foreign_digests())
def test_digests_that_cannot_be_verified(text: str) -> None:
    assert refused(f"/v2/a/manifests/{text}") is Code.DIGEST_INVALID
    assert refused(f"/v2/a/blobs/{text}") is Code.DIGEST_INVALID


@given(tags())
def test_a_tag_is_no_digest(tag: Tag) -> None:
    assert refused(f"/v2/a/blobs/{tag}") is Code.DIGEST_INVALID


@given(st.lists(SEGMENTS, min_size=1, max_size=5))
@example(["a\nb"])
def test_a_path_takes_any_segments(segments: list[str]) -> None:
    """What they mean is for `Addresses` to say: a name that is none must not become an unknown address."""
    path = "/".join(segments)
    assert match(f"/v2/{path}/manifests/1")["path"] == path


@pytest.mark.parametrize("path", ["/v2/a/manifests/", "/v2/a/manifests", "/v2/manifests/1", "/v2/a/manifests/1/2"])
def test_unknown_addresses(path: str) -> None:
    with pytest.raises(NotFound):
        match(path)


def test_the_words_of_an_address_may_be_part_of_a_name() -> None:
    assert match("/v2/a/manifests/manifests/manifests")["path"] == "a/manifests"
    assert match("/v2/a/blobs/x/manifests/1")["path"] == "a/blobs/x"
    assert match("/v2/v2/v2/manifests/1")["path"] == "v2/v2"
