"""Readers of names and addresses: hosts, URLs, upstream names, prefixes, group paths."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from depproxy.config.errors import Wrong

HUB: Final = "docker.io"
HUB_URL: Final = "https://registry-1.docker.io"
HUB_ALIASES: Final = ("index.docker.io", "registry-1.docker.io")
"""Other names under which clients know Docker Hub."""

# The first path segments of depproxy's own addresses; a prefix may not hide them.
OWN_ADDRESSES: Final = ("v2", "api", "groups", "healthz", "jwt", "metrics", "readyz")

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~%+-]+)*")
# A path component of a repository name (distribution-spec, "Pulling manifests").
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_GROUP_SEGMENT: Final = re.compile(r"[a-zA-Z0-9_.][a-zA-Z0-9_.-]{0,254}")
_DEEPEST_GROUP: Final = 20
_REDIS: Final = re.compile(r"rediss?://(?:[^@/?#:\s]*:[^@/?#\s]*@)?([^@/?#]*)(?:/[0-9]{0,9})?")
_REDIS_SOCKET: Final = re.compile(r"unix://(?:[^@/?#:\s]*:[^@/?#\s]*@)?/[^?#]*[^?#/](?:\?db=[0-9]{1,9})?")


def host_port(value: str) -> tuple[str, int | None]:
    """Host in lower case, and port where written. IPv6 stands in brackets (RFC 3986 section 3.2.2)."""
    found = _AUTHORITY.fullmatch(value)
    if found is None or not _is_host(host := found[1].lower()):
        raise Wrong('must be a host or host:port such as "registry.example:5000"')
    if found[2] is None:
        return host, None
    if not 1 <= int(found[2]) <= 65535:
        raise Wrong("must have a port from 1 to 65535")
    return host, int(found[2])


def host_name(value: str) -> str:
    """A host or host:port, in lower case."""
    host, port = host_port(value)
    return host if port is None else f"{host}:{port}"


def _is_host(host: str) -> bool:
    labels = host.split(".")
    try:
        if host.startswith("["):
            return "%" not in host and IPv6Address(host[1:-1]).version == 6
        if labels[-1].isdecimal():
            return IPv4Address(host).version == 4
    except ValueError:
        return False
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def upstream_url(value: str) -> str:
    """The base URL of a registry, to which ``/v2/...`` is added: no slash at its end, no credentials."""
    scheme, authority, path = _http_url(value, "https://registry.example")
    path = path.rstrip("/")
    if path == "/v2" or path.endswith("/v2"):
        raise Wrong("must be the registry's URL without /v2 at its end, which is added")
    if not _PATH.fullmatch(path) or any(segment in (".", "..") for segment in path.split("/")):
        raise Wrong("must have a plain path or none, such as https://registry.example/path")
    return f"{scheme}://{authority}{path}"


def public_url(value: str) -> str:
    """The URL under which clients reach depproxy: scheme, host and port."""
    scheme, authority, path = _http_url(value, "https://cache.example:5000")
    if path not in ("", "/"):
        raise Wrong("must have no path, because clients ask at /v2: https://cache.example:5000")
    return f"{scheme}://{authority}"


def proxy_url(value: str) -> str:
    """The URL of a forward proxy: ``http://host:port``."""
    try:
        scheme, authority, path = _http_url(value, "http://proxy.example:3128")
    except Wrong as wrong:
        if "@" not in value:
            raise
        raise Wrong("must be a proxy that asks for no user name, http://host:port") from wrong
    if scheme != "http" or path not in ("", "/") or host_port(authority)[1] is None:
        raise Wrong("must be the URL of a forward proxy, http://host:port")
    return f"{scheme}://{authority}"


def _http_url(value: str, example: str) -> tuple[str, str, str]:
    if "@" in value:
        raise Wrong("must have no user name or password in the URL; use the keys username and password_file")
    found = _URL.fullmatch(value)
    if found is None or found[1].lower() not in ("http", "https"):
        raise Wrong(f"must be an http or https URL such as {example}")
    if "?" in found[3] or "#" in found[3]:
        raise Wrong(f"must be a URL without ? and #, such as {example}")
    return found[1].lower(), host_name(found[2]), found[3]


def index_url(value: str) -> str:
    """Where the cache index is: ``embedded``, or the URL of a Redis."""
    if value == "embedded" or (_REDIS_SOCKET.fullmatch(value) and value.isprintable() and "%00" not in value):
        return value
    found = _REDIS.fullmatch(value)
    if found is None or not value.isprintable():
        raise Wrong('must be "embedded", redis://host:port/0, rediss://host:port/0 or unix:///path/of/socket')
    try:
        host_port(found[1])
    except Wrong as wrong:
        raise Wrong(f"the host of the Redis {wrong}") from None
    return value


def upstream_name(value: str) -> str:
    """An upstream's name: the host[:port] before the first slash of an image reference."""
    if value in HUB_ALIASES:
        raise Wrong(f'is Docker Hub, whose name here is "{HUB}"')
    try:
        name = host_name(value)
    except Wrong:
        raise Wrong('must be named by the host of its image references, such as "ghcr.io"') from None
    if name != value:
        raise Wrong(f'must be in lower case: "{name}"')
    # Image references take a first segment without dot or colon for a part of a Hub repository's name.
    if not any(mark in name for mark in ".:[") and name != "localhost":
        raise Wrong(
            'must be a host with a dot or a port, in quotes, such as [upstreams."ghcr.io"]; '
            "short names go into prefixes"
        )
    return name


def prefix(value: str) -> str:
    """One path segment that picks an upstream."""
    if len(value) > 128 or not _COMPONENT.fullmatch(value):
        raise Wrong('must be one path segment of a-z, 0-9 and single . _ - inside, such as "hub"')
    if value in OWN_ADDRESSES:
        raise Wrong("is an address of depproxy itself; choose another")
    return value


def group_path(value: str) -> str:
    """A group's path in lower case: GitLab's grammar, nested by slashes."""
    segments = value.split("/")
    for segment in segments:
        if not _GROUP_SEGMENT.fullmatch(segment) or segment.endswith((".", ".git", ".atom")):
            raise Wrong(
                'must be a group path such as "acme" or "acme/tools": letters, digits and _ . - '
                "in each segment, which neither starts with - nor ends in . .git .atom"
            )
        if segment.lower() == "dependency_proxy":
            raise Wrong("may have no segment dependency_proxy, which ends the group in an image's address")
    if len(segments) > _DEEPEST_GROUP:
        raise Wrong(f"may be nested {_DEEPEST_GROUP} deep at most")
    return value.lower()
