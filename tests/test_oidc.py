"""ID tokens as passwords: what is believed, what an issuer is asked and how often, and what rules make of claims."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Collection
from pathlib import Path
from typing import Any

import jwt
from attrs import evolve
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from depproxy.access.id_tokens import LEEWAY, MAX_TOKEN, IdToken
from depproxy.access.interface import AccountsUnavailable, IAccounts, Identity, Login, Withdrawn
from depproxy.access.jwks import (
    DISCOVERED,
    FRESH,
    LAST_KNOWN,
    LONG_PATIENCE,
    LOOK_AGAIN,
    MAX_KEYS,
    PATIENCE,
    KeySets,
)
from depproxy.access.oidc import OidcAccounts
from depproxy.access.portal import Accounts
from depproxy.access.public_keys import public_key
from depproxy.config import OidcRule, OidcSettings, Role
from depproxy.upstream.fetch import Fetcher, make_fetcher
from tests.certificates import Authority
from tests.oidc_issuer import AUDIENCE, CONFIGURATION, GET_CONFIGURATION, GET_KEYS, KEYS, Issuer, SigningKey
from tests.upstream_fake import Call, UpstreamCase, answers, reactor

START = 1_800_000_000.0
GROUPS = ("acme", "acme/tools", "acme/tools/deep", "other")
RULES = (
    OidcRule({"namespace_path": "acme", "ref_protected": "true"}, "acme", Role.DEVELOPER),
    OidcRule({"namespace_path": "acme*"}, "{namespace_path}"),
    OidcRule({"repository_owner": "Acme"}, "acme/tools", Role.REPORTER),
)


class OidcCase(UpstreamCase):
    """An issuer on loopback, and a clock of its own."""

    def setUp(self) -> None:
        super().setUp()
        self._fetchers: list[Fetcher] = []
        self.clock = Clock()
        self.clock.advance(START)
        self.key_sets = KeySets(self.fetcher, self.clock.seconds)
        self.issuer = self.serve(Issuer(reactor, self.clock.seconds))

    async def tearDown(self) -> None:  # type: ignore[override]  # trial waits for it
        for fetcher in self._fetchers:
            await fetcher.close()
            assert fetcher.connections == 0
        await super().tearDown()

    def fetcher(self, url: str, ca_file: Path | None) -> Fetcher:
        made = make_fetcher(reactor, named=[url], ca_file=ca_file)
        self._fetchers.append(made)
        return made

    def settings(self, issuer: Issuer | None = None, **settings: Any) -> OidcSettings:
        settings = {"audience": (AUDIENCE,), "rules": RULES, **settings}
        return OidcSettings((issuer or self.issuer).issuer, **settings)

    def accounts(self, *settings: OidcSettings, groups: Collection[str] = GROUPS) -> OidcAccounts:
        return OidcAccounts(settings or [self.settings()], self.key_sets.of, groups, self.clock.seconds)

    async def login(self, accounts: OidcAccounts, token: str) -> Identity:
        return await accounts.requestAvatarId(Login("oidc", token, "192.0.2.7"))

    async def refused(self, waiting: Awaitable[object], *words: str) -> None:
        """Not let in: with a message that has these words, or for no words with none."""
        error = await self.failure(waiting, UnauthorizedLogin)
        assert isinstance(error, Withdrawn) is bool(words), error
        assert all(word in str(error) for word in words), error

    async def unavailable(self, waiting: Awaitable[object], *words: str) -> None:
        """Nothing is known, for a reason with these words."""
        error = await self.failure(waiting, AccountsUnavailable)
        assert all(word in str(error) for word in words), error

    async def failure(self, waiting: Awaitable[object], kind: type[Exception]) -> Exception:
        try:
            found = await waiting
        except kind as error:
            return error
        raise AssertionError(f"let in: {found!r}")

    def asked(self) -> list[str]:
        """What the issuer was asked since the last time."""
        found = self.issuer.asked()
        self.issuer.seen.clear()
        return found


def started(waiting: Awaitable[Any]) -> Deferred[Any]:
    async def wait() -> Any:
        return await waiting

    return Deferred.fromCoroutine(wait())


class Logins(OidcCase):
    async def test_a_job_of_gitlab(self) -> None:
        accounts = self.accounts()
        assert verifyObject(IAccounts, accounts)
        identity = await self.login(accounts, self.issuer.gitlab_job("acme/tools"))
        assert identity.source == "oidc"
        assert identity.name == "project_path:acme/tools:ref_type:branch:ref:main"
        assert identity.expires == START + 300
        for group, role in {"acme": Role.DEVELOPER, "acme/tools": Role.DEVELOPER, "other": None, "none": None}.items():
            assert await accounts.role(identity, group) is role
        # One discovery, one look at the keys, however often.
        await self.login(accounts, self.issuer.gitlab_job("acme/tools"))
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]

    async def test_a_job_of_github_over_tls(self) -> None:
        authority = Authority(self.directory())
        issuer = self.serve(Issuer(reactor, self.clock.seconds, context=authority.server(), path="/octo"))
        settings = self.settings(issuer, ca_file=authority.file, username="actor", name="github")
        accounts = self.accounts(settings)
        identity = await self.login(accounts, issuer.github_job())
        assert (identity.name, await accounts.role(identity, "acme/tools/deep")) == ("alice", Role.REPORTER)
        assert await accounts.role(identity, "acme") is None
        assert issuer.asked() == [f"GET /octo{CONFIGURATION}", GET_KEYS]
        # Without its authority nothing is believed.
        await self.unavailable(self.login(self.accounts(evolve(settings, ca_file=None)), issuer.github_job()), "TLS")

    async def test_the_portal_takes_it(self) -> None:
        account = await Accounts([self.accounts()]).login(Login("x", self.issuer.gitlab_job(), "192.0.2.7"))
        roles = {group: await account.role(group) for group in GROUPS}
        assert [group for group, role in roles.items() if role] == ["acme", "acme/tools", "acme/tools/deep"]

    async def test_any_fitting_algorithm(self) -> None:
        algorithms = ("RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
        accounts = self.accounts(self.settings(algorithms=algorithms))
        for named in (True, False):
            for algorithm in algorithms:
                self.issuer.keys = [SigningKey(f"{algorithm}-{named}", algorithm, names_algorithm=named)]
                self.clock.advance(FRESH)
                await self.login(accounts, self.issuer.gitlab_job())

    async def test_several_audiences(self) -> None:
        accounts = self.accounts(self.settings(audience=("a", "b")))
        for audience in ("a", "b", ["b"], ["x", "a"]):
            await self.login(accounts, self.issuer.gitlab_job(aud=audience))
        await self.refused(self.login(accounts, self.issuer.gitlab_job(aud=[])), "has no aud")
        for wrong in ("c", ["c"], ["a", 7], "A", 7, {"a": 1}):
            await self.refused(self.login(accounts, self.issuer.gitlab_job(aud=wrong)), "audience (aud) must be a or b")

    async def test_the_same_token_again(self) -> None:
        token = self.issuer.gitlab_job()
        accounts = self.accounts()
        assert await self.login(accounts, token) == await self.login(accounts, token)

    async def test_the_issuer_with_a_slash_is_another_one(self) -> None:
        slash = self.serve(Issuer(reactor, self.clock.seconds, path="/"))
        accounts = self.accounts(self.settings(slash))
        await self.login(accounts, slash.gitlab_job())
        await self.refused(self.login(accounts, slash.gitlab_job(iss=slash.issuer.rstrip("/"))))
        await self.refused(self.login(self.accounts(), self.issuer.gitlab_job(iss=f"{self.issuer.issuer}/")))
        assert slash.asked() == [GET_CONFIGURATION, GET_KEYS]

    async def test_two_issuers(self) -> None:
        other = self.serve(Issuer(reactor, self.clock.seconds))
        other.keys = [SigningKey("key-1", number=1)]
        rules = (OidcRule({"namespace_path": "acme"}, "other"),)
        accounts = self.accounts(self.settings(), self.settings(other, rules=rules))
        first, second = (
            await self.login(accounts, self.issuer.gitlab_job()),
            await self.login(accounts, other.gitlab_job()),
        )
        assert [await accounts.role(one, "other") for one in (first, second)] == [None, Role.GUEST]
        assert [await accounts.role(one, "acme") for one in (first, second)] == [Role.DEVELOPER, None]
        # Each believes its own keys alone.
        await self.refused(self.login(accounts, other.gitlab_job(iss=self.issuer.issuer)))
        await self.refused(self.login(accounts, self.issuer.gitlab_job(iss=other.issuer)))

    async def test_a_token_that_no_rule_is_for(self) -> None:
        accounts = self.accounts()
        await self.refused(
            self.login(accounts, self.issuer.gitlab_job("evil/tools")), "project_path:evil/tools", "no rule"
        )
        many = tuple(OidcRule({"ref": "main"}, f"{'long' * 20}-{number}") for number in range(60))
        accounts = self.accounts(self.settings(rules=many))
        await self.refused(self.login(accounts, self.issuer.gitlab_job()), "too many groups: 60")

    async def test_names_for_messages(self) -> None:
        accounts = self.accounts(self.settings(username="user_login"))
        for login, name in {"alice": "alice", "a\nb\0": "a?b?", "x" * 300: "x" * 255}.items():
            assert (await self.login(accounts, self.issuer.gitlab_job(user_login=login))).name == name
        for none in (None, "", 7, ["alice"]):
            assert (await self.login(accounts, self.issuer.gitlab_job(user_login=none, sub="job"))).name == "job"

    async def test_nothing_of_the_token_is_kept_or_told(self) -> None:
        events: list[LogEvent] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        token = self.issuer.gitlab_job()
        accounts = self.accounts()
        identity = await self.login(accounts, token)
        await self.refused(self.login(accounts, token[:-8] + "AAAAAAAA"))
        self.issuer.down()
        self.clock.advance(FRESH)
        await self.login(accounts, token)
        signature = token.rpartition(".")[2]
        shown = f"{identity!r} {IdToken.parse(token)!r} {vars(accounts)!r} {vars(self.key_sets)!r}"
        shown += "".join(f"{formatEvent(event)}{event}" for event in events)
        assert signature not in shown
        assert len(identity.credential) < 120


def text_of(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: str = "AA") -> str:
    return f"{text_of(header)}.{text_of(claims)}.{signature}"


def by_public_key(secret: bytes, claims: dict[str, Any]) -> str:
    """A token that is right, if the public key is taken for an HMAC's secret."""
    signed = f"{text_of({'alg': 'HS256', 'typ': 'JWT', 'kid': 'key-1'})}.{text_of(claims)}"
    made = hmac.digest(secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(made).decode().rstrip('=')}"


def spoilt(token: str, part: int) -> str:
    """The token with one character of a part changed."""
    parts = token.split(".")
    found = parts[part]
    middle = len(found) // 2
    parts[part] = found[:middle] + ("A" if found[middle] != "A" else "B") + found[middle + 1 :]
    return ".".join(parts)


class Attacks(OidcCase):
    """What is no good token of a good issuer. After the first login the issuer is asked nothing for any of them."""

    def forgeries(self) -> dict[str, str]:
        issuer = self.issuer
        key, claims = issuer.keys[0], issuer.claims(sub="x", namespace_path="acme")
        mallory = SigningKey("key-1", number=666)
        token = issuer.gitlab_job()
        public = key.private.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        header = {"typ": "JWT", "kid": "key-1"}
        return {
            "no token": "swordfish",
            "empty": "",
            "two parts": token.rpartition(".")[0],
            "no signature": token.rpartition(".")[0] + ".",
            "four parts": token + ".AA",
            "a space before": " " + token,
            "padding": token + "==",
            "a line end": token + "\n",
            "no JSON": "AA.AA.AA",
            "deep JSON": unsigned(header, claims).replace(
                text_of(claims), base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=")
            ),
            "deep header": base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + "." + text_of(claims) + ".AA",
            "claims in an array": unsigned({**header, "alg": "RS256"}, [claims]),  # type: ignore[arg-type]
            "alg none": unsigned({**header, "alg": "none"}, claims),
            "alg None": unsigned({**header, "alg": "None"}, claims),
            "no alg": unsigned(header, claims),
            "alg is a list": unsigned({**header, "alg": ["RS256"]}, claims),
            "kid is a list": unsigned({**header, "alg": "RS256", "kid": ["key-1"]}, claims),
            "HS256 by the public PEM": by_public_key(pem, claims),
            "HS256 by the modulus": by_public_key(key.jwk()["n"].encode(), claims),
            "HS256 by the published key": by_public_key(json.dumps(key.jwk()).encode(), claims),
            "an algorithm that is not configured": evolve(key, algorithm="RS512").sign(claims),
            "an algorithm that is not the key's": jwt.encode(claims, key.private, "PS256", headers=header),
            "another type of key": SigningKey("key-1", "ES256").sign(claims),
            "another key": mallory.sign(claims),
            "its own key within": mallory.sign(claims, jwk=mallory.jwk()),
            "its own keys elsewhere": mallory.sign(claims, jku=f"{issuer.url}/mine", x5u=f"{issuer.url}/mine"),
            "an unknown extension": key.sign(claims, crit=["x"], x=1),
            "header changed": spoilt(token, 0),
            "claims changed": spoilt(token, 1),
            "signature changed": spoilt(token, 2),
            "another issuer": key.sign({**claims, "iss": "https://issuer.example"}),
            "an issuer with a slash": key.sign({**claims, "iss": issuer.issuer + "/"}),
            "an issuer in other letters": key.sign({**claims, "iss": issuer.issuer.upper()}),
            "issuers in a list": unsigned({**header, "alg": "RS256"}, {**claims, "iss": [issuer.issuer]}),
            "no issuer": key.sign({name: value for name, value in claims.items() if name != "iss"}),
            "too large": key.sign({**claims, "x": "x" * MAX_TOKEN}),
        }

    async def test_forgeries_are_nobodys(self) -> None:
        accounts = self.accounts(self.settings(algorithms=("RS256", "ES256", "PS256")))
        # The key is for RS256 alone.
        await self.login(accounts, self.issuer.gitlab_job())
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]
        for what, token in self.forgeries().items():
            try:
                await self.refused(self.login(accounts, token))
            except AssertionError as error:
                raise AssertionError(f"{what}: {error}") from error
            assert self.asked() == [], what

    async def test_what_cannot_be_right_makes_nobody_ask(self) -> None:
        accounts = self.accounts()
        for what, token in self.forgeries().items():
            # These look as the issuer's own do, until one has its keys.
            if "key" in what or "changed" in what or "extension" in what or what in ("a space before", "a line end"):
                continue
            await self.refused(self.login(accounts, token))
            assert self.asked() == [], what

    async def test_right_signatures_that_are_not_enough(self) -> None:
        accounts = self.accounts()
        now = START
        for claims, words in (
            ({"aud": "other"}, ("audience (aud) must be depproxy",)),
            ({"aud": None}, ("has no aud",)),
            ({"exp": now - 1}, ("has expired",)),
            ({"exp": now}, ("has expired",)),
            ({"exp": None}, ("has no exp",)),
            ({"exp": str(now + 300)}, ("exp that is no time",)),
            ({"exp": True}, ("exp that is no time",)),
            ({"exp": float("inf")}, ("exp that is no time",)),
            ({"exp": float("nan")}, ("exp that is no time",)),
            ({"exp": 10**400}, ("exp that is no time",)),
            ({"exp": [now]}, ("exp that is no time",)),
            ({"iat": None}, ("has no iat",)),
            ({"iat": now + LEEWAY + 1}, ("not valid yet",)),
            ({"iat": "now"}, ("iat that is no time",)),
            ({"nbf": now + LEEWAY + 1}, ("not valid yet",)),
            ({"nbf": {}}, ("nbf that is no time",)),
            ({"sub": None}, ("has no sub",)),
        ):
            await self.refused(self.login(accounts, self.issuer.gitlab_job(**claims)), *words)
        for claims in (
            {"nbf": None},
            {"nbf": now + LEEWAY, "iat": now + LEEWAY},
            {"exp": now + 0.5},
            {"iat": now - 9e6},
        ):
            await self.login(accounts, self.issuer.gitlab_job(**claims))
        await self.refused(self.login(accounts, self.issuer.gitlab_job(sub=7)))
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]

    async def test_the_clock_moves(self) -> None:
        accounts = self.accounts()
        token = self.issuer.gitlab_job()
        identity = await self.login(accounts, token)
        self.clock.advance(299)
        await self.login(accounts, token)
        assert await accounts.role(identity, "acme") is Role.DEVELOPER
        self.clock.advance(1)
        await self.refused(self.login(accounts, token), "expired")
        await self.refused(accounts.role(identity, "acme"), "expired")
        # Set back by a day: what is known lies in the future, and is looked at again.
        self.asked()
        self.clock.rightNow -= 86400
        await self.refused(self.login(accounts, token), "not valid yet")
        await self.login(accounts, self.issuer.gitlab_job())
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]


class Rotation(OidcCase):
    async def test_a_new_key_is_found_at_once(self) -> None:
        accounts = self.accounts()
        old = self.issuer.gitlab_job()
        await self.login(accounts, old)
        self.issuer.keys.insert(0, SigningKey("key-2", number=1))
        self.asked()
        await self.login(accounts, self.issuer.gitlab_job())
        await self.login(accounts, old)
        assert self.asked() == [GET_KEYS]

    async def test_made_up_keys_cost_one_look_a_minute(self) -> None:
        accounts = self.accounts()
        await self.login(accounts, self.issuer.gitlab_job())
        self.asked()
        for number in range(100):
            forged = SigningKey(f"made-up-{number}", number=666).sign(self.issuer.claims(sub="x"))
            await self.refused(self.login(accounts, forged))
        assert self.asked() == [GET_KEYS]
        regular = 0
        for second in range(1, int(2 * LOOK_AGAIN)):
            self.clock.advance(1)
            forged = SigningKey(f"later-{second}", number=666).sign(self.issuer.claims(sub="x"))
            await gatherResults([started(self.refused(self.login(accounts, forged))) for _ in range(3)])
            regular += second % FRESH == 0
        # The looks that there are anyhow, and one more for the unknown.
        assert regular == 3
        assert len(self.asked()) <= regular + 1

    async def test_a_flood_does_not_keep_a_new_key_away_for_long(self) -> None:
        accounts = self.accounts()
        await self.login(accounts, self.issuer.gitlab_job())
        await self.refused(self.login(accounts, SigningKey("made-up").sign(self.issuer.claims(sub="x"))))
        self.issuer.keys = [SigningKey("key-2", number=1)]
        await self.refused(self.login(accounts, self.issuer.gitlab_job()))
        self.clock.advance(FRESH)
        await self.login(accounts, self.issuer.gitlab_job())

    async def test_a_key_that_is_gone_withdraws_what_it_signed(self) -> None:
        accounts = self.accounts()
        identity = await self.login(accounts, self.issuer.gitlab_job())
        self.issuer.keys = [SigningKey("key-2", number=1)]
        self.clock.advance(FRESH - 1)
        assert await accounts.role(identity, "acme") is Role.DEVELOPER
        self.clock.advance(1)
        await self.refused(accounts.role(identity, "acme"), "withdrawn the key", "log in again")
        await self.refused(accounts.role(identity, "none"), "withdrawn the key")
        assert accounts.max_age + FRESH <= 60
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS, GET_KEYS]

    async def test_another_key_of_the_same_name(self) -> None:
        accounts = self.accounts()
        token = self.issuer.gitlab_job()
        identity = await self.login(accounts, token)
        self.issuer.keys = [SigningKey("key-1", number=1)]
        self.clock.advance(FRESH)
        await self.refused(accounts.role(identity, "acme"), "withdrawn the key")
        await self.refused(self.login(accounts, token))
        await self.login(accounts, self.issuer.gitlab_job())

    async def test_a_token_that_names_no_key(self) -> None:
        accounts = self.accounts()
        named = self.issuer.keys[0]
        nameless = SigningKey(None)
        for keys, fine in (
            ([nameless], True),
            ([named], True),
            ([nameless, SigningKey("b", "ES256")], False),
            ([], False),
        ):
            self.issuer.keys = keys
            self.clock.advance(FRESH)
            self.asked()
            login = self.login(accounts, nameless.sign(self.issuer.claims(sub="x", namespace_path="acme")))
            await (login if fine else self.refused(login))
            assert self.asked() == [GET_KEYS] or len(keys) == 1

    async def test_where_the_keys_are_is_asked_once_an_hour(self) -> None:
        accounts = self.accounts()
        await self.login(accounts, self.issuer.gitlab_job())
        self.clock.advance(DISCOVERED - 1)
        await self.login(accounts, self.issuer.gitlab_job())
        self.clock.advance(FRESH)
        await self.login(accounts, self.issuer.gitlab_job())
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS, GET_KEYS, GET_CONFIGURATION, GET_KEYS]

    async def test_many_at_once_ask_once(self) -> None:
        accounts = self.accounts()
        logins = [started(self.login(accounts, self.issuer.gitlab_job())) for _ in range(20)]
        left = logins.pop()
        left.cancel()
        await self.assertFailure(left, CancelledError)
        await gatherResults(logins)
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]

    async def test_a_reload_keeps_the_keys(self) -> None:
        identity = await self.login(self.accounts(), self.issuer.gitlab_job())
        self.issuer.down()
        again = self.accounts(self.settings(name="other-name", username="ref"))
        assert await again.role(identity, "acme") is Role.DEVELOPER
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]


class Outages(OidcCase):
    async def test_before_anything_is_known(self) -> None:
        self.issuer.down()
        accounts = self.accounts()
        token = self.issuer.gitlab_job()
        for _ in range(3):
            await self.unavailable(self.login(accounts, token), self.issuer.netloc, "status 503")
        # It is left alone for a while.
        assert self.asked() == [GET_CONFIGURATION]
        self.issuer.up()
        self.clock.advance(PATIENCE)
        await self.login(accounts, token)
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]

    async def test_known_keys_count_for_a_day(self) -> None:
        accounts = self.accounts()
        identity = evolve(await self.login(accounts, self.issuer.gitlab_job()), expires=START + 2 * LAST_KNOWN)
        self.asked()
        self.issuer.down()
        self.clock.advance(LAST_KNOWN - LONG_PATIENCE)
        await self.login(accounts, self.issuer.gitlab_job())
        for _ in range(3):
            assert await accounts.role(identity, "acme") is Role.DEVELOPER
        # Where the keys are was asked too long ago.
        assert self.asked() == [GET_CONFIGURATION]
        self.clock.advance(LONG_PATIENCE)
        await self.unavailable(accounts.role(identity, "acme"), "503")
        await self.unavailable(accounts.role(identity, "none"), "503")
        await self.unavailable(self.login(accounts, self.issuer.gitlab_job()), "503")
        assert self.asked() == [GET_CONFIGURATION]

    async def test_an_unknown_key_while_it_is_down(self) -> None:
        accounts = self.accounts()
        await self.login(accounts, self.issuer.gitlab_job())
        self.issuer.down()
        self.issuer.keys = [SigningKey("key-2", number=1)]
        await self.refused(self.login(accounts, self.issuer.gitlab_job()))
        self.issuer.up()
        self.clock.advance(LONG_PATIENCE)
        await self.login(accounts, self.issuer.gitlab_job())

    async def test_answers_that_are_none(self) -> None:
        token = self.issuer.gitlab_job()
        keys = self.issuer.keys[0].jwk()
        elsewhere = self.serve(Issuer(reactor, self.clock.seconds))
        for path, responder, words in (
            (CONFIGURATION, answers(404), "status 404"),
            (CONFIGURATION, answers(302, Location=elsewhere.url + CONFIGURATION), "status 302"),
            (CONFIGURATION, answers(200, b"<html>"), "cannot be understood"),
            (CONFIGURATION, answers(200, b"[]"), "cannot be understood"),
            (CONFIGURATION, answers(200, b"[" * 100_000), "cannot be understood"),
            (CONFIGURATION, answers(200, b"x" * 2**21), "at most"),
            (CONFIGURATION, lambda call: call.cut(), "closed too early"),
            (KEYS, answers(302, Location=elsewhere.url + KEYS), "status 302"),
            (KEYS, answers(200, b"{}"), "keys cannot be understood"),
            (KEYS, answers(200, b'{"keys": {}}'), "keys cannot be understood"),
            (KEYS, answers(200, b"x" * 2**21), "at most"),
            (KEYS, answers(200, json.dumps({"keys": [keys] * (MAX_KEYS + 1)}).encode()), "101 keys"),
        ):
            self.issuer.up()
            self.issuer.paths[path] = responder
            await self.unavailable(self.login(self.fresh(), token), words)
        assert elsewhere.seen == []

    def fresh(self) -> OidcAccounts:
        """With nothing known."""
        self.key_sets = KeySets(self.fetcher, self.clock.seconds)
        return self.accounts()

    async def test_configurations_that_lead_elsewhere(self) -> None:
        token = self.issuer.gitlab_job()
        other = self.serve(Issuer(reactor, self.clock.seconds))
        for configuration, words in (
            ({"issuer": other.issuer}, "another issuer"),
            ({"issuer": f"{self.issuer.issuer}/"}, "another issuer"),
            ({"issuer": None}, "another issuer"),
            ({"jwks_uri": other.url + KEYS}, "no jwks_uri that is https"),
            ({"jwks_uri": None}, "no jwks_uri that is https"),
            ({"jwks_uri": "file:///etc/passwd"}, "no jwks_uri that is https"),
            ({"jwks_uri": f"{self.issuer.url}@{other.netloc}/x"}, "no jwks_uri that is https"),
            ({"jwks_uri": "https://"}, "its keys cannot be had"),
        ):
            self.issuer.configuration = dict(configuration)
            await self.unavailable(self.login(self.fresh(), token), words)
        assert (other.seen, other.accepted) == ([], 0)

    async def test_an_https_issuer_has_https_keys(self) -> None:
        authority = Authority(self.directory())
        issuer = self.serve(Issuer(reactor, self.clock.seconds, context=authority.server()))
        issuer.configuration = {"jwks_uri": self.issuer.url + KEYS}
        accounts = self.accounts(self.settings(issuer, ca_file=authority.file))
        await self.unavailable(self.login(accounts, issuer.gitlab_job()), "no jwks_uri that is https")
        assert self.issuer.accepted == 0

    async def test_keys_that_move(self) -> None:
        accounts = self.accounts()
        await self.login(accounts, self.issuer.gitlab_job())
        self.issuer.configuration = {"jwks_uri": f"{self.issuer.url}/new"}
        self.issuer.paths["/new"] = self.issuer.paths.pop(KEYS)
        self.clock.advance(FRESH)
        await self.login(accounts, self.issuer.gitlab_job())
        self.clock.advance(LONG_PATIENCE)
        await self.login(accounts, self.issuer.gitlab_job())
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS, GET_KEYS, GET_CONFIGURATION, "GET /new"]

    async def test_who_leaves_does_not_end_it_for_others(self) -> None:
        def late(call: Call) -> object:
            return NOT_DONE_YET

        configuration = self.issuer.paths[CONFIGURATION]
        self.issuer.paths[CONFIGURATION] = late
        accounts = self.accounts()
        first = started(self.login(accounts, self.issuer.gitlab_job()))
        second = started(self.login(accounts, self.issuer.gitlab_job()))
        await self.issuer.requests(1)
        first.cancel()
        await self.assertFailure(first, CancelledError)
        (call,) = self.issuer.calls
        configuration(call)
        call.request.finish()
        assert (await second).source == "oidc"
        assert self.asked() == [GET_CONFIGURATION, GET_KEYS]


class Junk(OidcCase):
    async def test_keys_that_are_none_are_passed_over(self) -> None:
        good = self.issuer.keys[0].jwk()
        weak = rsa.generate_private_key(65537, 1024).public_key()
        private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(SigningKey("x").private))
        self.issuer.junk = [
            *(None, 7, "key", [], {}),
            {"kty": "RSA", "kid": "key-1"},
            {"kty": "RSA", "kid": "key-1", "n": "!", "e": "AQAB"},
            {**good, "alg": "HS256"},
            {**good, "alg": "none"},
            {**good, "alg": ["RS256"]},
            {**good, "alg": []},
            {**good, "alg": "ES256"},
            {**good, "use": "enc"},
            {**good, "key_ops": ["sign"]},
            {**good, "kid": 7},
            {**private, "kid": "key-1"},
            {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(weak)), "kid": "key-1"},
            {"kty": "oct", "kid": "key-1", "k": "c2VjcmV0", "alg": "HS256"},
            {"kty": "EC", "kid": "key-1", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "OKP", "kid": "key-1", "crv": "X25519", "x": "A" * 43},
        ]
        assert [found for found in map(public_key, self.issuer.junk) if found is not None] == []
        await self.login(self.accounts(), self.issuer.gitlab_job())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5), st.data())
def test_whatever_is_published_as_a_key(value: object, data: st.DataObject) -> None:
    jwk: dict[str, Any] = SigningKey("x", data.draw(st.sampled_from(("RS256", "ES256", "EdDSA")))).jwk()
    jwk[data.draw(st.sampled_from((*jwk, "d", "key_ops", "x5c")))] = value
    found = public_key(jwk)
    assert found is None or found.algorithms


class Roles(OidcCase):
    async def test_changed_rules_withdraw_at_once(self) -> None:
        settings = self.settings()
        accounts = self.accounts(settings)
        identity = await self.login(accounts, self.issuer.gitlab_job())
        for change in (
            {"rules": RULES[:1]},
            {"rules": (evolve(RULES[0], role=Role.GUEST), *RULES[1:])},
            {"rules": (evolve(RULES[0], group="other"), *RULES[1:])},
            {"rules": (evolve(RULES[0], claims={"namespace_path": "acme"}), *RULES[1:])},
            {"audience": ("other",)},
            {"algorithms": ("ES256",)},
        ):
            await self.refused(
                self.accounts(evolve(settings, **change)).role(identity, "acme"), "rules", "log in again"
            )
        gone = OidcAccounts([], self.key_sets.of, GROUPS, self.clock.seconds)
        await self.refused(gone.role(identity, "acme"), "log in again")
        await self.refused(gone.requestAvatarId(Login("x", self.issuer.gitlab_job(), "192.0.2.7")))
        # What changes nothing of it does not.
        same = self.accounts(evolve(settings, name="gitlab", username="user_login"))
        assert await same.role(identity, "acme") is Role.DEVELOPER

    async def test_groups_that_are_not_there(self) -> None:
        accounts = self.accounts(groups=("acme/tools",))
        identity = await self.login(accounts, self.issuer.gitlab_job())
        assert await accounts.role(identity, "acme") is None
        assert await accounts.role(identity, "acme/tools") is Role.DEVELOPER

    async def test_a_credential_that_is_none(self) -> None:
        accounts = self.accounts()
        for credential in ("", "a", "a b c", "a b c=d=e", "a b acme=king"):
            await self.refused(accounts.role(Identity("oidc", "x", credential, START + 60), "acme"), "log in again")
        identity = await self.login(accounts, self.issuer.gitlab_job())
        await self.refused(accounts.role(evolve(identity, expires=None), "acme"), "expired")
