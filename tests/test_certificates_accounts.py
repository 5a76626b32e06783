"""Users who are known by a client certificate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from depproxy.access.certificates import CertificateAccounts
from depproxy.access.interface import ClientCertificate, IAccounts, Identity, Login, Withdrawn
from depproxy.access.logins import known_by
from depproxy.access.portal import Accounts
from depproxy.config import ConfigError, Role, UserSettings
from depproxy.config.certificates import refuse_shared_certificates
from depproxy.config.document import Source
from tests.web_support import WebTestCase

ENDS = 2_000_000_000.0
NOW = 1_800_000_000.0


def users(**names: tuple[str, ...]) -> dict[str, UserSettings]:
    return {user: UserSettings(user, certificates=certificates) for user, certificates in names.items()}


class Roles:
    """What the users of the configuration may."""

    def __init__(self) -> None:
        self.roles: dict[tuple[str, str], Role] = {("alice", "acme"): Role.DEVELOPER}
        self.gone: set[str] = set()

    def role(self, user: str, group: str) -> Role | None:
        return self.roles.get((user, group))

    def exists(self, user: str) -> bool:
        return user not in self.gone


def accounts(
    found: Mapping[str, UserSettings], roles: Roles | None = None, authority: str = "ca", now: float = NOW
) -> CertificateAccounts:
    roles = roles or Roles()
    return CertificateAccounts(found, roles.role, roles.exists, authority, lambda: now)


def certificate(*names: str) -> ClientCertificate:
    return ClientCertificate(names, ENDS)


def identify(source: CertificateAccounts, *names: str) -> Identity | None:
    """Whom a certificate of these names means."""
    found: list[Identity | Failure] = []
    source.requestAvatarId(certificate(*names)).addBoth(found.append)
    (result,) = found
    if isinstance(result, Failure):
        result.trap(UnauthorizedLogin)
        assert not result.check(Withdrawn)
        return None
    return result


BOTH = users(alice=("runner-1.example", "spiffe://example/1"), bob=("bob",), carol=())
ALICE = Identity("certificate", "alice", "ca:runner-1.example", ENDS)


def test_it_is_a_source_of_accounts() -> None:
    source = accounts(BOTH)
    verifyObject(IAccounts, source)
    verifyObject(ICredentialsChecker, source)
    assert source.name == ALICE.source
    assert source
    assert not accounts(users(carol=()))


def test_a_name_means_a_user() -> None:
    source = accounts(BOTH)
    assert identify(source, "runner-1.example") == ALICE
    assert identify(source, "other", "bob") == Identity("certificate", "bob", "ca:bob", ENDS)
    # Two of her names; the first is what she is known by.
    assert identify(source, "x", "runner-1.example", "spiffe://example/1") == ALICE


@pytest.mark.parametrize("names", [(), ("other",), ("carol",), ("alice",), ("Bob",), ("bob ",), ("",)])
def test_other_names_mean_nobody(names: tuple[str, ...]) -> None:
    assert identify(accounts(BOTH), *names) is None


def test_one_that_has_ended_means_nobody() -> None:
    assert identify(accounts(BOTH, now=ENDS - 1), "bob") is not None
    assert identify(accounts(BOTH, now=ENDS), "bob") is None


def test_without_an_authority_nobody_is_known() -> None:
    assert not accounts(BOTH, authority="")
    assert identify(accounts(BOTH, authority=""), "bob") is None


def test_a_certificate_of_two_users_means_neither() -> None:
    for names in (("bob", "runner-1.example"), ("spiffe://example/1", "bob")):
        assert identify(accounts(BOTH), *names) is None


NAMES = st.sampled_from("abcdef")


@given(
    st.dictionaries(NAMES, st.sampled_from(["alice", "bob"]), max_size=6),
    st.lists(NAMES, max_size=6, unique=True),
)
def test_who_is_meant_is_so_by_the_configuration(owners: dict[str, str], names: list[str]) -> None:
    found = users(**{user: tuple(name for name, owner in owners.items() if owner == user) for user in ("alice", "bob")})
    identity = identify(accounts(found), *names)
    meant = {owners[name] for name in names if name in owners}
    if len(meant) == 1:
        assert identity is not None
        assert identity.name in meant
        assert identity.credential == "ca:" + next(name for name in names if name in owners)
        assert identity.expires == ENDS
    else:
        assert identity is None


class Rights(WebTestCase):
    async def test_the_role_is_that_of_the_user(self) -> None:
        source = accounts(BOTH)
        assert await source.role(ALICE, "acme") is Role.DEVELOPER
        assert await source.role(ALICE, "other") is None

    async def test_what_is_withdrawn(self) -> None:
        roles = Roles()
        roles.gone.add("alice")
        given_to_bob = users(alice=(), bob=("runner-1.example",))
        for source in (
            accounts(users(alice=("another",))),
            accounts(given_to_bob),
            accounts({}),
            accounts(BOTH, roles),
            accounts(BOTH, authority="another ca"),
            accounts(BOTH, authority=""),
        ):
            with pytest.raises(Withdrawn, match="does not mean alice any more"):
                await source.role(ALICE, "acme")

    async def test_behind_the_portal(self) -> None:
        portal = Accounts([accounts(BOTH)])
        assert portal
        account = await portal.login(certificate("runner-1.example"))
        assert account.identity == ALICE
        assert await account.role("acme") is Role.DEVELOPER
        assert portal.account(ALICE) == account
        assert await known_by(certificate("runner-1.example"), portal) == account
        # Neither a password of that name nor another certificate proves anything.
        with pytest.raises(UnauthorizedLogin):
            await portal.login(Login("bob", "bob", "127.0.0.1"))
        for nobody in (None, certificate(), certificate("other"), certificate("bob", "runner-1.example")):
            assert await known_by(nobody, portal) is None
        # Nor does any where nobody is known by one.
        assert await known_by(certificate("bob"), Accounts([])) is None

    def test_two_users_are_logged(self) -> None:
        assert identify(accounts(BOTH), "bob", "runner-1.example") is None
        assert self.has_logged("a client certificate means nobody, for it means alice and bob")


def test_two_users_with_one_name() -> None:
    source = Source("depproxy.toml", Path("/"))
    refuse_shared_certificates(source, BOTH)
    refuse_shared_certificates(source, {})
    with pytest.raises(ConfigError) as raised:
        refuse_shared_certificates(source, users(alice=("a", "x"), bob=("b",), carol=("c", "d", "x")))
    assert str(raised.value) == (
        'depproxy.toml: users.carol.certificates[2] = "x": must mean one user, but means users.alice, too'
    )
