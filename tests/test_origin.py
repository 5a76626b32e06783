"""Where requests come from, and by what address of ours: by proxies that are trusted, and by those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address as V4
from ipaddress import IPv6Address as V6
from ipaddress import ip_address, ip_network
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as PlainRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from depproxy.access.networks import Networks
from depproxy.web.origin import MOST_PROXIES, UNKNOWN, Origin, is_host
from depproxy.web.registry import Registry
from tests.web_support import WebTestCase

PUBLIC = "https://cache.example"
PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PROXY = IPv4Address("TCP", "10.0.0.1", 40000)
CLIENT = IPv4Address("TCP", "192.0.2.7", 40000)


class Kept(PlainRequest):
    """A request as the HTTP channel read it."""

    def process(self) -> None:
        cast(Any, self.channel).kept = self


def request(peer: IAddress, *headers: tuple[bytes, bytes]) -> PlainRequest:
    """What arrives from `peer`."""
    channel: Any = HTTPChannel()
    channel.requestFactory = Kept
    channel.makeConnection(StringTransport(peerAddress=peer))
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    channel.dataReceived(b"GET /v2/ HTTP/1.0\r\n%s\r\n" % lines)
    return cast(PlainRequest, channel.kept)


def forwarded(*lines: bytes, peer: IAddress = PROXY) -> PlainRequest:
    return request(peer, *((b"X-Forwarded-For", line) for line in lines))


def host_of(address: IAddress) -> str:
    return cast(str, cast(Any, address).host)


ORIGIN = Origin(PROXIES, PUBLIC)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((b"192.0.2.7",), "192.0.2.7"),
        ((b"192.0.2.7, 10.9.9.9",), "192.0.2.7"),
        ((b"192.0.2.7,10.9.9.9 ,\t10.1.1.1",), "192.0.2.7"),
        ((b"192.0.2.7", b"10.9.9.9"), "192.0.2.7"),
        # What the client wrote itself.
        ((b"127.0.0.1, 192.0.2.7",), "192.0.2.7"),
        ((b"127.0.0.1", b"192.0.2.7"), "192.0.2.7"),
        ((b"10.0.0.5, 192.0.2.7, 10.0.0.5",), "192.0.2.7"),
        ((b"nonsense, 192.0.2.7",), "192.0.2.7"),
        # The client is on a proxy's host, or nobody else is behind it.
        ((b"10.0.0.5",), "10.0.0.5"),
        ((b"10.0.0.6, 10.0.0.5",), "10.0.0.6"),
        ((), "10.0.0.1"),
        # Forms that proxies write.
        ((b"192.0.2.7:8080",), "192.0.2.7"),
        ((b"2001:db8::7",), "2001:db8::7"),
        ((b"2001:DB8:0::7",), "2001:db8::7"),
        ((b"[2001:db8::7]",), "2001:db8::7"),
        ((b"[2001:db8::7]:443, [fd00::1]:80",), "2001:db8::7"),
        ((b"::ffff:192.0.2.7",), "192.0.2.7"),
        ((b"192.0.2.7, ::ffff:10.0.0.9",), "192.0.2.7"),
    ],
)
def test_the_client_is_the_rightmost_that_is_no_proxy(lines: Sequence[bytes], expected: str) -> None:
    assert host_of(ORIGIN.address(forwarded(*lines))) == expected


@pytest.mark.parametrize(
    "entry",
    [
        *(b"unknown", b"unix:", b"_hidden", b"", b"cache.example", b"for=192.0.2.7", b"1" * 5000),
        *(b"192.0.2", b"192.0.2.07", b"192.0.2.256", b"192.0.2.7:", b"192.0.2.7:123456"),
        *(b"192.0.2.7 10.0.0.1", b"192.0.2.7;10.0.0.1", b'"192.0.2.7"', b"\xd9\xa1.2.3.4"),
        *(b"2001:db8::7::", b"[2001:db8::7", b"2001:db8::7]:443", b"fe80::1%eth0"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_nobody(entry: bytes) -> None:
    """Least of all is it the proxy, which is often in a network that needs no token."""
    everyone = Networks([ip_network("0.0.0.0/0"), ip_network("::/0")], unix_sockets=True)
    for line in (entry, b"127.0.0.1, " + entry, b"127.0.0.1, " + entry + b", 10.0.0.5"):
        address: Any = ORIGIN.address(forwarded(line))
        assert address == UNKNOWN
        assert not everyone.admits(address)
    assert host_of(UNKNOWN) == "unknown"


def test_so_many_proxies_there_are_not() -> None:
    def chain(length: int) -> bytes:
        return b", ".join([b"192.0.2.7", *[b"10.0.0.5"] * length])

    assert host_of(ORIGIN.address(forwarded(chain(MOST_PROXIES)))) == "192.0.2.7"
    assert ORIGIN.address(forwarded(chain(MOST_PROXIES + 10))) == UNKNOWN


@pytest.mark.parametrize("peer", [CLIENT, IPv6Address("TCP", "2001:db8::1", 1), UNIXAddress(None), UNIXAddress("/x")])
def test_only_proxies_are_believed(peer: IAddress) -> None:
    told = forwarded(b"127.0.0.1", peer=peer)
    for origin in (ORIGIN, Origin((), PUBLIC)):
        assert origin.address(told) is peer
    assert Origin((), PUBLIC).address(forwarded(b"192.0.2.7")) is PROXY


@pytest.mark.parametrize("host", ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"])
def test_a_proxy_by_either_protocol(host: str) -> None:
    peer = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 1)
    assert host_of(ORIGIN.address(forwarded(b"192.0.2.7", peer=peer))) == "192.0.2.7"


def test_a_proxy_on_a_unix_socket() -> None:
    origin = Origin((), PUBLIC, unix_sockets=True)
    peer: Any = UNIXAddress(None)
    assert host_of(origin.address(forwarded(b"127.0.0.1, 192.0.2.7", peer=peer))) == "192.0.2.7"
    assert origin.address(forwarded(peer=peer)) is peer
    assert origin.address(forwarded(b"192.0.2.7")) is PROXY


ADDRESSES = st.ip_addresses()
INSIDE = st.sampled_from([ip_address("10.0.0.1"), ip_address("10.200.3.4"), ip_address("fd00::9")])


def is_proxy(address: V4 | V6) -> bool:
    if isinstance(address, V6) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in PROXIES)


OUTSIDE = ADDRESSES.filter(lambda address: not is_proxy(address) and "%" not in str(address))
SENT = st.binary(max_size=40).filter(lambda sent: not set(sent) & set(b"\r\n\0"))


@given(OUTSIDE, st.lists(INSIDE, max_size=4), st.lists(SENT, max_size=3), st.booleans())
def test_nothing_that_the_client_sends_changes_its_address(
    client: V4 | V6, proxies: list[V4 | V6], sent: list[bytes], in_lines: bool
) -> None:
    """Each proxy adds the address of its own peer at the right."""
    added = [str(hop).encode() for hop in (client, *proxies)]
    lines = [*sent, *added] if in_lines else [b",".join([*sent, *added])]
    found = ip_address(host_of(ORIGIN.address(forwarded(*lines))))
    assert found == (getattr(client, "ipv4_mapped", None) or client)


ENTRIES = st.one_of(
    (ADDRESSES | INSIDE).map(lambda address: str(address).encode()),
    st.sampled_from([b"", b"unknown", b"192.0.2.7:80", b"[fd00::1]:1", b"10.0.0.1:65535", b" 10.0.0.3\t"]),
    st.text("0123456789.:[]abf% ", max_size=16).map(str.encode),
    SENT,
)


@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=4).map(b",".join), max_size=3))
def test_right_of_the_client_there_are_proxies_alone(lines: list[bytes]) -> None:
    address: Any = ORIGIN.address(forwarded(*lines))
    entries = b",".join(lines).split(b",") if lines else []
    if address is PROXY:
        assert entries == []
        return
    for entry in reversed(entries):
        one = ORIGIN.address(forwarded(entry))
        if one == UNKNOWN or not is_proxy(ip_address(host_of(one))):
            assert address == one
            return
    assert address == ORIGIN.address(forwarded(entries[0]))


def url(*headers: tuple[bytes, bytes], peer: IAddress = CLIENT, origin: Origin = ORIGIN) -> str:
    return origin.base_url(request(peer, *headers))


HOST = (b"Host", b"mirror.test:5000")
PLAIN = Origin(PROXIES, "http://cache.example:5000")


def test_the_host_that_the_client_used() -> None:
    for host in (b"mirror.test", b"mirror.test:5000", b"127.0.0.1:5000", b"[::1]:5000", b"LocalHost"):
        assert url((b"Host", host)) == "http://" + host.decode()
    assert url() == PUBLIC
    assert url((b"Host", b"")) == PUBLIC
    assert url((b"Host", b"a b")) == PUBLIC


def test_what_a_stranger_says_of_scheme_and_host_does_not_count() -> None:
    claims = ((b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"cache.example"), (b"X-Forwarded-Port", b"1"))
    assert url(HOST, *claims) == "http://mirror.test:5000"
    assert url(HOST, *claims, peer=PROXY, origin=Origin((), PUBLIC)) == "http://mirror.test:5000"


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (b"https", "https"),
        (b"HTTPS", "https"),
        (b"http", "http"),
        (b"https, http", "https"),
        (b"http,https", "http"),
        (b"", "http"),
        (b"ws", "http"),
        (b"javascript", "http"),
    ],
)
def test_a_proxy_says_whether_there_is_tls(scheme: bytes, expected: str) -> None:
    assert url(HOST, (b"X-Forwarded-Proto", scheme), peer=PROXY) == f"{expected}://mirror.test:5000"


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [
        (b"cache.example", PUBLIC),
        (b"Cache.Example", "https://Cache.Example"),
        (b"cache.example:443", "https://cache.example:443"),
        (b"cache.example, inner.test", PUBLIC),
        (b"mirror.test:5000", "http://mirror.test:5000"),
        (b"", "http://mirror.test:5000"),
        # Of these nobody knows whether they are ours.
        (b"evil.test", PUBLIC),
        (b"cache.example:444", PUBLIC),
        (b"cache.example.evil.test", PUBLIC),
        (b"evil.test, cache.example", PUBLIC),
        (b'x",realm="http://evil.test', PUBLIC),
        (b"\xff", PUBLIC),
    ],
)
def test_a_proxy_says_which_host_if_it_is_ours(claimed: bytes, expected: str) -> None:
    assert url(HOST, (b"X-Forwarded-Host", claimed), peer=PROXY) == expected


def test_a_proxy_with_tls_that_says_nothing() -> None:
    """Who knows us by the name of the public URL knows its scheme."""
    for host in (b"cache.example", b"cache.example:443"):
        assert url((b"Host", host)) == "https://" + host.decode()
    assert url((b"Host", b"cache.example:80")) == "http://cache.example:80"
    assert url((b"Host", b"cache.example:5000"), origin=PLAIN) == "http://cache.example:5000"
    told = ((b"Host", b"cache.example:5000"), (b"X-Forwarded-Proto", b"https"))
    assert url(*told, peer=PROXY, origin=PLAIN) == "https://cache.example:5000"


HOSTS = SENT | st.text("aZ0.-_:[]@/?#\"'%\\ ", max_size=30).map(str.encode)


@given(HOSTS, HOSTS, SENT | st.sampled_from([b"https", b"http"]), st.sampled_from([CLIENT, PROXY]))
def test_it_is_always_a_url_of_a_known_host(host: bytes, claimed: bytes, scheme: bytes, peer: IAddress) -> None:
    found = url((b"Host", host), (b"X-Forwarded-Host", claimed), (b"X-Forwarded-Proto", scheme), peer=peer)
    sent = host.strip(b" \t").decode("latin-1")
    assert found in (PUBLIC, f"http://{sent}", f"https://{sent}")
    assert not set(found) & set(" \t\"'\\,@?#%<>")
    assert found.count("/") == 2
    if found != PUBLIC:
        assert is_host(sent.encode("latin-1"))
        if not sent.startswith("["):
            assert urlsplit(found).hostname == sent.partition(":")[0].lower()


@given(st.from_regex(r"[a-z0-9.-]{1,40}(:[0-9]{1,5})?", fullmatch=True))
def test_hosts_are_hosts(host: str) -> None:
    assert is_host(host.encode())


class Told(Resource):
    """Answers where the request came from."""

    isLeaf = True

    def __init__(self, origin: Origin) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._origin = origin
        self.app = self

    def resource(self) -> Told:
        return self

    def render_GET(self, request: Request) -> int:
        address = host_of(self._origin.address(request))
        body = f"{address} {self._origin.base_url(request)}".encode()
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        request.write(body)
        request.finish()
        return NOT_DONE_YET


class OnSockets(WebTestCase):
    async def ask(self, origin: Origin, **headers: str) -> str:
        port = self.listen(self.faces(cast(Registry, Told(origin))))
        client = await self.client(port)
        client.ask("/v2/", **headers)
        return (await client.answer()).body.decode()

    async def test_behind_a_proxy_on_loopback(self) -> None:
        origin = Origin([ip_network("127.0.0.0/8")], PUBLIC)
        headers = {"X_Forwarded_For": "127.0.0.1, 198.51.100.9", "X_Forwarded_Proto": "https"}
        assert await self.ask(origin, **headers) == "198.51.100.9 https://cache.test:5000"

    async def test_without_a_proxy(self) -> None:
        headers = {"X_Forwarded_For": "198.51.100.9", "X_Forwarded_Proto": "https"}
        assert await self.ask(ORIGIN, **headers) == "127.0.0.1 http://cache.test:5000"

    async def test_behind_a_proxy_on_a_unix_socket(self) -> None:
        origin = Origin((), PUBLIC, unix_sockets=True)
        path = self.listen_unix(self.faces(cast(Registry, Told(origin))), "http.sock")
        client = await self.client(path)
        client.ask("/v2/", X_Forwarded_For="198.51.100.9")
        assert (await client.answer()).body == b"198.51.100.9 http://cache.test:5000"

    async def test_over_tls(self) -> None:
        port, trust = self.listen_tls(self.faces(cast(Registry, Told(ORIGIN))))
        client = await self.tls_client(port, trust)
        client.ask("/v2/", X_Forwarded_Proto="http")
        assert (await client.answer()).body == b"127.0.0.1 https://cache.test:5000"
