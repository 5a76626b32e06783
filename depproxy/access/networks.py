"""Who may pull without a token: the networks that the configuration admits."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from twisted.internet.address import IPv4Address as TCPv4
from twisted.internet.address import IPv6Address as TCPv6
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress

# Addresses of clients whose verdict is remembered: the check costs more than the rest of a cached request.
REMEMBERED = 4096


class Networks:
    """A list of networks, asked by peer address."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network], *, unix_sockets: bool = False) -> None:
        self._networks = tuple(networks)
        self._unix_sockets = unix_sockets
        self._admits_host = lru_cache(REMEMBERED)(self._look_up)

    def admits(self, peer: IAddress) -> bool:
        """Whether a client at this address may pull without a token. A Unix socket has no address to look up."""
        if isinstance(peer, (TCPv4, TCPv6)):
            return self._admits_host(peer.host)
        return isinstance(peer, UNIXAddress) and self._unix_sockets

    def _look_up(self, host: str) -> bool:
        # A link-local peer carries its interface: fe80::1%eth0.
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            # A dual-stack listener sees IPv4 clients so.
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def address_text(address: IAddress) -> str:
    """An address for messages."""
    return str(getattr(address, "host", "a Unix socket"))
