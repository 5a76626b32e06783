"""Listen strings: Twisted's server endpoint strings, as far as they can be checked without a reactor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from attrs import frozen

from depproxy.config.errors import Wrong
from depproxy.config.values import LONGEST_SOCKET_PATH, read_regular

_FILES: Final = ("privateKey", "certKey", "extraCertChain")
# What each kind understands besides its first argument (twisted.internet.endpoints.serverFromString). Twisted has no
# TLS on sockets of systemd; we have.
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "tcp": ("interface", "backlog"),
    "ssl": (*_FILES, "interface", "backlog"),
    "unix": ("mode", "backlog", "lockfile"),
    "systemd": ("domain", "name", "index", *_FILES),
}
# What Twisted's ssl understands, and we have no use for.
_USELESS: Final[Mapping[str, str]] = {
    "sslmethod": "TLS 1.2 and 1.3 are what is offered",
    "dhParameters": "keys are exchanged by elliptic curves, which need no parameters",
}
_EXAMPLES: Final[Mapping[str, str]] = {
    "tcp": "tcp:5000:interface=127.0.0.1",
    "ssl": "ssl:5443:privateKey=/etc/depproxy/key.pem:certKey=/etc/depproxy/cert.pem",
    "unix": "unix:/run/depproxy/http.sock:mode=660",
    "systemd": "systemd:domain=INET:name=web",
}
_WILDCARDS: Final = ("", "0.0.0.0", "::")


@frozen
class Listener:
    """What a listen string says. Of tcp and ssl: ``port`` (0: any free one) and ``interface`` (None: all)."""

    kind: str
    port: int | None = None
    interface: str | None = None


@frozen
class TLSFiles:
    """
    What makes TLS of a socket, in PEM form. ``certificate`` may hold its chain, too, or be the same as ``private_key``.
    """

    private_key: Path
    certificate: Path
    chain: Path | None = None


def split_tls(text: str) -> tuple[str, TLSFiles | None]:
    """The endpoint string of the socket alone, and what makes TLS of it; of a string that ``parse_listener`` takes."""
    arguments, options = _split(text)
    key = options.pop("privateKey", None)
    if key is None:
        return text, None
    chain = options.pop("extraCertChain", None)
    files = TLSFiles(Path(key), Path(options.pop("certKey", key)), None if chain is None else Path(chain))
    kind = "tcp" if arguments[0] == "ssl" else arguments[0]
    parts = [kind, *map(_quote, arguments[1:]), *(f"{name}={_quote(value)}" for name, value in options.items())]
    return ":".join(parts), files


def parse_listener(text: str) -> Listener:
    """The listener that an endpoint string describes. Raises Wrong (a ValueError)."""
    arguments, options = _split(text)
    kind = arguments[0] if arguments else ""
    if kind not in _OPTIONS:
        known = ", ".join(_OPTIONS)
        raise Wrong(f"must be a Twisted endpoint string of kind {known}, such as {_EXAMPLES['tcp']}")
    unknown = sorted(set(options) - set(_OPTIONS[kind]))
    if unknown and kind == "ssl" and unknown[0] in _USELESS:
        raise Wrong(f"must have no {unknown[0]}: {_USELESS[unknown[0]]}")
    if unknown:
        raise Wrong(f"{unknown[0]} is no option of {kind}; known are {', '.join(_OPTIONS[kind])}")
    expected = 1 if kind == "systemd" else 2
    if len(arguments) != expected:
        raise Wrong(f"must be written like {_EXAMPLES[kind]}, every option with its name, colons in values as \\:")
    if "backlog" in options and not _is_number(options["backlog"], 9):
        raise Wrong("must have a whole number as backlog")
    return _CHECKS[kind]("".join(arguments[1:]), options)


def _tcp(port: str, options: Mapping[str, str]) -> Listener:
    if not (_is_number(port, 5) and int(port) <= 65535):
        raise Wrong("must have a port from 1 to 65535, or 0 for any free one")
    interface = options.get("interface", "")
    if interface in _WILDCARDS:
        return Listener("tcp", int(port))
    try:
        return Listener("tcp", int(port), str(ip_address(interface)))
    except ValueError:
        raise Wrong("must have an IP address as interface, the colons of IPv6 as \\:") from None


def _ssl(port: str, options: Mapping[str, str]) -> Listener:
    listener = _tcp(port, options)
    if "privateKey" not in options:
        raise Wrong(f"must name its key and certificate: {_EXAMPLES['ssl']}")
    _check_files(options)
    return Listener("ssl", listener.port, listener.interface)


def _check_files(options: Mapping[str, str]) -> None:
    for option in _FILES:
        if option in options:
            if "privateKey" not in options:
                raise Wrong(f"must have privateKey, too, where it has {option}")
            try:
                read_regular(Path(options[option]), 0)
            except Wrong as wrong:
                raise Wrong(f"{option} {wrong}") from None


def _unix(address: str, options: Mapping[str, str]) -> Listener:
    if not address or "\0" in address or len(os.fsencode(address)) > LONGEST_SOCKET_PATH:
        raise Wrong("must have a socket path of 1 to 107 bytes")
    mode = options.get("mode", "666")
    if not (1 <= len(mode) <= 4 and set(mode) <= set("01234567")):
        raise Wrong("must have an octal number as mode, such as 660")
    if options.get("lockfile", "1") not in ("0", "1"):
        raise Wrong("must have lockfile=0 or lockfile=1")
    return Listener("unix")


def _systemd(_nothing: str, options: Mapping[str, str]) -> Listener:
    if options.get("domain") not in ("INET", "INET6", "UNIX"):
        raise Wrong(f"must have domain=INET, INET6 or UNIX: {_EXAMPLES['systemd']}")
    if ("name" in options) == ("index" in options):
        raise Wrong(f"must have either name (the FileDescriptorName= of the socket) or index: {_EXAMPLES['systemd']}")
    if not _is_number(options.get("index", "0"), 4):
        raise Wrong("must have a whole number as index")
    _check_files(options)
    return Listener("systemd")


_CHECKS: Final = {"tcp": _tcp, "ssl": _ssl, "unix": _unix, "systemd": _systemd}


def _is_number(text: str, digits: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= digits


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _split(text: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and options: ``:`` separates, the first ``=`` names, ``\\`` quotes a character."""
    arguments: list[str] = []
    options: dict[str, str] = {}
    name: str | None = None
    current = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, None)
            if following is None:
                raise Wrong("must not end in a backslash")
            current += following
        elif character == "=" and name is None:
            name, current = current, ""
        elif character == ":":
            if name is None:
                arguments.append(current)
            else:
                options[name] = current
            name, current = None, ""
        else:
            current += character
    if name is None:
        arguments.append(current)
    else:
        options[name] = current
    return arguments, options
