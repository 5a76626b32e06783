"""The users of an Apache htpasswd file, whose passwords are hashed by bcrypt (`htpasswd -B`)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from depproxy.access.hashing import Hashing
from depproxy.access.interface import IAccounts, Identity, ILogin, Withdrawn
from depproxy.access.passwords import fingerprint, is_token, stand_in
from depproxy.access.roles import Memberships
from depproxy.config import ConfigError, GroupSettings, Role
from depproxy.config.accounts import password_hash, user_name
from depproxy.config.errors import Wrong
from depproxy.config.values import read_regular

LARGEST: Final = 1 << 20
"""Bytes of a file."""

MOST_LINES: Final = 100_000

_BCRYPT: Final = ("$2a$", "$2b$", "$2y$")


class HtpasswdError(ConfigError):
    """A file that cannot be used. `str()` names it and the line, and nothing of what stands there."""


def read_htpasswd(path: Path) -> dict[str, str]:
    """
    The hashes by user name. Empty lines, and those that begin with #, do not count; nor does what stands behind a
    second colon. Raises HtpasswdError.
    """
    try:
        text = read_regular(path, LARGEST).decode("utf-8")
    except UnicodeDecodeError:
        raise HtpasswdError(f"{path}: must be UTF-8 text") from None
    except Wrong as wrong:
        raise HtpasswdError(f"{path}: {wrong}") from None
    lines = text.split("\n")
    if len(lines) > MOST_LINES:
        raise HtpasswdError(f"{path}: must have at most {MOST_LINES} lines")
    found: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            try:
                name, hashed = _entry(line)
                if name in found:
                    raise Wrong("the user name must stand there once")
            except Wrong as wrong:
                raise HtpasswdError(f"{path}: line {number}: {wrong}") from None
            found[name] = hashed
    return found


def _entry(line: str) -> tuple[str, str]:
    """Name and hash of a line. Raises Wrong, whose text has nothing of the line."""
    name, colon, rest = line.partition(":")
    hashed = rest.partition(":")[0]
    if not colon:
        raise Wrong("must be a user name and a hash, with a colon between them")
    try:
        user_name(name)
    except Wrong as wrong:
        raise Wrong(f"the user name {wrong}") from None
    try:
        password_hash(hashed)
    except Wrong:
        hashed = ""
    if not hashed.startswith(_BCRYPT):
        raise Wrong("the hash must be one by bcrypt with a cost from 4 to 14, as htpasswd -B makes it")
    return name, hashed


@implementer(IAccounts, ICredentialsChecker)
class HtpasswdAccounts:
    """
    `IAccounts` of a file, whose hashes by user name `read_htpasswd` gives. A reload makes a new one.

    What its users may is said by the members of groups, by name; there are no admins among them.
    """

    name = "htpasswd"
    max_age = math.inf
    renewable = True
    credentialInterfaces = (ILogin,)

    def __init__(self, hashes: Mapping[str, str], groups: Mapping[str, GroupSettings], hashing: Hashing) -> None:
        self._hashes = hashes
        self._memberships = Memberships(groups)
        self._hashing = hashing
        self._stand_in = stand_in(self._hashes.values())

    def requestAvatarId(self, credentials: ILogin) -> "Deferred[Identity]":  # type: ignore[override]
        """See `IAccounts`."""
        return Deferred.fromCoroutine(self._prove(credentials))

    async def role(self, identity: Identity, group: str) -> Role | None:
        """See `IAccounts`."""
        hashed = self._hashes.get(identity.name)
        if hashed is None or _credential(hashed) != identity.credential:
            raise Withdrawn(f"the password of {identity.name} was changed or removed: log in again")
        return self._memberships.role(identity.name, group)

    async def administers(self, identity: Identity) -> bool:
        """See `IAccounts`."""
        return True

    def knows(self, username: str) -> bool:
        """See `IAccounts`."""
        return username in self._hashes

    async def _prove(self, login: ILogin) -> Identity:
        if not self._hashes or is_token(login.password):
            raise UnauthorizedLogin
        hashed = self._hashes.get(login.username)
        right = await self._hashing.check(login.password, hashed, login.username, self._stand_in)
        if hashed is None or not right:
            raise UnauthorizedLogin
        return Identity(self.name, login.username, _credential(hashed))


def _credential(hashed: str) -> str:
    return f"password:{fingerprint(hashed)}"
