"""The HTTP server around the faces: limits, refusals, and an orderly end; over real sockets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from depproxy.access.networks import Networks
from depproxy.config import MirrorSettings
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Tag
from depproxy.web.channel import LINGER_BYTES, LINGER_TIME, MAX_BODY, MAX_HEADERS, MAX_REQUEST_LINE
from depproxy.web.site import IDLE_TIMEOUT, MAX_PATH, PATIENCE, Faces
from depproxy.web.status import Status
from tests.fakes import MemoryIndex
from tests.web_support import (
    ELSEWHERE,
    HOME,
    LOOPBACK,
    PUBLIC_URL,
    Answer,
    Cache,
    Client,
    WebTestCase,
    until,
)

GET = b"GET /v2/ HTTP/1.1\r\nHost: cache.test\r\n"
NAME = HOME.repository
SERVED = {"docker-distribution-api-version": "registry/2.0"}


# What requests are made of, well-formed only when put together in the right order.
PIECES = [
    GET,
    GET + b"\r\n",
    b"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: cache.test\r\n",
    b"POST / HTTP/1.0\r\n",
    b"\r\n",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 70000\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"%x\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1) + b"\r\n0\r\n\r\n",
    b"x" * MAX_HEADERS,
    b"\x16\x03\x01",
]


class SiteTestCase(WebTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.cache = Cache(self.directory / "data")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.cache.settle()))
        self.digest = self.cache.hub.put_manifest(NAME, b"{}", Tag("3"))

    def make_faces(
        self,
        networks: Sequence[IPv4Network | IPv6Network] = LOOPBACK,
        *,
        unix_sockets: bool = False,
        **more: Any,
    ) -> Faces:
        mirror = MirrorSettings(anonymous=tuple(networks), unix_sockets=unix_sockets)
        registry = self.cache.registry(mirror, groups={})
        return self.faces(registry, networks=networks, unix_sockets=unix_sockets, **more)

    async def start(self, **more: Any) -> Client:
        """A client of a new server."""
        self.site = self.make_faces(**more)
        self.port = self.listen(self.site)
        return await self.client(self.port)

    async def works(self, client: Client) -> None:
        """The connection is still good for a request."""
        client.ask(f"/v2/{NAME}/manifests/3")
        assert (await client.answer()).body == b"{}"

    async def refused(self, client: Client, status: int, code: str, method: str = "GET") -> Answer:
        """The next answer is the last one: an error document, which the client could read to its end."""
        answer = await client.answer(method)
        assert answer.status == status, answer
        assert answer.headers["connection"] == "close"
        assert answer.headers.items() >= SERVED.items()
        if method == "HEAD":
            assert answer.headers["content-type"] == "application/json"
        else:
            assert answer.error == code
        assert await client.end(), "the connection was reset"
        assert client.data == b"", "something follows the last answer"
        return answer


class Addresses(SiteTestCase):
    async def test_unknown_addresses(self) -> None:
        client = await self.start()
        for path in ("/", "/nothing", "/v2/a/b", "/v2/_catalog", "/v3/", "/v2/a/manifests/", "//", "/favicon.ico"):
            client.ask(path)
            answer = await client.answer()
            assert (answer.status, answer.error) == (404, "NAME_UNKNOWN"), path
            assert answer.headers.items() >= SERVED.items()
        await self.works(client)

    async def test_other_forms_of_a_target(self) -> None:
        """RFC 9112 section 3.2: asterisk, absolute and authority form are no addresses here."""
        client = await self.start()
        for target in ("*", "http://cache.test/v2/", "https://registry-1.docker.io/v2/a/b/manifests/1", "a:443", "?"):
            client.ask(target)
            answer = await client.answer()
            assert (answer.status, answer.error) == (404, "NAME_UNKNOWN"), target
        client.ask("*", "OPTIONS")
        assert (await client.answer()).error == "UNSUPPORTED"
        await self.works(client)

    async def test_a_path_that_is_not_utf8(self) -> None:
        client = await self.start()
        for path in ("/v2/%ff/manifests/1", "/%C3", "/v2/a\x85/manifests/1"):
            client.ask(path)
            answer = await client.answer()
            assert (answer.status, answer.error) == (400, "NAME_INVALID"), path
        await self.works(client)

    async def test_only_reading_is_supported(self) -> None:
        client = await self.start()
        for method in ("PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND"):
            for path in (f"/v2/{NAME}/manifests/3", "/v2/x/blobs/uploads/", "/nothing", "/metrics"):
                client.ask(path, method, Content_Length="2")
                client.send(b"{}")
                answer = await client.answer()
                assert (answer.status, answer.error) == (405, "UNSUPPORTED"), (method, path)
                assert answer.headers["allow"] == "GET, HEAD"
        await self.works(client)

    async def test_a_form_is_refused_like_any_body(self) -> None:
        for kind, status in (
            ("application/x-www-form-urlencoded", 405),
            ("multipart/form-data", 400),
            ("multipart/form-data; boundary=x", 400),
            ("text/plain; charset=\xff", 405),
        ):
            client = await self.start()
            client.ask("/v2/", "POST", Content_Type=kind, Content_Length="4")
            client.send(b"a=b&")
            answer = await client.answer()
            assert (answer.status, answer.error) == (status, "UNSUPPORTED"), kind

    async def test_errors_to_a_head_have_no_body(self) -> None:
        client = await self.start()
        for path, status in (("/nothing", 404), ("/v2/A/manifests/1", 400), (f"/v2/{NAME}/manifests/none", 404)):
            client.ask(path, "HEAD")
            answer = await client.answer("HEAD")
            assert answer.status == status
            assert answer.headers["content-type"] == "application/json"
            assert int(answer.headers["content-length"]) > 0
        await self.works(client)


class Limits(SiteTestCase):
    """Each refusal is a document that the client can read, though it is still sending."""

    async def test_body_too_large_by_its_length(self) -> None:
        for length in (MAX_BODY + 1, 1 << 30, 10**18):
            client = await self.start()
            client.ask("/v2/a/manifests/1", "PUT", Content_Length=str(length))
            await self.refused(client, 413, "SIZE_INVALID")

    async def test_a_length_of_absurd_length(self) -> None:
        client = await self.start()
        client.ask("/v2/a/manifests/1", "PUT", Content_Length="9" * 5000)
        await self.refused(client, 413, "SIZE_INVALID")

    async def test_a_client_that_sends_all_before_it_reads(self) -> None:
        client = await self.start()
        client.stop_reading()
        client.ask("/v2/a/manifests/1", "PUT", Content_Length=str(600_000))
        client.send(b"x" * 600_000)
        client.read_on()
        await self.refused(client, 413, "SIZE_INVALID")

    async def test_no_body_is_asked_for_that_is_refused(self) -> None:
        """RFC 9110 section 10.1.1: a final status in place of 100."""
        client = await self.start()
        client.ask("/v2/a/manifests/1", "PUT", Content_Length=str(1 << 20), Expect="100-continue")
        await self.refused(client, 413, "SIZE_INVALID")

    async def test_chunked_body_too_large(self) -> None:
        """Whether the end of the body has come with it or not, there is one answer."""
        for end in (b"", b"0\r\n\r\n", b"0\r\n\r\n" + GET + b"\r\n"):
            client = await self.start()
            client.ask("/v2/a/manifests/1", "PUT", Transfer_Encoding="chunked")
            client.send(b"%x\r\n" % (MAX_BODY + 1), b"x" * (MAX_BODY + 1), b"\r\n", end)
            await self.refused(client, 413, "SIZE_INVALID")

    async def test_chunked_body_that_grows_too_large(self) -> None:
        client = await self.start()
        client.ask("/v2/a/manifests/1", "PUT", Transfer_Encoding="chunked")
        for _ in range(MAX_BODY // 1024 + 1):
            client.send(b"400\r\n", b"x" * 1024, b"\r\n")
        await self.refused(client, 413, "SIZE_INVALID")

    async def test_the_largest_bodies_are_read(self) -> None:
        client = await self.start()
        client.ask("/v2/a/manifests/1", "PUT", Content_Length=str(MAX_BODY), Expect="100-continue")
        assert await client.take(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"x" * MAX_BODY)
        assert (await client.answer()).status == 405
        client.ask("/v2/a/manifests/1", "PUT", Transfer_Encoding="chunked")
        client.send(b"%x\r\n" % MAX_BODY, b"x" * MAX_BODY, b"\r\n0\r\n\r\n")
        assert (await client.answer()).status == 405
        await self.works(client)

    async def test_broken_chunks(self) -> None:
        client = await self.start()
        client.ask("/v2/a/manifests/1", "PUT", Transfer_Encoding="chunked")
        client.send(b"five\r\n")
        await self.refused(client, 400, "UNSUPPORTED")

    async def test_request_line_too_long(self) -> None:
        for length in (MAX_REQUEST_LINE, 20_000, MAX_HEADERS, 100_000):
            client = await self.start()
            client.ask("/v2/" + "x" * length)
            await self.refused(client, 414, "NAME_INVALID")

    async def test_path_too_long(self) -> None:
        """Longer than any image's: the connection is good for the next request."""
        client = await self.start()
        client.ask("/v2/" + "x" * MAX_PATH)
        answer = await client.answer()
        assert (answer.status, answer.error) == (414, "NAME_INVALID")
        await self.works(client)

    async def test_request_line_without_end(self) -> None:
        client = await self.start()
        client.send(b"GET /" + b"x" * (MAX_HEADERS + 100))
        await self.refused(client, 414, "NAME_INVALID")

    async def test_the_longest_request_line(self) -> None:
        client = await self.start()
        path = "/v2/?".ljust(MAX_REQUEST_LINE - len("GET  HTTP/1.1"), "x")
        client.ask(path)
        assert (await client.answer()).status == 200
        await self.works(client)

    async def test_the_longest_path(self) -> None:
        """Matching a path takes time with the square of its length."""
        client = await self.start()
        client.ask("/v2/".ljust(MAX_PATH, "x"))
        assert (await client.answer()).status == 404
        client.ask("/v2/".ljust(MAX_PATH + 1, "x"))
        answer = await client.answer()
        assert (answer.status, answer.error) == (414, "NAME_INVALID")
        await self.works(client)

    async def test_headers_too_long(self) -> None:
        for headers in (
            b"X: " + b"x" * MAX_HEADERS + b"\r\n",
            b"X: " + b"x" * 100_000,
            b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(MAX_HEADERS // 1000 + 1)),
            b"X: y\r\n" + b" folded\r\n" * (MAX_HEADERS // 6),
            b"A:\r\n" * 501,
            b"A:\r\n" * 5000,
        ):
            client = await self.start()
            client.send(GET, headers, b"\r\n")
            await self.refused(client, 431, "UNSUPPORTED")

    async def test_as_many_headers_as_may_be(self) -> None:
        client = await self.start()
        client.send(GET, b"A:\r\n" * 498, b"X: " + b"x" * (MAX_HEADERS - 3000) + b"\r\n\r\n")
        assert (await client.answer()).status == 200
        await self.works(client)

    async def test_limits_told_to_a_head_have_no_body(self) -> None:
        for rest, status in (
            (b"/" + b"x" * MAX_REQUEST_LINE + b" HTTP/1.1\r\n\r\n", 414),
            (b"/" + b"x" * 2 * MAX_HEADERS, 414),
            (b"/v2/ HTTP/1.1\r\n" + b"A:\r\n" * 501 + b"\r\n", 431),
            (b"/v2/ HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
            (b"/v2/ HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        ):
            client = await self.start()
            client.send(b"HEAD ", rest)
            await self.refused(client, status, "", "HEAD")

    async def test_what_comes_after_a_refusal_is_not_read_for_ever(self) -> None:
        # On a clock that stands still: it is not the time that ends it.
        client = await self.start(clock=Clock())
        client.stop_reading()
        client.ask("/v2/a/manifests/1", "PUT", Content_Length=str(1 << 30))
        client.send(b"x" * (LINGER_BYTES + (4 << 20)))
        await until(lambda: not self.site.channels)

    async def test_a_refused_client_has_to_leave(self) -> None:
        """On plain TCP and with TLS: a connection that is no good is given up after some seconds."""
        clock = Clock()
        site = self.make_faces(clock=clock)
        port = self.listen(site)
        tls_port, trust = self.listen_tls(site)
        for tls in (False, True):
            client = await (self.tls_client(tls_port, trust) if tls else self.client(port))
            # The handshake is over then.
            await self.works(client)
            client.stop_reading()
            client.send(b"nonsense\r\n\r\n")
            await until(lambda: any(channel._refused for channel in site.channels))
            clock.advance(LINGER_TIME + 1)
            await until(lambda: not site.channels)

    async def test_a_refusal_over_tls(self) -> None:
        site = self.make_faces()
        port, trust = self.listen_tls(site)
        for request, status, code in (
            (b"GET /" + b"x" * MAX_HEADERS + b" HTTP/1.1\r\n\r\n", 414, "NAME_INVALID"),
            (b"PUT / HTTP/1.1\r\nContent-Length: 600000\r\n\r\n" + b"x" * 600_000, 413, "SIZE_INVALID"),
            (b"nonsense\r\n\r\n", 400, "UNSUPPORTED"),
        ):
            client = await self.tls_client(port, trust)
            client.send(request)
            await self.refused(client, status, code)


class Malformed(SiteTestCase):
    async def test_malformed_requests(self) -> None:
        for request in (
            b"nonsense\r\n\r\n",
            b"GET /v2/\r\n\r\n",
            b"GET /v2/ HTTP/2.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET  /v2/ HTTP/1.1\r\n\r\n",
            b"GET /v2/ x HTTP/1.1\r\n\r\n",
            b"G@T /v2/ HTTP/1.1\r\n\r\n",
            b"GET /v2/\xc3\xa9 HTTP/1.1\r\n\r\n",
            b"\r\n\r\nGET /v2/ HTTP/1.1\r\n\r\n",
            b"\x00\x01\x02\r\n\r\n",
            GET + b"no colon\r\n\r\n",
            GET + b"bad name : x\r\n\r\n",
            GET + b"X: \x00\r\n\r\n",
            GET + b"Content-Length: x\r\n\r\n",
            GET + b"Content-Length: -1\r\n\r\n",
            GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
            GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            GET + b"Transfer-Encoding: gzip\r\n\r\n",
        ):
            client = await self.start()
            client.send(request)
            await self.refused(client, 400, "UNSUPPORTED")

    async def test_hosts_that_are_none(self) -> None:
        """RFC 9112 section 3.2: 400 where it is missing, there twice, or no host."""
        bad = (b"bad host", b"a/b", b"\xff", b"a:port", b"[::1", b"x@y", b"a:123456", b"a,b")
        for hosts in ([], [b"a", b"b"], [b"a", b"a"], *([host] for host in bad)):
            client = await self.start()
            client.send(b"GET /v2/ HTTP/1.1\r\n", *(b"Host: %s\r\n" % host for host in hosts), b"\r\n")
            answer = await client.answer()
            assert (answer.status, answer.error) == (400, "UNSUPPORTED"), hosts

    async def test_hosts_that_are_some(self) -> None:
        client = await self.start()
        for host in (b"cache.test", b"cache.test:5000", b"127.0.0.1:80", b"[::1]:5000", b"", b"A_b-c.D"):
            client.send(b"GET /v2/ HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
            assert (await client.answer()).status == 200, host

    async def test_a_tls_client_on_a_plain_port(self) -> None:
        """Clients that try TLS first go on to plain HTTP only when they get an answer, or lose the connection."""
        client = await self.start()
        client.send(bytes.fromhex("16030100c8010000c40303") + b"\x01" * 194)
        await client.end()

    async def test_http_1_0(self) -> None:
        client = await self.start()
        client.send(b"GET /v2/ HTTP/1.0\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"{}")
        assert await client.end()


class Pipelining(SiteTestCase):
    async def test_answers_come_in_order(self) -> None:
        """Though the first one has to wait for upstream."""
        client = await self.start()
        self.cache.hub.held = True
        client.ask(f"/v2/{NAME}/manifests/3")
        client.ask("/v2/")
        client.ask("/nothing", "HEAD")
        client.ask(f"/v2/{NAME}/manifests/{self.digest}")
        await until(lambda: self.cache.hub.asked)
        assert client.data == b""
        self.cache.hub.answer()
        assert (await client.answer()).body == b"{}"
        assert (await client.answer()).status == 200
        assert (await client.answer("HEAD")).status == 404
        assert (await client.answer()).headers["x-cache"] == "hit"

    async def test_a_malformed_one_waits_for_its_turn(self) -> None:
        client = await self.start()
        self.cache.hub.held = True
        client.ask(f"/v2/{NAME}/manifests/3")
        client.send(b"nonsense\r\n\r\n")
        await until(lambda: self.cache.hub.asked)
        self.cache.hub.answer()
        assert (await client.answer()).body == b"{}"
        await self.refused(client, 400, "UNSUPPORTED")

    async def test_many(self) -> None:
        client = await self.start()
        for _ in range(400):
            client.ask(f"/v2/{NAME}/manifests/3")
        for _ in range(400):
            assert (await client.answer()).body == b"{}"

    async def test_one_byte_at_a_time(self) -> None:
        client = await self.start()
        for byte in GET + b"\r\n":
            client.send(bytes([byte]))
            await until(lambda: True)
        assert (await client.answer()).status == 200

    async def test_a_half_closed_request_is_answered(self) -> None:
        client = await self.start()
        client.ask("/v2/")
        client.stop_sending()
        assert (await client.answer()).status == 200
        assert await client.end()

    async def test_close_is_obeyed(self) -> None:
        client = await self.start()
        client.ask(f"/v2/{NAME}/manifests/3", Connection="close")
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"{}", "close")
        assert await client.end()

    @given(st.lists(st.binary(max_size=40) | st.sampled_from(PIECES), max_size=8), st.integers(1, 200))
    @settings(suppress_health_check=list(HealthCheck))
    def test_any_bytes_are_answered_or_waited_for(self, parts: list[bytes], pace: int) -> None:
        """Whatever comes, in whatever pieces: answers of ours, nothing else, and no error in the log."""
        site = self.make_faces(clock=Clock())
        data = b"".join(parts)
        sent = run_on_string_transport(site, [data[start : start + pace] for start in range(0, len(data), pace)])
        while sent:
            match = re.match(rb"HTTP/1\.[01] ([0-9]{3}) [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n", sent)
            assert match, sent
            sent = sent[match.end() :]
            if match[1] == b"100":
                continue
            length = re.search(rb"Content-Length: ([0-9]+)", match[0])
            assert length
            body, sent = sent[: int(length[1])], sent[int(length[1]) :]
            assert body == b"{}" if match[1] == b"200" else body.startswith(b'{"errors":[{"code":')


def run_on_string_transport(site: Faces, pieces: list[bytes]) -> bytes:
    """What a connection that receives these pieces sends; without a socket, for many examples."""
    peer = IPv4Address("TCP", "127.0.0.1", 40000)
    channel = cast(Any, site.buildProtocol(peer))
    transport = StringTransport(peerAddress=peer)
    channel.makeConnection(transport)
    for piece in pieces:
        if not transport.disconnecting:
            channel.dataReceived(piece)
    channel.connectionLost()
    return cast(bytes, transport.value())


class Access(SiteTestCase):
    def challenge(self, base: str, repository: str = "") -> str:
        scope = f',scope="repository:{repository}:pull"' if repository else ""
        return f'Bearer realm="{base}/jwt/auth",service="dependency_proxy"{scope}'

    async def test_who_is_in_no_network_is_challenged(self) -> None:
        """With the address that the client used: some refuse a realm on another host."""
        client = await self.start(networks=ELSEWHERE)
        for path, repository in (
            ("/v2/", ""),
            (f"/v2/{NAME}/manifests/3", str(NAME)),
            (f"/v2/{NAME}/blobs/{self.digest}", str(NAME)),
            (f"/v2/{NAME}/tags/list", str(NAME)),
            (f"/v2/{NAME}/referrers/{self.digest}", str(NAME)),
            (f"/ghcr.io/v2/{NAME}/manifests/3", str(NAME)),
            ("/v2/nobody/dependency_proxy/containers/a/manifests/3", "nobody/dependency_proxy/containers/a"),
            ("/v2/of.nowhere/app/manifests/3", "of.nowhere/app"),
        ):
            for method in ("GET", "HEAD"):
                client.ask(path, method)
                answer = await client.answer(method)
                assert (path, answer.status) == (path, 401)
                assert answer.headers["www-authenticate"] == self.challenge("http://cache.test:5000", repository)
                assert method == "HEAD" or answer.error == "UNAUTHORIZED"
        assert self.cache.hub.asked == []

    async def test_no_path_gets_into_the_challenge_that_could_end_its_quotes(self) -> None:
        client = await self.start(networks=ELSEWHERE)
        for name in ("a%22,realm=%22http:%2F%2Fevil.example", "a%0Db", "a%5C", "%C3%BC", "a" * 600):
            client.ask(f"/v2/{name}/manifests/3")
            answer = await client.answer()
            assert answer.headers["www-authenticate"] == self.challenge("http://cache.test:5000"), name

    async def test_who_is_in_no_network_learns_how_to_get_in(self) -> None:
        client = await self.start(networks=ELSEWHERE)
        client.ask("/v2/")
        assert b"127.0.0.1 is in no network that may pull" in (await client.answer()).body
        assert self.has_logged("127.0.0.1 is in no network that may pull")

    async def test_the_realm_is_where_the_client_asked(self) -> None:
        client = await self.start(networks=ELSEWHERE)
        for host in ("cache.test", "127.0.0.1:5000", "[::1]:5000", "a_b.test"):
            client.send(f"GET /v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await client.answer()).headers["www-authenticate"] == self.challenge(f"http://{host}")

    async def test_without_a_host_the_realm_is_the_public_url(self) -> None:
        client = await self.start(networks=ELSEWHERE)
        client.send(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert (await client.answer()).headers["www-authenticate"] == self.challenge(PUBLIC_URL)

    async def test_no_host_gets_into_the_challenge_that_is_none(self) -> None:
        for host in (b'x",realm="http://evil.example', b"evil.example/?", b"x y", b"\xff", b"user@host", b"h:123456"):
            client = await self.start(networks=ELSEWHERE)
            client.send(b"GET /v2/ HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
            answer = await client.answer()
            assert answer.error
            assert answer.headers.get("www-authenticate") in (None, self.challenge(PUBLIC_URL)), host

    async def test_the_realm_over_tls(self) -> None:
        site = self.make_faces(networks=ELSEWHERE)
        port, trust = self.listen_tls(site)
        client = await self.tls_client(port, trust)
        client.ask("/v2/")
        assert (await client.answer()).headers["www-authenticate"] == self.challenge("https://cache.test:5000")

    async def test_health_is_open(self) -> None:
        client = await self.start(networks=ELSEWHERE)
        for path in ("/healthz", "/readyz"):
            for method in ("GET", "HEAD"):
                client.ask(path, method)
                assert (await client.answer(method)).status == 200

    async def test_health_is_open_for_reading_only(self) -> None:
        client = await self.start(networks=ELSEWHERE)
        client.ask("/healthz", "DELETE")
        assert (await client.answer()).error == "UNSUPPORTED"

    async def test_metrics_for_those_inside(self) -> None:
        client = await self.start()
        client.ask("/metrics")
        answer = await client.answer()
        assert answer.status == 200
        assert b"depproxy_requests_total" in answer.body
        self.site.networks = Networks(ELSEWHERE)
        client.ask("/metrics")
        answer = await client.answer()
        assert (answer.status, answer.error) == (403, "DENIED")

    async def test_unix_sockets(self) -> None:
        for allowed, status in ((True, 200), (False, 401)):
            site = self.make_faces(networks=(), unix_sockets=allowed)
            client = await self.client(self.listen_unix(site, f"{status}.sock"))
            client.ask("/v2/")
            answer = await client.answer()
            assert answer.status == status
            if not allowed:
                assert answer.headers["www-authenticate"] == self.challenge("http://cache.test:5000")


class Connections(SiteTestCase):
    async def test_no_more_than_so_many(self) -> None:
        first = await self.start(max_connections=2)
        second = await self.client(self.port)
        await self.works(second)
        third = await self.client(self.port)
        await third.end()
        assert self.has_logged("is turned away: 2 connections are open")
        await self.works(first)
        second.leave()
        await until(lambda: len(self.site.channels) == 1)
        await self.works(await self.client(self.port))

    async def test_idle_connections_are_closed(self) -> None:
        clock = Clock()
        client = await self.start(clock=clock)
        await self.works(client)
        clock.advance(IDLE_TIMEOUT - 1)
        await self.works(client)
        # At the first look the acknowledgement of the answer may still be on its way.
        clock.pump([IDLE_TIMEOUT + 1] * 2)
        assert await client.end()

    async def test_a_connection_that_waits_for_its_answer_is_not_idle(self) -> None:
        clock = Clock()
        client = await self.start(clock=clock)
        self.cache.hub.held = True
        client.ask(f"/v2/{NAME}/manifests/3")
        await until(lambda: self.cache.hub.asked)
        clock.advance(IDLE_TIMEOUT * 2)
        self.cache.hub.answer()
        assert (await client.answer()).body == b"{}"

    async def test_http_1_1_is_all_that_is_offered(self) -> None:
        site = self.make_faces()
        port, trust = self.listen_tls(site)
        client = await self.tls_client(port, trust, [b"h2", b"http/1.1"])
        client.ask("/v2/")
        assert (await client.answer()).status == 200
        assert cast(Any, client.transport).negotiatedProtocol == b"http/1.1"

    async def test_a_client_that_leaves_is_forgotten(self) -> None:
        client = await self.start()
        self.cache.hub.held = True
        client.ask(f"/v2/{NAME}/manifests/3")
        await until(lambda: self.cache.hub.asked)
        client.leave()
        await until(lambda: not self.site.channels)
        self.cache.hub.answer()
        assert (await self.ask_new(f"/v2/{NAME}/manifests/3")).body == b"{}"

    async def ask_new(self, path: str) -> Answer:
        client = await self.client(self.port)
        client.ask(path)
        return await client.answer()

    async def test_the_constant_headers(self) -> None:
        client = await self.start()
        for path in ("/v2/", "/nothing", "/healthz"):
            client.ask(path)
            answer = await client.answer()
            assert answer.headers["server"].startswith("depproxy/")
            assert re.fullmatch(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT", answer.headers["date"])

    async def test_the_probe(self) -> None:
        """distribution-spec end-1; with a length, so that HTTP/1.0 and simple clients need no chunks."""
        client = await self.start()
        for path in ("/v2/", "/v2", "/ghcr.io/v2/", "/v2/?ns=docker.io"):
            for method in ("GET", "HEAD"):
                client.ask(path, method)
                answer = await client.answer(method)
                assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
                assert answer.headers["content-length"] == "2"


class Draining(SiteTestCase):
    async def test_idle_connections_close(self) -> None:
        """At once, but for those that are about to ask."""
        clock = Clock()
        client = await self.start(clock=clock)
        await self.works(client)
        fresh = await self.client(self.port)
        half = await self.client(self.port)
        half.send(GET)
        quick = await self.client(self.port)
        await until(lambda: len(self.site.channels) == 4)
        drained = Deferred.fromCoroutine(self.site.drain(60))
        assert await client.end()
        await self.works(quick)
        assert await quick.end()
        assert len(self.site.channels) == 2
        clock.advance(PATIENCE)
        for connection in (fresh, half):
            assert await connection.end()
        await drained

    async def test_answers_under_way_end_first(self) -> None:
        client = await self.start()
        idle = await self.client(self.port)
        await self.works(idle)
        self.cache.hub.held = True
        self.cache.hub.asked.clear()
        client.ask(f"/v2/{NAME}/manifests/3")
        client.ask("/v2/")
        await until(lambda: self.cache.hub.asked)
        drained = Deferred.fromCoroutine(self.site.drain(60))
        assert await idle.end()
        assert not drained.called
        self.cache.hub.answer()
        assert (await client.answer()).body == b"{}"
        assert await client.end(), "the second request is for another time"
        assert client.data == b""
        await drained

    async def test_late_ones_are_cut(self) -> None:
        clock = Clock()
        client = await self.start(clock=clock)
        self.cache.hub.held = True
        client.ask(f"/v2/{NAME}/manifests/3")
        await until(lambda: self.cache.hub.asked)
        drained = Deferred.fromCoroutine(self.site.drain(30))
        clock.advance(29)
        assert not drained.called
        clock.advance(2)
        await drained
        assert not await client.end()
        assert self.has_logged("1 requests are cut off")
        self.cache.hub.answer()

    async def test_nobody_is_there(self) -> None:
        clock = Clock()
        self.site = self.make_faces(clock=clock)
        await self.site.drain(60)
        assert clock.getDelayedCalls() == []

    async def test_over_tls(self) -> None:
        self.site = self.make_faces()
        port, trust = self.listen_tls(self.site)
        client = await self.tls_client(port, trust)
        client.ask("/v2/")
        assert (await client.answer()).status == 200
        await self.site.drain(60)
        assert await client.end()


class HandlerErrors(SiteTestCase):
    async def test_a_defect_is_a_500_document(self) -> None:
        client = await self.start()
        self.cache.hub.fail(ZeroDivisionError("a defect"))
        client.ask(f"/v2/{NAME}/manifests/3")
        answer = await client.answer()
        assert (answer.status, answer.error) == (500, "UNKNOWN")
        assert b"a defect" not in answer.body
        assert self.failures(ZeroDivisionError) == 1
        self.cache.hub.fail(None)
        await self.works(client)

    async def test_the_status_face_has_documents_too(self) -> None:
        class Broken(MemoryIndex):
            async def totals(self) -> tuple[int, int]:
                raise ZeroDivisionError("a defect")

        broken = Broken(lambda: 0.0)
        client = await self.start(status=Status(broken, broken, Metrics(), lambda: 0))
        for path in ("/readyz", "/metrics"):
            client.ask(path)
            answer = await client.answer()
            assert (answer.status, answer.error) == (500, "UNKNOWN")
        assert self.failures(ZeroDivisionError) == 2

    async def test_an_unknown_blob(self) -> None:
        client = await self.start()
        client.ask(f"/v2/{NAME}/blobs/{Digest.of(b'nobody')}")
        answer = await client.answer()
        assert (answer.status, answer.error) == (404, "BLOB_UNKNOWN")
