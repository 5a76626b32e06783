"""Who gets in and who does not: the table of cases, by real requests to the faces; and what no table can show."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64decode
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred

from depproxy.oci.reference import Name, Tag
from depproxy.web.addresses import Addresses
from depproxy.web.render import TOKEN_PATH
from depproxy.web.token import Token
from tests.access_cases import (
    ALICE,
    BOB,
    CASES,
    DEPLOY,
    GOOD,
    LAPTOP,
    LAPTOP_TABLE,
    REVOKED,
    WRONG,
    Case,
    House,
    Told,
)
from tests.access_cases_elsewhere import DEPLOY as GITLAB_DEPLOY
from tests.access_cases_elsewhere import ELSEWHERE, Elsewhere
from tests.access_cases_elsewhere import JOB as GITLAB_JOB
from tests.access_cases_elsewhere import PERSONAL as GITLAB_PERSONAL
from tests.access_table import rows
from tests.web_support import UPSTREAMS, Answer, Cache, Client, WebTestCase

DOCS = Path(__file__).parent.parent / "docs" / "access.rst"
MARK = "dependency_proxy/containers"
APP = Name("org/app")


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


class AccessTestCase(WebTestCase):
    """The faces with the accounts of the cases."""

    def build(self) -> House:
        return House(self.directory)

    async def start(self) -> Client:
        self.house = self.build()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.house.close()))
        self.cache = Cache(self.directory / "data")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.cache.settle()))
        self.cache.hub.put_manifest(APP, b"{}", Tag("1"))
        addresses = Addresses(self.house.settings.mirror, UPSTREAMS)
        registry = self.cache.registry(gate=self.house.gate)
        registry.addresses = addresses
        token = Token(addresses, self.house.issuer, self.cache.metrics)
        self.site = self.faces(registry, more={TOKEN_PATH: token.app.resource()})
        self.client_ = await self.client(self.listen(self.site))
        return self.client_

    async def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        if body:
            headers["Content_Length"] = str(len(body))
        self.client_.ask(path, method, **headers)
        self.client_.send(body)
        return await self.client_.answer(method)

    async def token(self, login: tuple[str, str] | None, *groups: str) -> Answer:
        scopes = [("scope", f"repository:{group}/{MARK}/{APP}:pull") for group in groups]
        path = f"/jwt/auth?{urlencode([('service', 'dependency_proxy'), *scopes])}"
        return await (self.ask(path) if login is None else self.ask(path, Authorization=basic(*login)))

    async def pull(self, group: str, token: str = "") -> Answer:
        path = f"/v2/{group}/{MARK}/{APP}/manifests/1"
        return await (self.ask(path, Authorization=f"Bearer {token}") if token else self.ask(path))

    def told(self, answer: Answer) -> Told:
        found = told(answer)
        return Told(found.status, found.code, self.house.named(found.message))

    async def run_case(self, case: Case) -> None:
        await self.start()
        for guess in case.guesses:
            assert told(await self.token(guess, "acme")) == WRONG
        if case.first is not None:
            case.first(self.house)
        token, login = "", None
        if case.login is not None:
            name, password = case.login
            login = name, password if isinstance(password, str) else password(self.house)
        if case.token is not None:
            answer = await self.token(login, *([case.scope] if case.scope else []))
            assert self.told(answer) == case.token
            token = json.loads(answer.body).get("token", "")
        if case.before is not None:
            case.before(self.house)
        if case.forge is not None:
            token = case.forge(self.house, token)
        if case.pull is not None:
            assert self.told(await self.pull(case.group, token)) == case.pull
            # Nothing may be remembered that makes the second time another.
            assert self.told(await self.pull(case.group, token)) == (case.again or case.pull)
        made = [login[1]] if case.login and login and callable(case.login[1]) else []
        secrets = [ALICE, BOB, LAPTOP, DEPLOY, GITLAB_PERSONAL, GITLAB_JOB, GITLAB_DEPLOY, *made]
        for line in self.logged:
            assert token not in line or not token
            for secret in secrets:
                assert secret not in line


def told(answer: Answer) -> Told:
    if answer.status == 200:
        return GOOD
    (entry,) = json.loads(answer.body)["errors"]
    assert answer.error == entry["code"]
    assert (answer.status == 401) == ("www-authenticate" in answer.headers)
    assert (answer.status == 429) == ("retry-after" in answer.headers)
    return Told(answer.status, entry["code"], entry["message"])


class Cases(AccessTestCase):
    """One test for each line of the table; made below."""


class CasesElsewhere(AccessTestCase):
    """Likewise, with accounts that live elsewhere."""

    def build(self) -> House:
        return Elsewhere(self.directory)


def _add_tests(to: type[AccessTestCase], cases: list[Case]) -> None:
    for number, case in enumerate(cases):
        words = "_".join("".join(c if c.isalnum() else " " for c in case.title).split())
        setattr(to, f"test_{number:02d}_{words}", _test(case))


def _test(case: Case) -> Any:
    async def test(self: AccessTestCase) -> None:
        await self.run_case(case)

    test.__doc__ = case.title
    return test


_add_tests(Cases, CASES)
_add_tests(CasesElsewhere, ELSEWHERE)


def test_the_documentation_has_the_table() -> None:
    """`python -m tests.access_table` prints it."""
    text = DOCS.read_text()
    assert "\n".join(rows()) in text


class TokenEndpoint(AccessTestCase):
    async def test_what_is_answered(self) -> None:
        await self.start()
        answer = await self.token(("alice", ALICE), "acme")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        document = json.loads(answer.body)
        assert document.pop("token") == document.pop("access_token")
        assert document == {"expires_in": 900, "issued_at": "2027-01-15T08:00:00Z"}

    async def test_a_form(self) -> None:
        """As containerd and BuildKit send it (distribution's OAuth2 specification)."""
        await self.start()
        form = {
            "grant_type": "password",
            "service": "dependency_proxy",
            "client_id": "containerd-client",
            "username": "alice",
            "password": ALICE,
            "scope": f"repository:acme/{MARK}/a:pull repository:other/{MARK}/a:pull",
        }
        kind = "application/x-www-form-urlencoded"
        answer = await self.ask("/jwt/auth", "POST", urlencode(form).encode(), Content_Type=kind)
        token = json.loads(answer.body)["access_token"]
        assert (await self.pull("acme", token)).status == 200
        assert self.house.tokens.verify(token.encode()).grants == {"acme"}
        wrong = await self.ask("/jwt/auth", "POST", urlencode(form | {"password": "no"}).encode(), Content_Type=kind)
        assert wrong.error == "UNAUTHORIZED"

    async def test_refresh_tokens(self) -> None:
        """As docker keeps one in place of a password; by default none is given."""
        await self.start()
        kind = "application/x-www-form-urlencoded"
        login = basic("alice", LAPTOP)
        assert "refresh_token" not in json.loads(
            (await self.ask("/jwt/auth?offline_token=true", Authorization=login)).body
        )
        self.house.refresh.lifetime = 86400.0
        answer = json.loads((await self.ask("/jwt/auth?offline_token=true", Authorization=login)).body)
        token = answer["refresh_token"]
        assert "refresh_token" not in json.loads((await self.ask("/jwt/auth", Authorization=login)).body)
        form = {"grant_type": "refresh_token", "refresh_token": token, "scope": f"repository:acme/{MARK}/a:pull"}

        async def renew(**more: str) -> Answer:
            return await self.ask("/jwt/auth", "POST", urlencode(form | more).encode(), Content_Type=kind)

        self.house.now += 3600
        renewed = json.loads((await renew()).body)
        assert (await self.pull("acme", renewed["access_token"])).status == 200
        # Neither is the other.
        assert (await self.pull("acme", token)).error == "UNAUTHORIZED"
        assert (await renew(refresh_token=renewed["access_token"])).error == "UNAUTHORIZED"
        assert (await renew(refresh_token="x")).error == "UNAUTHORIZED"
        self.house.reload(LAPTOP_TABLE, "")
        assert told(await renew()) == Told(401, "UNAUTHORIZED", REVOKED.message)
        self.house.now += 86400
        assert (await renew()).error == "UNAUTHORIZED"

    async def test_nobody_in_particular_gets_no_refresh_token(self) -> None:
        await self.start()
        self.house.refresh.lifetime = 86400.0
        query = urlencode({"scope": f"repository:open/{MARK}/a:pull", "offline_token": "true"})
        assert "refresh_token" not in json.loads((await self.ask(f"/jwt/auth?{query}")).body)

    async def test_forms_that_are_none(self) -> None:
        """With 400 containerd goes on to GET."""
        await self.start()
        form = "application/x-www-form-urlencoded"
        for body, kind in (
            (b"grant_type=client_credentials", form),
            (b"grant_type=password&username=%FF&password=x", form),
            (b"&".join([b"a=b"] * 300), form),
            (b'{"grant_type": "password"}', "application/json"),
        ):
            answer = await self.ask("/jwt/auth", "POST", body, Content_Type=kind)
            assert (answer.status, answer.error) == (400, "UNSUPPORTED"), body

    async def test_no_secret_counts_that_stands_in_the_query(self) -> None:
        await self.start()
        query = urlencode({"grant_type": "password", "username": "alice", "password": ALICE})
        assert (await self.ask(f"/jwt/auth?{query}")).status == 401
        answer = await self.ask(f"/jwt/auth?{query}", "POST", b"a=b", Content_Type="application/x-www-form-urlencoded")
        assert answer.status == 400

    async def test_what_is_no_login(self) -> None:
        await self.start()
        for header in ("Basic", "Basic !!!", "Basic " + b64encode(b"nocolon").decode(), "Bearer x", "Basic /w==", "x"):
            answer = await self.ask("/jwt/auth", Authorization=header)
            assert (answer.status, answer.error) == (400, "UNSUPPORTED"), header
        answer = await self.ask("/jwt/auth", Authorization=basic("x" * 256, "y"))
        assert (answer.status, answer.error) == (400, "UNSUPPORTED")

    async def test_what_cannot_be_asked_for(self) -> None:
        await self.start()
        for query in ("service=registry", "scope=repository", "scope=repository:a:pull%0A", "scope=%FF"):
            answer = await self.ask(f"/jwt/auth?{query}", Authorization=basic("alice", ALICE))
            assert (answer.status, answer.error) == (400, "UNSUPPORTED"), query

    async def test_scopes_that_do_not_pull_grant_nothing(self) -> None:
        await self.start()
        query = urlencode({"scope": f"repository:acme/{MARK}/a:push registry:catalog:*"})
        answer = await self.ask(f"/jwt/auth?{query}", Authorization=basic("alice", ALICE))
        assert self.house.tokens.verify(json.loads(answer.body)["token"].encode()).grants == frozenset()

    async def test_a_token_holds_no_secret(self) -> None:
        await self.start()
        for login in (("alice", ALICE), ("alice", LAPTOP), ("acme-ci", DEPLOY)):
            token = json.loads((await self.token(login, "acme")).body)["token"]
            claims = b64decode_parts(token)
            for secret in (ALICE, LAPTOP, DEPLOY, "$scrypt$", "sha256:"):
                assert secret not in claims

    async def test_guessing(self) -> None:
        """Ten wrong tries, then even the right password has to wait; others do not, and a minute later all is well."""
        await self.start()
        for _ in range(10):
            assert (await self.token(("alice", "guess"), "acme")).status == 401
        answer = await self.token(("alice", ALICE), "acme")
        assert (answer.status, answer.error) == (429, "TOOMANYREQUESTS")
        assert answer.headers["retry-after"] == "6"
        assert (await self.token(("bob", BOB), "acme/tools")).status == 200
        # Nobody locks out the tokens of another.
        assert (await self.token(("alice", LAPTOP), "acme")).status == 200
        self.house.now += 6
        assert (await self.token(("alice", ALICE), "acme")).status == 200

    async def test_the_probe(self) -> None:
        """Where clients learn whether to log in."""
        await self.start()
        assert (await self.ask("/v2/")).status == 401
        assert (await self.ask("/v2/", Authorization="Bearer x")).status == 401
        assert (await self.ask("/v2/", Authorization=basic("alice", ALICE))).status == 401
        token = json.loads((await self.token(("alice", ALICE))).body)["token"]
        assert (await self.ask("/v2/", Authorization=f"Bearer {token}")).status == 200
        assert (await self.ask("/v2/", Authorization=f"Token {token}")).status == 200

    async def test_a_challenge_says_what_is_wrong_with_a_token(self) -> None:
        await self.start()
        token = json.loads((await self.token(("alice", ALICE), "acme")).body)["token"]
        scope = f'scope="repository:acme/tools/{MARK}/{APP}:pull"'
        assert (
            (await self.pull("acme/tools", token))
            .headers["www-authenticate"]
            .endswith(f'{scope},error="insufficient_scope"')
        )
        assert (
            (await self.pull("acme/tools", "x")).headers["www-authenticate"].endswith(f'{scope},error="invalid_token"')
        )


def b64decode_parts(token: str) -> str:
    return "".join(urlsafe_b64decode(part + "==").decode("latin-1") for part in token.split(".")[:2])
