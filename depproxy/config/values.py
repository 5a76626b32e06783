"""Readers of plain values: a TOML value in, a typed one out, or `Wrong` with what would be right."""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, TypeVar

from depproxy.config.errors import Wrong, dotted, show
from depproxy.config.units import Quota, format_duration, parse_duration, parse_quota, parse_size

T = TypeVar("T")
Network = IPv4Network | IPv6Network

Reader = Callable[[object, Path], T]
"""Reads a TOML value; the path is the directory that relative paths start from. Raises Wrong."""

LONGEST_SOCKET_PATH: Final = 107
_LARGEST_CA_FILE: Final = 4 << 20
_MOST_ITEMS: Final = 1000
_LEAST_QUOTA: Final = "100 MiB"
_TAG_PATTERN: Final = re.compile(r"[A-Za-z0-9_.\-*?!\[\]]{1,128}")


def text(parse: Callable[[str], T]) -> Reader[T]:
    """A reader of strings that ``parse`` understands."""

    def read(value: object, _base: Path) -> T:
        if not isinstance(value, str):
            raise Wrong("must be a string in quotes")
        return parse(value)

    return read


def whole(low: int, high: int) -> Reader[int]:
    """A reader of whole numbers from ``low`` to ``high``."""

    def read(value: object, _base: Path) -> int:
        # A bool is an int in Python, but not in TOML.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Wrong(f"must be a whole number from {low} to {high}")
        return value

    return read


def boolean(value: object, _base: Path) -> bool:
    """Reads true or false."""
    if not isinstance(value, bool):
        raise Wrong("must be true or false")
    return value


def choice(*options: T) -> Reader[T]:
    """A reader of one of ``options``, which are strings."""

    def read(value: object, _base: Path) -> T:
        for option in options:
            if option == value:
                return option
        raise Wrong("must be " + " or ".join(show(option) for option in options))

    return read


_UNITS: Final = {"s": "seconds", "d": "days"}


def duration(low: str, high: str, *, unit: str = "s") -> Reader[float]:
    """A reader of durations from ``low`` to ``high``, in seconds; the number 0 needs no unit.

    A number without a unit is refused, with what it would be in ``unit``, ``"s"`` or ``"d"``.
    """
    least, most = parse_duration(low), parse_duration(high)
    bounds = f'must be a duration from "{low}" to "{high}", such as "30s", "5m", "2h" or "7d"'

    def read(value: object, _base: Path) -> float:
        if type(value) is int and value == 0:
            value = "0s"
        if type(value) is int and 0 < value < 10**9:
            right = format_duration(value) if unit == "s" else f"{value}{unit}"
            raise Wrong(f'needs a unit: "{right}" for {value} {_UNITS[unit]}')
        if not isinstance(value, str):
            raise Wrong(bounds)
        try:
            seconds = parse_duration(value)
        except ValueError:
            raise Wrong(bounds) from None
        if not least <= seconds <= most:
            raise Wrong(bounds)
        return seconds

    return read


def size(low: str) -> Reader[float]:
    """A reader of sizes from ``low`` to ``"unlimited"``, in bytes."""
    least = parse_size(low)
    bounds = f'must be a size of at least "{low}", such as "500 MiB", "50 GiB" or "2 TiB", or "unlimited"'

    def read(value: object, _base: Path) -> float:
        try:
            found = parse_size(value) if isinstance(value, str) else 0
        except ValueError:
            found = 0
        if found < least:
            raise Wrong(bounds)
        return found

    return read


def quota(value: object, _base: Path) -> Quota:
    """Reads a size, or a part of the whole cache in percent."""
    try:
        found = parse_quota(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or (found.part is None and found.size < parse_size(_LEAST_QUOTA)):
        raise Wrong(f'must be a size of at least "{_LEAST_QUOTA}", such as "20 GiB", or a part such as "25%"')
    return found


def each(reader: Reader[T], least: int = 0, most: int = _MOST_ITEMS) -> Reader[tuple[T, ...]]:
    """A reader of arrays of ``least`` to ``most`` different items."""

    def read(value: object, base: Path) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise Wrong("must be an array in square brackets, also for a single item")
        if not least <= len(value) <= most:
            raise Wrong(f"must have from {least} to {most} items, not {len(value)}")
        items: list[T] = []
        for index, item in enumerate(value):
            try:
                parsed = reader(item, base)
                if parsed in items:
                    raise Wrong("stands there twice; write it once")
            except Wrong as wrong:
                raise Wrong(str(wrong), item, f"[{index}]") from None
            items.append(parsed)
        return tuple(items)

    return read


def network(value: str) -> Network:
    """The network in CIDR notation; a bare address is a network of one."""
    try:
        found = ip_network(value, strict=False)
    except ValueError:
        found = None
    if found is None or "%" in value:
        raise Wrong('must be a network in CIDR notation such as "10.0.0.0/8" or "fd00::/8"')
    try:
        return ip_network(value)
    except ValueError:
        raise Wrong(f'has bits set beyond its prefix length; that network is "{found}"') from None


def freshness(value: object, base: Path) -> tuple[tuple[str, float], ...]:
    """Tag patterns with their durations, in the order in which they are written."""
    if not isinstance(value, dict):
        raise Wrong('must be a table of tag patterns and durations such as { "latest" = "30s" }')
    if len(value) > _MOST_ITEMS:
        raise Wrong(f"must have at most {_MOST_ITEMS} patterns, not {len(value)}")
    seconds = duration("0s", "forever")
    pairs: list[tuple[str, float]] = []
    for pattern, age in value.items():
        try:
            if not _TAG_PATTERN.fullmatch(pattern):
                raise Wrong("the pattern may have the characters of a tag, * ? and [...], at most 128 in all")
            pairs.append((pattern, seconds(age, base)))
        except Wrong as wrong:
            raise Wrong(str(wrong), age, "." + dotted(pattern)) from None
    return tuple(pairs)


def username(value: str) -> str:
    """A user name fit for Basic authentication (RFC 7617 section 2: no colon, no control characters)."""
    if not 1 <= len(value) <= 255 or ":" in value or not value.isprintable():
        raise Wrong("must be a user name of 1 to 255 characters without a colon")
    return value


def path(value: object, base: Path) -> Path:
    """A path; a relative one starts at ``base``."""
    if not isinstance(value, str):
        raise Wrong("must be a path in quotes")
    if not value or "\0" in value:
        raise Wrong("must be a path")
    if value.startswith("~"):
        raise Wrong("must be written in full; ~ is not expanded")
    return base / value


def directory(value: object, base: Path) -> Path:
    """The path of a directory, or of one that can still be made."""
    found = path(value, base)
    if os.path.exists(found) and not found.is_dir():
        raise Wrong("must be a directory; there is a file of that name")
    return found


def socket_path(value: object, base: Path) -> Path:
    """The path of a Unix socket, or of one that can still be made."""
    return fit_for_socket(path(value, base))


def fit_for_socket(path: Path) -> Path:
    """The path itself, if a Unix socket can have it. Raises Wrong."""
    # sockaddr_un.sun_path has 108 bytes with its final NUL (unix(7)).
    size = len(os.fsencode(path))
    if size > LONGEST_SOCKET_PATH:
        raise Wrong(
            f"must be a path of at most {LONGEST_SOCKET_PATH} bytes, as Unix sockets have, not {size}", str(path)
        )
    return path


def readable_file(value: object, base: Path) -> Path:
    """The path of a regular file that can be read now."""
    found = path(value, base)
    read_regular(found, 0)
    return found


def certificates(value: object, base: Path) -> Path:
    """The path of a readable file with at least one certificate in PEM form."""
    found = path(value, base)
    try:
        pem = read_regular(found, _LARGEST_CA_FILE).decode("ascii", "replace")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except Wrong:
        raise
    except (ssl.SSLError, ValueError):
        raise Wrong('must hold certificates in PEM form ("-----BEGIN CERTIFICATE-----")') from None
    return found


def read_regular(path: Path, limit: int) -> bytes:
    """A regular file's content, at most ``limit`` bytes; 0 only tries to open it. Raises Wrong."""
    try:
        with open(path, "rb", opener=_open_regular) as stream:
            content = stream.read(limit + 1) if limit else b""
    except OSError as error:
        raise Wrong(f"must be a readable file ({error.strerror})") from None
    if len(content) > limit:
        raise Wrong(f"must be a file of at most {limit} bytes")
    return content


def _open_regular(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait for ever.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Wrong("must be a regular file")
    return descriptor
