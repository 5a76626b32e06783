"""One portal (twisted.cred) before all sources of accounts."""

from collections.abc import Callable, Sequence
from typing import cast

from attrs import frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from depproxy.access.interface import (
    AccountsUnavailable,
    IAccounts,
    IAccountsChecker,
    Identity,
    ILogin,
    Withdrawn,
)
from depproxy.config import Role

ANONYMOUS = "anonymous"


class IAccount(Interface):
    """The avatar: somebody whose identity is proved, and what he may."""


@implementer(IAccount)
@frozen
class Account:
    """An identity with the source that knows what it may."""

    identity: Identity
    accounts: IAccounts

    async def role(self, group: str) -> Role | None:
        """See `IAccounts.role`."""
        found: Role | None = await self.accounts.role(self.identity, group)
        return found

    async def administers(self) -> bool:
        """See `IAccounts.administers`."""
        good: bool = await self.accounts.administers(self.identity)
        return good


class Accounts:
    """
    The sources in their order.

    A login is shown to one after the other until one knows it. A source that cannot be asked does not keep the others
    from it. Other credentials have one source for each kind.
    """

    def __init__(self, sources: Sequence[IAccounts]) -> None:
        self._sources = {source.name: source for source in sources}
        checkers = [cast(IAccountsChecker, source) for source in sources]
        chain = _Chain([checker for checker in checkers if ILogin in checker.credentialInterfaces])
        self._portal = Portal(_Realm(self._sources), [chain])
        for checker in checkers:
            if ILogin not in checker.credentialInterfaces:
                self._portal.registerChecker(cast(ICredentialsChecker, checker))

    def __bool__(self) -> bool:
        """Whether anybody could log in."""
        return bool(self._sources)

    def account(self, identity: Identity) -> Account | None:
        """The account of an identity that was proved before; None if its source is not there any more."""
        source = self._sources.get(identity.source)
        return None if source is None else Account(identity, source)

    def knows(self, username: str) -> bool:
        """Whether this is the name of an account, and so may be shown."""
        return any(source.knows(username) for source in self._sources.values())

    async def login(self, credentials: ICredentials) -> Account:
        """The account that these credentials prove. Raises as `IAccounts` says, and LoginFailed for a kind that nobody
        takes here."""
        _, account, _ = await self._portal.login(credentials, None, IAccount)
        assert isinstance(account, Account)
        return account


@implementer(IRealm)
class _Realm:
    def __init__(self, sources: dict[str, IAccounts]) -> None:
        self._sources = sources

    def requestAvatar(
        self, avatarId: object, mind: object, *interfaces: type[Interface]
    ) -> tuple[type[Interface], object, Callable[[], None]]:
        assert isinstance(avatarId, Identity)
        return IAccount, Account(avatarId, self._sources[avatarId.source]), lambda: None


@implementer(ICredentialsChecker)
class _Chain:
    credentialInterfaces = (ILogin,)

    def __init__(self, sources: Sequence[IAccountsChecker]) -> None:
        self._sources = sources

    # Twisted has bytes for who somebody is.
    def requestAvatarId(self, credentials: ILogin) -> "Deferred[Identity]":  # type: ignore[override]
        return Deferred.fromCoroutine(self._first(credentials))

    async def _first(self, login: ILogin) -> Identity:
        unavailable: AccountsUnavailable | None = None
        for source in self._sources:
            try:
                identity: Identity = await source.requestAvatarId(login)
                return identity
            except Withdrawn:
                raise
            except UnauthorizedLogin:
                continue
            except AccountsUnavailable as error:
                unavailable = error
        raise unavailable or UnauthorizedLogin
