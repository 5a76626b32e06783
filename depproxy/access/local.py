"""The accounts of the configuration file: users with passwords and tokens, and the tokens of groups."""

from collections.abc import Callable, Iterator, Mapping

from attrs import frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from depproxy.access.hashing import Hashing
from depproxy.access.interface import IAccounts, Identity, ILogin, Withdrawn
from depproxy.access.passwords import fingerprint, hash_token, is_token, stand_in
from depproxy.access.roles import Memberships, inherited
from depproxy.access.scopes import enough, in_words
from depproxy.config import AccessSettings, GroupSettings, Role, TokenSettings, UserSettings
from depproxy.config.accounts import JOB_TOKEN_USER


@frozen
class _Token:
    """
    A token, and what it gives.

    `what` and `credential` call it in messages and in an `Identity`. `username` is the one that a login must have,
    None: any. It acts as the user `owner`, or has `role` in `group` and below.
    """

    settings: TokenSettings
    name: str
    what: str
    credential: str
    username: str | None = None
    owner: str | None = None
    group: str = ""
    role: Role | None = None


@implementer(IAccounts, ICredentialsChecker)
class LocalAccounts:
    """
    `IAccounts` of the configuration. A reload makes a new one; `now` is Unix time.

    A token is found by its secret alone. The user name at the login counts for a deploy token only, as at GitLab.
    """

    name = "local"
    # Tokens may end in between, and the answer costs next to nothing.
    max_age = 60.0
    renewable = True
    credentialInterfaces = (ILogin,)

    def __init__(
        self,
        users: Mapping[str, UserSettings],
        groups: Mapping[str, GroupSettings],
        settings: AccessSettings,
        hashing: Hashing,
        now: Callable[[], float],
    ) -> None:
        self._users = users
        self._hashing = hashing
        self._now = now
        self._memberships = Memberships(groups)
        self._strict = settings.require_write_registry
        tokens = [*_of_users(users), *_of_groups(groups)]
        self._by_hash = {token.settings.hash: token for token in tokens}
        self._by_credential = {token.credential: token for token in tokens}
        self._deployers = frozenset(token.username for token in tokens if token.username is not None)
        hashes = [user.password for user in users.values() if user.password is not None]
        # Where nobody has a password, none needs to be checked: logins of other sources pass by without one.
        self._stand_in = stand_in(hashes) if hashes else None

    def requestAvatarId(self, credentials: ILogin) -> "Deferred[Identity]":  # type: ignore[override]
        """See `IAccounts`."""
        return Deferred.fromCoroutine(self._prove(credentials))

    async def role(self, identity: Identity, group: str) -> Role | None:
        """See `IAccounts`."""
        token = self._by_credential.get(identity.credential)
        if token is None:
            user = self._users.get(identity.name)
            if user is None or user.password is None or _password_credential(user.password) != identity.credential:
                raise Withdrawn(f"the credential of {identity.name} was revoked or changed: log in again")
            self._refuse_password_login(user)
            return self.role_of_user(user.name, group)
        if token.name != identity.name:
            raise Withdrawn(f"{token.what} is not one of {identity.name}")
        self._refuse_spent(token)
        if token.owner is not None:
            return self.role_of_user(token.owner, group)
        return inherited({token.group: token.role}, group) if token.role and group in self._memberships.groups else None

    async def administers(self, identity: Identity) -> bool:
        """See `IAccounts`: a token needs the scope `api`."""
        token = self._by_credential.get(identity.credential)
        return token is None or "api" in token.settings.scopes

    def knows(self, username: str) -> bool:
        """See `IAccounts`."""
        return username in self._users or username in self._deployers

    def role_of_user(self, name: str, group: str) -> Role | None:
        """What a user is in a group, by whatever he proved to be who he is; None if there is no such user or group."""
        user = self._users.get(name)
        if user is None or group not in self._memberships.groups:
            return None
        return Role.OWNER if user.admin else self._memberships.role(name, group)

    def user_exists(self, name: str) -> bool:
        """Whether there is a user of this name."""
        return name in self._users

    async def _prove(self, login: ILogin) -> Identity:
        token = self._by_hash.get(hash_token(login.password))
        if token is not None:
            if token.username not in (None, login.username):
                raise UnauthorizedLogin
            self._refuse_spent(token)
            return Identity(self.name, token.name, token.credential, token.settings.expires)
        # What cannot be a password costs no check, whatever the user name.
        if self._stand_in is None or login.username == JOB_TOKEN_USER or is_token(login.password):
            raise UnauthorizedLogin
        user = self._users.get(login.username)
        hashed = None if user is None else user.password
        right = await self._hashing.check(login.password, hashed, login.username, self._stand_in)
        if user is None or hashed is None or not right:
            raise UnauthorizedLogin
        self._refuse_password_login(user)
        return Identity(self.name, user.name, _password_credential(hashed))

    def _refuse_password_login(self, user: UserSettings) -> None:
        if not user.password_login:
            raise Withdrawn(f"{user.name} may not log in with a password: use a personal access token in its place")

    def _refuse_spent(self, token: _Token) -> None:
        """Raise `Withdrawn` for a token that has expired, or whose scopes are not enough."""
        expires, scopes = token.settings.expires, token.settings.scopes
        if expires is not None and expires <= self._now():
            raise Withdrawn(f"{token.what} has expired: it needs to be replaced by a new one")
        if not enough(scopes, strict=self._strict):
            wanted = in_words(strict=self._strict)
            raise Withdrawn(f"{token.what} has the scopes {', '.join(scopes)}, but pulling needs {wanted}")


def _of_users(users: Mapping[str, UserSettings]) -> Iterator[_Token]:
    for user in users.values():
        for name, settings in user.tokens.items():
            credential = f"token:{user.name}/{name}:{fingerprint(settings.hash)}"
            yield _Token(settings, user.name, f"the token {name} of {user.name}", credential, owner=user.name)


def _of_groups(groups: Mapping[str, GroupSettings]) -> Iterator[_Token]:
    for path, group in groups.items():
        for name, deploy in group.deploy_tokens.items():
            what = f"the deploy token {name} of group {path}"
            credential = f"deploy:{path}/{name}:{fingerprint(deploy.hash)}"
            yield _Token(deploy, deploy.username, what, credential, deploy.username, group=path, role=Role.GUEST)
        for name, access in group.access_tokens.items():
            what = f"the access token {name} of group {path}"
            credential = f"access:{path}/{name}:{fingerprint(access.hash)}"
            yield _Token(access, f"{path}/{name}", what, credential, group=path, role=access.role)


def _password_credential(hashed: str) -> str:
    return f"password:{fingerprint(hashed)}"
