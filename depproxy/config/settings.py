"""Every setting with its default and its limits. Durations are seconds, infinity is "forever"; sizes
are bytes, infinity is "unlimited".

A field that has a reader is a key of the file's table of the same name; the others are filled in by `load`. What is
`fixed` was bound, opened or connected at the start: a reload leaves it as it is.
"""

# ruff: noqa: RUF009 - key() makes an attrs field, which is what a class body may call.

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal

from attrs import field, frozen

from depproxy.config import names, values
from depproxy.config.accounts import AccessSettings, GroupSettings, UserSettings
from depproxy.config.endpoints import parse_listener
from depproxy.config.errors import mask
from depproxy.config.keys import by, key
from depproxy.config.units import parse_duration, parse_size
from depproxy.config.values import Network, each, text
from depproxy.config.warm import WarmSettings
from depproxy.oci.image import ImageNames

OnMissing = Literal["follow", "keep"]

LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


def _seconds(default: str, low: str, high: str, *, fixed: bool = False) -> float:
    return key(parse_duration(default), values.duration(low, high), fixed=fixed)


def _listen_string(value: str) -> str:
    parse_listener(value)
    return value


@frozen
class ServerSettings:
    """``[server]``: where depproxy listens, and the limits of a connection to a client."""

    listen: tuple[str, ...] = key(
        ("tcp:5000:interface=127.0.0.1",), each(text(_listen_string), least=1, most=32), fixed=True
    )
    public_url: str = key("http://127.0.0.1:5000", text(names.public_url))
    enabled: bool = key(True, values.boolean)
    drain_timeout: float = _seconds("30s", "0s", "1h")
    stall_timeout: float = _seconds("60s", "1s", "1h")
    max_connections: int = key(10_000, values.whole(1, 1_000_000))
    metrics: tuple[Network, ...] = key(LOOPBACK, each(text(values.network)))
    trusted_proxies: tuple[Network, ...] = key((), each(text(values.network)))
    client_ca: Path | None = key(None, values.certificates)
    admin_socket: Path = key(Path("admin.sock"), values.socket_path, fixed=True)


@frozen
class StorageSettings:
    """``[storage]``: the directory that holds everything depproxy keeps, and how many bytes of blobs."""

    path: Path = field(metadata=by(values.directory, fixed=True))
    max_size: float = key(parse_size("50 GiB"), values.size("100 MiB"))


@frozen
class IndexSettings:
    """``[index]``: ``embedded``, or the URL of a Redis, which may hold a password: masked in the repr."""

    url: str = field(default="embedded", repr=mask, metadata=by(text(names.index_url), fixed=True))


@frozen
class CacheSettings:
    """``[cache]``: how long answers are good for."""

    serve_stale: float = _seconds("7d", "0s", "forever")
    revalidate_timeout: float = _seconds("3s", "100ms", "1m")
    negative_ttl: float = _seconds("30s", "0s", "1d")
    documents_ttl: float = _seconds("30s", "0s", "1d")


@frozen
class UpstreamSettings:
    """``[upstreams."NAME"]``: a registry to fetch from. ``url`` has no trailing slash."""

    name: str
    url: str = field(metadata=by(text(names.upstream_url), fixed=True))
    username: str | None = key(None, text(values.username), fixed=True)
    password_file: Path | None = key(None, values.readable_file, fixed=True)
    ca_file: Path | None = key(None, values.certificates, fixed=True)
    proxy: str | None = key(None, text(names.proxy_url), fixed=True)
    max_connections: int = key(64, values.whole(1, 10_000), fixed=True)
    on_404: OnMissing = key("follow", values.choice("follow", "keep"))
    freshness: tuple[tuple[str, float], ...] = key((), values.freshness)
    prefixes: tuple[str, ...] = key((), each(text(names.prefix)))
    token_hosts: tuple[str, ...] = key((), each(text(names.host_name)), fixed=True)
    connect_timeout: float = _seconds("10s", "100ms", "5m", fixed=True)
    first_byte_timeout: float = _seconds("30s", "100ms", "10m", fixed=True)
    silence_timeout: float = _seconds("60s", "100ms", "1h", fixed=True)
    retries: int = key(3, values.whole(0, 10), fixed=True)

    @property
    def host(self) -> str:
        """The host, and port where written, of ``url``."""
        return self.url.split("://", 1)[1].split("/", 1)[0]

    def freshness_of(self, tag: str) -> float:
        """Seconds for which ``tag`` needs no upstream HEAD: of the first pattern that matches, else 0."""
        return next((age for pattern, age in self.freshness if fnmatchcase(tag, pattern)), 0.0)


@frozen
class MirrorSettings:
    """``[mirror]``: group and upstream of addresses that name neither, and who needs no token there."""

    group: str = key("local", text(names.group_path))
    upstream: str = key(names.HUB, text(names.upstream_name))
    anonymous: tuple[Network, ...] = key(LOOPBACK, each(text(values.network)))
    unix_sockets: bool = key(False, values.boolean)


def image_names(mirror: MirrorSettings, upstreams: Mapping[str, UpstreamSettings]) -> ImageNames:
    """What names of images mean with these settings."""
    return ImageNames(mirror.upstream, {name: upstream.prefixes for name, upstream in upstreams.items()})


@frozen
class Settings:
    """The whole configuration. Each collaborator gets its own part of it, never all of it."""

    server: ServerSettings
    storage: StorageSettings
    index: IndexSettings
    cache: CacheSettings
    upstreams: Mapping[str, UpstreamSettings]
    mirror: MirrorSettings
    groups: Mapping[str, GroupSettings]
    access: AccessSettings
    users: Mapping[str, UserSettings]
    warm: tuple[WarmSettings, ...] = ()
