"""Accounts that are known by a client certificate: runners with mutual TLS need no password, and no token of ours."""

import math
from collections.abc import Callable, Mapping

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from depproxy.access.interface import IAccounts, IClientCertificate, Identity, Withdrawn
from depproxy.config import Role, UserSettings


@implementer(IAccounts, ICredentialsChecker)
class CertificateAccounts:
    """
    Maps the names of certificates to users, as `[users.NAME] certificates` says.

    What a user may is no affair of his certificate's: `role_of_user` (user, group) says it, and `user_exists` whether
    there is such a user still. `authority` stands for the certificates that are believed: with another one, what was
    proved before counts no more. Without any, "", no certificate means anybody. `now` is Unix time.
    """

    _log = Logger()
    name = "certificate"
    max_age = math.inf
    renewable = False
    credentialInterfaces = (IClientCertificate,)

    def __init__(
        self,
        users: Mapping[str, UserSettings],
        role_of_user: Callable[[str, str], Role | None],
        user_exists: Callable[[str], bool],
        authority: str,
        now: Callable[[], float],
    ) -> None:
        self._owners = {name: user.name for user in users.values() for name in user.certificates if authority}
        self._authority = authority
        self._now = now
        self._role_of_user = role_of_user
        self._user_exists = user_exists

    def __bool__(self) -> bool:
        """Whether any certificate means anybody."""
        return bool(self._owners)

    # Twisted has bytes for who somebody is.
    def requestAvatarId(self, credentials: IClientCertificate) -> "Deferred[Identity]":  # type: ignore[override]
        """See `IAccounts`. The identity ends with the certificate; its credential is the name that counted."""
        identity = self._identify(credentials)
        return fail(UnauthorizedLogin()) if identity is None else succeed(identity)

    def _identify(self, certificate: IClientCertificate) -> Identity | None:
        """Whom a certificate means; None for one that means nobody, or more than one."""
        meant = {self._owners[name]: name for name in reversed(certificate.names) if name in self._owners}
        if len(meant) > 1:
            self._log.warn("a client certificate means nobody, for it means {users}", users=" and ".join(sorted(meant)))
            return None
        if certificate.expires <= self._now():
            # A connection may outlive the certificate that it began with.
            return None
        for user, name in meant.items():
            return Identity(self.name, user, f"{self._authority}:{name}", certificate.expires)
        return None

    async def role(self, identity: Identity, group: str) -> Role | None:
        """See `IAccounts`."""
        authority, _, name = identity.credential.partition(":")
        owner = self._owners.get(name) if authority == self._authority else None
        if owner != identity.name or not self._user_exists(identity.name):
            raise Withdrawn(f"the certificate does not mean {identity.name} any more")
        return self._role_of_user(identity.name, group)

    async def administers(self, identity: Identity) -> bool:
        """See `IAccounts`."""
        return True

    def knows(self, username: str) -> bool:
        """See `IAccounts`: logins are none of its affair."""
        return False
