"""depproxy.oci.reference"""

from __future__ import annotations

import string
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.digest import Digest, InvalidDigest
from depproxy.oci.reference import MAX_NAME, InvalidName, InvalidTag, Name, Tag, library, parse_reference
from tests.strategies import ALPHANUMERIC, almost, digests, names, references, tags

NAME_ALPHABET = "az09._-/A:@% \n\u0661é"
TAG_ALPHABET = "aZ09._-/:@% \n\u0661é"


def is_name(text: str) -> bool:
    """The oracle: distribution-spec's grammar of <name>, read as runs of characters of one kind."""
    return len(text) <= 255 and all(is_component(component) for component in text.split("/"))


def is_component(component: str) -> bool:
    runs = ["".join(run) for _, run in groupby(component, key=lambda c: "a" if c in ALPHANUMERIC else c)]
    words = [run for run in runs if set(run) <= set(ALPHANUMERIC)]
    separators = [run for run in runs if run in {".", "_", "__"} or set(run) == {"-"}]
    # Two separators of different kinds in a row leave fewer words than gaps.
    return len(words) + len(separators) == len(runs) and len(words) == len(separators) + 1


def is_tag(text: str) -> bool:
    """The oracle: distribution-spec's grammar of a tag."""
    word = set(string.ascii_letters + string.digits + "_")
    return 1 <= len(text) <= 128 and text[0] in word and set(text) <= word | {".", "-"}


@given(almost(names(), NAME_ALPHABET) | st.text(NAME_ALPHABET) | st.text())
def test_name_accepts_what_the_grammar_accepts(text: str) -> None:
    if is_name(text):
        assert Name(text) == text
    else:
        with pytest.raises(InvalidName):
            Name(text)


@given(almost(tags(), TAG_ALPHABET) | st.text(TAG_ALPHABET) | st.text(TAG_ALPHABET, min_size=126) | st.text())
def test_tag_accepts_what_the_grammar_accepts(text: str) -> None:
    if is_tag(text):
        assert Tag(text) == text
    else:
        with pytest.raises(InvalidTag):
            Tag(text)


@pytest.mark.parametrize("text", ["library/alpine", "a", "a__b", "a---b", "a.b/c_d", "0", "a" * 255])
def test_names_in_use(text: str) -> None:
    assert Name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a..b",
        "a._b",
        "a___b",
        "-a",
        "a-",
        "A",
        "a\n",
        "a%2fb",
    ],
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidName):
        Name(text)


@pytest.mark.parametrize("text", ["latest", "3.20", "_", "A-b.C", "a" * 128])
def test_tags_in_use(text: str) -> None:
    assert Tag(text) == text


@pytest.mark.parametrize("text", ["", ".", "-a", "a/b", "a:b", "a\n", "\u0661", "a" * 129])
def test_tags_that_are_none(text: str) -> None:
    with pytest.raises(InvalidTag):
        Tag(text)


@pytest.mark.parametrize("text", ["a" * 256, "a-" * 5_000_000 + "!", "-" * 10_000_000, "a/" * 128, "!" * 256])
def test_too_long_a_name_is_refused_for_its_length_before_its_letters(text: str) -> None:
    with pytest.raises(InvalidName, match=f"at most 255 characters, this one has {len(text)}"):
        Name(text)


class Long(str):
    """A good name whose length is a lie: only who asks for the length alone is taken in by it."""

    __slots__ = ()

    def __len__(self) -> int:
        return MAX_NAME + 1


def test_nothing_but_the_length_of_a_long_name_is_looked_at() -> None:
    with pytest.raises(InvalidName, match="this one has 256"):
        Name(Long("alpine"))


@pytest.mark.parametrize(
    "unit", ["a", "a-", "a--", "-", "a.", "a_", "a__", "_", "a/", "a-a/", "0", "a-0_", "aa__a-----"]
)
@pytest.mark.parametrize("end", ["!", "-", "_", "/", "A", "\n"])
def test_names_that_fail_at_their_last_character_are_not_tried_in_many_ways(unit: str, end: str) -> None:
    """A pattern that tries again takes some 2**100 steps for one of these: this test would not end."""
    with pytest.raises(InvalidName):
        Name((unit * MAX_NAME)[: MAX_NAME - 1] + end)


@given(references())
def test_a_reference_is_what_its_text_says(reference: Tag | Digest) -> None:
    parsed = parse_reference(str(reference))
    assert (type(parsed), parsed) == (type(reference), reference)


@given(almost(references(), TAG_ALPHABET))
def test_only_a_colon_makes_a_digest(text: str) -> None:
    found: type[object]
    try:
        found = type(parse_reference(text))
    except (InvalidDigest, InvalidTag) as error:
        found = type(error)
    assert issubclass(found, (Digest, InvalidDigest) if ":" in text else (Tag, InvalidTag))


@given(digests())
def test_the_tag_that_stands_for_referrers_is_a_tag(digest: Digest) -> None:
    """sha256-<hex>: distribution-spec, section "Referrers Tag Schema"."""
    text = f"{digest.algorithm}-{digest.encoded}"
    if len(text) <= 128:
        assert isinstance(parse_reference(text), Tag)


@given(names())
def test_library_adds_a_component_to_a_lonely_one(name: Name) -> None:
    if "/" in name:
        assert library(name) == name
    elif len(name) <= MAX_NAME - len("library/"):
        assert library(name) == "library/" + name
        assert library(library(name)) == library(name)
        assert isinstance(library(name), Name)
    else:
        with pytest.raises(InvalidName):
            library(name)


@given(names(), tags())
def test_are_strings_that_cost_no_dictionary(name: Name, tag: Tag) -> None:
    assert not hasattr(name, "__dict__")
    assert not hasattr(tag, "__dict__")
    assert (hash(name), hash(tag)) == (hash(str(name)), hash(str(tag)))
