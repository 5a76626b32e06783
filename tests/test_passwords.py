"""Passwords and secrets: what is kept of them, and whether it is told from everything else."""

import math
import re
from hashlib import sha256

import bcrypt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from depproxy.access import passwords
from depproxy.access.passwords import LONGEST, fingerprint, hash_password, hash_token, is_token, new_secret, stand_in
from depproxy.access.passwords import verify as verified
from depproxy.config.accounts import password_hash

# The least that the configuration takes: here the time is of no use.
CHEAP = 10

# Whatever a client can send, NUL and lone surrogates too.
texts = st.text(st.characters(), max_size=30) | st.sampled_from(["a", "a\0", "a\0b", "\ud800", "é", "e\u0301"])
usable = texts.filter(lambda text: text != "" and "\0" not in text and not is_token(text))

# RFC 7914 section 12, the third vector, whose hash is twice as long.
VECTOR = "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI"
# Apache's htpasswd 2.4, `htpasswd -nbBC 5 bob hunter2`.
APACHE = "$2y$05$ih.6bSV6NCumyv.OAq3jIugtbGU1rSSXZG1fwAQtG4OdPoe/iH.tq"


def bcrypted(password: str, prefix: bytes = b"2b") -> str:
    hashed = bcrypt.hashpw(password.encode("utf-8", "surrogatepass"), bcrypt.gensalt(4)).decode()
    return hashed.replace("$2b$", f"${prefix.decode()}$")


def test_what_others_have_hashed() -> None:
    assert verified("pleaseletmein", VECTOR)
    assert not verified("pleaseletmeIn", VECTOR)
    assert verified("hunter2", APACHE)
    assert not verified("hunter3", APACHE)


@given(usable, texts)
def test_scrypt_takes_the_password_and_no_other(password: str, other: str) -> None:
    hashed = hash_password(password, CHEAP)
    assert password_hash(hashed) == hashed
    assert verified(password, hashed)
    assert verified(other, hashed) == (other == password)


@given(usable | st.just(""), texts, st.sampled_from([b"2a", b"2b", b"2y"]))
def test_bcrypt_takes_the_password_and_no_other(password: str, other: str, prefix: bytes) -> None:
    assume(len(password.encode("utf-8", "surrogatepass")) <= 72)
    hashed = bcrypted(password, prefix)
    assert password_hash(hashed) == hashed
    assert verified(password, hashed)
    assert verified(other, hashed) == (other == password)


def test_the_default_costs_what_it_should() -> None:
    hashed = hash_password("correct horse")
    assert re.fullmatch(r"\$scrypt\$ln=15,r=8,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", hashed)
    assert verified("correct horse", hashed)
    assert hash_password("correct horse", CHEAP) != hash_password("correct horse", CHEAP)


def test_bcrypt_does_not_take_a_password_for_its_beginning() -> None:
    hashed = bcrypted("a" * 72)
    assert verified("a" * 72, hashed)
    assert not verified("a" * 73, hashed)
    assert not verified("é" * 36 + "x", bcrypted("é" * 36))


def test_every_cost_that_the_configuration_takes() -> None:
    for r in range(1, 17):
        for p in range(1, 5):
            hashed = passwords._scrypt(b"x", b"salt" * 4, CHEAP, r, p)
            written = f"$scrypt$ln={CHEAP},r={r},p={p}$c2FsdHNhbHRzYWx0c2FsdA${passwords._base64(hashed)}"
            assert verified("x", password_hash(written)), (r, p)
    assert verified("x", hash_password("x", 17))


@given(texts, st.data())
def test_nothing_raises(password: str, data: st.DataObject) -> None:
    good = data.draw(
        st.sampled_from([VECTOR.replace("=14", "=10"), APACHE.replace("$05", "$04"), "", "$2b$", "$scrypt$"])
    )
    start = data.draw(st.integers(0, len(good)))
    length = data.draw(st.integers(0, 3))
    broken = good[:start] + data.draw(st.text(max_size=3)) + good[start + length :]
    assert not verified(password, broken)


@pytest.mark.parametrize(
    "hashed",
    [
        # A cost that would take all memory, and one that RFC 7914 does not allow: N < 2 ^ (128 * r / 8).
        "$scrypt$ln=31,r=8,p=1$" + "a" * 22 + "$" + "b" * 43,
        "$scrypt$ln=99,r=8,p=1$" + "a" * 22 + "$" + "b" * 43,
        "$scrypt$ln=16,r=1,p=1$" + "a" * 22 + "$" + "b" * 43,
        # No base64 has that length.
        "$scrypt$ln=10,r=8,p=1$" + "a" * 13 + "$" + "b" * 43,
        # Characters that no bcrypt salt has.
        "$2b$04$" + "z" * 53,
        "$2x$04$" + "." * 53,
        "$2b$31$" + "." * 53,
        "$apr1$salt$hash",
    ],
)
def test_hashes_that_cannot_be_are_nobodys(hashed: str) -> None:
    assert not verified("x", hashed)


def test_what_is_too_long_is_not_hashed() -> None:
    for password in ("x" * (LONGEST + 1), "é" * (LONGEST // 2) + "x", "x" * (16 << 10), "\ud800" * (16 << 10)):
        for hashed in (VECTOR, APACHE):
            assert not verified(password, hashed)
        with pytest.raises(ValueError, match="from 1 to 1024 bytes"):
            hash_password(password)
    assert verified("x" * LONGEST, hash_password("x" * LONGEST, CHEAP))


def test_passwords_that_are_refused() -> None:
    for password in ("", "a\0", "\0"):
        with pytest.raises(ValueError, match="from 1 to 1024 bytes, and no NUL"):
            hash_password(password)
    with pytest.raises(ValueError, match="must not look like a token"):
        hash_password(new_secret(passwords.PERSONAL))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dpp_x", True),
        ("dpd_", True),
        ("dpg_a\nb", True),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", True),
        ("glpat-abcdefghijklmnopqrst", True),
        ("glcbt-64_abcdefghijklmnopqrst", True),
        ("gldt-abcdefghijklmnopqrst", True),
        ("", False),
        ("dpx_x", False),
        ("xdpp_x", False),
        ("eyJ is how they begin", False),
        ("glue-pot", False),
        ("correct horse battery staple", False),
    ],
)
def test_the_form_of_tokens(text: str, expected: bool) -> None:
    assert is_token(text) == expected


def test_a_stand_in_costs_what_most_hashes_cost() -> None:
    cheap, dear, old = hash_password("a", CHEAP), hash_password("a", 11), bcrypted("a")
    assert stand_in().startswith("$scrypt$ln=15,r=8,p=1$")
    assert stand_in([dear, cheap, cheap, old]).startswith("$scrypt$ln=10,r=8,p=1$")
    assert stand_in(iter([old, old.replace("$2b", "$2y"), old, dear])).startswith("$2b$04$")
    assert stand_in([APACHE, cheap, APACHE]).startswith("$2y$05$")


def test_a_stand_in_is_a_hash_like_others_and_nobodys() -> None:
    for like in ([], [hash_password("a", CHEAP)], [bcrypted("a")]):
        for _ in range(20):
            made = stand_in(like)
            assert password_hash(made) == made
            assert made != stand_in(like)
            if made.startswith("$2"):
                # It raises where the salt cannot be, and that would take no time.
                assert not bcrypt.checkpw(b"a", made.encode())
        assert not verified("a", made)


@given(texts, texts)
def test_tokens_are_kept_by_their_hash(one: str, other: str) -> None:
    kept = hash_token(one)
    assert re.fullmatch("sha256:[0-9a-f]{64}", kept)
    assert (hash_token(other) == kept) == (other == one)
    assert kept == "sha256:" + sha256(one.encode("utf-8", "surrogatepass")).hexdigest()
    assert re.fullmatch("[0-9a-f]{8}", fingerprint(one))
    assert fingerprint(one) == fingerprint(one)


def test_secrets_are_long_and_their_own() -> None:
    made = {new_secret("dpp_") for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("dpp_[0-9A-Za-z]{27}", secret) for secret in made)
    assert math.log2(62) * 27 >= 160
    # Every letter is used: with 27,000 of them one of 62 is missing once in e^435 runs.
    assert len(set("".join(secret[4:] for secret in made))) == 62
