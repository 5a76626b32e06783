"""Every case of access: who asks, for what, and what he is told. Tests run these; docs/access.rst shows them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jwt
from attrs import define, field, frozen
from twisted.internet.defer import Deferred, execute

from depproxy.access.gate import Gate
from depproxy.access.groups import Groups
from depproxy.access.hashing import WAITING, Hashing
from depproxy.access.issuer import Issuer
from depproxy.access.keys import KeyRing
from depproxy.access.local import LocalAccounts
from depproxy.access.passwords import hash_password, hash_token
from depproxy.access.portal import Accounts
from depproxy.access.throttle import Throttle
from depproxy.access.tokens import Tokens
from depproxy.config import Settings
from tests.configurations import load_text
from tests.fakes import MemoryIndex

T = TypeVar("T")

ALICE, BOB = "alice's password", "bob's password"
LAPTOP, OLD, NARROW, FULL = "dpp_laptop", "dpp_old", "dpp_narrow", "dpp_full"
DEPLOY, BOT = "dpd_deploy", "dpg_bot"
# The clock of all cases; the token `old` ended long before.
NOW = 1_800_000_000.0
HASHES = {name: hash_password(name) for name in (ALICE, BOB)}

ACCOUNTS = f"""
[mirror]
anonymous = []
[users.alice]
password = "{HASHES[ALICE]}"
[users.alice.tokens.laptop]
hash = "{hash_token(LAPTOP)}"
[users.alice.tokens.old]
hash = "{hash_token(OLD)}"
expires = 2026-01-01
[users.alice.tokens.full]
hash = "{hash_token(FULL)}"
scopes = ["api"]
[users.alice.tokens.narrow]
hash = "{hash_token(NARROW)}"
scopes = ["write_registry"]
[users.bob]
password = "{HASHES[BOB]}"
[users.carol]
password = "{HASHES[ALICE]}"
password_login = false
[users.root]
password = "{HASHES[ALICE]}"
admin = true
[groups.acme]
members = {{ alice = "owner" }}
[groups.acme.deploy_tokens.ci]
username = "acme-ci"
hash = "{hash_token(DEPLOY)}"
[groups.acme.access_tokens.bot]
hash = "{hash_token(BOT)}"
[groups."acme/tools"]
members = {{ bob = "guest" }}
[groups.other]
[groups.closed]
enabled = false
members = {{ alice = "guest" }}
[groups.open]
anonymous = ["127.0.0.0/8"]
"""


def inline(function: Callable[..., T], *arguments: object) -> Deferred[T]:
    """A thread pool without threads."""
    return execute(function, *arguments)


@define
class House:
    """Access as the service builds it, on a clock that a case may move and a configuration that it may change."""

    directory: Path
    now: float = NOW
    text: str = ACCOUNTS
    index: MemoryIndex = field(init=False)
    keys: KeyRing = field(init=False)
    tokens: Tokens = field(init=False)
    refresh: Tokens = field(init=False)
    gate: Gate = field(init=False)
    issuer: Issuer = field(init=False)
    hashing: Hashing = field(init=False)
    flooded: bool = False

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        self.hashing = Hashing(self.run)
        self.index = MemoryIndex(self.clock)
        self.keys = KeyRing(self.directory / "keys", "HS256", self.clock)
        self.keys.load()
        self.tokens = Tokens(self.keys, "depproxy", settings.access.token_lifetime, self.clock)
        groups, accounts = self.rules()
        self.gate = Gate(groups, accounts, self.tokens, now=self.clock)
        self.refresh = Tokens(self.keys, "depproxy/refresh", settings.access.refresh_lifetime, self.clock)
        self.issuer = Issuer(groups, accounts, self.tokens, self.refresh, Throttle(self.index, self.clock))

    def clock(self) -> float:
        return self.now

    def run(self, function: Callable[..., T], *arguments: object) -> Deferred[T]:
        """A thread pool without threads; flooded, its work does not come to an end."""
        return Deferred() if self.flooded else execute(function, *arguments)

    def flood(self) -> None:
        """As many logins as are taken at a time."""
        self.flooded = True
        for number in range(WAITING + 2):
            Deferred.fromCoroutine(self.hashing.check(str(number), None))

    @property
    def settings(self) -> Settings:
        return load_text(self.text)

    def rules(self) -> tuple[Groups, Accounts]:
        groups, local = self.local()
        return groups, Accounts([local])

    def local(self) -> tuple[Groups, LocalAccounts]:
        settings = self.settings
        local = LocalAccounts(settings.users, settings.groups, settings.access, self.hashing, self.clock)
        return Groups(settings.groups, settings.mirror, enabled=settings.server.enabled), local

    def named(self, text: str) -> str:
        """A message with the names that the documentation has."""
        return text

    async def close(self) -> None:
        """Close what was opened."""

    def reload(self, old: str, new: str) -> None:
        """Replace a part of the configuration, and have it taken over."""
        assert old in self.text
        self.text = self.text.replace(old, new)
        rules = self.rules()
        self.gate.replace(*rules)
        self.issuer.replace(*rules)


@frozen
class Told:
    """Status, code and message of an answer; a token, or what was pulled, has none of the latter."""

    status: int
    code: str = ""
    message: str = ""


@frozen
class Case:
    """
    A login, a token for `scope`, and a pull from `group` with it.

    `guesses` are wrong logins that come before it, then `first` happens; `before` happens between login and pull, and
    `forge` changes the token on its way. A second pull is told the same, or `again`. Without `token` none is asked for,
    and without `pull` the case ends there. Whatever has to be made by the house gets the house.
    """

    title: str
    login: tuple[str, str | Callable[[Any], str]] | None
    token: Told | None
    pull: Told | None = None
    group: str = "acme"
    scope: str | None = "acme"
    guesses: Sequence[tuple[str, str]] = ()
    first: Callable[[Any], object] | None = None
    before: Callable[[Any], object] | None = None
    forge: Callable[[Any, str], str] | None = None
    again: Told | None = None


def login_for(group: str) -> Told:
    return Told(401, "UNAUTHORIZED", f"group {group}: a login is needed: docker login, then pull again")


def no_role(name: str, group: str) -> Told:
    return Told(403, "DENIED", f"group {group}: {name} has no role here; only members of the group may pull")


GOOD = Told(200)
WRONG = Told(401, "UNAUTHORIZED", "wrong user name, password or token: docker login with the right ones")

NOT_OURS = Told(
    401,
    "UNAUTHORIZED",
    "the token was not issued by this depproxy, or its key is gone: log in again, or let the client ask for a new"
    " token",
)
EXPIRED = Told(401, "UNAUTHORIZED", "the token has expired: log in again, or let the client ask for a new token")
OFF = Told(
    403, "DENIED", "group closed: its dependency proxy is turned off in the configuration; the operator can turn it on"
)


OTHER_SCOPE = Told(
    401, "UNAUTHORIZED", "the token was not asked for with a scope of group acme/tools: ask for a new one"
)
ONLY_TOKENS = Told(
    401, "UNAUTHORIZED", "carol may not log in with a password: use a personal access token in its place"
)
OLD_ENDED = Told(401, "UNAUTHORIZED", "the token old of alice has expired: it needs to be replaced by a new one")
TOO_SMALL = Told(
    401,
    "UNAUTHORIZED",
    "the token narrow of alice has the scopes write_registry, but pulling needs api, or read_registry, or"
    " read_virtual_registry and write_virtual_registry",
)
REVOKED = Told(401, "UNAUTHORIZED", "the credential of alice was revoked or changed: log in again")
CHANGED = Told(401, "UNAUTHORIZED", "the credential of bob was revoked or changed: log in again")
BUSY = Told(429, "TOOMANYREQUESTS", "too many logins at a time")
SLOWED = Told(429, "TOOMANYREQUESTS", "too many wrong logins: wait, then check user name and password")
# The tries of one account, and of one address.
GUESSED, ALL_GUESSED = [("alice", "guess")] * 10, [("alice", "dpp_guess")] * 30
NOBODYS = Told(401, "UNAUTHORIZED", "the token is one for nobody in particular, and not good here: docker login")
LAPTOP_TABLE = f"""[users.alice.tokens.laptop]
hash = "{hash_token(LAPTOP)}"
"""


def reload(old: str, new: str) -> Callable[[House], None]:
    return lambda house: house.reload(old, new)


def new_keys(house: House) -> None:
    house.keys.path.unlink()
    house.keys.reload()


def later(seconds: float) -> Callable[[House], None]:
    def move(house: House) -> None:
        house.now += seconds

    return move


def rotate(house: House) -> None:
    house.keys.rotate()


def unsigned(_house: House, token: str) -> str:
    _, claims, _ = token.split(".")
    head = urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{head}.{claims}."


def tampered(_house: House, token: str) -> str:
    head, claims, signature = token.split(".")
    content = json.loads(urlsafe_b64decode(claims + "=="))
    content["sub"] = "root"
    return f"{head}.{urlsafe_b64encode(json.dumps(content).encode()).rstrip(b'=').decode()}.{signature}"


def of_another(house: House, token: str) -> str:
    """The same claims with another issuer, signed with our own key."""
    content: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    key = house.keys.current
    return jwt.encode(content | {"iss": "somebody"}, key.private, key.algorithm, headers={"kid": key.kid})


def foreign(_house: House, token: str) -> str:
    content: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    kid = jwt.get_unverified_header(token)["kid"]
    return jwt.encode(content, "not our key" * 4, "HS256", headers={"kid": kid})


CASES = [
    Case("password of a member", ("alice", ALICE), GOOD, GOOD),
    Case("password of a member of the group above", ("alice", ALICE), GOOD, GOOD, "acme/tools", "acme/tools"),
    Case("password of a member of a subgroup, there", ("bob", BOB), GOOD, GOOD, "acme/tools", "acme/tools"),
    Case("password of a member of a subgroup, above", ("bob", BOB), GOOD, no_role("bob", "acme")),
    Case("password of nobody's member", ("bob", BOB), GOOD, no_role("bob", "other"), "other", "other"),
    Case("a group that is not there", ("bob", BOB), GOOD, no_role("bob", "nowhere"), "nowhere", "nowhere"),
    Case("password of an admin", ("root", ALICE), GOOD, GOOD, "other", "other"),
    Case(
        "an admin, a group that is not there", ("root", ALICE), GOOD, no_role("root", "nowhere"), "nowhere", "nowhere"
    ),
    Case("wrong password", ("alice", "wrong"), WRONG),
    Case("wrong user name", ("nobody", ALICE), WRONG),
    Case("empty password", ("alice", ""), WRONG),
    Case("no login", None, None, login_for("acme")),
    Case(
        "no login, at the token endpoint",
        None,
        Told(401, "UNAUTHORIZED", "a user name and a password or token are needed here: docker login, then pull again"),
    ),
    Case("no login, a group that is not there", None, None, login_for("nowhere"), "nowhere"),
    Case("personal access token", ("alice", LAPTOP), GOOD, GOOD),
    Case("group deploy token", ("acme-ci", DEPLOY), GOOD, GOOD),
    Case("group deploy token, in a subgroup", ("acme-ci", DEPLOY), GOOD, GOOD, "acme/tools", "acme/tools"),
    Case("group access token", ("bot", BOT), GOOD, GOOD),
    Case("wrong token", ("alice", "dpp_wrong"), WRONG),
    Case("a token without a scope: all that the account may", ("alice", LAPTOP), GOOD, GOOD, scope=None),
    Case("turned off, for a member", ("alice", ALICE), GOOD, OFF, "closed", "closed"),
    Case("turned off, for others", ("bob", BOB), GOOD, no_role("bob", "closed"), "closed", "closed"),
    Case("open to the address", None, None, GOOD, "open"),
    Case("open to the address, with a token for it", None, GOOD, GOOD, "open", "open"),
    Case("open to the address, with a foreign login", ("hub-user", "hub-password"), GOOD, GOOD, "open", "open"),
    Case("a foreign login without a scope", ("hub-user", "hub-password"), WRONG, scope=None),
    Case("a token that has expired", ("alice", ALICE), GOOD, EXPIRED, before=later(15 * 60)),
    Case("a token that is used again", ("alice", ALICE), GOOD, GOOD, before=later(15 * 60 - 1)),
    Case("a token that was tampered with", ("alice", ALICE), GOOD, NOT_OURS, forge=tampered),
    Case("a token without a signature (alg: none)", ("alice", ALICE), GOOD, NOT_OURS, forge=unsigned),
    Case("a token of another issuer", ("alice", ALICE), GOOD, NOT_OURS, forge=of_another),
    Case("a token signed by somebody else", ("alice", ALICE), GOOD, NOT_OURS, forge=foreign),
    Case("a signing key that was rotated", ("alice", ALICE), GOOD, GOOD, before=rotate),
    Case("signing keys that were removed", ("alice", ALICE), GOOD, NOT_OURS, before=new_keys),
    Case("a token for another group", ("alice", ALICE), GOOD, OTHER_SCOPE, "acme/tools", "acme"),
    Case("a token for another group, without a role", ("bob", BOB), GOOD, no_role("bob", "acme"), "acme", "acme/tools"),
    Case("a password where only tokens are taken", ("carol", ALICE), ONLY_TOKENS),
    Case("personal access token that has expired", ("alice", OLD), OLD_ENDED),
    Case("personal access token with too small a scope", ("alice", NARROW), TOO_SMALL),
    Case("group deploy token with another user name", ("alice", DEPLOY), WRONG),
    Case("group access token in another group", ("bot", BOT), GOOD, no_role("acme/bot", "other"), "other", "other"),
    Case("a token that is revoked after the login", ("alice", LAPTOP), GOOD, REVOKED, before=reload(LAPTOP_TABLE, "")),
    Case(
        "a password that is changed after the login",
        ("bob", BOB),
        GOOD,
        CHANGED,
        "acme/tools",
        "acme/tools",
        before=reload(HASHES[BOB], HASHES[ALICE]),
    ),
    Case(
        "a role that is taken away after the login",
        ("bob", BOB),
        GOOD,
        no_role("bob", "acme/tools"),
        "acme/tools",
        "acme/tools",
        before=reload('bob = "guest"', ""),
    ),
    Case(
        "a group that is turned off after the login",
        ("alice", ALICE),
        GOOD,
        Told(403, "DENIED", OFF.message.replace("closed", "acme")),
        before=reload("[groups.acme]", "[groups.acme]\nenabled = false"),
    ),
    Case(
        "the whole instance is turned off after the login",
        ("alice", ALICE),
        GOOD,
        Told(
            403,
            "DENIED",
            "group acme: this dependency proxy is turned off in the configuration; the operator can turn it on",
        ),
        before=reload("[mirror]", "[server]\nenabled = false\n[mirror]"),
    ),
    Case(
        "a network that is shut out after the login",
        None,
        GOOD,
        NOBODYS,
        "open",
        "open",
        before=reload('anonymous = ["127.0.0.0/8"]', ""),
    ),
    Case("ten wrong passwords, then the right one", ("alice", ALICE), SLOWED, guesses=GUESSED),
    Case("ten wrong passwords, then a token", ("alice", LAPTOP), GOOD, GOOD, guesses=GUESSED),
    Case("ten wrong passwords, then another account", ("root", ALICE), GOOD, GOOD, guesses=GUESSED),
    Case(
        "ten wrong passwords, then the right one after six seconds",
        ("alice", ALICE),
        GOOD,
        GOOD,
        guesses=GUESSED,
        first=later(6),
    ),
    Case("too many logins at a time, and one more", ("alice", ALICE), BUSY, first=House.flood),
    Case("too many logins at a time, and a token", ("alice", LAPTOP), GOOD, GOOD, first=House.flood),
    Case("thirty wrong logins from one address, then another account", ("root", ALICE), SLOWED, guesses=ALL_GUESSED),
]
