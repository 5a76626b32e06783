"""The questions to a GitLab: whose a secret is, and who is what in a group. Nothing is remembered here."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NoReturn
from urllib.parse import quote

from attrs import frozen
from twisted.cred.error import UnauthorizedLogin
from twisted.logger import Logger

from depproxy.access.gitlab_http import Found, GitLabHTTP, Refused
from depproxy.access.interface import AccountsUnavailable, Withdrawn
from depproxy.access.scopes import enough
from depproxy.config import ConfigError, Role, read_secret

Kind = Literal["token", "job", "deploy"]
KINDS: Final[dict[str, Kind]] = {"token": "token", "job": "job", "deploy": "deploy"}

# The registry's login is the one thing that takes a deploy token and says which it is.
_REGISTRY_LOGIN: Final = "/jwt/auth?service=container_registry"
_SEE_GROUPS: Final = frozenset(("api", "read_api"))


@frozen
class Proof:
    """
    What a secret proves.

    `id` is the number of the access token, of the job, or of the deploy token; `user` the number of the user behind
    the first two. `since` is when it was asked for, `expires` when the credential ends; both are Unix time.
    `sees_groups`: it may be used to ask for memberships. `writes`: it may be used to change things.
    """

    kind: Kind
    id: int
    user: int
    name: str
    since: float
    expires: float | None = None
    sees_groups: bool = False
    writes: bool = False


@frozen
class GitLabAPI:
    """
    One GitLab. `token_file` holds depproxy's own token, where it has one. `strict` wants the scopes that GitLab wants.

    The methods raise `UnauthorizedLogin` for a secret that GitLab does not know, `Withdrawn` for one that is good no
    more or not enough, `AccountsUnavailable` where nothing can be learned.
    """

    http: GitLabHTTP
    token_file: Path | None
    strict: bool
    now: Callable[[], float]

    _log = Logger()

    async def token(self, secret: str) -> Proof:
        """A personal, group or project access token. Each may see itself, whatever its scopes."""
        since = self.now()
        found = await self.http.ask("/api/v4/personal_access_tokens/self", "PRIVATE-TOKEN", secret)
        if isinstance(found, Refused):
            self._refuse(found)
        number, user, scopes = found.whole("id"), found.whole("user_id"), found.words("scopes")
        if found.content.get("active") is not True:
            raise self._over()
        self._want(scopes)
        sees, name = bool(scopes & _SEE_GROUPS), f"GitLab user {user}"
        return Proof("token", number, user, name, since, _ends(found), sees, writes="api" in scopes)

    async def job(self, secret: str) -> Proof:
        """The token of a CI job: good while the job runs, it acts for the user who started the job."""
        since = self.now()
        found = await self.http.ask("/api/v4/job", "JOB-TOKEN", secret)
        if isinstance(found, Refused):
            self._refuse(found)
        number, user = found.whole("id"), found.part("user")
        if user is None:
            raise Withdrawn("no user is behind this job, so it is a member of no group")
        return Proof("job", number, user.whole("id"), f"{user.text('username')} (job {number})", since)

    async def deploy_token(self, username: str, secret: str) -> Proof:
        """
        A deploy token with its user name.

        The answer is a token for the registry, in which another one names the deploy token by its number: user names
        of deploy tokens are not unique. Both come from the instance itself, so their signatures prove nothing more.
        """
        since = self.now()
        basic = base64.b64encode(f"{username}:{secret}".encode()).decode("ascii")
        found = await self.http.ask(_REGISTRY_LOGIN, "Authorization", f"Basic {basic}")
        if isinstance(found, Refused):
            if found.status == 404:
                raise Withdrawn(f"{self.http.host} has no container registry, without which it knows no deploy tokens")
            if found.code == "DENIED":
                raise Withdrawn("the deploy token needs the scope read_registry")
            self._refuse(found)
        info = found.claims("token").claims("user").part("user_info")
        if info is None or "deploy_token_id" not in info.content:
            # A password, or an access token with the user name of a deploy token.
            raise UnauthorizedLogin
        return Proof("deploy", info.whole("deploy_token_id"), 0, username, since)

    async def role(self, group: str, user: int, secret: str | None) -> Role | None:
        """
        What a user is in a group, asked with a secret of his own or else with depproxy's; None, too, where whoever
        asks may not see the group.
        """
        found = await self._of_group(group, f"members/all/{user}", secret)
        if found is None or found.text("state") != "active":
            return None
        # Only some editions of GitLab have members who wait.
        if found.content.get("membership_state", "active") != "active":
            return None
        level = found.whole("access_level")
        # GitLab has levels between ours (planner, 15) and one below (minimal access, 5), which is no role.
        return max((role for role in Role if role <= level), default=None)

    async def deploy_role(self, group: str, token: int) -> Role | None:
        """What a deploy token is in the group that it was made for; groups within it are not meant."""
        found = await self._of_group(group, f"deploy_tokens/{token}", None)
        if found is None:
            return None
        if found.content.get("revoked") is not False or found.content.get("expired") is not False:
            raise self._over()
        self._want(found.words("scopes"))
        return Role.GUEST

    async def _of_group(self, group: str, what: str, secret: str | None) -> Found | None:
        path = f"/api/v4/groups/{quote(group, safe='')}/{what}"
        found = await self.http.ask(path, "PRIVATE-TOKEN", self._own_token() if secret is None else secret)
        if isinstance(found, Found):
            return found
        if found.status == 404 or (found.status == 403 and found.message == "403 Forbidden"):
            return None
        if secret is not None:
            self._refuse(found)
        self._log.error(
            "access.gitlab.token_file: {host} refuses this token: {status} {why}",
            host=self.http.host,
            status=found.status,
            why=found.message or found.code,
        )
        raise AccountsUnavailable(f"{self.http.host} refuses depproxy's own token; the log says why")

    def _own_token(self) -> str:
        try:
            if self.token_file is None:
                raise ConfigError("access.gitlab.token_file: is not set")
            return read_secret(self.token_file)
        except ConfigError as error:
            self._log.error("access.gitlab.token_file cannot be used: {error}", error=error)
            # Without the path: the message reaches clients.
            raise AccountsUnavailable("depproxy's own token cannot be read; the log says why") from None

    def _refuse(self, found: Refused) -> NoReturn:
        """Raise what whoever has the secret may know."""
        if found.code == "invalid_token" and ("expired" in found.message or "revoked" in found.message):
            raise self._over()
        if found.code == "insufficient_scope":
            raise Withdrawn("the token needs the scope read_api or api, too: by it depproxy sees its memberships")
        if found.status == 403:
            raise Withdrawn(f"{self.http.host} refuses this account: it is blocked, or has to sign in there first")
        raise UnauthorizedLogin

    def _over(self) -> Withdrawn:
        return Withdrawn(f"the token is revoked or has expired: make a new one at {self.http.host}")

    def _want(self, scopes: frozenset[str]) -> None:
        if not enough(scopes, strict=self.strict):
            wanted = "scopes read_registry and write_registry" if self.strict else "scope read_registry"
            raise Withdrawn(f"the token needs the {wanted}, or api: make a new one at {self.http.host}")


def _ends(found: Found) -> float | None:
    """The first moment (UTC) of the day on which an access token expires."""
    day = found.content.get("expires_at")
    if day is None:
        return None
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        found.strange("expires_at")
