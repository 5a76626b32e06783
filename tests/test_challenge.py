"""depproxy.oci.challenge"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.challenge import Challenge, parse_challenges
from tests.strategies import almost, challenge_headers, challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"'
HUB_CHALLENGE = Challenge(
    "bearer",
    {
        "realm": "https://auth.docker.io/token",
        "service": "registry.docker.io",
        "scope": "repository:library/alpine:pull",
    },
)


@given(st.data(), st.lists(challenges(), max_size=4))
def test_finds_what_was_written(data: st.DataObject, written: list[Challenge]) -> None:
    header = data.draw(challenge_headers(written))
    assert parse_challenges(header) == tuple(written)


@given(st.text() | st.text('aB=", \t\\~/', max_size=60))
def test_no_text_is_an_error(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name and name == name.lower() for name in challenge.params)


@given(st.data(), st.lists(challenges(), max_size=4))
def test_a_spoilt_header_is_no_error(data: st.DataObject, written: list[Challenge]) -> None:
    header = data.draw(almost(challenge_headers(written), '=", \\\x00é@'))
    assert len(parse_challenges(header)) <= 2 * len(header)


@given(st.data(), st.lists(challenges(), min_size=1, max_size=3))
def test_what_stands_before_an_open_quote_is_kept(data: st.DataObject, written: list[Challenge]) -> None:
    header = data.draw(challenge_headers(written)) + ', error="'
    rest = data.draw(st.text(st.characters(codec="latin-1", exclude_characters='"')))
    assert parse_challenges(header + rest) == tuple(written)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ()),
        (" , ,", ()),
        (HUB, (HUB_CHALLENGE,)),
        (f'{HUB}, Basic realm="Registry"', (HUB_CHALLENGE, Challenge("basic", {"realm": "Registry"}))),
        (f'Basic realm="a, b", {HUB}', (Challenge("basic", {"realm": "a, b"}), HUB_CHALLENGE)),
        ("Negotiate", (Challenge("negotiate"),)),
        (
            f"Negotiate a87421000492aa874209af8bc028==, {HUB}",
            (Challenge("negotiate", {}, "a87421000492aa874209af8bc028=="), HUB_CHALLENGE),
        ),
        (f"Negotiate, NTLM, {HUB}", (Challenge("negotiate"), Challenge("ntlm"), HUB_CHALLENGE)),
        ('BEARER Realm = "x" , SERVICE\t=\ty', (Challenge("bearer", {"realm": "x", "service": "y"}),)),
        # The empty elements of a list (RFC 9110 section 5.6.1.2).
        ('Bearer ,, realm="x",, ,', (Challenge("bearer", {"realm": "x"}),)),
        (r'Bearer realm="a\"b\\c\d"', (Challenge("bearer", {"realm": r'a"b\cd'}),)),
        ('Basic realm=""', (Challenge("basic", {"realm": ""}),)),
    ],
)
def test_challenges_in_use(header: str, expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges(header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        # Quotes or commas left out.
        (
            "Bearer realm=https://auth/token,service=x",
            (Challenge("bearer", {"realm": "https://auth/token", "service": "x"}),),
        ),
        ('Bearer realm="x" service="y"', (Challenge("bearer", {"realm": "x", "service": "y"}),)),
        # The first of two wins: whoever appends to a header does not replace a realm.
        ('Bearer realm="x",realm="evil"', (Challenge("bearer", {"realm": "x"}),)),
        # A parameter without a challenge, and noise.
        ('realm="x", Basic realm="y"', (Challenge("basic", {"realm": "y"}),)),
        ('@@@, Basic realm="y"', (Challenge("basic", {"realm": "y"}),)),
        ('Bearer @"a, Basic b", service="y"', (Challenge("bearer", {"service": "y"}),)),
        ('Bearer foo bar, service="y"', (Challenge("bearer", {"service": "y"}),)),
        # What looks like a challenge within an open quote is text.
        (
            'Basic realm="y", Bearer realm="x, Digest realm="z"',
            (Challenge("basic", {"realm": "y"}), Challenge("bearer", {"realm": "x, Digest realm="})),
        ),
        ('Basic realm="y, Bearer realm=z', (Challenge("basic"),)),
        ('Basic realm="y\\', (Challenge("basic"),)),
    ],
)
def test_of_bad_headers_what_could_be_understood(header: str, expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges(header) == expected


@pytest.mark.parametrize("unit", ['"', "\\", "a=", 'a="', 'a="\\', "a ", "a, ", "=", '",', "a=b ", "~/", " ", 'x"\\"'])
def test_a_megabyte_of_anything_is_read_in_one_pass(unit: str) -> None:
    """A parser that goes back for each of them takes some 10**12 steps: this test would not end."""
    assert parse_challenges("Bearer " + unit * (1_000_000 // len(unit)))
