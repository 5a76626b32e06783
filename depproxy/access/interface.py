"""Accounts: who somebody is, and what that gives him. Every source of accounts is a twisted.cred checker."""

from collections.abc import Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from zope.interface import Attribute, Interface, implementer

from depproxy.config import Role


class ICaller(Protocol):
    """Who sends a request, as far as the connection and its headers tell. Each is looked for when it is asked for."""

    @property
    def authorization(self) -> bytes | None:
        """The Authorization header."""

    @property
    def address(self) -> IAddress:
        """The client's address."""

    @property
    def certificate(self) -> "ClientCertificate | None":
        """The certificate that the client proved to have, which was verified."""


class IClientCertificate(ICredentials):
    """A certificate that the client proved to have, and that was verified."""

    names: tuple[str, ...] = Attribute("What it names, the first one first.")
    expires: float = Attribute("Its end, as Unix time.")


@implementer(IClientCertificate)
@frozen
class ClientCertificate:
    """`IClientCertificate`."""

    names: tuple[str, ...]
    expires: float


class ILogin(ICredentials):
    """A user name with a password, or with a token in its place."""

    username: str = Attribute("As it was sent: not checked in any way but for its length, at most 255 characters.")
    password: str = Attribute("As it was sent, at most 16 KiB: an OIDC token is a password, too.")
    address: str = Attribute("The client's address, for messages.")


@implementer(ILogin)
@frozen
class Login:
    """`ILogin`."""

    username: str
    password: str = field(repr=False)
    address: str


@frozen
class Identity:
    """
    Who proved to be who, and by what. A token carries it, so there is no secret in it.

    `source` is the `IAccounts.name` that knows more. `name` is what messages call the account. `credential` says by
    what it was proved, so that withdrawing it counts at once; its form is the source's own affair. `expires` is when
    the credential itself ends (Unix time), None: never.
    """

    source: str
    name: str
    credential: str
    expires: float | None = None


class Withdrawn(UnauthorizedLogin):
    """What once proved an identity proves it no more: revoked, expired, changed. `str()` may be shown to its bearer."""


class AccountsUnavailable(Exception):
    """A source of accounts that lives elsewhere cannot be asked now, so nothing is known."""


class IAccounts(Interface):
    """
    One source of accounts; a `twisted.cred.checkers.ICredentialsChecker` as well.

    Its `requestAvatarId` takes an `ILogin` or an `IClientCertificate`, as its `credentialInterfaces` say, and fires
    with an `Identity`. It fails with `UnauthorizedLogin` where the credentials are not known here or wrong (the caller
    is told nothing more), `Withdrawn` where the secret was right but is expired or not enough, `AccountsUnavailable`,
    or `hashing.Busy`.
    """

    name: str = Attribute("Short and stable: it stands in tokens.")
    max_age: float = Attribute("How long (seconds) an answer of `role` may be relied on; infinity: until a reload.")
    renewable: bool = Attribute("Whether an identity can be told to be good without its secret, for a refresh token.")

    async def role(identity: Identity, group: str) -> Role | None:
        """
        What this identity is in a group now, roles in the groups above it included; None if it is nothing there, or
        if there is no such group. Raises `Withdrawn`, `AccountsUnavailable`.
        """

    async def administers(identity: Identity) -> bool:
        """
        Whether the credential behind this identity is good for more than pulling, as far as its owner's role goes.
        Raises `Withdrawn`, `AccountsUnavailable`.
        """

    def knows(username: str) -> bool:
        """Whether this is the name of an account here. What is none may be a password in the wrong place."""


class IAccountsChecker(IAccounts):
    """Stands for both interfaces in annotations."""

    credentialInterfaces: "Sequence[type[Interface]]" = Attribute("What `requestAvatarId` takes.")

    def requestAvatarId(credentials: ICredentials) -> "Deferred[Identity]":
        """See `IAccounts`."""
