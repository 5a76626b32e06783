"""Where a request came from, and by what address of ours: told by the connection, or by a proxy that is trusted.

Of the ways in which proxies tell it, X-Forwarded-For, -Proto and -Host are understood; Forwarded (RFC 7239) is not.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.web.http import Request
from zope.interface import implementer

from depproxy.access.networks import REMEMBERED, Networks
from depproxy.config.values import Network

# An IPv6 address in brackets with a port has 47 characters.
LONGEST_ENTRY = 64
MOST_PROXIES = 32
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@implementer(IAddress)
@frozen
class UnknownAddress:
    """Of a client whose address a proxy did not tell. No network admits it."""

    host: str = "unknown"


UNKNOWN = UnknownAddress()

# RFC 9112 section 3.2, as far as a registry's address goes.
is_host = re.compile(rb"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?").fullmatch
# Some proxies write the client's port, too (Azure's, and AWS's on request).
_match_entry = re.compile(rb"([0-9.]+)(?::[0-9]{1,5})?|\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)").fullmatch


class Origin:
    """
    Asked on every request: without proxies it costs next to nothing.

    `trusted_proxies` are believed what they say of a client; so are peers on Unix sockets, if `unix_sockets`.
    """

    def __init__(self, trusted_proxies: Sequence[Network], public_url: str, *, unix_sockets: bool = False) -> None:
        self._any = bool(trusted_proxies) or unix_sockets
        self._proxies = Networks(trusted_proxies, unix_sockets=unix_sockets)
        self._public_url = public_url
        self._public_scheme, _, host = public_url.partition("://")
        default = DEFAULT_PORTS.get(self._public_scheme, "")
        self._public_hosts = {host, host + default, host.removesuffix(default)}

    def address(self, request: Request) -> IAddress:
        """
        The client's address: the connection's peer, or, where that is a trusted proxy, the right-most entry of
        X-Forwarded-For that is none. Nothing left of that counts, for anybody may have written it.

        An entry that cannot be read gives UNKNOWN. Without any header the proxy asks for itself.
        """
        peer: IAddress = request.getClientAddress()
        if not self._any or not self._proxies.admits(peer):
            return peer
        lines = request.requestHeaders.getRawHeaders(b"X-Forwarded-For")
        if not lines:
            return peer
        client = peer
        for entry in reversed(b",".join(lines).rsplit(b",", MOST_PROXIES)):
            found = _read_entry(entry.strip(b" \t")) if len(entry) <= LONGEST_ENTRY else None
            if found is None:
                return UNKNOWN
            client = found
            if not self._proxies.admits(client):
                break
        return client

    def base_url(self, request: Request) -> str:
        """
        Scheme, host and port that the client used, without a slash at the end; `public_url` where that is not known.

        Clients refuse a realm elsewhere. A host that only somebody claims is not taken: it might get their passwords.
        """
        headers = request.requestHeaders
        host = headers.getRawHeaders(b"Host", (b"",))[0]
        secure = request.isSecure()
        if self._any and self._proxies.admits(request.getClientAddress()):
            # Of several proxies the first stands first.
            claimed = _first(headers.getRawHeaders(b"X-Forwarded-Host"))
            if claimed and claimed.lower() != host.lower():
                if not is_host(claimed) or claimed.decode("ascii").lower() not in self._public_hosts:
                    return self._public_url
                host = claimed
            scheme = _first(headers.getRawHeaders(b"X-Forwarded-Proto")).lower()
            secure = scheme == b"https" if scheme in (b"http", b"https") else secure
        if not is_host(host):
            return self._public_url
        name = host.decode("ascii")
        # Not every proxy with TLS says that it has it.
        secure = secure or (self._public_scheme == "https" and name.lower() in self._public_hosts)
        return f"{'https' if secure else 'http'}://{name}"


def _first(lines: Sequence[bytes] | None) -> bytes:
    return lines[0].partition(b",")[0].strip(b" \t") if lines else b""


@lru_cache(REMEMBERED)
def _read_entry(entry: bytes) -> IAddress | None:
    found = _match_entry(entry)
    if found is None:
        return None
    try:
        address = ip_address((found[1] or found[2] or found[3]).decode("ascii"))
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    known: IAddress = (IPv4Address if address.version == 4 else IPv6Address)("TCP", str(address), 0)
    return known
