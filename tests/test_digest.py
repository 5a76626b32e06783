"""depproxy.oci.digest"""

from __future__ import annotations

import hashlib
import pickle
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from depproxy.oci.digest import Digest, InvalidDigest, UnsupportedAlgorithm
from tests.strategies import almost, digests, foreign_digests

ALPHABET = "0123456789abcdefABCDEFghxyz:+._-= \n\u0661é"


def is_digest(text: str) -> bool:
    """The oracle: image-spec's registered algorithms, read by hand."""
    algorithm, colon, encoded = text.partition(":")
    length = {"sha256": 64, "sha512": 128}.get(algorithm)
    return colon == ":" and len(encoded) == length and all(c in "0123456789abcdef" for c in encoded)


def is_foreign(text: str) -> bool:
    """The oracle for the general grammar, unregistered algorithms only."""
    algorithm, colon, encoded = text.partition(":")
    for separator in "+._-":
        algorithm = algorithm.replace(separator, "/")
    words = algorithm.split("/")
    lower = set(string.ascii_lowercase + string.digits)
    encodable = set(string.ascii_letters + string.digits + "=_-")
    grammatical = all(word and set(word) <= lower for word in words) and bool(encoded) and set(encoded) <= encodable
    return colon == ":" and grammatical and text.partition(":")[0] not in {"sha256", "sha512"}


@given(almost(st.one_of(digests(), foreign_digests()), ALPHABET) | st.text(ALPHABET) | st.text())
@example("0_:0")
@example("a+b-:1")
def test_accepts_what_the_grammar_accepts(text: str) -> None:
    if is_digest(text):
        assert Digest(text) == text
    else:
        with pytest.raises(InvalidDigest) as caught:
            Digest(text)
        assert isinstance(caught.value, UnsupportedAlgorithm) == is_foreign(text)


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "sha256:" + "a" * 128,
        "SHA256:" + "a" * 64,
        "sha256:" + "\u0661" * 64,
        "sha256",
        "",
        "md5:",
        "md5:/",
        "a++b:c",
    ],
)
def test_texts_that_are_no_digests_in_any_algorithm(text: str) -> None:
    assert not is_digest(text)
    assert not is_foreign(text)
    with pytest.raises(InvalidDigest) as caught:
        Digest(text)
    assert type(caught.value) is InvalidDigest


@pytest.mark.parametrize("text", ["multihash+base58:QmRZxt2b1FVZ", "sha256+b64u:LCa0a2j_xo-5m=", "a.b_c-d:0", "md5:0"])
def test_texts_that_are_digests_in_algorithms_not_registered(text: str) -> None:
    """The first two follow image-spec's examples."""
    with pytest.raises(UnsupportedAlgorithm):
        Digest(text)


@given(digests())
def test_parts_make_the_whole(digest: Digest) -> None:
    assert Digest(f"{digest.algorithm}:{digest.encoded}") == digest
    assert Digest(digest) == digest


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digest_of_bytes_is_what_hashlib_says(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    assert Digest.of(memoryview(data), algorithm) == digest


@given(st.lists(st.binary()), st.sampled_from(["sha256", "sha512"]))
def test_running_hash_of_pieces_equals_the_digest_of_the_whole(pieces: list[bytes], algorithm: str) -> None:
    expected = Digest.of(b"".join(pieces), algorithm)
    hasher = expected.hasher()
    for piece in pieces:
        hasher.update(piece)
    assert Digest.from_hasher(hasher) == expected


def test_default_algorithm_is_sha256() -> None:
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Digest.of(b"") == empty


def test_other_algorithms_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedAlgorithm, match="'md5' is neither sha256 nor sha512"):
        Digest.of(b"", "md5")
    with pytest.raises(UnsupportedAlgorithm, match="md5"):
        Digest.from_hasher(hashlib.md5(b""))
    with pytest.raises(UnsupportedAlgorithm, match="'blake3'"):
        Digest("blake3:" + "0" * 64)


def test_refusal_shows_no_more_than_the_beginning_of_a_long_text() -> None:
    with pytest.raises(InvalidDigest) as caught:
        Digest("sha256:" + "0" * 1_000_000)
    assert len(str(caught.value)) < 200


@given(digests())
def test_is_a_str_that_costs_no_dictionary(digest: Digest) -> None:
    assert {digest: 1}[str(digest)] == 1  # type: ignore[index]
    assert not hasattr(digest, "__dict__")
    copy = pickle.loads(pickle.dumps(digest))
    assert (type(copy), copy) == (Digest, digest)
