"""A GitLab as a source of accounts: what is asked of it, how often, and what its answers mean."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.web.server import NOT_DONE_YET

from depproxy.access.answers import Answers
from depproxy.access.errors import Unauthenticated
from depproxy.access.gate import Gate
from depproxy.access.gitlab import GitLabAccounts
from depproxy.access.gitlab_api import KINDS
from depproxy.access.gitlab_logins import LOG_IN_AGAIN, Credential, kind_of
from depproxy.access.groups import Groups
from depproxy.access.interface import AccountsUnavailable, Identity, Login, Withdrawn
from depproxy.access.keys import KeyRing
from depproxy.access.portal import Accounts
from depproxy.access.tokens import Tokens
from depproxy.config import ConfigError, GitLabSettings, MirrorSettings, Role
from depproxy.upstream.fetch import MAX_CONNECTIONS, Fetcher, make_fetcher
from tests.certificates import Authority
from tests.configurations import load_text
from tests.gitlab_double import AccessToken, GitLab
from tests.upstream_fake import Call, UpstreamCase, answers, reactor

START = 1_800_000_000.0
CACHE = 60.0
ADDRESS = IPv4Address("TCP", "198.51.100.7", 40_000)
LIFETIME = 900.0

ALICE = "glpat-alice-secret-01"
OWN = "glpat-own-secret-0001"
JOB = "glcbt-64_job-secret-01"
DEPLOY = "gldt-deploy-secret-01"

SELF = "GET /api/v4/personal_access_tokens/self"
JOBS = "GET /api/v4/job"
REGISTRY = "GET /jwt/auth"


def member(group: str, user: int) -> str:
    return f"GET /api/v4/groups/{group}/members/all/{user}"


def deploy(group: str, token: int) -> str:
    return f"GET /api/v4/groups/{group}/deploy_tokens/{token}"


@frozen
class Caller:
    """`ICaller`."""

    authorization: bytes | None
    address: IPv4Address
    certificate: None = None


class GitLabCase(UpstreamCase):
    """A GitLab with alice, guest of acme, whose token may pull; and with depproxy's own token, of a maintainer."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(START)
        self.time = Clock()
        self._fetchers: list[Fetcher] = []
        self.gitlab = self.serve(GitLab(reactor))
        self.alice = self.gitlab.user("alice")
        self.own = self.gitlab.user("depproxy")
        self.acme = self.gitlab.group("acme", guest=self.alice, maintainer=self.own)
        self.tools = self.gitlab.group("acme/tools")
        self.token = self.gitlab.token(ALICE, self.alice, "read_registry")
        self.own_token = self.gitlab.token(OWN, self.own, "read_api")
        self.file = Path(self.directory(), "token")
        self.file.write_text(f"{OWN}\n")

    def accounts(self, *, own: bool = True, strict: bool = False, **settings: Any) -> GitLabAccounts:
        made = GitLabSettings(self.gitlab.url, token_file=self.file if own else None, cache=CACHE, **settings)
        return self.accounts_of(made, strict=strict)

    def accounts_of(self, settings: GitLabSettings, *, strict: bool = False, reserved: str = "local") -> GitLabAccounts:
        return GitLabAccounts(
            settings,
            self.fetcher(settings),
            self.clock.seconds,
            lifetime=LIFETIME,
            strict=strict,
            logins=self.fetcher(settings),
            reserved=reserved,
        )

    def fetcher(self, settings: GitLabSettings) -> Fetcher:
        """As the service makes it, with limits of time by `time`."""
        made = make_fetcher(
            reactor,
            named=(settings.url,),
            ca_file=settings.ca_file,
            first_byte_timeout=settings.timeout,
            silence_timeout=settings.timeout,
            timeout=settings.timeout,
            metrics=self.metrics,
            clock=self.time,
        )
        self._fetchers.append(made)
        return made

    async def tearDown(self) -> None:  # type: ignore[override]  # trial waits for it
        for fetcher in self._fetchers:
            await fetcher.close()
            assert fetcher.connections == 0
        await super().tearDown()

    async def refused(self, waiting: Awaitable[object], *words: str) -> None:
        """It was not let in, with a message that has these words, or for no words with none."""
        with pytest.raises(UnauthorizedLogin) as caught:
            await waiting
        assert isinstance(caught.value, Withdrawn) is bool(words), repr(caught.value)
        assert all(word in str(caught.value) for word in words), caught.value

    async def unavailable(self, waiting: Awaitable[object], *words: str) -> None:
        """It could not be told, with a message that has these words."""
        with pytest.raises(AccountsUnavailable) as caught:
            await waiting
        assert all(word in str(caught.value) for word in words), caught.value

    def asked(self) -> list[str]:
        """What was asked since this was called before."""
        found = self.gitlab.asked()
        self.gitlab.seen.clear()
        return found


def login(accounts: GitLabAccounts, secret: str, username: str = "alice") -> Deferred[Identity]:
    return accounts.requestAvatarId(Login(username, secret, "127.0.0.1"))


class AccessTokens(GitLabCase):
    """Personal and group access tokens."""

    async def test_a_token_proves_itself_and_depproxy_asks_for_the_role(self) -> None:
        accounts = self.accounts()
        identity = await login(accounts, ALICE, "anything")
        assert identity.source == "gitlab"
        assert identity.name == f"GitLab user {self.alice.id}"
        assert identity.expires == 1_814_313_600.0, "the first moment of 2027-06-30"
        assert ALICE not in repr(identity)
        assert self.gitlab.seen[0].header("PRIVATE-TOKEN") == ALICE
        assert await accounts.role(identity, "acme") is Role.GUEST
        assert self.gitlab.seen[1].header("PRIVATE-TOKEN") == OWN
        assert self.asked() == [SELF, member("acme", self.alice.id)]

    async def test_what_is_wrong_with_a_token_is_told_to_who_has_it(self) -> None:
        cases: list[tuple[dict[str, object], tuple[str, ...]]] = [
            ({"revoked": True}, ("revoked or has expired",)),
            ({"expired": True}, ("revoked or has expired",)),
            ({"scopes": ("read_user", "read_api")}, ("scope read_registry",)),
            ({"scopes": ("write_registry",)}, ("scope read_registry",)),
            ({"scopes": ()}, ("scope read_registry",)),
            ({"scopes": ("api",)}, ()),
            ({"scopes": ("read_virtual_registry",)}, ("scope read_registry",)),
            ({"scopes": ("read_virtual_registry", "write_virtual_registry")}, ()),
        ]
        for number, (changes, words) in enumerate(cases):
            secret = f"{ALICE}-{number}"
            token = self.gitlab.token(secret, self.alice, "read_registry")
            for name, value in changes.items():
                setattr(token, name, value)
            if words:
                await self.refused(login(self.accounts(), secret), *words)
            else:
                await login(self.accounts(), secret)
        assert self.asked() == [SELF] * len(cases)

    async def test_an_unknown_token_is_simply_wrong(self) -> None:
        await self.refused(login(self.accounts(), "glpat-nobody-has-this"))
        assert self.asked() == [SELF]

    async def test_the_scopes_that_gitlab_itself_wants(self) -> None:
        for number, (scopes, enough) in enumerate(
            [
                (("read_registry",), False),
                (("read_registry", "write_virtual_registry"), False),
                (("read_registry", "write_registry"), True),
                (("read_virtual_registry", "write_virtual_registry"), True),
                (("api",), True),
            ]
        ):
            secret = f"{ALICE}-{number}"
            self.gitlab.token(secret, self.alice, *scopes)
            if enough:
                await login(self.accounts(strict=True), secret)
            else:
                await self.refused(login(self.accounts(strict=True), secret), "read_registry and write_registry")

    async def test_a_token_that_never_expires(self) -> None:
        self.token.expires_at = None
        assert (await login(self.accounts(), ALICE)).expires is None

    async def test_a_blocked_user_is_out_by_his_token_and_by_his_membership(self) -> None:
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        self.alice.state = "blocked"
        assert await accounts.role(identity, "acme") is None
        self.clock.advance(CACHE)
        await self.refused(accounts.role(identity, "acme"), "refuses this account")
        await self.refused(login(accounts, ALICE), "refuses this account")

    async def test_a_group_access_token_is_a_member_that_is_no_person(self) -> None:
        bot = self.gitlab.user("group_9000_bot_1")
        self.acme.members[bot.id] = 30
        self.gitlab.token("glpat-group-bot-secret", bot, "read_registry")
        accounts = self.accounts()
        identity = await login(accounts, "glpat-group-bot-secret")
        assert await accounts.role(identity, "acme/tools") is Role.DEVELOPER

    async def test_without_a_token_of_its_own_depproxy_asks_by_the_users(self) -> None:
        self.token.scopes = ("read_registry", "read_api")
        accounts = self.accounts(own=False)
        identity = await login(accounts, ALICE)
        assert await accounts.role(identity, "acme") is Role.GUEST
        assert [seen.header("PRIVATE-TOKEN") for seen in self.gitlab.seen] == [ALICE, ALICE]
        assert await accounts.role(identity, "elsewhere") is None
        self.clock.advance(LIFETIME)
        await self.refused(accounts.role(identity, "acme"), LOG_IN_AGAIN)

    async def test_without_a_token_of_its_own_the_users_has_to_see_groups(self) -> None:
        await self.refused(login(self.accounts(own=False), ALICE), "read_api")

    async def test_a_users_token_that_lost_its_scope(self) -> None:
        self.token.scopes = ("api",)
        accounts = self.accounts(own=False)
        identity = await login(accounts, ALICE)
        self.token.scopes = ("read_registry",)
        await self.refused(accounts.role(identity, "acme"), "read_api")


class Jobs(GitLabCase):
    """Tokens of CI jobs."""

    async def test_a_job_is_the_user_who_started_it_while_it_runs(self) -> None:
        job = self.gitlab.job(JOB, self.alice)
        accounts = self.accounts()
        identity = await login(accounts, JOB, "gitlab-ci-token")
        assert identity.name == f"alice (job {job.id})"
        assert self.gitlab.seen[0].header("JOB-TOKEN") == JOB
        assert self.gitlab.seen[0].header("PRIVATE-TOKEN") is None
        assert await accounts.role(identity, "acme") is Role.GUEST
        assert await accounts.role(identity, "acme/tools") is Role.GUEST
        assert self.asked() == [JOBS, member("acme", self.alice.id), member("acme%2Ftools", self.alice.id)]
        job.running = False
        self.clock.advance(CACHE / 2)
        await self.refused(accounts.role(identity, "acme"), "has ended")
        await self.refused(login(accounts, JOB, "gitlab-ci-token"))

    async def test_wrong_job_tokens(self) -> None:
        self.gitlab.job("glcbt-64_nobody-secret", None)
        await self.refused(login(self.accounts(), "glcbt-64_nobody-secret", "gitlab-ci-token"), "no user is behind")
        await self.refused(login(self.accounts(), "glcbt-64_unknown-secret", "gitlab-ci-token"))
        # An access token is no job token, and the other way round.
        await self.refused(login(self.accounts(), ALICE, "gitlab-ci-token"))
        self.gitlab.job(JOB, self.alice)
        await self.refused(login(self.accounts(), JOB))
        self.alice.state = "blocked"
        await self.refused(login(self.accounts(), JOB, "gitlab-ci-token"), "refuses this account")

    async def test_a_user_name_that_does_not_fit_into_a_message(self) -> None:
        self.gitlab.job(JOB, self.gitlab.user("alice\nINFO all is well"))
        await self.unavailable(login(self.accounts(), JOB, "gitlab-ci-token"), "cannot be understood (username)")

    async def test_they_need_depproxys_own_token(self) -> None:
        self.gitlab.job(JOB, self.alice)
        await self.refused(login(self.accounts(own=False), JOB, "gitlab-ci-token"), "access.gitlab.token_file")
        assert self.asked() == []


class DeployTokens(GitLabCase):
    """Deploy tokens of groups."""

    async def test_one_is_a_guest_of_its_group_and_all_within(self) -> None:
        token = self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry")
        accounts = self.accounts()
        identity = await login(accounts, DEPLOY, token.username)
        assert identity.name == token.username
        assert self.gitlab.seen[0].query == {"service": ["container_registry"]}
        assert await accounts.role(identity, "acme/tools") is Role.GUEST
        assert await accounts.role(identity, "acme") is Role.GUEST
        assert self.asked() == [REGISTRY, deploy("acme", token.id)]

    async def test_one_of_a_subgroup_is_nothing_above_it(self) -> None:
        token = self.gitlab.deploy_token(DEPLOY, self.tools, "read_registry")
        accounts = self.accounts()
        identity = await login(accounts, DEPLOY, token.username)
        assert await accounts.role(identity, "acme") is None
        assert await accounts.role(identity, "acme/tools") is Role.GUEST
        # What is not in acme was remembered.
        assert self.asked() == [REGISTRY, deploy("acme", token.id), deploy("acme%2Ftools", token.id)]

    async def test_user_names_are_not_unique(self) -> None:
        """Whoever owns some group can make a deploy token with the user name of another group's."""
        theirs = self.gitlab.user("mallory")
        evil = self.gitlab.group("evil", owner=theirs, maintainer=self.own)
        self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry", username="puller")
        self.gitlab.deploy_token("gldt-evil-secret-0001", evil, "read_registry", username="puller")
        accounts = self.accounts()
        identity = await login(accounts, "gldt-evil-secret-0001", "puller")
        assert await accounts.role(identity, "acme") is None
        assert await accounts.role(identity, "evil") is Role.GUEST

    async def test_wrong_ones(self) -> None:
        token = self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry")
        accounts = self.accounts()
        await login(accounts, DEPLOY, token.username)
        await self.refused(login(accounts, DEPLOY, "gitlab+deploy-token-31"))
        await self.refused(login(self.accounts(), "gldt-unknown-secret-1", token.username))
        await self.refused(login(self.accounts(), DEPLOY, "with space"))
        token.revoked = True
        await self.refused(login(self.accounts(), DEPLOY, token.username))
        token.revoked, token.scopes = False, ("read_repository",)
        await self.refused(login(self.accounts(), DEPLOY, token.username), "scope read_registry")

    async def test_other_credentials_under_the_user_name_of_one_prove_nothing(self) -> None:
        self.gitlab.token("old-style-token-secret", self.alice, "api")
        await self.refused(login(self.accounts(), "old-style-token-secret", "gitlab+deploy-token-30"))
        self.gitlab.passwords["gitlab+deploy-token-30", "a.long.password"] = self.alice
        await self.refused(login(self.accounts(), "a.long.password", "gitlab+deploy-token-30"))
        assert self.asked() == [REGISTRY] * 2

    async def test_one_with_an_instances_prefix_and_an_old_one_without(self) -> None:
        self.gitlab.deploy_token("mine-gldt-secret-00001", self.acme, "read_registry", username="puller")
        old = self.gitlab.deploy_token("Zx9-oldsecret_0001", self.acme, "read_registry")
        assert (await login(self.accounts(), "mine-gldt-secret-00001", "puller")).name == "puller"
        assert (await login(self.accounts(), "Zx9-oldsecret_0001", old.username)).name == old.username

    async def test_revoked_expired_and_shrunk_ones_are_out_within_the_cache(self) -> None:
        changes: list[tuple[dict[str, object], str]] = [
            ({"revoked": True}, "revoked"),
            ({"expired": True}, "expired"),
            ({"scopes": ("read_repository",)}, "scope read_registry"),
        ]
        for number, (change, word) in enumerate(changes):
            secret = f"{DEPLOY}-{number}"
            token = self.gitlab.deploy_token(secret, self.acme, "read_registry")
            accounts = self.accounts()
            identity = await login(accounts, secret, token.username)
            assert await accounts.role(identity, "acme") is Role.GUEST
            for name, value in change.items():
                setattr(token, name, value)
            self.clock.advance(CACHE / 2)
            await self.refused(accounts.role(identity, "acme"), word)

    async def test_they_need_depproxys_own_token_of_a_maintainer(self) -> None:
        token = self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry")
        await self.refused(login(self.accounts(own=False), DEPLOY, token.username), "access.gitlab.token_file")
        self.acme.members[self.own.id] = 30
        accounts = self.accounts()
        assert await accounts.role(await login(accounts, DEPLOY, token.username), "acme") is None

    async def test_an_instance_without_a_registry_knows_none(self) -> None:
        token = self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry")
        self.gitlab.registry = False
        await self.refused(login(self.accounts(), DEPLOY, token.username), "no container registry")

    async def test_a_registry_login_that_says_nothing_of_use(self) -> None:
        for token in (None, 1, "a", "a.b.c", "a.ABCDE.c", "e.W10.e", "e.é.e"):
            self.gitlab.paths["/jwt/auth"] = answers(200, json.dumps({"token": token}).encode())
            await self.unavailable(login(self.accounts(), DEPLOY, "puller"), "cannot be understood")


class Roles(GitLabCase):
    """Who is what in a group."""

    async def test_levels_become_the_role_that_they_include(self) -> None:
        expected = {5: None, 10: Role.GUEST, 15: Role.GUEST, 20: Role.REPORTER, 25: Role.REPORTER}
        expected |= {30: Role.DEVELOPER, 40: Role.MAINTAINER, 50: Role.OWNER, 60: Role.OWNER}
        identity = await login(self.accounts(), ALICE)
        for level, role in expected.items():
            self.acme.members[self.alice.id] = level
            assert await self.accounts().role(identity, "acme") is role, level

    async def test_roles_are_inherited_down_and_the_highest_counts(self) -> None:
        identity = await login(self.accounts(), ALICE)
        self.tools.members[self.alice.id] = 40
        assert await self.accounts().role(identity, "acme") is Role.GUEST
        assert await self.accounts().role(identity, "acme/tools") is Role.MAINTAINER
        self.tools.members[self.alice.id] = 5
        assert await self.accounts().role(identity, "acme/tools") is Role.GUEST

    async def test_case_does_not_count(self) -> None:
        self.gitlab.group("Big/Team", guest=self.alice, maintainer=self.own)
        accounts = self.accounts()
        assert await accounts.role(await login(accounts, ALICE), "big/team") is Role.GUEST

    async def test_nobody_in_groups_that_are_strange_hidden_or_not_there(self) -> None:
        other = self.gitlab.user("bob")
        self.gitlab.group("strangers", public=True, owner=other)
        self.gitlab.group("hidden", owner=other, guest=self.alice)
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        for group in ("strangers", "hidden", "nowhere"):
            assert await accounts.role(identity, group) is None

    async def test_a_member_who_waits_for_a_seat_is_none(self) -> None:
        self.acme.waiting.add(self.alice.id)
        accounts = self.accounts()
        assert await accounts.role(await login(accounts, ALICE), "acme") is None

    async def test_numbers_and_what_is_no_path_are_not_asked_for(self) -> None:
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        self.asked()
        for group in (str(self.acme.id), "", "a//b", "../acme", "acme/..", "a?b", "a#b", "a%2Fb", "a b", "-1"):
            assert await accounts.role(identity, group) is None
        assert self.asked() == []

    async def test_depproxys_own_token_is_refused(self) -> None:
        changes: list[Callable[[AccessToken], None]] = [
            lambda token: setattr(token, "revoked", True),
            lambda token: setattr(token, "scopes", ("read_user",)),
            lambda token: setattr(token.user, "state", "blocked"),
        ]
        identity = await login(self.accounts(), ALICE)
        for change in changes:
            change(self.own_token)
            await self.unavailable(self.accounts().role(identity, "acme"), "refuses depproxy's own token")
        self.file.unlink()
        await self.unavailable(self.accounts().role(identity, "acme"), "own token cannot be read")

    async def test_depproxys_own_token_may_be_exchanged_while_it_runs(self) -> None:
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        self.own_token.revoked = True
        self.gitlab.token("glpat-own-secret-0002", self.own, "read_api")
        self.file.write_text("glpat-own-secret-0002")
        assert await accounts.role(identity, "acme") is Role.GUEST


class Memory(GitLabCase):
    """What is remembered, and for how long."""

    async def test_a_thousand_logins_at_once_are_one_request(self) -> None:
        accounts = self.accounts()
        identities = await gatherResults([login(accounts, ALICE) for _ in range(1000)])
        assert len(set(identities)) == 1
        assert self.asked() == [SELF]
        roles = await gatherResults([Deferred.fromCoroutine(accounts.role(identities[0], "acme")) for _ in range(1000)])
        assert set(roles) == {Role.GUEST}
        assert self.asked() == [member("acme", self.alice.id)]

    async def test_a_client_that_leaves_takes_nobody_along(self) -> None:
        accounts = self.accounts()
        first, second = login(accounts, ALICE), login(accounts, ALICE)
        first.addErrback(lambda _: None)
        first.cancel()
        assert (await second).source == "gitlab"
        assert self.asked() == [SELF]

    async def test_answers_count_for_half_of_the_cache_twice(self) -> None:
        accounts = self.accounts()
        assert accounts.max_age == CACHE / 2
        identity = await login(accounts, ALICE)
        await accounts.role(identity, "acme")
        self.asked()
        self.clock.advance(CACHE / 2 - 1)
        await login(accounts, ALICE)
        await accounts.role(identity, "acme")
        assert self.asked() == []
        self.clock.advance(1)
        assert await accounts.role(identity, "acme") is Role.GUEST
        assert self.asked() == [SELF, member("acme", self.alice.id)]
        await login(accounts, ALICE)
        assert self.asked() == []

    async def test_what_is_revoked_or_taken_away_is_out_within_the_cache(self) -> None:
        """Whoever asks relies on an answer for `max_age`."""
        for ended in ("token", "membership"):
            for before in (0, 1, 29, 30, 31, 59):
                self.token.revoked = False
                self.acme.members[self.alice.id] = 10
                accounts = self.accounts()
                identity = await login(accounts, ALICE)
                await accounts.role(identity, "acme")
                self.clock.advance(before)
                await accounts.role(identity, "acme")
                if ended == "token":
                    self.token.revoked = True
                else:
                    del self.acme.members[self.alice.id]
                # As late as an answer from before could be relied on.
                self.clock.advance(CACHE - accounts.max_age)
                if ended == "token":
                    await self.refused(accounts.role(identity, "acme"), "revoked")
                else:
                    assert await accounts.role(identity, "acme") is None

    async def test_the_gate_lets_nobody_in_for_longer_than_the_cache(self) -> None:
        """One who pulls every second costs little, and is out within the cache once he is thrown out."""
        keys = KeyRing(Path(self.directory()), "HS256")
        keys.load()
        tokens = Tokens(keys, "depproxy", LIFETIME, self.clock.seconds)
        portal = Accounts([self.accounts()])
        gate = Gate(Groups({}, MirrorSettings()), portal, tokens, now=self.clock.seconds)

        async def logged_in() -> Caller:
            account = await portal.login(Login("alice", ALICE, ""))
            return Caller(f"Bearer {tokens.issue(account.identity, ['acme']).token}".encode(), ADDRESS)

        caller = await logged_in()
        for _ in range(300):
            await gate.admit("acme", caller)
            self.clock.advance(1)
        asked = self.asked()
        assert set(asked) == {SELF, member("acme", self.alice.id)}
        assert len(asked) <= 2 * (1 + 300 / (CACHE / 2))
        # The worst case: what was asked for just before is used just before it is too old.
        await gate.admit("acme", caller)
        caller = await logged_in()
        ended = self.clock.seconds()
        self.token.revoked = True
        self.clock.advance(CACHE / 2 - 1)
        with contextlib.suppress(Unauthenticated):
            while self.clock.seconds() <= ended + CACHE:
                await gate.admit("acme", caller)
                self.clock.advance(1)
        assert self.clock.seconds() <= ended + CACHE

    async def test_a_no_is_remembered_for_seconds(self) -> None:
        accounts = self.accounts()
        for _ in range(50):
            await self.refused(login(accounts, "glpat-nobody-has-this"))
        assert self.asked() == [SELF]
        self.token.revoked = True
        for _ in range(50):
            await self.refused(login(accounts, ALICE), "revoked")
        assert self.asked() == [SELF]
        self.token.revoked = False
        self.clock.advance(5)
        identity = await login(accounts, ALICE)
        del self.acme.members[self.alice.id]
        for _ in range(50):
            assert await accounts.role(identity, "acme") is None
        assert self.asked() == [SELF, member("acme", self.alice.id)]
        self.acme.members[self.alice.id] = 20
        self.clock.advance(5)
        assert await accounts.role(identity, "acme") is Role.REPORTER

    async def test_time_passes_between_any_two_looks_at_the_clock(self) -> None:
        def tick() -> float:
            self.clock.advance(0.3)
            return self.clock.seconds()

        async def no() -> Role | None:
            return None

        async def nobody() -> Role | None:
            raise UnauthorizedLogin("not known")

        async def down() -> Role | None:
            raise AccountsUnavailable("down")

        questions: Answers[str, Role] = Answers(CACHE, 0.0, tick)
        for _ in range(100):
            assert await questions.get("no", no) is None
            with pytest.raises(UnauthorizedLogin, match="not known"):
                await questions.get("nobody", nobody)
            await self.unavailable(questions.get("down", down), "down")

    async def test_a_wrong_secret_is_not_kept(self) -> None:
        accounts = self.accounts()
        wrong = "glpat-nobody-has-this"
        await self.refused(login(accounts, wrong))
        # Out of the call that brought the answer.
        await deferLater(reactor, 0)
        gc.collect()
        assert not [kept for kept in gc.get_objects() if type(kept) is Login and kept.password == wrong]

    async def test_another_process_takes_a_proof_while_it_is_fresh(self) -> None:
        identity = await login(self.accounts(), ALICE)
        other = self.accounts()
        self.clock.advance(CACHE / 2 - 1)
        assert await other.role(identity, "acme") is Role.GUEST
        assert self.asked() == [SELF, member("acme", self.alice.id)]
        self.clock.advance(1)
        await self.refused(other.role(identity, "acme"), LOG_IN_AGAIN)
        again = await login(other, ALICE)
        assert await other.role(again, "acme") is Role.GUEST

    async def test_the_clock_of_another_host_may_be_a_little_ahead(self) -> None:
        identity = await login(self.accounts(), ALICE)
        other = self.accounts()
        self.clock.rightNow -= 5
        assert await other.role(identity, "acme") is Role.GUEST
        self.clock.rightNow -= 1
        await self.refused(other.role(identity, "acme"), LOG_IN_AGAIN)

    async def test_a_clock_that_is_set_back_keeps_nothing_alive(self) -> None:
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        await accounts.role(identity, "acme")
        self.token.revoked = True
        self.clock.rightNow -= 1000
        await self.refused(accounts.role(identity, "acme"), "revoked")

    async def test_another_process_needs_no_secret_for_deploy_tokens(self) -> None:
        token = self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry")
        identity = await login(self.accounts(), DEPLOY, token.username)
        self.clock.advance(10 * CACHE)
        assert await self.accounts().role(identity, "acme") is Role.GUEST

    async def test_a_group_of_ours_that_anybody_could_make_there(self) -> None:
        """Whoever made a group of the mirror's name would own it, and turn it off for everybody."""
        self.gitlab.group("local", owner=self.alice)
        self.gitlab.group("local/deeper", owner=self.alice)
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        self.asked()
        for group in ("local", "Local", "local/deeper"):
            assert await accounts.role(identity, group) is None
        assert self.asked() == []
        assert await accounts.role(identity, "acme") is Role.GUEST

    async def test_a_deploy_token_below_a_number(self) -> None:
        """GitLab would take the number for that of a group, which may be a stranger's."""
        token = self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry")
        accounts = self.accounts()
        identity = await login(accounts, DEPLOY, token.username)
        self.asked()
        number = str(self.acme.id)
        assert await accounts.role(identity, f"{number}/tools") is None
        assert self.asked() == [deploy(f"{number}%2Ftools", token.id)]

    async def test_who_may_change_things(self) -> None:
        self.gitlab.token("glpat-full-of-alice", self.alice, "api")
        self.gitlab.job("glcbt-of-alice", self.alice)
        accounts = self.accounts()
        for secret, name, expected in (
            (ALICE, "alice", False),
            ("glpat-full-of-alice", "alice", True),
            ("glcbt-of-alice", "gitlab-ci-token", False),
        ):
            assert await accounts.administers(await login(accounts, secret, name)) is expected

    async def test_a_secret_is_kept_for_as_long_as_a_token_of_ours_lives(self) -> None:
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        self.clock.advance(LIFETIME - 1)
        assert await accounts.role(identity, "acme") is Role.GUEST
        self.clock.advance(CACHE)
        await self.refused(accounts.role(identity, "acme"), LOG_IN_AGAIN)
        gc.collect()
        assert not [kept for kept in gc.get_objects() if type(kept) is Login and kept.password == ALICE]

    async def test_a_credential_that_is_not_ours(self) -> None:
        for text in ("", "token", "token/1/2", "token/1/2/3/4", "password/1/2/3", "token/x/2/3", "token/1/2/3\n"):
            identity = Identity("gitlab", "alice", text)
            await self.refused(self.accounts().role(identity, "acme"), LOG_IN_AGAIN)


class Trouble(GitLabCase):
    """A GitLab that is down, slow, or something else."""

    TROUBLES: tuple[tuple[Callable[[Call], object], str], ...] = (
        (answers(500, b'{"message":"500 Internal Server Error"}'), "out of order (status 500)"),
        (answers(502, b"<html>GitLab is not responding</html>"), "out of order (status 502)"),
        (answers(429, b"Retry later\n", Retry_After="60"), "less often"),
        (answers(403, b"Forbidden\n"), "lets nobody in from depproxy's address"),
        (answers(302, b"", Location="http://127.0.0.1:1/users/sign_in"), "redirect"),
        (answers(301, b"{}", Location="/api/v4/elsewhere"), "redirect"),
        (answers(200, b"<html>Sign in</html>", Content_Type="text/html"), "cannot be understood"),
        (answers(200, b""), "cannot be understood"),
        (answers(200, b"[]"), "cannot be understood"),
        (answers(200, b"null"), "cannot be understood"),
        (answers(200, b"[" * 100_000), "cannot be understood"),
        (answers(200, b'{"id": ' + b"9" * 10_000 + b"}"), "cannot be understood"),
        (answers(200, b"\xff\xfe{}"), "cannot be understood"),
        (answers(200, b"{}"), "cannot be understood (id)"),
        (answers(204), "cannot be understood"),
        (answers(404, b"<html>404</html>"), "cannot be understood"),
        (answers(404, b'{"error":"404 Not Found"}'), "cannot be understood"),
        (answers(401, b"<html>a proxy's login</html>"), "cannot be understood"),
        (answers(200, b"x" * (1 << 20) + b"x"), ""),
        (lambda call: call.cut(), ""),
    )

    async def test_whatever_it_says_nothing_is_known(self) -> None:
        identity = await login(self.accounts(), ALICE)
        for trouble, words in self.TROUBLES:
            self.gitlab.trouble = trouble
            await self.unavailable(login(self.accounts(), ALICE), words)
            await self.unavailable(self.accounts().role(identity, "acme"), words.replace("(id)", "(state)"))

    async def test_answers_with_wrong_parts(self) -> None:
        good: dict[str, object] = {"id": 1, "user_id": 2, "scopes": ["api"], "active": True, "expires_at": None}
        for wrong in (
            {"id": "1"},
            {"id": True},
            {"id": -1},
            {"user_id": None},
            {"user_id": 1.5},
            {"scopes": "api"},
            {"scopes": [1]},
            {"expires_at": "tomorrow"},
            {"expires_at": 5},
        ):
            self.gitlab.trouble = answers(200, json.dumps({**good, **wrong}).encode())
            await self.unavailable(login(self.accounts(), ALICE), f"cannot be understood ({next(iter(wrong))})")
        self.gitlab.trouble = answers(200, json.dumps({**good, "active": "yes"}).encode())
        await self.refused(login(self.accounts(), ALICE), "revoked or has expired")

    async def test_no_other_host_is_asked_where_a_redirect_points(self) -> None:
        other = self.serve(GitLab(reactor))
        self.gitlab.trouble = answers(307, b"", Location=f"{other.url}/api/v4/personal_access_tokens/self")
        await self.unavailable(login(self.accounts(), ALICE), "redirect")
        assert other.accepted == 0

    async def test_while_it_is_down_nobody_gets_in_by_default(self) -> None:
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        await accounts.role(identity, "acme")
        self.gitlab.trouble = answers(503)
        assert await accounts.role(identity, "acme") is Role.GUEST, "remembered"
        self.clock.advance(CACHE / 2)
        await self.unavailable(accounts.role(identity, "acme"))
        await self.unavailable(login(accounts, ALICE))
        self.gitlab.trouble = None
        self.clock.advance(2)
        assert await accounts.role(identity, "acme") is Role.GUEST

    async def test_last_known_answers_go_on_to_count_if_told_so(self) -> None:
        accounts = self.accounts(when_down="last_known", last_known_for=600.0)
        identity = await login(accounts, ALICE)
        await accounts.role(identity, "acme")
        self.gitlab.trouble = answers(503)
        self.clock.advance(599)
        assert await accounts.role(identity, "acme") is Role.GUEST
        # Whoever is not known stays outside.
        await self.unavailable(accounts.role(identity, "acme/tools"))
        self.gitlab.token("glpat-another-secret-1", self.alice, "api")
        await self.unavailable(login(accounts, "glpat-another-secret-1"))
        assert (await login(accounts, ALICE)).credential == identity.credential
        self.clock.advance(1)
        await self.unavailable(accounts.role(identity, "acme"))

    async def test_a_membership_that_ended_before_is_not_what_was_known_last(self) -> None:
        accounts = self.accounts(when_down="last_known", last_known_for=600.0)
        identity = await login(accounts, ALICE)
        await accounts.role(identity, "acme")
        self.clock.advance(CACHE / 2)
        del self.acme.members[self.alice.id]
        assert await accounts.role(identity, "acme") is None
        self.gitlab.trouble = answers(503)
        self.clock.advance(5)
        await self.unavailable(accounts.role(identity, "acme"))

    async def test_a_token_that_was_revoked_before_is_not_what_was_known_last(self) -> None:
        accounts = self.accounts(when_down="last_known", last_known_for=600.0)
        identity = await login(accounts, ALICE)
        await accounts.role(identity, "acme")
        self.clock.advance(CACHE / 2)
        self.token.revoked = True
        await self.refused(login(accounts, ALICE), "revoked")
        self.gitlab.trouble = answers(503)
        self.clock.advance(5)
        await self.unavailable(login(accounts, ALICE))
        await self.unavailable(accounts.role(identity, "acme"))

    async def test_while_it_is_down_it_is_asked_every_other_second(self) -> None:
        accounts = self.accounts()
        self.gitlab.trouble = answers(503)
        for _ in range(50):
            await self.unavailable(login(accounts, ALICE), "status 503")
        assert self.asked() == [SELF]
        self.clock.advance(2)
        await self.unavailable(login(accounts, ALICE), "status 503")
        assert self.asked() == [SELF]

    async def test_it_is_slow(self) -> None:
        def begins(call: Call) -> object:
            call.begin(200, length=100, Content_Type="application/json")
            call.request.write(b'{"id":')
            return NOT_DONE_YET

        for trouble in (lambda call: NOT_DONE_YET, begins):
            self.asked()
            self.gitlab.trouble = trouble
            waiting = login(self.accounts(timeout=7.0), ALICE)
            await self.gitlab.requests(1)
            self.time.advance(6.9)
            assert not waiting.called
            self.time.advance(0.1)
            await self.unavailable(waiting, "within 7 s")
            await self.gitlab.gone()

    async def test_a_flood_of_logins_does_not_hold_up_questions_about_roles(self) -> None:
        """Which would stop pulls of whoever is logged in."""
        accounts = self.accounts()
        identity = await login(accounts, ALICE)
        held: list[Call] = []

        def hold(call: Call) -> object:
            held.append(call)
            return NOT_DONE_YET

        path = SELF.removeprefix("GET ")
        self.gitlab.paths[path] = hold
        flood = [login(accounts, f"glpat-guess-number-{number}") for number in range(MAX_CONNECTIONS + 5)]
        await self.gitlab.until(lambda: len(held) == MAX_CONNECTIONS)
        assert await accounts.role(identity, "acme") is Role.GUEST
        # Also where a proof has to be shown again.
        self.clock.advance(CACHE)
        again = Deferred.fromCoroutine(accounts.role(identity, "acme"))
        await self.gitlab.until(lambda: len(held) == MAX_CONNECTIONS + 1)
        assert held[-1].seen.header("PRIVATE-TOKEN") == ALICE
        del self.gitlab.paths[path]
        for call in held:
            self.gitlab.render(call.request)
        assert await again is Role.GUEST
        for waiting in flood:
            await self.refused(waiting)

    async def test_it_has_a_certificate_that_is_not_trusted(self) -> None:
        authority = Authority(self.directory())
        safe = self.serve(GitLab(reactor, context=authority.server()))
        safe.token(ALICE, safe.user("alice"), "api")
        settings = GitLabSettings(safe.url, token_file=self.file, cache=CACHE)
        await self.unavailable(login(self.accounts_of(settings), ALICE), safe.netloc)
        assert safe.seen == []
        await login(self.accounts_of(evolve(settings, ca_file=authority.file)), ALICE)

    async def test_nobody_listens(self) -> None:
        gone = GitLab(reactor)
        await gone.close()
        settings = GitLabSettings(gone.url, token_file=self.file, cache=CACHE)
        await self.unavailable(login(self.accounts_of(settings), ALICE), gone.netloc)

    async def test_other_sources_are_asked_when_it_is_down_and_when_it_knows_nobody(self) -> None:
        second = self.serve(GitLab(reactor))
        second.token("glpat-second-secret-01", second.user("bob"), "api")
        other = self.accounts_of(GitLabSettings(second.url, token_file=self.file, cache=CACHE))
        other.name = "second"
        portal = Accounts([self.accounts(), other])
        assert (await portal.login(Login("bob", "glpat-second-secret-01", ""))).identity.source == "second"
        self.gitlab.trouble = answers(503)
        assert (await portal.login(Login("bob", "glpat-second-secret-01", ""))).identity.source == "second"

    async def test_secrets_are_in_no_log_error_or_repr(self) -> None:
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.gitlab.deploy_token(DEPLOY, self.acme, "read_registry", username="puller")
        self.gitlab.job(JOB, self.alice)
        accounts = self.accounts()
        found: list[object] = [accounts._api, accounts._held]
        for trouble, _ in (*self.TROUBLES, (None, "")):
            self.gitlab.trouble = trouble
            for secret, username in ((ALICE, "alice"), (DEPLOY, "puller"), (JOB, "gitlab-ci-token")):
                try:
                    found.append(await login(accounts, secret, username))
                except (AccountsUnavailable, UnauthorizedLogin) as error:
                    found += [error, *error.args]
            self.clock.advance(5)
        identity = next(item for item in found if isinstance(item, Identity))
        self.own_token.revoked = True
        await self.unavailable(accounts.role(identity, "acme"))
        written = "\n".join([*(formatEvent(event) for event in events), *map(repr, events), *map(repr, found)])
        assert "refuses this token" in written
        for secret in (ALICE, DEPLOY, JOB, OWN):
            assert secret not in written


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("alice", "correct horse battery"),
        ("alice", "short"),
        ("alice", "pässwörter"),
        ("alice", "x" * 4097),
        ("alice", "glpat-with\r\nX-Injected: 1"),
        ("alice", "dpp_0123456789abcdef"),
        ("alice", "dpd_0123456789abcdef"),
        ("alice", "dpg_0123456789abcdef"),
        ("alice", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"),
        ("gitlab-ci-token", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"),
        ("deploy:er", "gldt-0123456789"),
        ("", "gldt-0123456789"),
    ],
)
def test_what_cannot_be_gitlabs_is_not_shown_to_it(username: str, password: str) -> None:
    with pytest.raises(UnauthorizedLogin):
        kind_of(Login(username, password, ""))


@given(st.text(), st.text())
def test_any_login_is_of_some_kind_or_none(username: str, password: str) -> None:
    with contextlib.suppress(UnauthorizedLogin):
        assert kind_of(Login(username, password, "")) in KINDS


NUMBERS = st.integers(0, 2**63 - 1)


@given(st.builds(Credential, st.sampled_from(sorted(KINDS)), NUMBERS, NUMBERS, st.floats(0, 1e11)))
def test_a_credential_comes_back_as_it_was(credential: Credential) -> None:
    found = Credential.read(str(credential))
    assert (found.kind, found.id, found.user) == (credential.kind, credential.id, credential.user)
    assert 0 <= credential.since - found.since < 0.002


SETTINGS: list[tuple[str, str]] = [
    ("", "access.gitlab: needs the key url"),
    ('url = "http://gitlab.example"', "access.gitlab.url = "),
    ('url = "http://10.0.0.1"', "must be an https URL; http, which shows"),
    ('url = "https://u:secret@gitlab.example"', "must have no user name or password"),
    ('url = "https://gitlab.example/api/v4"', "/api/v4 is added"),
    ('url = "https://gitlab.example?a=b"', "must be the https URL of a GitLab"),
    ('url = "https://gitlab.example/../a"', "must be the https URL of a GitLab"),
    ('url = "ftp://gitlab.example"', "must be the https URL of a GitLab"),
    ("url = 1", "access.gitlab.url = 1: must be a string"),
    ('url = "https://g"\ncache = "500ms"', "access.gitlab.cache"),
    ('url = "https://g"\ncache = "11m"', "access.gitlab.cache"),
    ('url = "https://g"\ncahce = "1m"', 'access.gitlab.cahce: unknown key; did you mean "cache"?'),
    ('url = "https://g"\nwhen_down = "allow"', 'access.gitlab.when_down = "allow": must be "deny" or "last_known"'),
    ('url = "https://g"\nlast_known_for = "5m"', 'counts only with when_down = "last_known"'),
    (
        'url = "https://g"\nwhen_down = "last_known"\ncache = "5m"\nlast_known_for = "1m"',
        'access.gitlab.last_known_for = "1m": must not be shorter than cache, "5m"',
    ),
    ('url = "https://g"\ntoken_file = "/nowhere/token"', "access.gitlab.token_file"),
    ('url = "https://g"\nca_file = "/nowhere/ca"', "access.gitlab.ca_file"),
    ('url = "https://g"\ntimeout = 0', "access.gitlab.timeout"),
]


@pytest.mark.parametrize(("toml", "message"), SETTINGS)
def test_wrong_settings_say_what_would_be_right(toml: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"[access.gitlab]\n{toml}\n")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_key_is_no_table() -> None:
    with pytest.raises(ConfigError, match=r"access.gitlab = .*: must be a table, written \[access.gitlab\]"):
        load_text('[access]\ngitlab = "https://gitlab.example"\n')


def test_settings_and_their_defaults() -> None:
    assert load_text("").access.gitlab is None
    found = load_text('[access.gitlab]\nurl = "https://GitLab.example:8443/git/"\n').access.gitlab
    assert found == GitLabSettings("https://gitlab.example:8443/git")
    assert (found.cache, found.when_down, found.timeout) == (60.0, "deny", 10.0)
    assert found.host == "gitlab.example:8443/git"
    for url in ("http://localhost:3000", "http://127.0.0.1", "http://[::1]:80"):
        loaded = load_text(f'[access.gitlab]\nurl = "{url}"\n').access.gitlab
        assert loaded is not None
        assert loaded.url == url
