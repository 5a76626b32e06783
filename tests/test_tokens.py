"""Our tokens: what they say comes back, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jwt
import pytest
from attrs import evolve, frozen
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from depproxy.access.interface import Identity, Withdrawn
from depproxy.access.keys import GRACE, Key, KeyRing
from depproxy.access.tokens import (
    AUDIENCE,
    EXPIRED,
    LEEWAY,
    MAX_TOKEN,
    NOT_OURS,
    TOO_EARLY,
    Bearer,
    InvalidToken,
    Tokens,
    TokenTooLarge,
)
from depproxy.config.accounts import Algorithm
from tests.strategies import json_values

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
ISSUER = "http://cache.example:5000"
START = 1_800_000_000
LIFETIME = 900
ALICE = Identity("local", "alice", "password:0", None)


@frozen
class Shop:
    """A ring, what issues by it, and their clock."""

    clock: Clock
    keys: KeyRing
    tokens: Tokens

    def another(self, issuer: str = ISSUER, *, remembered: int = 100) -> Tokens:
        """One that remembers nothing yet."""
        return Tokens(self.keys, issuer, LIFETIME, self.clock.seconds, remembered=remembered)

    def issue(self, identity: Identity = ALICE, *grants: str) -> bytes:
        return self.tokens.issue(identity, grants).token.encode()


def shop_in(path: Path, algorithm: Algorithm = "HS256") -> Shop:
    clock = Clock()
    clock.advance(START)
    keys = KeyRing(path / algorithm, algorithm, clock.seconds)
    keys.load()
    return Shop(clock, keys, Tokens(keys, ISSUER, LIFETIME, clock.seconds))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return shop_in(tmp_path)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shop]:
    """One per algorithm, for examples that change nothing in it."""
    path = tmp_path_factory.mktemp("shops")
    return {algorithm: shop_in(path, algorithm) for algorithm in ALGORITHMS}


def refusal(tokens: Tokens, token: bytes) -> str:
    """What is said of a token that is not good, each time that it comes."""
    said = set()
    for _ in range(2):
        with pytest.raises(InvalidToken) as caught:
            tokens.verify(token)
        assert caught.value.__cause__ is None
        said.add(str(caught.value))
    (text,) = said
    return text


# What is issued


def texts() -> st.SearchStrategy[str]:
    return st.text(max_size=40)


def identities() -> st.SearchStrategy[Identity]:
    """Identities of any source, whose credential never expires, or later."""
    expires = st.none() | st.floats(START + 1, 1e12) | st.just(float("inf"))
    return st.builds(Identity, texts(), texts(), texts(), expires)


def group_paths() -> st.SearchStrategy[str]:
    part = st.text(string.ascii_lowercase + string.digits + "_-.", min_size=1, max_size=20)
    return st.lists(part, min_size=1, max_size=4).map("/".join)


def grants() -> st.SearchStrategy[list[str]]:
    return st.just(["*"]) | st.lists(group_paths(), max_size=20)


@given(st.sampled_from(ALGORITHMS), identities(), grants())
def test_what_is_issued_comes_back(
    shops: dict[str, Shop], algorithm: Algorithm, identity: Identity, granted: list[str]
) -> None:
    shop = shops[algorithm]
    issued = shop.tokens.issue(identity, granted)
    expires = issued.issued_at + issued.expires_in
    assert shop.another().verify(issued.token.encode()) == Bearer(identity, frozenset(granted), expires)
    assert 0 < issued.expires_in <= LIFETIME
    assert expires <= (identity.expires or expires)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_token_holds(tmp_path: Path, algorithm: Algorithm) -> None:
    shop = shop_in(tmp_path, algorithm)
    identity = Identity("local", "alice", "token:laptop", START + 1e6)
    issued = shop.tokens.issue(identity, ["acme/tools", "acme", "acme"])
    header, claims = (json.loads(decoded(part)) for part in issued.token.split(".")[:2])
    assert header == {"typ": "JWT", "alg": algorithm, "kid": shop.keys.current.kid}
    assert len(claims.pop("jti")) >= 22
    assert claims == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": START,
        "nbf": START - LEEWAY,
        "exp": START + LIFETIME,
        "identity": {"source": "local", "credential": "token:laptop", "expires": START + 1e6},
        "grants": ["acme", "acme/tools"],
    }
    assert (issued.expires_in, issued.issued_at) == (LIFETIME, START)


def test_no_two_tokens_are_alike(shop: Shop) -> None:
    assert len({shop.issue() for _ in range(10)}) == 10


def test_a_token_is_in_no_repr(shop: Shop) -> None:
    issued = shop.tokens.issue(ALICE, ["*"])
    assert issued.token not in repr(issued)


@pytest.mark.parametrize(
    ("lifetime", "left", "life"),
    [(60, None, 60), (86400, None, 86400), (900, 1e9, 900), (900, 300, 300), (900, 300.9, 300), (900, 1, 1)],
)
def test_the_lifetime(shop: Shop, lifetime: float, left: float | None, life: int) -> None:
    """It may be changed, and ends with what proved the identity, in whole seconds."""
    shop.tokens.lifetime = lifetime
    identity = evolve(ALICE, expires=None if left is None else START + left)
    assert shop.tokens.issue(identity, []).expires_in == life


@pytest.mark.parametrize(("later", "left"), [(0, -1), (0, 0), (0, 0.999), (0.001, -1e6), (0.001, 0.999), (0.5, 0.6)])
def test_nothing_is_issued_for_what_has_expired(shop: Shop, later: float, left: float) -> None:
    """What ends within this second has ended: a token counts in whole seconds."""
    shop.clock.advance(later)
    with pytest.raises(Withdrawn, match=r"^the credential of alice has expired$"):
        shop.tokens.issue(evolve(ALICE, expires=START + left), [])


def test_a_token_that_could_not_be_sent_is_not_issued(shop: Shop) -> None:
    with pytest.raises(TokenTooLarge, match="1000 groups"):
        shop.tokens.issue(ALICE, [f"acme/team-{n:04}" for n in range(1000)])


# What is not good


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def by_hand(key: Key, header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    """A token in compact form with any header, signed by the key's own algorithm (RFC 7515 section 5.1)."""
    body = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    algorithm = jwt.get_algorithm_by_name(key.algorithm)
    return f"{body}.{encoded(algorithm.sign(body.encode(), key.private))}".encode()


def hmac_by(secret: bytes, header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    """A token with an HMAC by any secret, which PyJWT refuses to make."""
    body = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{body}.{encoded(hmac.digest(secret, body.encode(), hashlib.sha256))}".encode()


@frozen
class Draft:
    """A good token's parts, which a forger changes."""

    key: Key
    header: dict[str, Any]
    claims: dict[str, Any]

    def sign(self) -> bytes:
        return by_hand(self.key, self.header, self.claims)


def draft(shop: Shop) -> Draft:
    header, claims = (json.loads(decoded(part)) for part in shop.issue(ALICE, "acme").decode().split(".")[:2])
    return Draft(shop.keys.current, header, claims)


Forgery = Callable[[Draft], bytes]


def header(**members: object) -> Forgery:
    """Signed by our own key, with a header that is not ours; None removes a member."""

    def forge(good: Draft) -> bytes:
        changed = {name: value for name, value in (good.header | members).items() if value is not None}
        return evolve(good, header=changed).sign()

    return forge


def claim(**claims: object) -> Forgery:
    """Signed by our own key, with claims that are not ours."""
    return lambda good: evolve(good, claims=good.claims | claims).sign()


def without(name: str) -> Forgery:
    """Signed by our own key, without a claim."""
    return lambda good: evolve(good, claims={k: v for k, v in good.claims.items() if k != name}).sign()


def identity(**members: object) -> Forgery:
    return lambda good: claim(identity=good.claims["identity"] | members)(good)


def unsigned(alg: str, signature: bytes) -> Forgery:
    def forge(good: Draft) -> bytes:
        head = good.header | {"alg": alg}
        parts = (encoded(json.dumps(part).encode()) for part in (head, good.claims))
        return ".".join(parts).encode() + b"." + signature

    return forge


def as_it_is(good: Draft) -> bytes:
    return good.sign()


def by_another_key(good: Draft) -> bytes:
    other = Key.generate(good.key.algorithm, START)
    return by_hand(other, good.header, good.claims)


def with_parts(change: Callable[[list[bytes]], list[bytes]]) -> Forgery:
    return lambda good: b".".join(change(good.sign().split(b".")))


def of_another(good: Draft) -> bytes:
    """The signature of one token under the claims of another."""
    other = evolve(good, claims=good.claims | {"grants": ["*"]}).sign()
    return other.rpartition(b".")[0] + b"." + good.sign().rpartition(b".")[2]


FORGERIES: dict[str, Forgery] = {
    "alg none, no signature": unsigned("none", b""),
    "alg None, no signature": unsigned("None", b""),
    "alg none, some signature": unsigned("none", b"AAAA"),
    "alg HS256, no signature": unsigned("HS256", b""),
    "alg missing": header(alg=None),
    "alg empty": header(alg=""),
    "alg a list": header(alg=["HS256", "ES256", "EdDSA"]),
    "alg a number": header(alg=1),
    "alg HS384": lambda good: jwt.encode(good.claims, b"k" * 48, "HS384", good.header | {"alg": "HS384"}).encode(),
    "alg RS256": header(alg="RS256"),
    "kid missing": header(kid=None),
    "kid unknown": header(kid="unknown"),
    "kid empty": header(kid=""),
    "kid a path": header(kid="../../../../dev/null"),
    "kid a list": header(kid=["a"]),
    "kid a number": header(kid=7),
    "crit unknown": header(crit=["exp-ours"], **{"exp-ours": 1}),
    "crit empty": header(crit=[]),
    "b64 false": header(b64=False, crit=["b64"]),
    "another key": by_another_key,
    "another token's signature": of_another,
    "no signature": with_parts(lambda parts: [*parts[:2], b""]),
    "two parts": with_parts(lambda parts: parts[:2]),
    "four parts": with_parts(lambda parts: [*parts, parts[2]]),
    "padded": with_parts(lambda parts: [*parts[:2], parts[2] + b"="]),
    "padded twice": with_parts(lambda parts: [*parts[:2], parts[2] + b"=="]),
    "signature shorter": with_parts(lambda parts: [*parts[:2], parts[2][:-4]]),
    "signature longer": with_parts(lambda parts: [*parts[:2], parts[2] + b"AAAA"]),
    "more behind it": lambda good: good.sign() + b"!",
    "a line end behind it": lambda good: good.sign() + b"\n",
    "space before it": lambda good: b" " + good.sign(),
    "not ASCII": lambda good: good.sign() + "é".encode(),
    "too large": lambda good: evolve(good, claims=good.claims | {"more": "m" * MAX_TOKEN}).sign(),
    "other issuer": claim(iss="http://elsewhere.example"),
    "issuer with a slash": claim(iss=ISSUER + "/"),
    "issuer a list": claim(iss=[ISSUER]),
    "other audience": claim(aud="container_registry"),
    "audience a list": claim(aud=[AUDIENCE]),
    "audience empty": claim(aud=""),
    **{f"no {name}": without(name) for name in ("iss", "aud", "sub", "jti", "iat", "nbf", "exp", "identity", "grants")},
    **{f"{name} null": claim(**{name: None}) for name in ("iss", "aud", "sub", "jti", "iat", "nbf", "exp", "grants")},
    **{f"{name} a text": claim(**{name: str(START)}) for name in ("iat", "nbf", "exp")},
    **{f"{name} true": claim(**{name: True}) for name in ("iat", "nbf")},
    "exp a fraction": claim(exp=START + 10.5),
    "exp infinite": claim(exp=float("inf")),
    "nbf not a number": claim(nbf=float("nan")),
    "sub a number": claim(sub=7),
    "jti a number": claim(jti=7),
    "grants a text": claim(grants="*"),
    "grants an object": claim(grants={"*": 1}),
    "grants of numbers": claim(grants=["acme", 7]),
    "identity a list": claim(identity=["local", "alice"]),
    "source missing": claim(identity={"credential": "password"}),
    "source a number": identity(source=7),
    "credential a list": identity(credential=["password"]),
    "expires a text": identity(expires="never"),
    "expires true": identity(expires=True),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_table_starts_from_a_good_token(tmp_path: Path, algorithm: Algorithm) -> None:
    shop = shop_in(tmp_path, algorithm)
    assert shop.tokens.verify(as_it_is(draft(shop))).identity == ALICE
    assert shop.tokens.verify(claim(more=1)(draft(shop))).identity == ALICE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_not_ours(shops: dict[str, Shop], name: str, algorithm: Algorithm) -> None:
    """One message for all, which teaches a forger nothing."""
    shop = shops[algorithm]
    assert refusal(shop.tokens, FORGERIES[name](draft(shop))) == NOT_OURS


@pytest.mark.parametrize(
    ("algorithm", "encoding", "form"),
    [
        ("ES256", Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        ("ES256", Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ("ES256", Encoding.X962, PublicFormat.UncompressedPoint),
        ("ES256", Encoding.X962, PublicFormat.CompressedPoint),
        ("EdDSA", Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        ("EdDSA", Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ("EdDSA", Encoding.Raw, PublicFormat.Raw),
    ],
)
def test_a_public_key_is_no_secret(
    shops: dict[str, Shop], algorithm: Algorithm, encoding: Encoding, form: PublicFormat
) -> None:
    """The classic: HS256 by what everybody may know."""
    shop = shops[algorithm]
    good = draft(shop)
    public = good.key.public
    assert not isinstance(public, bytes)
    secret = public.public_bytes(encoding, form)
    assert refusal(shop.tokens, hmac_by(secret, good.header | {"alg": "HS256"}, good.claims)) == NOT_OURS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("other", ALGORITHMS)
def test_the_key_says_which_algorithm(tmp_path: Path, algorithm: Algorithm, other: Algorithm) -> None:
    """Both keys are on the ring, but each is for its own algorithm."""
    shop = shop_in(tmp_path, other)
    shop.keys.algorithm = algorithm
    shop.keys.rotate()
    good = draft(shop)
    (second,) = (key for key in map(shop.keys.by_id, kids(shop)) if key is not None and key != good.key)
    if other == algorithm:
        assert refusal(shop.tokens, by_hand(second, good.header, good.claims)) == NOT_OURS
    else:
        assert refusal(shop.tokens, by_hand(second, good.header | {"alg": other}, good.claims)) == NOT_OURS
    assert shop.tokens.verify(by_hand(second, good.header | {"alg": other, "kid": second.kid}, good.claims))


def kids(shop: Shop) -> list[str]:
    return [key["kid"] for key in json.loads(shop.keys.path.read_bytes())["keys"]]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_issuer_with_our_keys(shops: dict[str, Shop], algorithm: Algorithm) -> None:
    shop = shops[algorithm]
    assert refusal(shop.another("https://cache.example"), shop.issue()) == NOT_OURS


@given(st.binary(max_size=200))
@example(b"")
@example(b".")
@example(b"..")
@example(b"..." * 3)
@example(b"a.b.c")
@example(b"." * MAX_TOKEN)
@example(b"glpat-abcdefghijklmnopqrst")
def test_garbage(shops: dict[str, Shop], token: bytes) -> None:
    assert refusal(shops["HS256"].tokens, token) == NOT_OURS


members = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), json_values())


@given(members, st.booleans(), json_values(), st.sampled_from(ALGORITHMS))
def test_any_json(shops: dict[str, Shop], head: dict[str, Any], known: bool, body: Any, algorithm: Algorithm) -> None:
    """Whatever the JSON is, and whether or not our own key signed it."""
    shop = shops[algorithm]
    key = shop.keys.current
    ours = {"alg": algorithm, "kid": key.kid} if known else {}
    assert refusal(shop.tokens, by_hand(key, head | ours, body)) == NOT_OURS


@pytest.mark.parametrize("part", ["header", "claims"])
@pytest.mark.parametrize("body", [b"[" * 6000, b"1" * 6000, b'{"kid":' * 1000, b"\xff\xfe", b"\x00", b"NaN"])
def test_json_that_parsers_trip_over(shop: Shop, part: str, body: bytes) -> None:
    key = shop.keys.current
    head = body if part == "header" else json.dumps({"alg": "HS256", "kid": key.kid}).encode()
    signing = f"{encoded(head)}.{encoded(b'{}' if part == 'header' else body)}".encode()
    assert isinstance(key.private, bytes)
    token = signing + b"." + encoded(hmac.digest(key.private, signing, hashlib.sha256)).encode()
    assert len(token) <= MAX_TOKEN
    assert refusal(shop.tokens, token) == NOT_OURS


@given(st.data(), st.sampled_from(ALGORITHMS), st.sampled_from(["replace", "insert", "remove"]))
def test_any_byte_changed(shops: dict[str, Shop], data: st.DataObject, algorithm: Algorithm, how: str) -> None:
    shop = shops[algorithm]
    token = shop.issue(ALICE, "acme", "acme/tools")
    assert shop.tokens.verify(token)
    place = data.draw(st.integers(0, len(token) - 1))
    if how == "replace":
        byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != token[place]))
        changed = token[:place] + bytes([byte]) + token[place + 1 :]
    elif how == "insert":
        changed = token[:place] + bytes([data.draw(st.integers(0, 255))]) + token[place:]
    else:
        changed = token[:place] + token[place + 1 :]
    assert refusal(shop.tokens, changed) == NOT_OURS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_byte_in_the_last_place(shops: dict[str, Shop], algorithm: Algorithm) -> None:
    """Some of its bits stand for nothing in base64: a lenient reader takes several for the same signature."""
    shop = shops[algorithm]
    token = shop.issue()
    for byte in {*range(256)} - {token[-1]}:
        assert refusal(shop.tokens, token[:-1] + bytes([byte])) == NOT_OURS


# Time


@pytest.mark.parametrize("remembered", [True, False])
def test_a_token_expires(shop: Shop, remembered: bool) -> None:
    shop.clock.advance(0.5)
    token = shop.issue()
    if remembered:
        shop.tokens.verify(token)
    shop.clock.advance(LIFETIME - 0.6)
    assert shop.tokens.verify(token).expires == START + LIFETIME
    shop.clock.advance(0.1)
    assert refusal(shop.tokens, token) == EXPIRED
    shop.clock.advance(1e6)
    assert refusal(shop.tokens, token) == EXPIRED


def test_an_expired_forgery_is_told_nothing_of_its_time(shop: Shop) -> None:
    forged = by_another_key(draft(shop))
    shop.clock.advance(LIFETIME)
    assert refusal(shop.tokens, forged) == NOT_OURS


def test_a_token_from_a_host_that_is_ahead(shop: Shop) -> None:
    token = shop.issue()
    shop.clock.rightNow -= LEEWAY
    assert shop.another().verify(token)
    shop.clock.rightNow -= 0.1
    assert refusal(shop.another(), token) == TOO_EARLY


@pytest.mark.parametrize(
    ("name", "ahead", "said"),
    [("nbf", 0, None), ("nbf", 1, TOO_EARLY), ("iat", LEEWAY, None), ("iat", LEEWAY + 1, TOO_EARLY)],
)
def test_both_times_count(shop: Shop, name: str, ahead: int, said: str | None) -> None:
    token = claim(**{name: START + ahead})(draft(shop))
    if said is None:
        assert shop.tokens.verify(token)
    else:
        assert refusal(shop.tokens, token) == said


# Keys that come and go


def test_a_rotation_is_not_noticed_by_clients(shop: Shop) -> None:
    before = shop.issue(ALICE, "acme")
    shop.tokens.verify(before)
    shop.keys.rotate()
    after = shop.issue(ALICE, "acme")
    for tokens in (shop.tokens, shop.another()):
        assert tokens.verify(before).grants == tokens.verify(after).grants == {"acme"}


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_retired_key_is_good_for_a_day(tmp_path: Path, algorithm: Algorithm, remembered: bool) -> None:
    """However long the token itself says: a process that did not hear of the rotation may have issued it since."""
    shop = shop_in(tmp_path, algorithm)
    shop.tokens.lifetime = 10 * GRACE
    token = claim(exp=START + 10 * int(GRACE))(draft(shop))
    shop.keys.rotate()
    if remembered:
        assert shop.tokens.verify(token).expires == START + GRACE
    shop.clock.advance(GRACE - 1)
    assert shop.tokens.verify(token).expires == START + GRACE
    shop.clock.advance(1)
    assert refusal(shop.tokens, token) == NOT_OURS
    shop.keys.reload()
    assert len(kids(shop)) == 1
    assert refusal(shop.tokens, token) == NOT_OURS


def test_the_longest_token_outlives_no_rotation(shop: Shop) -> None:
    shop.tokens.lifetime = GRACE
    token = shop.issue()
    shop.keys.rotate()
    another = shop.another()
    another.lifetime = GRACE
    shop.clock.advance(GRACE - 1)
    assert another.verify(token)
    shop.clock.advance(1)
    assert refusal(another, token) == NOT_OURS


def test_a_lifetime_that_is_shortened_counts_for_what_is_out(shop: Shop) -> None:
    token = shop.issue()
    shop.tokens.lifetime = LIFETIME / 2
    assert shop.tokens.verify(token).expires == START + LIFETIME / 2
    shop.clock.advance(LIFETIME / 2)
    assert refusal(shop.tokens, token) == EXPIRED
    shop.tokens.lifetime = 0
    assert refusal(shop.tokens, token) == EXPIRED


def test_a_key_that_is_taken_away_takes_its_tokens_along(shop: Shop) -> None:
    token = shop.issue()
    shop.tokens.verify(token)
    shop.keys.path.unlink()
    shop.keys.reload()
    assert refusal(shop.tokens, token) == NOT_OURS


def test_a_key_that_is_found_missing_takes_its_tokens_along(shop: Shop) -> None:
    """Another process made a new file; this one looks at it for the sake of a token that it does not know."""
    old = shop.issue()
    shop.tokens.verify(old)
    shop.keys.path.unlink()
    other = KeyRing(shop.keys.path.parent, "HS256", shop.clock.seconds)
    other.load()
    new = Tokens(other, ISSUER, LIFETIME, shop.clock.seconds).issue(ALICE, ["acme"]).token.encode()
    assert shop.tokens.verify(new).grants == {"acme"}
    assert refusal(shop.tokens, old) == NOT_OURS
    assert shop.tokens.verify(new) is shop.tokens.verify(new)


# What is remembered


def test_the_second_time_comes_from_memory(shop: Shop) -> None:
    token = shop.issue()
    first = shop.tokens.verify(token)
    assert shop.tokens.verify(bytes(bytearray(token))) is first
    shop.tokens.forget()
    assert shop.tokens.verify(token) is not first
    assert shop.tokens.verify(token) == first


def test_not_too_many_are_remembered(shop: Shop) -> None:
    tokens = shop.another(remembered=2)
    one, two, three = (shop.issue() for _ in range(3))
    first, second = tokens.verify(one), tokens.verify(two)
    assert tokens.verify(one) is first
    tokens.verify(three)
    assert tokens.verify(one) is first
    assert tokens.verify(two) is not second


def test_nothing_that_is_refused_is_remembered(shop: Shop) -> None:
    token = shop.issue()
    shop.clock.rightNow -= 3600
    assert refusal(shop.tokens, token) == TOO_EARLY
    shop.clock.rightNow += 3600
    assert shop.tokens.verify(token)


def test_messages_are_one_line_and_say_what_to_do() -> None:
    for message in (NOT_OURS, EXPIRED):
        assert "\n" not in message
        assert "log in again" in message
