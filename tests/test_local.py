"""The accounts of the configuration: who gets in by what, what that gives him, and until when."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from depproxy.access.hashing import Busy, Hashing
from depproxy.access.interface import IAccounts, Identity, Login, Withdrawn
from depproxy.access.local import LocalAccounts
from depproxy.access.passwords import fingerprint, hash_password, hash_token
from depproxy.config import AccessSettings, GroupSettings, Role, TokenSettings, UserSettings
from tests.configurations import load_text
from tests.fakes import Threads
from tests.index_tools import Now

ALICE, CAROL = "alice's password", "carol's password"
HASHES = {password: hash_password(password, 10) for password in (ALICE, CAROL)}
LAPTOP, OLD, WRITE, BOTH, API, VIRTUAL, HALF = (f"dpp_{number}" for number in range(7))
DEPLOY, WRITE_DEPLOY, BOT, OWNER_BOT = "dpd_1", "dpd_2", "dpg_1", "dpg_2"
# 2027-01-31, when OLD ends.
END = 1_801_353_600.0

ACCOUNTS = f"""
[users.alice]
password = "{HASHES[ALICE]}"
[users.alice.tokens]
laptop = {{ hash = "{hash_token(LAPTOP)}" }}
old = {{ hash = "{hash_token(OLD)}", expires = 2027-01-31 }}
write = {{ hash = "{hash_token(WRITE)}", scopes = ["write_registry"] }}
both = {{ hash = "{hash_token(BOTH)}", scopes = ["write_registry", "read_registry"] }}
api = {{ hash = "{hash_token(API)}", scopes = ["api"] }}
virtual = {{ hash = "{hash_token(VIRTUAL)}", scopes = ["read_virtual_registry", "write_virtual_registry"] }}
half = {{ hash = "{hash_token(HALF)}", scopes = ["read_virtual_registry"] }}
[users.carol]
password = "{HASHES[CAROL]}"
password_login = false
[users.dave]
[users.root]
password = "{HASHES[ALICE]}"
admin = true
[groups.acme]
members = {{ alice = "reporter" }}
[groups.acme.deploy_tokens]
ci = {{ username = "acme-ci", hash = "{hash_token(DEPLOY)}" }}
write = {{ username = "acme-write", hash = "{hash_token(WRITE_DEPLOY)}", scopes = ["write_registry"] }}
[groups.acme.access_tokens]
bot = {{ hash = "{hash_token(BOT)}" }}
[groups."acme/tools"]
members = {{ alice = "maintainer", carol = "guest" }}
access_tokens = {{ owner = {{ hash = "{hash_token(OWNER_BOT)}", role = "owner" }} }}
[groups."acme/tools/deep"]
[groups.other]
"""
# Those that the tests ask about; the last is not configured.
GROUPS = ("acme", "acme/tools", "acme/tools/deep", "other", "acme/nowhere")


class LocalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = Now()
        self.threads = Threads()
        self.hashing = Hashing(self.threads, now=self.now)
        self.accounts = self.make(ACCOUNTS)

    def make(self, text: str) -> LocalAccounts:
        found = load_text(text)
        return LocalAccounts(found.users, found.groups, found.access, self.hashing, self.now)

    def reload(self, old: str, new: str) -> None:
        """The same accounts with another configuration."""
        assert old in ACCOUNTS
        self.accounts = self.make(ACCOUNTS.replace(old, new))

    def login(self, name: str, password: str) -> Identity:
        return self.successResultOf(self.accounts.requestAvatarId(Login(name, password, "192.0.2.1")))

    def refused(self, name: str, password: str, kind: type[Exception] = UnauthorizedLogin) -> str:
        """What a login is told that fails with exactly this kind of error."""
        failed: Any = self.accounts.requestAvatarId(Login(name, password, "192.0.2.1"))
        error = self.failureResultOf(failed).value  # type: ignore[no-untyped-call]
        assert type(error) is kind, error
        return str(error)

    def role(self, identity: Identity, group: str) -> Role | None:
        return self.successResultOf(Deferred.fromCoroutine(self.accounts.role(identity, group)))

    def roles(self, identity: Identity) -> list[int]:
        """The role in each of GROUPS, 0 for none."""
        return [self.role(identity, group) or 0 for group in GROUPS]

    def withdrawn(self, identity: Identity, group: str = "acme") -> str:
        failed: Any = Deferred.fromCoroutine(self.accounts.role(identity, group))
        return str(self.failureResultOf(failed, Withdrawn).value)  # type: ignore[no-untyped-call]


class LoginTests(LocalCase):
    """Who gets in."""

    def test_provides_the_interfaces(self) -> None:
        verifyObject(IAccounts, self.accounts)
        verifyObject(ICredentialsChecker, self.accounts)
        assert self.accounts.name == "local"
        assert self.accounts.max_age == 60.0

    def test_passwords(self) -> None:
        expected = Identity("local", "alice", f"password:{fingerprint(HASHES[ALICE])}")
        assert self.login("alice", ALICE) == expected
        for name, password in (
            ("alice", CAROL),
            ("alice", ""),
            ("alice", HASHES[ALICE]),
            ("Alice", ALICE),
            ("", ALICE),
            ("nobody", ALICE),
            ("dave", ALICE),
            ("dave", ""),
            ("acme-ci", ALICE),
            ("\0\ud800", "\0\ud800"),
            ("alice", ALICE + "\0"),
            ("alice", "x" * (16 << 10)),
        ):
            self.refused(name, password)

    def test_a_user_who_must_use_tokens(self) -> None:
        told = self.refused("carol", CAROL, Withdrawn)
        assert told == "carol may not log in with a password: use a personal access token in its place"
        # Whoever does not know it learns nothing of that.
        self.refused("carol", ALICE)

    def test_personal_access_tokens(self) -> None:
        expected = Identity("local", "alice", f"token:alice/laptop:{fingerprint(hash_token(LAPTOP))}")
        for name in ("alice", "carol", "nobody", "", "gitlab-ci-token"):
            assert self.login(name, LAPTOP) == expected
        self.refused("alice", "dpp_wrong")
        self.refused("alice", hash_token(LAPTOP))

    def test_group_deploy_tokens(self) -> None:
        expected = Identity("local", "acme-ci", f"deploy:acme/ci:{fingerprint(hash_token(DEPLOY))}")
        assert self.login("acme-ci", DEPLOY) == expected
        for name in ("alice", "acme-write", "ACME-CI", ""):
            self.refused(name, DEPLOY)
        # With the wrong name not even that its scopes are not enough.
        self.refused("alice", WRITE_DEPLOY)

    def test_group_access_tokens(self) -> None:
        expected = Identity("local", "acme/bot", f"access:acme/bot:{fingerprint(hash_token(BOT))}")
        for name in ("bot", "alice", ""):
            assert self.login(name, BOT) == expected

    def test_expiry(self) -> None:
        self.now.time = END - 0.001
        assert self.login("alice", OLD).expires == END
        self.now.time = END
        told = self.refused("alice", OLD, Withdrawn)
        assert told == "the token old of alice has expired: it needs to be replaced by a new one"

    def test_scopes(self) -> None:
        for secret in (LAPTOP, BOTH, API, VIRTUAL):
            self.login("alice", secret)
        needed = "pulling needs api, or read_registry, or read_virtual_registry and write_virtual_registry"
        assert self.refused("", WRITE, Withdrawn) == (
            f"the token write of alice has the scopes write_registry, but {needed}"
        )
        assert self.refused("", HALF, Withdrawn) == (
            f"the token half of alice has the scopes read_virtual_registry, but {needed}"
        )
        assert self.refused("acme-write", WRITE_DEPLOY, Withdrawn) == (
            f"the deploy token write of group acme has the scopes write_registry, but {needed}"
        )

    def test_scopes_as_strictly_as_gitlab_wants_them(self) -> None:
        self.accounts = self.make(ACCOUNTS + "[access]\nrequire_write_registry = true\n")
        for secret in (BOTH, API, VIRTUAL):
            self.login("alice", secret)
        for secret in (WRITE, HALF):
            self.refused("alice", secret, Withdrawn)
        assert self.refused("alice", LAPTOP, Withdrawn) == (
            "the token laptop of alice has the scopes read_registry, but pulling needs api, or read_registry and"
            " write_registry, or read_virtual_registry and write_virtual_registry"
        )

    scopes = st.sets(
        st.sampled_from(["api", "read_registry", "write_registry", "read_virtual_registry", "write_virtual_registry"])
    )

    @given(scopes, st.booleans())
    def test_any_scopes(self, scopes: set[str], strict: bool) -> None:
        token = TokenSettings("t", hash_token("dpp_t"), tuple(scopes))
        users = {"alice": UserSettings("alice", tokens={"t": token})}
        settings = AccessSettings(require_write_registry=strict)
        accounts = LocalAccounts(users, {}, settings, self.hashing, self.now)
        enough = (
            "api" in scopes
            or {"read_virtual_registry", "write_virtual_registry"} <= scopes
            or ("read_registry" in scopes and ("write_registry" in scopes or not strict))
        )
        answer: Any = accounts.requestAvatarId(Login("alice", "dpp_t", ""))
        if enough:
            assert self.successResultOf(answer).name == "alice"
        else:
            self.failureResultOf(answer, Withdrawn)  # type: ignore[no-untyped-call]

    def test_a_flood_is_refused(self) -> None:
        self.threads.held = True
        for number in range(66):
            self.assertNoResult(self.attempt("alice", str(number)))  # type: ignore[no-untyped-call]
        for name in ("alice", "nobody"):
            self.failureResultOf(self.attempt(name, "wrong"), Busy)  # type: ignore[no-untyped-call]
        # Tokens need no thread.
        self.login("alice", LAPTOP)

    def attempt(self, name: str, password: str) -> Any:
        return self.accounts.requestAvatarId(Login(name, password, ""))


class CostTests(LocalCase):
    """How many checks of a password a login costs."""

    def costs(self, name: str, password: str) -> int:
        self.threads.held = True
        asked: Any = self.accounts.requestAvatarId(Login(name, password, ""))
        count = self.threads.finish()
        asked.addErrback(lambda failure: failure.trap(UnauthorizedLogin))
        self.successResultOf(asked)
        return count

    def test_whoever_it_is_a_wrong_password_costs_the_same(self) -> None:
        for name in ("alice", "carol", "dave", "nobody", "acme-ci", "", "\0"):
            for _ in range(2):
                assert self.costs(name, "wrong") == 1

    def test_the_same_kind_of_hash_is_checked_for_nobody(self) -> None:
        seen: list[str] = []

        def run(function: Any, password: str, hashed: str) -> Deferred[bool]:
            seen.append(hashed)
            return self.threads(function, password, hashed)

        self.hashing = Hashing(run, now=self.now)
        self.accounts = self.make(ACCOUNTS)
        for name in ("alice", "nobody"):
            self.refused(name, "wrong")
        assert seen[0] == HASHES[ALICE]
        assert seen[1] not in HASHES.values()
        assert seen[1].startswith("$scrypt$ln=10,r=8,p=1$")

    def test_a_right_one_costs_one_for_all(self) -> None:
        assert [self.costs("alice", ALICE) for _ in range(3)] == [1, 0, 0]

    def test_what_is_no_password_costs_nothing(self) -> None:
        for name in ("alice", "nobody"):
            for secret in (LAPTOP, WRITE, DEPLOY, "dpp_wrong", "eyJh.eyJi.c", "glpat-abcdefghijklmnopqrst"):
                assert self.costs(name, secret) == 0
        assert self.costs("gitlab-ci-token", "anything") == 0

    def test_where_nobody_has_a_password(self) -> None:
        self.accounts = self.make(f'[users.alice.tokens.laptop]\nhash = "{hash_token(LAPTOP)}"\n')
        assert self.costs("alice", "x") == 0
        self.login("alice", LAPTOP)


class RoleTests(LocalCase):
    """What a login gives."""

    def test_users(self) -> None:
        guest, reporter, maintainer, owner = Role.GUEST, Role.REPORTER, Role.MAINTAINER, Role.OWNER
        for password in (ALICE, LAPTOP):
            assert self.roles(self.login("alice", password)) == [reporter, maintainer, maintainer, 0, 0]
        assert self.roles(self.login("root", ALICE)) == [owner, owner, owner, owner, 0]
        assert self.roles(self.login("acme-ci", DEPLOY)) == [guest, guest, guest, 0, 0]
        assert self.roles(self.login("", BOT)) == [guest, guest, guest, 0, 0]
        assert self.roles(self.login("", OWNER_BOT)) == [0, owner, owner, 0, 0]

    def test_users_by_name(self) -> None:
        assert [self.accounts.role_of_user("alice", group) for group in GROUPS] == [
            Role.REPORTER,
            Role.MAINTAINER,
            Role.MAINTAINER,
            None,
            None,
        ]
        assert self.accounts.role_of_user("carol", "acme") is None
        assert self.accounts.role_of_user("carol", "acme/tools/deep") is Role.GUEST
        assert self.accounts.role_of_user("root", "other") is Role.OWNER
        assert self.accounts.role_of_user("root", "nowhere") is None
        for name in ("nobody", "acme-ci", "acme/bot"):
            assert self.accounts.role_of_user(name, "acme") is None
        assert [self.accounts.user_exists(name) for name in ("alice", "dave", "nobody")] == [True, True, False]

    def test_a_member_who_is_no_user_is_nothing_here(self) -> None:
        groups = {"acme": GroupSettings("acme", members={"eve": Role.OWNER})}
        accounts = LocalAccounts({}, groups, AccessSettings(), self.hashing, self.now)
        assert accounts.role_of_user("eve", "acme") is None

    def test_a_changed_membership_counts(self) -> None:
        alice = self.login("alice", ALICE)
        self.reload('alice = "reporter"', 'alice = "owner"')
        assert self.role(alice, "acme") is Role.OWNER
        self.reload('alice = "reporter"', "")
        assert self.role(alice, "acme") is None

    paths = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map("/".join)

    @given(st.dictionaries(paths, st.dictionaries(st.just("alice"), st.sampled_from(Role))), paths, st.booleans())
    def test_roles_come_from_the_members_and_from_nothing_else(
        self, groups: dict[str, dict[str, Role]], group: str, admin: bool
    ) -> None:
        token = TokenSettings("t", hash_token("dpp_t"))
        configured = {path: GroupSettings(path, members=members) for path, members in groups.items()}
        users = {"alice": UserSettings("alice", admin=admin, tokens={"t": token})}
        self.accounts = LocalAccounts(users, configured, AccessSettings(), self.hashing, self.now)
        above = [members["alice"] for path, members in groups.items() if members and f"{group}/".startswith(f"{path}/")]
        expected = max(above, default=None)
        if group not in groups:
            expected = None
        elif admin:
            expected = Role.OWNER
        assert self.role(self.login("alice", "dpp_t"), group) == expected


class RevocationTests(LocalCase):
    """What was proved once counts as long as that by which it was proved."""

    def test_a_changed_password(self) -> None:
        alice = self.login("alice", ALICE)
        self.reload(f'[users.alice]\npassword = "{HASHES[ALICE]}"', f'[users.alice]\npassword = "{HASHES[CAROL]}"')
        assert self.withdrawn(alice) == "the credential of alice was revoked or changed: log in again"
        self.refused("alice", ALICE)
        # A token of hers is not concerned.
        assert self.role(self.login("alice", LAPTOP), "acme") is Role.REPORTER

    def test_a_removed_password(self) -> None:
        alice = self.login("alice", ALICE)
        self.reload(f'[users.alice]\npassword = "{HASHES[ALICE]}"', "[users.alice]")
        assert "revoked or changed" in self.withdrawn(alice)

    def test_a_user_who_must_use_tokens_from_now_on(self) -> None:
        alice = self.login("alice", ALICE)
        self.reload("[users.alice]\n", "[users.alice]\npassword_login = false\n")
        assert "use a personal access token" in self.withdrawn(alice)

    def test_a_removed_user(self) -> None:
        root = self.login("root", ALICE)
        self.reload("[users.root]", "[users.another]")
        assert "revoked or changed" in self.withdrawn(root, "nowhere")

    def test_removed_tokens(self) -> None:
        for old, name, secret in (
            ("laptop = ", "alice", LAPTOP),
            ("ci = ", "acme-ci", DEPLOY),
            ("bot = ", "", BOT),
        ):
            identity = self.login(name, secret)
            self.reload(old, "renamed = ")
            assert "revoked or changed" in self.withdrawn(identity)
            self.accounts = self.make(ACCOUNTS)
            assert self.role(identity, "acme")

    def test_replaced_secrets(self) -> None:
        for name, secret in (("alice", LAPTOP), ("acme-ci", DEPLOY), ("", BOT)):
            identity = self.login(name, secret)
            self.reload(hash_token(secret), hash_token("another"))
            assert "revoked or changed" in self.withdrawn(identity)
            self.accounts = self.make(ACCOUNTS)

    def test_scopes_that_were_taken_away(self) -> None:
        both = self.login("alice", BOTH)
        self.reload('["write_registry", "read_registry"]', '["write_registry"]')
        assert "pulling needs" in self.withdrawn(both)

    def test_an_expiry_that_came(self) -> None:
        old = self.login("alice", OLD)
        self.now.time = END - 1
        assert self.role(old, "acme") is Role.REPORTER
        self.now.time = END
        assert "has expired" in self.withdrawn(old)
        # The moment at which the token says it ends is not what counts.
        assert "has expired" in self.withdrawn(evolve(old, expires=None))

    def test_a_deploy_token_of_another_name(self) -> None:
        deploy = self.login("acme-ci", DEPLOY)
        self.reload('"acme-ci"', '"acme-ci2"')
        assert self.withdrawn(deploy) == "the deploy token ci of group acme is not one of acme-ci"

    def test_credentials_are_not_mixed_up(self) -> None:
        laptop, alice = self.login("alice", LAPTOP), self.login("alice", ALICE)
        for identity in (
            evolve(laptop, name="root"),
            evolve(alice, name="carol"),
            evolve(alice, name="dave"),
            evolve(alice, name="nobody"),
            evolve(alice, credential=""),
            evolve(alice, credential=alice.credential.upper()),
        ):
            self.withdrawn(identity)


class SecretsTests(LocalCase):
    """Nothing secret is shown."""

    def test_no_secret_and_no_hash_in_what_is_shown(self) -> None:
        shown = [repr(self.accounts), repr(vars(self.accounts)["_by_credential"]), repr(Login("a", ALICE, ""))]
        for name, secret in (("alice", ALICE), ("alice", LAPTOP), ("acme-ci", DEPLOY), ("", BOT)):
            shown.append(repr(self.login(name, secret)))
        for secret in (WRITE, HALF, OLD):
            self.now.time = END
            shown.append(self.refused("", secret, Withdrawn))
        for secret in (
            *HASHES,
            *HASHES.values(),
            LAPTOP,
            DEPLOY,
            BOT,
            WRITE,
            hash_token(LAPTOP),
            hash_token(LAPTOP)[7:],
        ):
            assert not any(secret in text for text in shown), secret

    def test_a_login_that_fails_tells_nothing(self) -> None:
        assert self.refused("alice", "wrong") == self.refused("nobody", ALICE) == self.refused("", "dpp_x") == ""
        assert self.refused("alice", DEPLOY) == ""


@pytest.mark.parametrize("name", ["dpp_x", "dpd_x", "dpg_x"])
def test_no_password_can_be_taken_for_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="token"):
        hash_password(name)
