"""Where a Redis is: the URL forms of the setting `index.url`, and the endpoint that each one means.

======================================================  ===================================================
``redis://[user:password@]host[:port][/database]``      TCP, port 6379 and database 0 unless given
``rediss://...``                                        the same under TLS, verified by the platform's trust
``unix:///path``, ``unix:/path``                        a unix socket; ``?db=N`` names another database than 0
======================================================  ===================================================

User and password may stand in each of them, percent-encoded. No error and no text form ever shows them.
"""

from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from attrs import field, frozen
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS

DEFAULT_PORT = 6379


class InvalidAddress(ValueError):
    """The URL is not of a known form. The text says what is wrong, without the URL, which may hold a
    password."""


@frozen
class Credentials:
    """What AUTH is to be given; without a user it is Redis' user "default"."""

    username: str | None
    password: str = field(repr=False)


@frozen
class RedisAddress:
    """A Redis server and database. Exactly one of `host` and `path` is set. `str()` is fit for logs."""

    host: str | None
    port: int
    path: str | None
    tls: bool
    database: int
    credentials: Credentials | None = field(repr=False)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}" + (f"?db={self.database}" if self.database else "")
        host = f"[{self.host}]" if ":" in (self.host or "") else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"

    def endpoint(self, reactor: Any, timeout: float, trust_root: Certificate | None = None) -> IStreamClientEndpoint:
        """An endpoint that connects within `timeout` seconds. `trust_root` takes the place of the
        platform's."""
        if self.path is not None:
            unix: IStreamClientEndpoint = UNIXClientEndpoint(reactor, self.path, timeout=timeout)
            return unix
        assert self.host is not None
        plain: IStreamClientEndpoint = HostnameEndpoint(reactor, self.host, self.port, timeout=timeout)
        if not self.tls:
            return plain
        return wrapClientTLS(optionsForClientTLS(self.host, trust_root), plain, reactor)


def parse_address(url: str) -> RedisAddress:
    """Read a redis, rediss or unix URL. Raises `InvalidAddress`."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        # The library's text quotes what it could not read, and that may be a piece of a password.
        raise InvalidAddress(
            "not a URL of the form redis://host:port/db (is there an unquoted / or # or ? in the password?)"
        ) from None
    if parts.fragment:
        raise InvalidAddress("a # in the password must be written %23")
    if scheme == "unix":
        return _unix_address(parts)
    if scheme not in ("redis", "rediss"):
        raise InvalidAddress("must begin with redis://, rediss:// or unix:///")
    if not host:
        raise InvalidAddress("names no host")
    if parts.query:
        raise InvalidAddress("takes no ?parameters (a ? in the password must be written %3F)")
    database = _database(parts.path.removeprefix("/") or "0")
    return RedisAddress(
        host, DEFAULT_PORT if port is None else port, None, scheme == "rediss", database, _credentials(parts)
    )


def _unix_address(parts: SplitResult) -> RedisAddress:
    path = unquote(parts.path)
    if parts.hostname or not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise InvalidAddress("must name the socket by its absolute path: unix:///path/to/redis.sock")
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    if [name for name, _ in parameters] not in ([], ["db"]):
        raise InvalidAddress("takes no ?parameters but db")
    database = _database(dict(parameters).get("db", "0"))
    return RedisAddress(None, 0, path, False, database, _credentials(parts))


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidAddress("the database must be a number")
    return int(text)


def _credentials(parts: SplitResult) -> Credentials | None:
    if parts.password is None:
        if parts.username:
            raise InvalidAddress("names a user without a password")
        return None
    return Credentials(unquote(parts.username or "") or None, unquote(parts.password))
