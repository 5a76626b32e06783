"""Which peers may pull without a token."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import HostnameAddress, UNIXAddress
from twisted.internet.address import IPv4Address as TCPv4
from twisted.internet.address import IPv6Address as TCPv6
from twisted.internet.interfaces import IAddress

from depproxy.access.networks import Networks

MIXED = (ip_network("127.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("::1"), ip_network("fe80::/10"))


def peer(host: str) -> IAddress:
    address: IAddress = TCPv6("TCP", host, 1) if ":" in host else TCPv4("TCP", host, 1)
    return address


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("10.1.255.255", True),
        ("10.2.0.0", False),
        ("192.0.2.1", False),
        ("::1", True),
        ("::2", False),
        # A dual-stack listener's IPv4 clients.
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        # Not mapped, though it ends alike.
        ("64:ff9b::7f00:1", False),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("fec0::1%eth0", False),
    ],
)
def test_peers(host: str, admitted: bool) -> None:
    networks = Networks(MIXED)
    assert networks.admits(peer(host)) is admitted
    assert networks.admits(peer(host)) is admitted, "the second answer comes from memory"


def test_no_network_admits_nobody() -> None:
    assert not Networks(()).admits(peer("127.0.0.1"))


@pytest.mark.parametrize("allowed", [True, False])
def test_unix_sockets_are_asked_for_by_name(allowed: bool) -> None:
    """A Unix socket's peer has no address, and seldom a name."""
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    networks = Networks(everything, unix_sockets=allowed)
    for name in (None, "/run/client.sock"):
        assert networks.admits(UNIXAddress(name)) is allowed


def test_other_kinds_of_peers_stay_outside() -> None:
    networks = Networks((ip_network("0.0.0.0/0"),), unix_sockets=True)
    assert not networks.admits(HostnameAddress(b"localhost", 1))


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_ipv4_is_the_same_mapped_or_not(network: IPv4Address, prefix: int, host: IPv4Address) -> None:
    networks = Networks((IPv4Network((int(network), prefix), strict=False),))
    expected = int(network) >> (32 - prefix) == int(host) >> (32 - prefix)
    assert networks.admits(peer(str(host))) is expected
    assert networks.admits(peer(f"::ffff:{host}")) is expected


@given(st.ip_addresses(v=6), st.integers(0, 128), st.ip_addresses(v=6))
def test_ipv6_never_matches_by_an_ipv4_network(network: IPv6Address, prefix: int, host: IPv6Address) -> None:
    networks = Networks((IPv6Network((int(network), prefix), strict=False), IPv4Network("0.0.0.0/0")))
    inside = int(network) >> (128 - prefix) == int(host) >> (128 - prefix)
    if host.ipv4_mapped is None:
        assert networks.admits(peer(str(host))) is inside
    else:
        assert networks.admits(peer(str(host)))
