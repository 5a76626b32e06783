"""Redirects, limits of time, cancellation, TLS and proxies, over real sockets."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.web.server import NOT_DONE_YET

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.client import RegistryClient
from depproxy.upstream.errors import Invalid, NotFound, Throttled, Unavailable
from tests.certificates import Authority
from tests.upstream_fake import (
    Account,
    Call,
    Listening,
    Raw,
    Ready,
    Registry,
    Server,
    Sink,
    UpstreamCase,
    answers,
    reactor,
    send_blob,
)

REPOSITORY = Name("library/alpine")
TAG = Tag("3.20")
MANIFEST = b'{"schemaVersion": 2, "layers": []}'
MANIFEST_PATH = f"/v2/{REPOSITORY}/manifests/{TAG}"
BLOB = bytes(range(256)) * 100
DIGEST = Digest.of(BLOB)
BLOB_PATH = f"/v2/{REPOSITORY}/blobs/{DIGEST}"


async def whole(client: RegistryClient, offset: int = 0) -> bytes:
    """The blob as the client gets it."""
    sink = Sink()
    (await client.open_blob(REPOSITORY, DIGEST, offset)).start(sink)
    await sink.done
    assert sink.ends == [None]
    return bytes(sink.data)


def started(waiting: Awaitable[Any]) -> Deferred[Any]:
    async def wait() -> Any:
        return await waiting

    return Deferred.fromCoroutine(wait())


class Redirects(UpstreamCase):
    def cdn(self, *paths: str, context: Any = None) -> Server:
        cdn = self.serve(Server(reactor, context=context))
        for path in paths:
            cdn.paths[path] = lambda call: send_blob(call, BLOB)
        return cdn

    async def test_signed_urls_arrive_as_they_were_sent(self) -> None:
        registry = self.registry()
        registry.put_blob(BLOB)
        client = self.client(registry)
        for target in (
            "/b?X-Amz-Signature=a%2Bb%2Fc+d/e~f%3D%3d==&X-Amz-Date=20260101T000000Z",
            "/b?path=[x]|{y}^`'\"<>\\&empty&none=&&x=%zz%",
            "/b?",
            "/b;",
            "/b;x=1;?;",
            "//b//%2e%2E/../c?//",
            "/%7Eb/~b/%2Fb%2fb+b%2B",
            "/b(1)!*,:@$",
        ):
            cdn = self.cdn(target.partition("?")[0])
            registry.cdn = cdn.url + target
            assert await whole(client) == BLOB
            assert cdn.seen[0].uri == target.encode()
            assert cdn.seen[0].header("Host") == cdn.netloc
        assert registry.accepted == 1

    async def test_what_cannot_be_on_the_wire_is_escaped_and_the_fragment_left(self) -> None:
        registry = self.registry()
        registry.put_blob(BLOB)
        cdn = self.cdn("/a%20b%E9")
        registry.cdn = f"{cdn.url}/a b\u00e9?c d#fragment"
        registry.paths[BLOB_PATH] = self.latin(registry.cdn)
        assert await whole(self.client(registry)) == BLOB
        assert cdn.seen[0].uri == b"/a%20b%E9?c%20d"

    def latin(self, location: str) -> Any:
        def redirect(call: Call) -> object:
            call.request.responseHeaders.setRawHeaders(b"Location", [location.encode("latin-1")])
            return call.answer(302)

        return redirect

    async def test_credentials_stay_with_the_host(self) -> None:
        registry = self.registry(authentication="bearer")
        registry.put_blob(BLOB)
        client = self.client(registry)
        # Another port is another host, and there is no way back to the credentials.
        cdn = self.cdn("/b")
        registry.cdn = f"{registry.url}/same"
        registry.paths["/same"] = answers(307, Location=f"{cdn.url}/away")
        cdn.paths["/away"] = answers(307, Location=f"{registry.url}/back")
        registry.paths["/back"] = answers(307, Location=f"{cdn.url}/b")
        assert await whole(client, 10) == BLOB[10:]
        sent = {seen.path: seen.header("Authorization") for seen in registry.seen + cdn.seen}
        assert sent["/same"] == "Bearer t1"
        assert (sent["/away"], sent["/back"], sent["/b"]) == (None, None, None)
        # What is no credential goes along.
        assert [seen.header("Range") for seen in cdn.seen] == ["bytes=10-", "bytes=10-"]
        assert [seen.header("Accept-Encoding") for seen in cdn.seen] == ["identity", "identity"]

    async def test_relative_locations_start_from_where_they_are(self) -> None:
        registry = self.registry()
        registry.put_blob(BLOB)
        cdn = self.cdn("/dir/blob")
        registry.cdn = f"{cdn.url}/dir/first?x"
        cdn.paths["/dir/first"] = answers(302, Location="second?y")
        cdn.paths["/dir/second"] = answers(303, Location="/dir/../third")
        cdn.paths["/dir/../third"] = answers(301, Location=f"//{cdn.netloc}/dir/fourth")
        cdn.paths["/dir/fourth"] = answers(308, Location="./blob")
        assert await whole(self.client(registry)) == BLOB
        assert cdn.accepted == 1

    async def test_five_and_not_six(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        for number in range(5):
            registry.paths[f"/hop{number}"] = answers(307, Location=f"/hop{number + 1}")
        registry.paths["/hop5"] = answers(200, BLOB)
        registry.paths[BLOB_PATH] = answers(307, Location="/hop1")
        assert await whole(client) == BLOB
        registry.paths[BLOB_PATH] = answers(307, Location="/hop0")
        error = await self.fails(Invalid, client.open_blob(REPOSITORY, DIGEST))
        assert "more than 5" in str(error)
        assert self.counted("GET", 307) == 5 + 6
        # Each redirect's body was read.
        assert registry.accepted == 1

    async def test_a_large_redirect_body_is_not_read(self) -> None:
        registry = self.registry()
        cdn = self.cdn("/b")
        registry.paths[BLOB_PATH] = answers(307, b"x" * 2**20, Location=f"{cdn.url}/b")
        assert await whole(self.client(registry)) == BLOB
        await registry.gone()

    async def test_a_head_stays_a_head(self) -> None:
        registry = self.registry()
        registry.put_blob(BLOB)
        for status in (301, 302, 303, 307, 308):
            cdn = self.cdn("/b")
            registry.paths[BLOB_PATH] = answers(status, Location=f"{cdn.url}/b")
            assert await self.client(registry).head_blob(REPOSITORY, DIGEST) == len(BLOB)
            assert cdn.asked() == ["HEAD /b"]

    async def test_a_redirect_without_a_location_is_none(self) -> None:
        registry = self.registry()
        registry.paths[BLOB_PATH] = answers(307)
        await self.fails(Invalid, self.client(registry).open_blob(REPOSITORY, DIGEST))

    async def test_locations_that_lead_nowhere(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        for location in ("ftp://127.0.0.1/b", "file:///etc/passwd", "http://", "http://a b/", "http://x:99999/"):
            registry.paths[BLOB_PATH] = answers(307, Location=location)
            await self.fails(Invalid, client.open_blob(REPOSITORY, DIGEST))

    async def test_https_stays_https(self) -> None:
        authority = Authority(self.directory())
        registry = self.serve(Registry(reactor, context=authority.server()))
        registry.put_blob(BLOB)
        client = self.client(registry, ca_file=authority.file)
        secure = self.cdn("/b", context=authority.server())
        registry.cdn = f"{secure.url}/b"
        assert await whole(client) == BLOB
        plain = self.cdn("/b")
        registry.cdn = f"{plain.url}/b?signature=s3cret"
        error = await self.fails(Invalid, client.open_blob(REPOSITORY, DIGEST))
        assert plain.seen == []
        assert "must stay with https" in str(error)
        assert "s3cret" not in str(error)
        # The other way round it is no loss.
        upgraded = self.registry()
        upgraded.put_blob(BLOB)
        upgraded.cdn = f"{secure.url}/b"
        assert await whole(self.client(upgraded, ca_file=authority.file)) == BLOB

    async def test_an_https_realm_must_be_https(self) -> None:
        authority = Authority(self.directory())
        registry = self.serve(Registry(reactor, context=authority.server()))
        registry.put_blob(BLOB)
        registry.authentication = "bearer"
        client = self.client(registry, ca_file=authority.file)
        assert await whole(client) == BLOB
        plain = self.serve(Server(reactor))
        registry.realm = f"{plain.url}/token"
        registry.tokens.clear()
        registry.paths["/token"] = answers(404)
        for _ in range(2):
            try:
                await client.head_blob(Name("other/image"), DIGEST)
            except Exception as error:
                last = str(error)
        assert "is not https" in last
        assert plain.seen == []

    async def test_what_another_host_refuses_is_not_upstreams_word(self) -> None:
        registry = self.registry(authentication="bearer", account=Account("alice", "secret"))
        registry.account = None
        registry.put_blob(BLOB)
        client = self.client(registry)
        cdn = self.cdn()
        registry.cdn = f"{cdn.url}/b?signature=s3cret"
        for status, kind in {
            401: Unavailable,
            403: Unavailable,
            404: NotFound,
            429: Throttled,
            500: Unavailable,
        }.items():
            cdn.paths["/b"] = answers(status, WWW_Authenticate='Bearer realm="http://127.0.0.1:1/"')
            error = await self.fails(kind, client.open_blob(REPOSITORY, DIGEST))
            assert error.status == status
            assert "s3cret" not in str(error)
        assert registry.issued == 1

    async def test_a_cdn_that_signs_for_get_alone_still_proves_the_blob(self) -> None:
        registry = self.registry()
        registry.put_blob(BLOB)
        cdn = self.cdn("/b")
        registry.cdn = f"{cdn.url}/b"
        for status in (401, 403, 405):
            cdn.paths["/b"] = answers(status)
            assert await self.client(registry).head_blob(REPOSITORY, DIGEST) is None
        cdn.paths["/b"] = answers(404)
        await self.fails(NotFound, self.client(registry).head_blob(REPOSITORY, DIGEST))

    async def test_manifests_are_redirected_too(self) -> None:
        registry, other = self.registry(), self.registry()
        digest = other.put_manifest(TAG, MANIFEST)
        registry.paths[MANIFEST_PATH] = answers(307, Location=other.url + MANIFEST_PATH)
        client = self.client(registry)
        assert (await client.get_manifest(REPOSITORY, TAG)).digest == digest
        assert (await client.head_manifest(REPOSITORY, TAG)).digest == digest
        other.manifests.clear()
        await self.fails(NotFound, client.get_manifest(REPOSITORY, TAG))


class Limits(UpstreamCase):
    async def test_no_answer(self) -> None:
        clock = Ready()
        raw = self.serve(Raw(reactor))
        client = self.client(raw, clock=clock, first_byte_timeout=7.0)
        asking = started(client.get_manifest(REPOSITORY, TAG))
        await raw.until(lambda: len(raw.heads) == 1)
        clock.advance(6.9)
        assert not asking.called
        clock.advance(0.1)
        error = await self.fails(Unavailable, asking)
        assert "no answer within 7 s" in str(error)
        await raw.gone()

    async def test_no_tls_handshake(self) -> None:
        clock = Ready()
        raw = self.serve(Raw(reactor))
        client = self.client(f"https://{raw.netloc}", clock=clock)
        asking = started(client.get_manifest(REPOSITORY, TAG))
        await raw.until(lambda: raw.accepted == 1)
        clock.advance(60)
        await self.fails(Unavailable, asking)
        await raw.gone()

    async def test_no_connection(self) -> None:
        # A proxy that never answers CONNECT is a connection that never stands.
        clock = Ready()
        raw = self.serve(Raw(reactor))
        client = self.client("https://registry.example", clock=clock, proxy=raw.url, connect_timeout=3.0)
        asking = started(client.get_manifest(REPOSITORY, TAG))
        await raw.until(lambda: len(raw.heads) == 1)
        clock.advance(3)
        error = await self.fails(Unavailable, asking)
        assert "no connection within 3 s" in str(error)
        await raw.gone()

    async def test_silence_in_the_middle_of_a_manifest(self) -> None:
        clock = Ready()
        registry = self.registry()
        client = self.client(registry, clock=clock)

        def half(call: Call) -> object:
            call.begin(200, 100)
            call.request.write(b"{")
            return NOT_DONE_YET

        registry.paths[MANIFEST_PATH] = half
        silent = clock.waits(60.0)
        asking = started(client.get_manifest(REPOSITORY, TAG))
        await silent
        clock.advance(60)
        await self.fails(Unavailable, asking)
        await registry.gone()

    async def test_connections_are_limited_and_some_kept_for_short_requests(self) -> None:
        registry = self.registry()

        def endless(call: Call) -> object:
            call.begin(200, 2**30)
            call.request.write(b"first")
            return NOT_DONE_YET

        registry.paths[BLOB_PATH] = endless
        registry.put_manifest(TAG, MANIFEST)
        client = self.client(registry, max_connections=4)
        opening = [started(client.open_blob(REPOSITORY, DIGEST)) for _ in range(6)]
        await registry.requests(3)
        for _ in range(5):
            await client.head_manifest(REPOSITORY, TAG)
        assert (len(registry.asked("GET")), client.connections) == (3, 3)
        left = opening.pop()
        left.cancel()
        await self.assertFailure(left, CancelledError)
        opening[0].addCallback(lambda stream: stream.stop())
        await registry.until(lambda: len(registry.asked("GET")) == 4)
        for one in opening[1:]:
            one.addCallback(lambda stream: stream.stop())
            await one
        assert client.connections == 0
        assert len(registry.asked("GET")) == 5

    async def test_one_connection_is_enough(self) -> None:
        registry = self.registry()
        registry.put_blob(BLOB)
        registry.put_manifest(TAG, MANIFEST)
        client = self.client(registry, max_connections=1)
        opening = [started(whole(client)) for _ in range(5)]
        heads = [started(client.head_manifest(REPOSITORY, TAG)) for _ in range(5)]
        for one in opening + heads:
            await one
        assert registry.accepted == 1

    async def test_an_idle_connection_is_kept_for_half_a_minute(self) -> None:
        clock = Ready()
        registry = self.registry()
        registry.put_manifest(TAG, MANIFEST)
        client = self.client(registry, clock=clock)
        await client.head_manifest(REPOSITORY, TAG)
        clock.advance(29)
        assert registry.open == 1
        clock.advance(1)
        await registry.gone()


class Cancellation(UpstreamCase):
    """At each stage: CancelledError, no connection, no permit, nothing in the log."""

    async def cancelled(self, asking: Deferred[Any], *servers: Listening) -> None:
        asking.cancel()
        assert asking.called
        await self.assertFailure(asking, CancelledError)
        for server in servers:
            await server.gone()

    async def test_while_the_name_is_looked_up(self) -> None:
        client = self.client("http://does-not-exist.invalid")
        await self.cancelled(started(client.get_manifest(REPOSITORY, TAG)))

    async def test_while_connecting(self) -> None:
        raw = self.serve(Raw(reactor))
        client = self.client(raw)
        await self.cancelled(started(client.get_manifest(REPOSITORY, TAG)), raw)

    async def test_while_the_proxy_digs(self) -> None:
        raw = self.serve(Raw(reactor))
        client = self.client("https://registry.example", proxy=raw.url)
        asking = started(client.get_manifest(REPOSITORY, TAG))
        await raw.until(lambda: len(raw.heads) == 1)
        await self.cancelled(asking, raw)

    async def test_while_tls_shakes_hands(self) -> None:
        raw = self.serve(Raw(reactor))
        asking = started(self.client(f"https://{raw.netloc}").get_manifest(REPOSITORY, TAG))
        await raw.until(lambda: raw.accepted == 1)
        await self.cancelled(asking, raw)

    async def test_while_waiting_for_headers(self) -> None:
        authority = Authority(self.directory())
        for context in (None, authority.server()):
            raw = self.serve(Raw(reactor, context=context))
            client = self.client(raw, ca_file=authority.file)
            for asking in (client.get_manifest(REPOSITORY, TAG), client.open_blob(REPOSITORY, DIGEST)):
                seen = len(raw.heads)
                begun = started(asking)
                await raw.until(partial(raw.has_seen, seen + 1))
                await self.cancelled(begun, raw)

    async def test_while_reading(self) -> None:
        clock = Ready()
        raw = self.serve(Raw(reactor, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))
        reading = clock.waits(60.0)
        asking = started(self.client(raw, clock=clock).get_manifest(REPOSITORY, TAG))
        await reading
        await self.cancelled(asking, raw)
        assert not clock.getDelayedCalls()

    async def test_while_draining_a_redirect_or_an_error(self) -> None:
        for head in (b"307 Go\r\nLocation: /x", b"404 No", b"401 No"):
            clock = Ready()
            raw = self.serve(Raw(reactor, b"HTTP/1.1 " + head + b"\r\nContent-Length: 9\r\n\r\n"))
            draining = clock.waits(2.0)
            asking = started(self.client(raw, clock=clock).get_manifest(REPOSITORY, TAG))
            await draining
            await self.cancelled(asking, raw)
            assert not clock.getDelayedCalls()

    async def test_while_waiting_for_a_permit(self) -> None:
        raw = self.serve(Raw(reactor))
        client = self.client(raw, max_connections=1)
        first = started(client.get_manifest(REPOSITORY, TAG))
        waiting = [started(client.get_manifest(REPOSITORY, TAG)), started(client.open_blob(REPOSITORY, DIGEST))]
        await raw.until(lambda: len(raw.heads) == 1)
        for asking in waiting:
            await self.cancelled(asking)
        await self.cancelled(first, raw)
        assert client.connections == 0
        assert len(raw.heads) == 1

    async def test_while_waiting_to_retry(self) -> None:
        clock = Ready()
        registry = self.registry()
        registry.paths[MANIFEST_PATH] = answers(503)
        retrying = clock.waits(0.125)
        asking = started(self.client(registry, clock=clock, retries=3).get_manifest(REPOSITORY, TAG))
        await retrying
        await self.cancelled(asking)
        assert len(registry.seen) == 1
        # The idle connection, nothing else.
        assert len(clock.getDelayedCalls()) == 1


class TLS(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(self.directory())

    def secure(self, context: Any) -> Registry:
        registry = self.serve(Registry(reactor, context=context))
        registry.put_blob(BLOB)
        return registry

    async def test_an_authority_of_its_own(self) -> None:
        registry = self.secure(self.authority.server())
        assert await whole(self.client(registry, ca_file=self.authority.file)) == BLOB
        named = self.client(registry.alias, ca_file=self.authority.file)
        assert await whole(named) == BLOB

    async def test_an_authority_that_nobody_knows(self) -> None:
        registry = self.secure(self.authority.server())
        other = Authority(self.directory(), "another authority")
        for ca_file in (None, other.file):
            client = self.client(registry, ca_file=ca_file)
            error = await self.fails(Unavailable, client.head_blob(REPOSITORY, DIGEST))
            assert "certificate verify failed" in str(error)
        assert registry.seen == []

    async def test_a_certificate_for_another_host(self) -> None:
        registry = self.secure(self.authority.server("registry.example"))
        client = self.client(registry, ca_file=self.authority.file)
        error = await self.fails(Unavailable, client.head_blob(REPOSITORY, DIGEST))
        assert "certificate is for another host" in str(error)
        assert registry.seen == []

    async def test_the_platforms_authorities_stay_trusted_beside_it(self) -> None:
        platform = Authority(self.directory(), "platform")
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = str(platform.file)
        try:
            # A private registry that redirects to public storage.
            registry = self.secure(self.authority.server())
            public = self.serve(Server(reactor, context=platform.server()))
            public.paths["/b"] = lambda call: send_blob(call, BLOB)
            registry.cdn = f"{public.alias}/b"
            client = self.client(registry, ca_file=self.authority.file)
            assert await whole(client) == BLOB
            assert await whole(self.client(self.secure(platform.server()))) == BLOB
        finally:
            if before is None:
                del os.environ["SSL_CERT_FILE"]
            else:
                os.environ["SSL_CERT_FILE"] = before

    async def test_something_else_where_tls_is_wanted(self) -> None:
        class Rude(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 400 The plain HTTP request was sent to HTTPS port\r\n\r\n")

        factory = Factory.forProtocol(Rude)
        factory.noisy = False
        server = self.serve(Listening(reactor, factory))
        client = self.client(f"https://{server.netloc}")
        error = await self.fails(Unavailable, client.head_blob(REPOSITORY, DIGEST))
        assert "TLS failed" in str(error)


class ForwardProxy(Protocol):
    """Forwards http by the path of its absolute URL, and digs tunnels; both to `target`, whatever they name."""

    def __init__(self, target: int, lines: list[bytes]) -> None:
        self._target = target
        self._lines = lines
        self._got = b""
        self._further: Further | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._further is not None:
            self._further.send(data)
            return
        self._got += data
        line, end, rest = self._got.partition(b"\r\n")
        if b"\r\n\r\n" in self._got:
            self._lines.append(line)
            method, uri, version = line.split(b" ")
            request = method + b" /" + b"".join(uri.split(b"/", 3)[3:]) + b" " + version + end + rest
            self._further = Further(self, b"" if method == b"CONNECT" else request)
            further: Any = ClientFactory.forProtocol(lambda: self._further)
            further.noisy = False
            reactor.connectTCP("127.0.0.1", self._target, further)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        if self._further is not None and self._further.transport is not None:
            self._further.transport.loseConnection()


class Further(Protocol):
    """The proxy's own connection, which begins with `request`, or without one is a tunnel."""

    def __init__(self, back: ForwardProxy, request: bytes) -> None:
        self._back = back
        self._request = request

    def connectionMade(self) -> None:
        if self._request:
            self.send(self._request)
        else:
            self._back.send(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        self._back.send(data)

    def connectionLost(self, reason: object = None) -> None:
        assert self._back.transport is not None
        self._back.transport.loseConnection()


class Proxied(UpstreamCase):
    def proxy(self, target: int) -> tuple[Listening, list[bytes]]:
        lines: list[bytes] = []
        factory = Factory.forProtocol(lambda: ForwardProxy(target, lines))
        factory.noisy = False
        return self.serve(Listening(reactor, factory)), lines

    async def test_http_goes_by_its_whole_url(self) -> None:
        registry = self.registry()
        digest = registry.put_manifest(TAG, MANIFEST)
        proxy, lines = self.proxy(registry.port)
        client = self.client("http://registry.example:8080", proxy=proxy.url)
        assert (await client.get_manifest(REPOSITORY, TAG)).digest == digest
        assert lines == [f"GET http://registry.example:8080{MANIFEST_PATH} HTTP/1.1".encode()]
        assert registry.seen[0].header("Host") == "registry.example:8080"

    async def test_https_goes_through_a_tunnel(self) -> None:
        authority = Authority(self.directory())
        registry = self.serve(Registry(reactor, context=authority.server("registry.example")))
        registry.put_blob(BLOB)
        proxy, lines = self.proxy(registry.port)
        client = self.client("https://registry.example", proxy=proxy.url, ca_file=authority.file)
        for _ in range(2):
            assert await whole(client) == BLOB
        assert lines == [b"CONNECT registry.example:443 HTTP/1.1"]
        assert registry.seen[0].header("Host") == "registry.example"

    async def test_a_proxy_that_refuses(self) -> None:
        for answer in (
            b"HTTP/1.1 403 Forbidden\r\n\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"x" * 20_000,
            b"\r\n\r\n",
        ):
            raw = self.serve(Raw(reactor, answer))
            client = self.client("https://registry.example", proxy=raw.url)
            error = await self.fails(Unavailable, client.head_blob(REPOSITORY, DIGEST))
            assert "the proxy answered CONNECT" in str(error)
            await raw.gone()
        raw = self.serve(Raw(reactor, b"", close_after=True))
        client = self.client("https://registry.example", proxy=raw.url)
        error = await self.fails(Unavailable, client.head_blob(REPOSITORY, DIGEST))
        assert "the proxy closed the connection" in str(error)
