"""A GitLab on a real loopback socket: the few addresses that depproxy asks, with GitLab's statuses, bodies and headers.

Its answers are those of GitLab 17 and 18: `/api/v4/personal_access_tokens/self`, `/api/v4/job`,
`/api/v4/groups/:id/members/all/:user_id`, `/api/v4/groups/:id/deploy_tokens/:token_id`, `/jwt/auth`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import jwt
from attrs import define, field

from tests.upstream_fake import Call, Server

MINIMAL, GUEST, PLANNER, REPORTER, DEVELOPER, MAINTAINER, OWNER = 5, 10, 15, 20, 30, 40, 50

_JWT_KEY = "the instance's own key, which nobody else knows"
_ACCESS_DENIED = (
    "HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect or you're"
    " required to use a token instead of a password. If a token was provided, it was either incorrect, expired, or"
    " improperly scoped. See http://gitlab.example/help/user/profile/account/two_factor_authentication_troubleshooting"
)
_REVOKED = "Token was revoked. You have to re-authorize from the user."
_EXPIRED = "Token is expired. You can either do re-authorization or token refresh."
_TOO_SMALL = "The request requires higher privileges than provided by the access token."


@define
class User:
    """`state` is active, blocked or deactivated."""

    id: int
    username: str
    state: str = "active"


@define
class AccessToken:
    """A personal access token; a group access token is one of a bot user."""

    id: int
    user: User
    scopes: Sequence[str]
    revoked: bool = False
    expired: bool = False
    expires_at: str | None = "2027-06-30"


@define
class Job:
    """A CI job, whose token is good while it runs."""

    id: int
    user: User | None
    running: bool = True


@define
class DeployToken:
    """A deploy token of a group; `expired` and `revoked` may change."""

    id: int
    username: str
    scopes: Sequence[str]
    revoked: bool = False
    expired: bool = False


@define
class Group:
    """A group with its own members by user number, and its own deploy tokens."""

    id: int
    path: str
    public: bool = False
    members: dict[int, int] = field(factory=dict)
    deploy_tokens: list[DeployToken] = field(factory=list)
    waiting: set[int] = field(factory=set)


class GitLab(Server):
    """The instance. Secrets are the keys of `tokens`, `jobs`, `deploy_secrets` and `passwords`.

    `trouble` answers everything in its place, where it is set.
    """

    def __init__(self, reactor: Any, *, context: Any = None) -> None:
        super().__init__(reactor, context=context)
        self.groups: dict[str, Group] = {}
        self.tokens: dict[str, AccessToken] = {}
        self.jobs: dict[str, Job] = {}
        self.deploy_secrets: dict[str, DeployToken] = {}
        self.passwords: dict[tuple[str, str], User] = {}
        self.users: dict[int, User] = {}
        self.registry = True
        self.trouble: Callable[[Call], object] | None = None

    def user(self, username: str) -> User:
        """A new user."""
        made = User(100 + len(self.users), username)
        self.users[made.id] = made
        return made

    def group(self, path: str, *, public: bool = False, **members: User) -> Group:
        """A new group; a member is given by the role's name in lower case."""
        made = Group(9000 + len(self.groups), path, public)
        made.members = {user.id: globals()[role.upper()] for role, user in members.items()}
        self.groups[path] = made
        return made

    def token(self, secret: str, user: User, *scopes: str) -> AccessToken:
        """A new access token."""
        made = self.tokens[secret] = AccessToken(500 + len(self.tokens), user, scopes)
        return made

    def job(self, secret: str, user: User | None) -> Job:
        """A job that runs."""
        made = self.jobs[secret] = Job(7000 + len(self.jobs), user)
        return made

    def deploy_token(self, secret: str, group: Group | None, *scopes: str, username: str = "") -> DeployToken:
        """A new deploy token of a group, or for None of some project."""
        number = 30 + len(self.deploy_secrets)
        made = DeployToken(number, username or f"gitlab+deploy-token-{number}", scopes)
        self.deploy_secrets[secret] = made
        if group is not None:
            group.deploy_tokens.append(made)
        return made

    def fallback(self, call: Call) -> object:
        if self.trouble is not None:
            return self.trouble(call)
        assert call.seen.method == "GET", call.seen.method
        match call.seen.path.split("/")[1:]:
            case ["jwt", "auth"]:
                self._jwt_auth(call)
            case ["api", "v4", "job"]:
                self._job(call)
            case ["api", "v4", "personal_access_tokens", "self"]:
                self._self(call)
            case ["api", "v4", "groups", group, "members", "all", user]:
                self._member(call, unquote(group), int(user))
            case ["api", "v4", "groups", group, "deploy_tokens", token]:
                self._deploy_token(call, unquote(group), int(token))
            case _:
                reply(call, 404, {"error": "404 Not Found"})
        return None

    def _bearer(self, call: Call, *scopes: str) -> AccessToken | None:
        """Whose access token was sent, or None: then it is answered already. No scopes: any will do."""
        found = self.tokens.get(call.seen.header("PRIVATE-TOKEN") or "")
        if found is None:
            reply(call, 401, {"message": "401 Unauthorized"})
        elif found.revoked or found.expired:
            oauth(call, 401, "invalid_token", _REVOKED if found.revoked else _EXPIRED)
        elif scopes and not set(scopes) & set(found.scopes):
            oauth(call, 403, "insufficient_scope", _TOO_SMALL, scope=" ".join(scopes))
        elif found.user.state != "active":
            reply(call, 403, {"message": "403 Forbidden - Your account has been blocked."})
        else:
            return found
        return None

    def _self(self, call: Call) -> object:
        token = self._bearer(call)
        if token is None:
            return None
        body = {
            "id": token.id,
            "name": "for pulling",
            "revoked": token.revoked,
            "created_at": "2026-01-31T08:00:00.000Z",
            "description": None,
            "scopes": list(token.scopes),
            "user_id": token.user.id,
            "last_used_at": "2026-05-01T08:00:00.000Z",
            "active": True,
            "expires_at": token.expires_at,
            "last_used_ips": ["127.0.0.1"],
        }
        return reply(call, 200, body)

    def _job(self, call: Call) -> object:
        job = self.jobs.get(call.seen.header("JOB-TOKEN") or "")
        if job is None or not job.running:
            return reply(call, 401, {"message": "401 Unauthorized"})
        if job.user is not None and job.user.state != "active":
            return reply(call, 403, {"message": "403 Forbidden - Your account has been blocked."})
        body = {
            "id": job.id,
            "status": "running",
            "stage": "test",
            "name": "unit",
            "ref": "main",
            "tag": False,
            "allow_failure": False,
            "created_at": "2026-05-01T08:00:00.000Z",
            "started_at": "2026-05-01T08:00:10.000Z",
            "finished_at": None,
            "user": None if job.user is None else user_basic(job.user),
            "pipeline": {"id": 8, "iid": 4, "project_id": 3, "ref": "main", "status": "running", "source": "push"},
            "project": {"ci_job_token_scope_enabled": False},
            "web_url": "http://gitlab.example/acme/app/-/jobs/1",
        }
        return reply(call, 200, body)

    def _readable(self, call: Call, text: str, asker: User) -> Group | None:
        """The group with this number or path, if the asker may see it; else it is answered already."""
        for group in self.groups.values():
            same = group.id == int(text) if text.isdecimal() else group.path.lower() == text.lower()
            if same and (group.public or self.level(group, asker.id) > 0):
                return group
        reply(call, 404, {"message": "404 Group Not Found"})
        return None

    def level(self, group: Group, user: int) -> int:
        """The highest access level of a user in this group and those above it."""
        above = [g for g in self.groups.values() if group.path == g.path or group.path.startswith(f"{g.path}/")]
        return max(g.members.get(user, 0) for g in above)

    def _member(self, call: Call, text: str, number: int) -> object:
        token = self._bearer(call, "api", "read_api")
        group = None if token is None else self._readable(call, text, token.user)
        if group is None:
            return None
        level = self.level(group, number)
        if level <= MINIMAL:
            return reply(call, 404, {"message": "404 Not found"})
        body = {
            **user_basic(self.users[number]),
            "access_level": level,
            "created_at": "2026-01-31T08:00:00.000Z",
            "expires_at": None,
            "membership_state": "awaiting" if number in group.waiting else "active",
        }
        return reply(call, 200, body)

    def _deploy_token(self, call: Call, text: str, number: int) -> object:
        token = self._bearer(call, "api", "read_api")
        group = None if token is None else self._readable(call, text, token.user)
        if token is None or group is None:
            return None
        if self.level(group, token.user.id) < MAINTAINER:
            return reply(call, 403, {"message": "403 Forbidden"})
        for found in group.deploy_tokens:
            if found.id == number:
                body = {
                    "id": found.id,
                    "name": "for pulling",
                    "username": found.username,
                    "expires_at": None,
                    "scopes": list(found.scopes),
                    "revoked": found.revoked,
                    "expired": found.expired,
                }
                return reply(call, 200, body)
        return reply(call, 404, {"message": "404 Not found"})

    def _jwt_auth(self, call: Call) -> object:
        """GitLab looks for an access token first, then for a deploy token, then for a password."""
        scheme, _, basic = (call.seen.header("Authorization") or "").partition(" ")
        assert scheme == "Basic"
        login, _, secret = base64.b64decode(basic).decode().partition(":")
        token, deploy = self.tokens.get(secret), self.deploy_secrets.get(secret)
        person = token.user if token is not None else self.passwords.get((login, secret))
        scopes: Sequence[str] = ("api",) if token is None else token.scopes
        info: dict[str, object]
        if person is not None:
            info = {"token_type": "gitlab_or_ldap", "username": person.username, "user_id": person.id}
        elif deploy is not None and deploy.username == login and not deploy.revoked and not deploy.expired:
            scopes = deploy.scopes
            info = {"token_type": "deploy_token", "username": deploy.username, "deploy_token_id": deploy.id}
        else:
            return errors(call, 401, "UNAUTHORIZED", _ACCESS_DENIED)
        if call.seen.query != {"service": ["container_registry"]}:
            return call.answer(404)
        if not self.registry:
            return errors(call, 404, "UNAVAILABLE", "registry not enabled")
        if not {"api", "read_registry", "write_registry"} & set(scopes):
            return errors(call, 403, "DENIED", "access forbidden")
        claims = {"jti": "1", "aud": "container_registry", "iss": "gitlab-issuer", "access": []}
        inner = jwt.encode({"jti": "2", "user_info": info}, _JWT_KEY)
        return reply(call, 200, {"token": jwt.encode({**claims, "user": inner}, _JWT_KEY)})


def user_basic(user: User) -> dict[str, object]:
    """A user as GitLab shows him to others."""
    return {
        "id": user.id,
        "username": user.username,
        "public_email": None,
        "name": user.username.title(),
        "state": user.state,
        "locked": False,
        "avatar_url": None,
        "web_url": f"http://gitlab.example/{user.username}",
    }


def reply(call: Call, status: int, body: object, **headers: str) -> object:
    """An answer of the API."""
    return call.answer(
        status,
        json.dumps(body, separators=(",", ":")).encode(),
        Content_Type="application/json",
        Cache_Control="max-age=0, private, must-revalidate",
        Vary="Origin",
        X_Frame_Options="SAMEORIGIN",
        X_Request_Id="01HXAMPLE",
        **headers,
    )


def oauth(call: Call, status: int, error: str, description: str, **more: str) -> object:
    """A refusal as OAuth has it (RFC 6750 section 3.1)."""
    challenge = f'Bearer realm="Protected by OAuth 2.0", error="{error}", error_description="{description}"'
    body = {"error": error, "error_description": description, **more}
    return reply(call, status, body, WWW_Authenticate=challenge)


def errors(call: Call, status: int, code: str, message: str) -> object:
    """A refusal of the registry's login."""
    return reply(call, status, {"errors": [{"code": code, "message": message}], "http_status": status})
