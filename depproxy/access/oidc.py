"""
ID tokens of OpenID Connect issuers as passwords: CI jobs prove who they are without a secret that somebody keeps.

An ID token is good for whoever has it until it expires, and is taken as often as it is shown: jobs log in more than
once. What it was good for stands in the token of ours, so that nothing of it has to be kept; the rules, and the keys
of the issuer, are looked at again on use.
"""

from collections.abc import Callable, Container, Iterable

from attrs import frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from depproxy.access.id_tokens import IdToken, bearer_of
from depproxy.access.interface import IAccounts, Identity, ILogin, Withdrawn
from depproxy.access.jwks import FRESH, KeySet
from depproxy.access.oidc_rules import MAX_CREDENTIAL, Credential, fingerprint, roles_of
from depproxy.access.roles import inherited
from depproxy.config import OidcSettings, Role


@frozen
class _Issuer:
    settings: OidcSettings
    keys: KeySet


@implementer(IAccounts, ICredentialsChecker)
class OidcAccounts:
    """
    The bearers of ID tokens of these issuers; the user name at the login does not matter.

    `keys` gives the key set of an issuer, `groups` has the paths of those groups that there are. `now` is Unix time.
    """

    name = "oidc"
    # Keys count for as long before they are looked at again: together it is a minute.
    max_age = FRESH
    renewable = False
    credentialInterfaces = (ILogin,)

    def __init__(
        self,
        issuers: Iterable[OidcSettings],
        keys: Callable[[OidcSettings], KeySet],
        groups: Container[str],
        now: Callable[[], float],
    ) -> None:
        found = [_Issuer(settings, keys(settings)) for settings in issuers]
        self._issuers = {issuer.settings.issuer: issuer for issuer in found}
        self._by_rules = {fingerprint(issuer.settings): issuer for issuer in found}
        self._groups = groups
        self._now = now

    # Twisted has bytes for who somebody is.
    def requestAvatarId(self, credentials: ILogin) -> "Deferred[Identity]":  # type: ignore[override]
        """See `IAccounts`."""
        return Deferred.fromCoroutine(self._login(credentials))

    async def role(self, identity: Identity, group: str) -> Role | None:
        """See `IAccounts`."""
        credential = Credential.read(identity.credential)
        issuer = self._by_rules.get(credential.fingerprint)
        if issuer is None:
            raise Withdrawn("the rules for ID tokens have changed since the login: log in again")
        if identity.expires is None or identity.expires <= self._now():
            raise Withdrawn("the ID token of this login has expired: log in again with a new one")
        if credential.thumbprint not in await issuer.keys.current():
            raise Withdrawn(
                f"{issuer.settings.called} has withdrawn the key of this login's ID token: log in again with a new one"
            )
        return inherited(credential.roles, group) if group in self._groups else None

    async def administers(self, identity: Identity) -> bool:
        """See `IAccounts`: a rule says what it is good for."""
        return True

    def knows(self, username: str) -> bool:
        """See `IAccounts`: the user name means nothing."""
        return False

    async def _login(self, login: ILogin) -> Identity:
        token = IdToken.parse(login.password)
        issuer = None if token is None else self._issuers.get(token.issuer)
        if token is None or issuer is None or token.algorithm not in issuer.settings.algorithms:
            raise UnauthorizedLogin
        keys = await issuer.keys.current()
        if not keys.knows(token.kid):
            keys = await issuer.keys.look_again()
        key = keys.find(token.kid, token.algorithm)
        if key is None:
            raise UnauthorizedLogin
        claims = token.verified(key, issuer.settings, self._now())
        name = bearer_of(claims, issuer.settings.username)
        roles = roles_of(issuer.settings, claims)
        if not roles:
            raise Withdrawn(f"the ID token of {name} is right, but by no rule of access.oidc is it good for any group")
        credential = str(Credential(fingerprint(issuer.settings), key.thumbprint, roles))
        if len(credential) > MAX_CREDENTIAL:
            raise Withdrawn(f"the ID token of {name} is good for too many groups: {len(roles)}")
        return Identity(self.name, name, credential, float(claims["exp"]))
