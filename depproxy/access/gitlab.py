"""
A GitLab as a source of accounts.

Our tokens hold no secret, yet a credential that is revoked in GitLab has to stop working. So the secret of each login
is kept in memory, for as long as a token of ours may live, and shown to GitLab again when its proof is too old. Where
it is not there (after a restart, in another process) whoever has the token is told to log in again when the proof is
too old; clients do so by themselves.
"""

import hmac
import secrets
from collections.abc import Callable
from functools import partial

from attrs import field, frozen
from cachetools import TTLCache
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from depproxy.access.answers import REMEMBERED, Answers
from depproxy.access.gitlab_api import GitLabAPI, Kind, Proof
from depproxy.access.gitlab_http import GitLabHTTP
from depproxy.access.gitlab_logins import LOG_IN_AGAIN, Credential, kind_of
from depproxy.access.hashing import Busy
from depproxy.access.interface import IAccounts, Identity, ILogin, Withdrawn
from depproxy.access.roles import lineage
from depproxy.config import GitLabSettings, Role
from depproxy.config.accounts import JOB_TOKEN_USER
from depproxy.config.errors import Wrong
from depproxy.config.names import group_path
from depproxy.upstream.interface import IFetcher

MOST_LOGINS = 2000
"""Logins that wait for GitLab at a time: a thousand jobs may start at once, each with a token of its own."""

SKEW = 5
"""Seconds by which the clock of another host that shares our keys may be ahead."""


@frozen
class _Held:
    """A login whose secret is kept, and the key of its proof."""

    login: ILogin = field(repr=False)
    key: bytes = field(repr=False)


@implementer(IAccounts, ICredentialsChecker)
class GitLabAccounts:
    """
    The accounts and memberships of one GitLab.

    `strict` wants the scopes that GitLab's own dependency proxy wants. A secret is kept for `lifetime` seconds after
    its last login. `now` is Unix time. Logins are proved by the fetcher `logins`, apart from all other questions: a
    flood of them must not stop pulls. In `reserved`, a group, and below it, GitLab gives no role: whoever may make
    groups there must not get this one by its name.
    """

    name = "gitlab"
    renewable = False
    credentialInterfaces = (ILogin,)

    def __init__(
        self,
        settings: GitLabSettings,
        fetcher: IFetcher,
        now: Callable[[], float],
        *,
        lifetime: float,
        strict: bool,
        logins: IFetcher | None = None,
        reserved: str = "",
    ) -> None:
        # An answer is relied on twice, one after the other: here, and by whoever relies on ours for `max_age`.
        self._fresh = self.max_age = settings.cache / 2
        http = GitLabHTTP(settings.url, settings.host, fetcher)
        self._api = GitLabAPI(http, settings.token_file, strict, now)
        apart = GitLabHTTP(settings.url, settings.host, logins or fetcher)
        self._login_api = GitLabAPI(apart, settings.token_file, strict, now)
        self._logging_in = 0
        self._reserved = reserved
        self._own_token = settings.token_file is not None
        self._now = now
        last_known = settings.last_known_for if settings.when_down == "last_known" else 0.0
        self._proofs: Answers[bytes, Proof] = Answers(self._fresh, last_known, now)
        self._roles: Answers[tuple[str, int, str, bytes], Role] = Answers(self._fresh, last_known, now)
        self._held: TTLCache[tuple[Kind, int], _Held] = TTLCache(REMEMBERED, lifetime, now)
        self._salt = secrets.token_bytes(32)

    # Twisted has bytes for who somebody is.
    def requestAvatarId(self, credentials: ILogin) -> "Deferred[Identity]":  # type: ignore[override]
        """See `IAccounts`."""
        return Deferred.fromCoroutine(self._login(credentials))

    async def role(self, identity: Identity, group: str) -> Role | None:
        """See `IAccounts`."""
        credential = Credential.read(identity.credential)
        try:
            path = group_path(group)
        except Wrong:
            return None
        # GitLab would take a number for that of a group.
        if path.isdecimal() or self._reserved in lineage(path):
            return None
        if credential.kind == "deploy":
            return await self._deploy_role(credential.id, path)
        await self._still_good(credential)
        if self._own_token:
            ask = partial(self._api.role, path, credential.user, None)
            return await self._roles.get(("user", credential.user, path, b""), ask)
        held = self._kept(credential)
        ask = partial(self._api.role, path, credential.user, held.login.password)
        return await self._roles.get(("user", credential.user, path, held.key), ask)

    async def administers(self, identity: Identity) -> bool:
        """See `IAccounts`: an access token with the scope `api`, as GitLab's own API wants it."""
        credential = Credential.read(identity.credential)
        if credential.kind != "token":
            return False
        proof = await self._prove(credential.kind, self._kept(credential))
        return proof.writes

    def knows(self, username: str) -> bool:
        """See `IAccounts`: whose names there are only GitLab knows."""
        return username == JOB_TOKEN_USER

    async def _login(self, login: ILogin) -> Identity:
        kind = kind_of(login)
        if kind != "token" and not self._own_token:
            what = "CI job tokens" if kind == "job" else "deploy tokens"
            raise Withdrawn(f"{what} are not taken here: the operator has to set access.gitlab.token_file for them")
        held = _Held(login, self._key(kind, login))
        if self._logging_in >= MOST_LOGINS:
            raise Busy
        self._logging_in += 1
        try:
            proof = await self._prove(kind, held, self._login_api)
        finally:
            self._logging_in -= 1
        if not proof.sees_groups and not self._own_token:
            raise Withdrawn("the token needs the scope read_api or api, too: by it depproxy sees its memberships")
        if kind != "deploy":
            self._held[kind, proof.id] = held
        return Identity(self.name, proof.name, str(Credential.of(proof)), proof.expires)

    async def _still_good(self, credential: Credential) -> None:
        """Return if the credential is known to be good. Raises `Withdrawn`, `AccountsUnavailable`."""
        if -SKEW <= self._now() - credential.since < self._fresh:
            return
        held = self._kept(credential)
        try:
            await self._prove(credential.kind, held)
        except UnauthorizedLogin as error:
            self._held.pop((credential.kind, credential.id), None)
            if isinstance(error, Withdrawn):
                raise
            what = "the CI job behind this login has ended" if credential.kind == "job" else "this token is gone"
            raise Withdrawn(f"{what}: log in again") from None

    def _kept(self, credential: Credential) -> _Held:
        """The login that proved a credential. Raises `Withdrawn` where it is not kept (any more)."""
        # Not only when something is added: what is over shall not be in memory.
        self._held.expire()
        held = self._held.get((credential.kind, credential.id))
        if held is None:
            raise Withdrawn(LOG_IN_AGAIN)
        return held

    async def _deploy_role(self, token: int, path: str) -> Role | None:
        """
        A deploy token is good for the group that it was made for, and all in it. GitLab tells depproxy itself whether
        it still is, so that its secret is not needed any more.
        """
        segments = path.split("/")
        for count in range(1, len(segments) + 1):
            above = "/".join(segments[:count])
            if above.isdecimal():
                # GitLab would take it for a group's number.
                continue
            ask = partial(self._api.deploy_role, above, token)
            role = await self._roles.get(("deploy", token, above, b""), ask)
            if role is not None:
                return role
        return None

    async def _prove(self, kind: Kind, held: _Held, api: GitLabAPI | None = None) -> Proof:
        login, api = held.login, api or self._api
        if kind == "token":
            ask = partial(api.token, login.password)
        elif kind == "job":
            ask = partial(api.job, login.password)
        else:
            ask = partial(api.deploy_token, login.username, login.password)
        proof = await self._proofs.get(held.key, ask)
        assert proof is not None
        return proof

    def _key(self, kind: Kind, login: ILogin) -> bytes:
        """Stands for a secret where something is remembered about it. GitLab looks at few user names."""
        text = f"{kind}:{login.username if kind == 'deploy' else ''}:{login.password}"
        return hmac.digest(self._salt, text.encode(), "sha256")
