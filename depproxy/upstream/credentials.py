"""The user name and password for an upstream, and where they may be sent."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen
from twisted.logger import Logger
from zope.interface import Interface, implementer

from depproxy.config import ConfigError, UpstreamSettings, read_secret
from depproxy.upstream.errors import Unavailable
from depproxy.upstream.interface import Credential
from depproxy.upstream.redirects import Url


class ICredentials(Interface):
    """Where the credential in use comes from."""

    def current() -> Credential | None:
        """The credential of now, None if there is none. Raises Unavailable where it cannot be read."""

    def again() -> Credential | None:
        """As `current`, but it is looked for even where nothing seems to have changed: for one that was refused."""


@implementer(ICredentials)
@frozen
class Given:
    """One credential, which does not change."""

    credential: Credential

    def current(self) -> Credential | None:
        return self.credential

    def again(self) -> Credential | None:
        return self.credential


@implementer(ICredentials)
class Credentials:
    """What an upstream's settings say about credentials. A password file that has changed is read again."""

    _log = Logger()

    def __init__(self, settings: UpstreamSettings) -> None:
        self._upstream = settings.name
        self._username = settings.username
        self._path = settings.password_file
        self._stamp: tuple[int, int, int] | None = None
        self._known: Credential | None = None
        self._told = False

    def current(self) -> Credential | None:
        """The credential of now, None if none is configured.

        A file that cannot be read, such as one that is just being replaced, leaves the credential as it was; raises
        Unavailable where there was none yet.
        """
        if self._username is None or self._path is None:
            return None
        stamp = _stamp(self._path)
        if self._known is None or stamp is None or stamp != self._stamp:
            self._known = self._read(self._username, self._path) or self._known
            self._stamp = stamp
        if self._known is None:
            # Without the path: the message reaches clients.
            raise Unavailable(self._upstream, "its password file cannot be read; the log says why")
        return self._known

    def again(self) -> Credential | None:
        """As `current`, but the file is read even if it looks unchanged: for a password that was refused."""
        self._stamp = None
        return self.current()

    def _read(self, username: str, path: Path) -> Credential | None:
        try:
            secret = read_secret(path)
        except ConfigError as error:
            if not self._told:
                self._log.error("the password of {name} cannot be read: {error}", name=self._upstream, error=error)
            self._told = True
            return None
        self._told = False
        return Credential(username, secret)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def realm_trouble(realm: Url, upstream: Url, token_hosts: Collection[str], *, password: bool) -> str | None:
    """Why ``realm`` is not to be asked for a token, with what to do about it; None if it may be.

    An https upstream's realm is https. A password goes only to the upstream's own host, to one under the same
    registrable domain, or to one in ``token_hosts`` (with or without a port): a realm comes from the network.
    """
    if realm.scheme == "http" and upstream.scheme == "https":
        return f"its token realm http://{realm.netloc} is not https, so nothing is sent to it"
    if not password or realm.host == upstream.host:
        return None
    host = f"[{realm.host}]" if ":" in realm.host else realm.host
    if host in token_hosts or f"{host}:{realm.port}" in token_hosts:
        return None
    parent = registrable_parent(realm.host)
    if parent is not None and parent == registrable_parent(upstream.host):
        return None
    return (
        f"its token realm is at {realm.netloc}, which is not under the same domain as {upstream.host}; the password"
        f' is not sent there unless this upstream\'s token_hosts has "{host}"'
    )


def registrable_parent(host: str) -> str | None:
    """The domain that one owner is taken to have registered: the last two labels, or three where the second is
    as short as in ``co.uk``. None for addresses and single names, which share nothing."""
    try:
        ip_address(host)
    except ValueError:
        labels = host.rstrip(".").split(".")
    else:
        return None
    if len(labels) < 2 or labels[-1].isdecimal():
        return None
    count = 3 if len(labels[-2]) <= 3 else 2
    return ".".join(labels[-count:]) if len(labels) >= count and all(labels) else None
