"""Configurations for tests: a writer of TOML, arbitrary documents, and correct ones with what they mean."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from datetime import date, datetime, time
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

from attrs import evolve
from hypothesis import strategies as st

from depproxy.config import (
    AccessSettings,
    CacheSettings,
    GroupSettings,
    IndexSettings,
    MirrorSettings,
    Schedule,
    ServerSettings,
    Settings,
    StorageSettings,
    UpstreamSettings,
    WarmSettings,
    load,
)
from tests.configurations_accounts import Drawn, accounts, some
from tests.strategies import some_platforms

HUB: Final = UpstreamSettings("docker.io", "https://registry-1.docker.io", token_hosts=("auth.docker.io",))
LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
HOME: Final = {"HOME": "/home/ci"}


def load_text(toml: str, **overrides: Any) -> Settings:
    """What a file with this content means, with the overrides of `load`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "depproxy.toml")
        path.write_bytes(toml.encode())
        return load(path, environ=HOME, **overrides)


def to_toml(document: Mapping[str, Any]) -> str:
    """A TOML document of key = value lines; tables inside are written inline."""
    return "".join(f"{toml_key(key)} = {toml_value(value)}\n" for key, value in document.items())


def toml_value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return toml_key(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    # true, false, nan, inf and numbers
    return str(value).lower()


def toml_key(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


KEYS: Final = (
    *("server", "storage", "index", "cache", "upstreams", "mirror", "groups", "listen", "public_url", "path"),
    *("drain_timeout", "max_connections", "url", "serve_stale", "docker.io", "ghcr.io", "username", "proxy"),
    *("password_file", "ca_file", "on_404", "freshness", "prefixes", "token_hosts", "retries", "group"),
    *("upstream", "anonymous", "unix_sockets", "enabled", "ttl", "quota", "acme", "acme/tools", "access", "users"),
    *("alice", "password", "password_login", "tokens", "members", "deploy_tokens", "access_tokens", "hash", "scopes"),
    "role",
)
TABLES: Final = {
    "server": ("listen", "public_url", "enabled", "drain_timeout", "stall_timeout", "max_connections", "admin_socket"),
    "storage": ("path", "max_size"),
    "index": ("url",),
    "cache": ("serve_stale", "revalidate_timeout", "negative_ttl", "documents_ttl"),
    "mirror": ("group", "upstream", "anonymous", "unix_sockets"),
    "access": ("token_lifetime", "algorithm", "require_write_registry", "htpasswd", "gitlab", "oidc"),
}
_LISTS: Final = ("images", "schedule", "group", "platforms")
_TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    (
        "tcp:5000",
        "unix:x",
        "https://u:p@x",
        "30s",
        "follow",
        "embedded",
        "redis://h",
        "10.0.0.0/8",
        "/dev/null",
        "/",
    )
)
_SCALARS: Final = st.one_of(
    _TEXT,
    st.booleans(),
    st.integers(),
    st.floats(),
    st.datetimes(),
    st.dates(),
    st.times(),
)
TOML_VALUES: Final = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | _TEXT, inner, max_size=3),
    max_leaves=8,
)


_TOKENS: Final = st.dictionaries(
    st.sampled_from(("ci", "laptop")),
    st.dictionaries(st.sampled_from(("hash", "scopes", "expires", "role")), TOML_VALUES, max_size=3),
)
_ACCOUNTS: Final = st.dictionaries(
    st.sampled_from(("password", "admin", "members", "tokens", "deploy_tokens", "enabled")), TOML_VALUES | _TOKENS
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Arbitrary documents, most of which have tables and keys that depproxy knows."""
    document: dict[str, Any] = draw(st.dictionaries(st.sampled_from(KEYS) | _TEXT, TOML_VALUES, max_size=2))
    for table in draw(st.lists(st.sampled_from(sorted(TABLES)), max_size=2)):
        document[table] = draw(st.dictionaries(st.sampled_from(TABLES[table]), TOML_VALUES, max_size=3))
    if draw(st.booleans()):
        names = st.sampled_from(("ghcr.io", "docker.io", "localhost:5000")) | _TEXT
        keys = st.dictionaries(st.sampled_from(KEYS), TOML_VALUES, max_size=3)
        document["upstreams"] = draw(st.dictionaries(names, keys, max_size=2))
    if draw(st.booleans()):
        lists = st.dictionaries(st.sampled_from(_LISTS), TOML_VALUES | st.just(["alpine"]) | st.just("0 4 * * *"))
        document["warm"] = draw(st.lists(lists, max_size=2))
    for table, owners in (("users", ("alice", "bob")), ("groups", ("acme", "acme/tools"))):
        if draw(st.booleans()):
            document[table] = draw(st.dictionaries(st.sampled_from(owners), _ACCOUNTS, max_size=2))
    return document


_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def durations(low: float, high: float, *, forever: bool = False) -> Drawn:
    """Durations in every unit, from ``low`` to ``high`` seconds."""
    drawn: list[Drawn] = [_in_unit(unit, low, high) for unit in _UNITS if low / _UNITS[unit] <= high // _UNITS[unit]]
    if forever:
        drawn.append(st.just(("forever", math.inf)))
    if low == 0:
        drawn.append(st.just((0, 0.0)))
    return st.one_of(drawn)


def _in_unit(unit: str, low: float, high: float) -> Drawn:
    def means(number: int) -> tuple[str, float]:
        return f"{number}{unit}", number / 1000 if unit == "ms" else number * _UNITS[unit]

    return st.integers(math.ceil(low / _UNITS[unit]), math.floor(high / _UNITS[unit])).map(means)


def sizes() -> Drawn:
    """Sizes in every unit, from 100 MiB."""
    spaces = st.sampled_from(("", " "))

    def in_unit(unit: str, least: int, size: int) -> Drawn:
        pairs = st.tuples(st.integers(least, 10**6), spaces)
        return pairs.map(lambda pair: (f"{pair[0]}{pair[1]}{unit}", pair[0] * size))

    units = (("MiB", 100, 1 << 20), ("GiB", 1, 1 << 30), ("TiB", 1, 1 << 40))
    return st.one_of(*(in_unit(*unit) for unit in units), st.just(("unlimited", math.inf)))


def same(values: st.SearchStrategy[Any]) -> Drawn:
    """Values that stand in the file as they are."""
    return values.map(lambda value: (value, value))


def arrays(items: Drawn, least: int = 0) -> Drawn:
    """Arrays of different items."""
    lists = st.lists(items, min_size=least, max_size=3, unique_by=lambda pair: pair[1])
    return lists.map(lambda pairs: ([pair[0] for pair in pairs], tuple(pair[1] for pair in pairs)))


_LABELS: Final = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5})?", fullmatch=True)
_PORTS: Final = st.integers(1, 65535)
HOSTS: Final = st.one_of(
    st.lists(_LABELS, min_size=2, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
).flatmap(lambda host: st.just(host) | _PORTS.map(lambda port: f"{host}:{port}"))
_SCHEMES: Final = st.sampled_from(("http", "https"))
URLS: Final = st.tuples(_SCHEMES, HOSTS).map("://".join)
_SLASHES: Final = st.sampled_from(("", "/"))
PUBLIC_URLS: Final = st.tuples(URLS, _SLASHES).map(lambda pair: ("".join(pair), pair[0]))
UPSTREAM_URLS: Final = st.tuples(URLS, st.sampled_from(("", "/mirror/hub")), _SLASHES).map(
    lambda parts: ("".join(parts), parts[0] + parts[1])
)
PROXIES: Final = st.tuples(_LABELS, _PORTS).map(lambda pair: f"http://{pair[0]}:{pair[1]}")
LISTENERS: Final = st.one_of(
    _PORTS.map(lambda port: f"tcp:{port}"),
    st.tuples(_PORTS, st.ip_addresses()).map(
        lambda pair: f"tcp:{pair[0]}:interface=" + str(pair[1]).replace(":", "\\:")
    ),
    st.sampled_from(("unix:/run/depproxy/http.sock:mode=660", "systemd:domain=INET:name=web", "unix:/x:backlog=9")),
)
REDIS_URLS: Final = st.sampled_from(
    (
        "embedded",
        "redis://h",
        "rediss://u:p@h:6380/2",
        "redis://[::1]:6379/0",
        "unix:///run/redis.sock",
        "unix://u:p@/s?db=3",
    )
)
NETWORKS: Final = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda pair: IPv6Network(pair, strict=False)),
).map(lambda network: (str(network), network))
GROUPS: Final = st.lists(
    st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,9}[A-Za-z0-9_])?", fullmatch=True).filter(
        lambda segment: not segment.endswith((".git", ".atom"))
    ),
    min_size=1,
    max_size=4,
).map("/".join)
PLATFORMS: Final = arrays(same(some_platforms()), least=1).map(
    lambda pair: ([str(platform) for platform in pair[0]], frozenset(pair[1]))
)
PATTERNS: Final = st.text("abv019._-*?[]!", min_size=1, max_size=12)
FRESHNESS: Final = st.dictionaries(PATTERNS, durations(0, 10**8, forever=True), max_size=4).map(
    lambda table: (
        {pattern: pair[0] for pattern, pair in table.items()},
        tuple((pattern, pair[1]) for pattern, pair in table.items()),
    )
)

_SERVER: Final = {
    "listen": arrays(same(LISTENERS), least=1),
    "public_url": PUBLIC_URLS,
    "enabled": same(st.booleans()),
    "drain_timeout": durations(0, 3600),
    "stall_timeout": durations(1, 3600),
    "max_connections": same(st.integers(1, 10**6)),
    "trusted_proxies": arrays(NETWORKS),
    "metrics": arrays(NETWORKS),
}
_ACCESS: Final = {
    "token_lifetime": durations(60, 86400),
    "refresh_lifetime": durations(0, 365 * 86400),
    "algorithm": same(st.sampled_from(("HS256", "ES256", "EdDSA"))),
    "require_write_registry": same(st.booleans()),
    "guesses_per_account": same(st.integers(1, 10**6)),
    "guesses_per_address": same(st.integers(1, 10**6)),
}
_CACHE: Final = {
    # In milliseconds that is 12 digits, which is all that are read.
    "serve_stale": durations(0, 10**9 - 1, forever=True),
    "revalidate_timeout": durations(0.1, 60),
    "negative_ttl": durations(0, 86400),
    "documents_ttl": durations(0, 86400),
}
_UPSTREAM: Final = {
    "url": UPSTREAM_URLS,
    "proxy": same(PROXIES),
    "max_connections": same(st.integers(1, 10_000)),
    "on_404": same(st.sampled_from(("follow", "keep"))),
    "freshness": FRESHNESS,
    "token_hosts": arrays(same(HOSTS)),
    "connect_timeout": durations(0.1, 300),
    "first_byte_timeout": durations(0.1, 600),
    "silence_timeout": durations(0.1, 3600),
    "retries": same(st.integers(0, 10)),
}
_MIRROR: Final = {
    "group": GROUPS.map(lambda path: (path, path.lower())),
    "anonymous": arrays(NETWORKS),
    "unix_sockets": same(st.booleans()),
}
# Short enough for a Unix socket below them.
_PATHS: Final = st.from_regex(r"/?[a-z0-9]{1,8}(/[a-z0-9. -]{0,8}[a-z0-9]){0,4}", fullmatch=True)


@st.composite
def settings(draw: st.DrawFn, base: Path) -> tuple[dict[str, Any], Settings]:
    """A correct document, and the settings that it means in a file in ``base``."""
    server, server_means = some(draw, {**_SERVER, "public_url": PUBLIC_URLS})
    if "public_url" not in server:
        server["public_url"] = server_means["public_url"] = "https://cache.example"
    cache, cache_means = some(draw, _CACHE)
    mirror, mirror_means = some(draw, _MIRROR)
    storage, storage_means = some(draw, {"max_size": sizes()})
    path = draw(_PATHS)
    server_means["admin_socket"] = base / path / "admin.sock"
    if draw(st.booleans()):
        server["admin_socket"] = draw(_PATHS)
        server_means["admin_socket"] = base / server["admin_socket"]
    index = draw(REDIS_URLS)
    upstreams, upstreams_mean = _upstreams(draw)
    upstreams_mean.setdefault("docker.io", HUB)
    if draw(st.booleans()):
        mirror["upstream"] = mirror_means["upstream"] = draw(st.sampled_from(sorted(upstreams_mean)))
    access, access_means = some(draw, _ACCESS)
    users, groups, users_mean, groups_mean = accounts(draw, GROUPS, arrays(NETWORKS))
    meant = MirrorSettings(**mirror_means)
    warm, warm_means = _warm(draw, meant.group)
    groups_mean.setdefault(meant.group, GroupSettings(meant.group))
    document: dict[str, Any] = {
        "server": server,
        "storage": {"path": path, **storage},
        "index": {"url": index},
        "cache": cache,
        "mirror": mirror,
        "upstreams": upstreams,
        "access": access,
        "users": users,
        "groups": groups,
    }
    if warm:
        # An array of tables has at least one.
        document["warm"] = warm
    return document, Settings(
        server=ServerSettings(**server_means),
        storage=StorageSettings(base / path, **storage_means),
        index=IndexSettings(index),
        cache=CacheSettings(**cache_means),
        upstreams=upstreams_mean,
        mirror=meant,
        groups=groups_mean,
        access=AccessSettings(**access_means),
        users=users_mean,
        warm=warm_means,
    )


def _warm(draw: st.DrawFn, mirror: str) -> tuple[list[dict[str, Any]], tuple[WarmSettings, ...]]:
    documents: list[dict[str, Any]] = []
    means: list[WarmSettings] = []
    for text in draw(st.lists(st.sampled_from(("0 4 * * *", "*/5 1-3 * JAN,FEB SUN", "0 0 L * *")), max_size=2)):
        images = draw(st.lists(st.sampled_from(("alpine", "team/app:1", "docker.io/a")), min_size=1, unique=True))
        found, meant = some(draw, {"group": GROUPS.map(lambda path: (path, path.lower())), "platforms": PLATFORMS})
        found["images"], found["schedule"] = images, text
        documents.append(found)
        meant.setdefault("group", mirror)
        means.append(WarmSettings(tuple(images), Schedule(text), **meant))
    return documents, tuple(means)


def _upstreams(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, UpstreamSettings]]:
    documents: dict[str, Any] = {}
    means: dict[str, UpstreamSettings] = {}
    for number, name in enumerate(draw(st.lists(HOSTS | st.just("docker.io"), unique=True, max_size=3))):
        documents[name], meant = some(draw, _UPSTREAM)
        if draw(st.booleans()):
            documents[name]["prefixes"] = ["hub-" + str(number), "p" + str(number)]
            meant["prefixes"] = tuple(documents[name]["prefixes"])
        default = HUB if name == "docker.io" else UpstreamSettings(name, f"https://{name}")
        if name == "docker.io" and "url" in meant:
            default = evolve(default, token_hosts=())
        means[name] = evolve(default, **meant)
    return documents, means
