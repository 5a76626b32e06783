"""The cases of accounts that live elsewhere: a GitLab, and an issuer of ID tokens, both on real loopback sockets."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from depproxy.access.gitlab import GitLabAccounts
from depproxy.access.groups import Groups
from depproxy.access.jwks import KeySets
from depproxy.access.oidc import OidcAccounts
from depproxy.access.portal import Accounts
from depproxy.config import GitLabSettings, OidcRule, OidcSettings
from depproxy.upstream.fetch import Fetcher, make_fetcher
from tests.access_cases import EXPIRED, GOOD, WRONG, Case, House, Told, no_role
from tests.gitlab_double import AccessToken, DeployToken, GitLab, Job, User
from tests.oidc_issuer import AUDIENCE, Issuer, SigningKey
from tests.upstream_fake import answers, reactor

PERSONAL, NARROW, ENDED, OWN = "glpat-alice-secret-01", "glpat-narrow-secret-1", "glpat-ended-secret-01", "glpat-own-01"
JOB, DEPLOY = "glcbt-64_job-secret-01", "gldt-deploy-secret-01"
GROUPS = ("acme", "acme/tools", "other")


@define
class Elsewhere(House):
    """The house with a GitLab, where alice is guest of acme, and with an issuer, whose jobs in acme may pull there."""

    gitlab: GitLab = field(init=False)
    oidc: Issuer = field(init=False)
    alice: User = field(init=False)
    personal: AccessToken = field(init=False)
    job: Job = field(init=False)
    deploy: DeployToken = field(init=False)
    fetchers: list[Fetcher] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.gitlab, self.oidc = GitLab(reactor), Issuer(reactor, self.clock)
        self.alice, own = self.gitlab.user("alice"), self.gitlab.user("depproxy")
        acme = self.gitlab.group("acme", guest=self.alice, maintainer=own)
        self.gitlab.group("acme/tools")
        self.gitlab.group("other", maintainer=own)
        self.gitlab.token(OWN, own, "read_api")
        self.personal = self.gitlab.token(PERSONAL, self.alice, "read_registry")
        self.gitlab.token(NARROW, self.alice, "read_api")
        self.gitlab.token(ENDED, self.alice, "read_registry").expired = True
        self.job = self.gitlab.job(JOB, self.alice)
        self.deploy = self.gitlab.deploy_token(DEPLOY, acme, "read_registry")
        super().__attrs_post_init__()

    def rules(self) -> tuple[Groups, Accounts]:
        groups, local = self.local()
        file = self.directory / "gitlab-token"
        file.write_text(OWN)
        settings = GitLabSettings(self.gitlab.url, token_file=file)
        gitlab = GitLabAccounts(settings, self.fetcher(self.gitlab.url), self.clock, lifetime=900.0, strict=False)
        rules = (OidcRule({"namespace_path": "acme"}, "acme"),)
        issuer = OidcSettings(self.oidc.issuer, audience=(AUDIENCE,), rules=rules)
        keys = KeySets(lambda url, _ca: self.fetcher(url), self.clock)
        return groups, Accounts([OidcAccounts([issuer], keys.of, GROUPS, self.clock), local, gitlab])

    def fetcher(self, url: str) -> Fetcher:
        self.fetchers.append(make_fetcher(reactor, named=(url,)))
        return self.fetchers[-1]

    def named(self, text: str) -> str:
        """A message with the names that the documentation has."""
        return text.replace(self.gitlab.netloc, "gitlab.example").replace(self.oidc.netloc, "issuer.example")

    async def close(self) -> None:
        for fetcher in self.fetchers:
            await fetcher.close()
        await self.gitlab.close()
        await self.oidc.close()


# For longer than an answer of theirs counts.
LATER = 60.0


def after_a_minute(change: Callable[[Elsewhere], object]) -> Callable[[Elsewhere], None]:
    def changed(house: Elsewhere) -> None:
        change(house)
        house.now += LATER

    return changed


def leave(house: Elsewhere) -> None:
    del house.gitlab.groups["acme"].members[house.alice.id]


def revoke(house: Elsewhere) -> None:
    house.personal.revoked = True


def revoke_deploy(house: Elsewhere) -> None:
    house.deploy.revoked = True


def end_job(house: Elsewhere) -> None:
    house.job.running = False


def down(house: Elsewhere) -> None:
    house.gitlab.trouble = answers(502)


def issuer_down(house: Elsewhere) -> None:
    house.oidc.down()


def other_key(house: Elsewhere) -> None:
    house.oidc.keys = [SigningKey("key-2", number=2)]


def id_token(project: str = "acme/app", **claims: object) -> Callable[[Elsewhere], str]:
    return lambda house: house.oidc.gitlab_job(project, **claims)


def of_unknown_key(house: Elsewhere) -> str:
    """Signed with a key that the issuer does not publish, under the name of one that it does."""
    return SigningKey("key-1", number=3).sign(house.oidc.claims(sub="mallory", namespace_path="acme"))


def told(message: str) -> Told:
    return Told(401, "UNAUTHORIZED", message)


def out(message: str) -> Told:
    return Told(504, "UNAVAILABLE", message)


ACCESS = ("alice", PERSONAL)
CI = ("gitlab-ci-token", JOB)
DEPLOYER = ("gitlab+deploy-token-30", DEPLOY)
USER, JOBS_USER = "GitLab user 100", "alice (job 7000)"
SUBJECT = "project_path:acme/app:ref_type:branch:ref:main"
GONE = told("the token is revoked or has expired: make a new one at gitlab.example")
# The secret is not kept any longer than it is good.
AGAIN = told("this login has to be checked again: log in again, or let the client ask for a new token")
BAD_GATEWAY = "gitlab.example: it is out of order (status 502)"
NO_KEYS = "issuer.example: its configuration cannot be had: status 503"

ELSEWHERE = [
    Case("GitLab: access token of a member", ACCESS, GOOD, GOOD),
    Case("GitLab: access token of a member, in a subgroup", ACCESS, GOOD, GOOD, "acme/tools", "acme/tools"),
    Case("GitLab: access token, without a role", ACCESS, GOOD, no_role(USER, "other"), "other", "other"),
    Case("GitLab: access token, no such group", ACCESS, GOOD, no_role(USER, "nowhere"), "nowhere", "nowhere"),
    Case("GitLab: access token that it does not know", ("alice", "glpat-nobody-has-this"), WRONG),
    Case("GitLab: access token that has expired", ("alice", ENDED), GONE),
    Case(
        "GitLab: access token with too small a scope",
        ("alice", NARROW),
        told("the token needs the scope read_registry, or api: make a new one at gitlab.example"),
    ),
    Case(
        "GitLab: access token that is revoked after the login",
        ACCESS,
        GOOD,
        GONE,
        before=after_a_minute(revoke),
        again=AGAIN,
    ),
    Case(
        "GitLab: a role that is taken away after the login",
        ACCESS,
        GOOD,
        no_role(USER, "acme"),
        before=after_a_minute(leave),
    ),
    Case("GitLab: token of a CI job", CI, GOOD, GOOD),
    Case("GitLab: token of a CI job, without a role", CI, GOOD, no_role(JOBS_USER, "other"), "other", "other"),
    Case("GitLab: token of a CI job that it does not know", ("gitlab-ci-token", "glcbt-64_nobody-has"), WRONG),
    Case(
        "GitLab: token of a CI job that has ended since the login",
        CI,
        GOOD,
        told("the CI job behind this login has ended: log in again"),
        before=after_a_minute(end_job),
        again=AGAIN,
    ),
    Case("GitLab: group deploy token", DEPLOYER, GOOD, GOOD),
    Case("GitLab: group deploy token, in a subgroup", DEPLOYER, GOOD, GOOD, "acme/tools", "acme/tools"),
    Case(
        "GitLab: group deploy token, in another group", DEPLOYER, GOOD, no_role(DEPLOYER[0], "other"), "other", "other"
    ),
    Case("GitLab: group deploy token with another user name", ("gitlab+deploy-token-31", DEPLOY), WRONG),
    Case(
        "GitLab: group deploy token that is revoked after the login",
        DEPLOYER,
        GOOD,
        GONE,
        before=after_a_minute(revoke_deploy),
    ),
    Case(
        "GitLab does not answer", ACCESS, out(f"it cannot be told who you are: {BAD_GATEWAY}"), first=down, scope=None
    ),
    Case(
        "GitLab does not answer after the login",
        ACCESS,
        GOOD,
        out(f"group acme: it cannot be told who may pull: {BAD_GATEWAY}"),
        before=after_a_minute(down),
    ),
    Case("ID token of a CI job", ("oidc", id_token()), GOOD, GOOD),
    Case("ID token of a CI job, in a subgroup", ("oidc", id_token()), GOOD, GOOD, "acme/tools", "acme/tools"),
    Case(
        "ID token of a CI job, without a role", ("oidc", id_token()), GOOD, no_role(SUBJECT, "other"), "other", "other"
    ),
    Case(
        "ID token of a CI job that no rule is for",
        ("oidc", id_token("other/app")),
        told(
            "the ID token of project_path:other/app:ref_type:branch:ref:main is right, but by no rule of access.oidc is"
            " it good for any group"
        ),
    ),
    Case(
        "ID token for another audience",
        ("oidc", id_token(aud="registry")),
        told("the ID token is for somebody else: its audience (aud) must be depproxy"),
    ),
    Case(
        "ID token that has expired",
        ("oidc", lambda house: house.oidc.gitlab_job("acme/app", exp=int(house.now))),
        told("the ID token has expired: the job has to get a new one"),
    ),
    Case(
        "ID token that expires after the login",
        ("oidc", id_token()),
        GOOD,
        EXPIRED,
        before=lambda house: setattr(house, "now", house.now + 300),
    ),
    Case("ID token of another issuer", ("oidc", id_token(iss="https://elsewhere.example")), WRONG),
    Case("ID token signed by somebody else", ("oidc", of_unknown_key), WRONG),
    Case(
        "ID token whose key the issuer withdraws after the login",
        ("oidc", id_token()),
        GOOD,
        told("issuer.example has withdrawn the key of this login's ID token: log in again with a new one"),
        before=after_a_minute(other_key),
    ),
    Case(
        "the issuer of ID tokens does not answer",
        ("oidc", id_token()),
        out(f"it cannot be told who you are: {NO_KEYS}"),
        first=issuer_down,
    ),
]
