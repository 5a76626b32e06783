"""Small requests to other services, over real sockets: what is sent, what is refused, and how long it may take."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from depproxy.upstream.errors import Invalid, Unavailable, UpstreamError
from depproxy.upstream.fetch import MAX_BODY, MAX_CONNECTIONS, Fetcher, make_fetcher
from depproxy.upstream.interface import Fetched, IFetcher
from tests.certificates import Authority
from tests.test_upstream_agent import ForwardProxy, started
from tests.upstream_fake import Call, Error, Listening, Raw, Ready, Server, UpstreamCase, answers, reactor

SECRET = "glpat-very-secret"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class FetchCase(UpstreamCase):
    """Builds fetchers, and proves at the end that they hold no connection."""

    def setUp(self) -> None:
        super().setUp()
        self._fetchers: list[Fetcher] = []

    async def tearDown(self) -> None:  # type: ignore[override]  # trial waits for it
        for fetcher in self._fetchers:
            await fetcher.close()
            assert fetcher.connections == 0
        await super().tearDown()

    def fetcher(self, *named: Listening, **options: Any) -> Fetcher:
        """One that may ask these servers, whatever their scheme."""
        options.setdefault("named", [server.url for server in named])
        made = make_fetcher(reactor, metrics=self.metrics, **options)
        self._fetchers.append(made)
        return made

    def server(self, *, context: Any = None) -> Server:
        return self.serve(Server(reactor, context=context))

    async def failing(self, kind: type[Error], host: str, waiting: Awaitable[object]) -> Error:
        """The error of exactly this kind, about this host."""
        try:
            found = await waiting
        except UpstreamError as error:
            if type(error) is not kind or error.upstream != host:
                raise
            return error
        raise AssertionError(f"no error, but {found!r}")

    def requests(self, host: str, method: str, status: int) -> float:
        return float(self.metrics.upstream_requests.labels(host, method, str(status))._value.get())


class Answers(FetchCase):
    async def test_a_get(self) -> None:
        server = self.server()
        server.paths["/api"] = answers(200, b"{}", Content_Type="application/json", X_Thing=" a b ")
        fetcher = self.fetcher(server)
        assert verifyObject(IFetcher, fetcher)
        found = await fetcher.fetch("GET", f"{server.url}/api", {"PRIVATE-TOKEN": SECRET, "X-Name": "J\u00f6rg"})
        assert (found.status, found.body) == (200, b"{}")
        assert found.headers["content-type"] == "application/json"
        assert found.headers["x-thing"] == "a b"
        (seen,) = server.seen
        assert seen.header("Private-Token") == SECRET
        assert seen.header("X-Name") == "J\u00f6rg".encode().decode("latin-1")
        assert seen.header("Host") == server.netloc
        assert seen.header("Accept-Encoding") == "identity"
        assert str(seen.header("User-Agent")).startswith("depproxy/")
        assert seen.header("Content-Type") is seen.header("Content-Length") is seen.header("Cookie") is None
        assert self.requests(server.netloc, "GET", 200) == 1

    async def test_other_methods_and_bodies(self) -> None:
        server = self.server()
        got: list[tuple[str, bytes]] = []

        def echo(call: Call) -> object:
            content: Any = call.request.content
            got.append((call.seen.method, content.read()))
            return call.answer(201)

        server.paths["/"] = echo
        fetcher = self.fetcher(server)
        for method, body in (("POST", b"grant_type=x&y=z"), ("PUT", b"\0" * 100_000), ("DELETE", None), ("POST", b"")):
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
            found = await fetcher.fetch(method, server.url, headers, body)
            assert (found.status, found.body) == (201, b"")
            assert got.pop() == (method, body or b"")
        assert server.seen[0].header("Content-Type") == "application/x-www-form-urlencoded"
        assert server.seen[0].header("Content-Length") == "16"
        assert server.accepted == 1

    async def test_whatever_its_status_an_answer_is_one(self) -> None:
        server = self.server()
        fetcher = self.fetcher(server)
        for status in (204, 304, 401, 403, 404, 429, 500, 503):
            body = b"" if status in (204, 304) else b"why"
            server.paths["/"] = answers(status, body, Retry_After="7")
            found = await fetcher.fetch("GET", server.url)
            assert (found.status, found.body, found.headers["retry-after"]) == (status, body, "7")
        assert (await fetcher.fetch("HEAD", server.url)).body == b""
        assert server.accepted == 1

    async def test_a_redirect_is_not_followed(self) -> None:
        server, other = self.server(), self.server()
        fetcher = self.fetcher(server, other)
        for status in (301, 302, 303, 307, 308):
            server.paths["/"] = answers(status, b"there", Location=other.url)
            found = await fetcher.fetch("GET", server.url, {"PRIVATE-TOKEN": SECRET})
            assert (found.status, found.headers["location"]) == (status, other.url)
        assert other.accepted == 0
        assert len(server.seen) == 5

    async def test_no_cookie_is_kept(self) -> None:
        server = self.server()
        server.paths["/"] = answers(200, b"{}", Set_Cookie="session=alice; Path=/")
        fetcher = self.fetcher(server)
        for _ in range(2):
            await fetcher.fetch("GET", server.url)
        assert [seen.header("Cookie") for seen in server.seen] == [None, None]

    async def test_nothing_is_decompressed(self) -> None:
        server = self.server()
        bomb = gzip.compress(b"0" * (2 * MAX_BODY))
        server.paths["/"] = answers(200, bomb, Content_Encoding="gzip")
        assert (await self.fetcher(server).fetch("GET", server.url)).body == bomb

    async def test_urls_arrive_as_they_are(self) -> None:
        server = self.server()
        fetcher = self.fetcher(server)
        targets = ("/api/v4/groups/acme%2Ftools%2Fx.y", "/a%2fb?x=%41&y=1+2&z=", "/~a/%7Eb//c;d")
        for target in targets:
            await fetcher.fetch("GET", server.url + target)
        assert [seen.uri.decode() for seen in server.seen] == list(targets)

    async def test_connections_are_used_again_and_closed_when_idle(self) -> None:
        clock = Ready()
        server = self.server()
        fetcher = self.fetcher(server, clock=clock)
        for _ in range(3):
            await fetcher.fetch("GET", server.url)
        assert (server.accepted, server.open) == (1, 1)
        clock.advance(30)
        await server.gone()

    async def test_so_many_at_a_time(self) -> None:
        server = self.server()
        server.paths["/"] = lambda call: NOT_DONE_YET
        fetcher = self.fetcher(server)
        waiting = [started(fetcher.fetch("GET", server.url)) for _ in range(MAX_CONNECTIONS + 3)]
        await server.requests(MAX_CONNECTIONS)
        assert fetcher.connections == MAX_CONNECTIONS
        server.paths["/"] = answers(200, b"{}")
        for call in server.calls[:]:
            call.answer(200, b"{}")
            call.request.finish()
        assert [found.status for found in await gatherResults(waiting)] == [200] * len(waiting)
        assert server.accepted == MAX_CONNECTIONS

    def test_a_body_is_not_shown(self) -> None:
        assert SECRET not in repr(Fetched(200, {}, SECRET.encode()))


class Refusals(FetchCase):
    async def test_http_is_for_hosts_that_were_named_so(self) -> None:
        server, other = self.server(), self.server()
        fetcher = self.fetcher(named=[server.url + "/path", f"https://{other.netloc}"])
        assert (await fetcher.fetch("GET", server.url)).status == 404
        error = await self.failing(Invalid, other.netloc, fetcher.fetch("GET", other.url))
        assert "https alone" in str(error)
        await self.failing(Invalid, f"localhost:{server.port}", fetcher.fetch("GET", server.alias))
        # Who could read the URL in two ways is given none.
        await self.failing(Invalid, other.netloc, fetcher.fetch("GET", f"http://{server.netloc}@{other.netloc}/"))
        assert other.accepted == 0
        assert len(server.seen) == 1

    async def test_what_is_no_url(self) -> None:
        fetcher = self.fetcher()
        for url in (
            "",
            "x",
            "ftp://h/",
            "https://",
            "https://a b/",
            "https://h:99999/",
            "file:///etc/passwd",
            "\ud800",
        ):
            await self.failing(Invalid, "a request", fetcher.fetch("GET", url))

    async def test_at_most_a_mebibyte(self) -> None:
        server = self.server()
        fetcher = self.fetcher(server)
        server.paths["/"] = answers(200, b"x" * MAX_BODY)
        assert len((await fetcher.fetch("GET", server.url)).body) == MAX_BODY
        server.paths["/"] = answers(200, b"x" * (MAX_BODY + 1))
        await self.failing(Invalid, server.netloc, fetcher.fetch("GET", server.url))
        await server.gone()

        def chunked(call: Call) -> object:
            call.begin(200)
            call.request.write(b"x" * (MAX_BODY + 1))
            return NOT_DONE_YET

        server.paths["/"] = chunked
        await self.failing(Invalid, server.netloc, fetcher.fetch("GET", server.url))
        await server.gone()

    async def test_what_cannot_stand_in_a_header_is_not_sent(self) -> None:
        server = self.server()
        fetcher = self.fetcher(server)
        for value in ("a\r\nX: b", "a\nb", "a\0", "\x7f", " a", "a\t", "\ud800" + SECRET):
            waiting = fetcher.fetch("GET", server.url, {"PRIVATE-TOKEN": value})
            error = await self.failing(Invalid, server.netloc, waiting)
            assert error.message == "the value of the header PRIVATE-TOKEN cannot be sent"
        assert server.accepted == 0


class Trouble(FetchCase):
    async def test_nobody_there(self) -> None:
        gone = Server(reactor)
        await gone.close()
        error = await self.failing(Unavailable, gone.netloc, self.fetcher(gone).fetch("GET", gone.url))
        assert "refused" in error.message
        assert gone.netloc not in error.message
        assert self.requests(gone.netloc, "GET", 0) == 1

    async def test_answers_that_break_off(self) -> None:
        for answer in (b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"):
            raw = self.serve(Raw(reactor, answer, answer, close_after=True))
            await self.failing(Unavailable, raw.netloc, self.fetcher(raw).fetch("POST", raw.url, {}, b"x"))
            await raw.gone()

    async def test_limits_of_time(self) -> None:
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
        for answer, limit, option in ((None, 4.0, "first_byte_timeout"), (half, 4.0, "silence_timeout")):
            clock = Ready()
            raw = self.serve(Raw(reactor, answer))
            fetcher = self.fetcher(raw, clock=clock, **{option: limit})
            waits = clock.waits(limit)
            asking = started(fetcher.fetch("GET", raw.url))
            await waits
            await raw.until(lambda raw=raw: raw.has_seen(1))  # type: ignore[misc]
            clock.advance(limit)
            error = await self.failing(Unavailable, raw.netloc, asking)
            assert "4 s" in error.message
            await raw.gone()
            assert fetcher.connections == 0

    async def test_a_connection_that_never_stands(self) -> None:
        clock = Ready()
        raw = self.serve(Raw(reactor))
        fetcher = self.fetcher(clock=clock, connect_timeout=3.0)
        asking = started(fetcher.fetch("GET", f"https://{raw.netloc}/"))
        await raw.until(lambda: raw.accepted == 1)
        clock.advance(3)
        # The TLS handshake is a part of the first request.
        clock.advance(10)
        await self.failing(Unavailable, raw.netloc, asking)
        await raw.gone()

    async def test_the_whole_has_a_limit_too(self) -> None:
        clock = Ready()
        server = self.server()

        def half(call: Call) -> object:
            call.begin(200, 100)
            call.request.write(b"{")
            return NOT_DONE_YET

        server.paths["/"] = half
        fetcher = self.fetcher(server, clock=clock, silence_timeout=60.0, timeout=15.0)
        reading = clock.waits(60.0)
        asking = started(fetcher.fetch("GET", server.url))
        await reading
        clock.advance(15)
        error = await self.failing(Unavailable, server.netloc, asking)
        assert error.message == "no whole answer within 15 s"
        await server.gone()

    async def test_waiting_for_a_turn_counts(self) -> None:
        clock = Ready()
        server = self.server()
        server.paths["/"] = lambda call: NOT_DONE_YET
        fetcher = self.fetcher(server, clock=clock, first_byte_timeout=15.0, timeout=15.0)
        waiting = [started(fetcher.fetch("GET", server.url)) for _ in range(MAX_CONNECTIONS)]
        await server.requests(MAX_CONNECTIONS)
        clock.advance(14)
        late = started(fetcher.fetch("GET", server.url))
        clock.advance(1)
        for one in waiting:
            await self.failing(Unavailable, server.netloc, one)
        await server.requests(MAX_CONNECTIONS + 1)
        clock.advance(14)
        await self.failing(Unavailable, server.netloc, late)
        await server.gone()

    async def test_nothing_secret_is_told(self) -> None:
        events: list[LogEvent] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        raw = self.serve(Raw(reactor, b"nonsense\r\n\r\n", b"nonsense\r\n\r\n", close_after=True))
        big = self.server()
        big.paths["/"] = answers(200, b"x" * (MAX_BODY + 1))
        secure = self.server(context=Authority(self.directory()).server())
        fetcher = self.fetcher(named=[raw.url, big.url, "http://no-such-host.invalid"])
        headers = {"PRIVATE-TOKEN": SECRET, "Authorization": f"Bearer {SECRET}"}
        for url in (raw.url, big.url, "http://no-such-host.invalid", secure.url):
            try:
                await fetcher.fetch("POST", f"{url}/?query", headers, SECRET.encode())
            except UpstreamError as error:
                shown = f"{error} {error!r} {error.__cause__!r}"
            else:
                shown = SECRET
            assert SECRET not in shown
            assert "query" not in shown
        assert not [event for event in events if SECRET in f"{formatEvent(event)} {event}"]


class Leaving(FetchCase):
    async def cancelled(self, asking: Deferred[Fetched], fetcher: Fetcher, server: Listening) -> None:
        asking.cancel()
        await self.assertFailure(asking, CancelledError)
        await server.gone()
        assert fetcher.connections == 0

    async def test_while_connecting(self) -> None:
        raw = self.serve(Raw(reactor))
        fetcher = self.fetcher(raw)
        await self.cancelled(started(fetcher.fetch("GET", raw.url)), fetcher, raw)

    async def test_while_waiting_for_an_answer(self) -> None:
        raw = self.serve(Raw(reactor))
        fetcher = self.fetcher(raw)
        asking = started(fetcher.fetch("POST", raw.url, {}, b"x"))
        await raw.until(lambda: raw.has_seen(1))
        await self.cancelled(asking, fetcher, raw)

    async def test_while_reading(self) -> None:
        clock = Ready()
        raw = self.serve(Raw(reactor, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"))
        fetcher = self.fetcher(raw, clock=clock, silence_timeout=7.0)
        reading = clock.waits(7.0)
        asking = started(fetcher.fetch("GET", raw.url))
        await reading
        await self.cancelled(asking, fetcher, raw)
        assert not clock.getDelayedCalls()

    async def test_while_waiting_for_a_turn(self) -> None:
        server = self.server()
        server.paths["/"] = lambda call: NOT_DONE_YET
        fetcher = self.fetcher(server)
        waiting = [started(fetcher.fetch("GET", server.url)) for _ in range(MAX_CONNECTIONS + 1)]
        await server.requests(MAX_CONNECTIONS)
        last = waiting.pop()
        last.cancel()
        await self.assertFailure(last, CancelledError)
        assert fetcher.connections == MAX_CONNECTIONS
        # Closing gives the others up.
        await fetcher.close()
        for one in waiting:
            await self.assertFailure(one, CancelledError)
        await server.gone()


class Secure(FetchCase):
    async def test_authorities(self) -> None:
        authority = Authority(self.directory())
        server = self.server(context=authority.server())
        server.paths["/"] = answers(200, b"{}")
        trusting = self.fetcher(ca_file=authority.file)
        for _ in range(2):
            assert (await trusting.fetch("GET", server.url)).body == b"{}"
        assert server.accepted == 1
        error = await self.failing(Unavailable, server.netloc, self.fetcher().fetch("GET", server.url))
        assert "TLS failed" in error.message
        assert len(server.seen) == 2

    async def test_a_certificate_for_another_host(self) -> None:
        authority = Authority(self.directory())
        server = self.server(context=authority.server("elsewhere.example"))
        fetcher = self.fetcher(ca_file=authority.file)
        error = await self.failing(Unavailable, server.netloc, fetcher.fetch("GET", server.url))
        assert error.message == "its TLS certificate is for another host"
        assert server.seen == []

    async def test_through_a_proxy(self) -> None:
        authority = Authority(self.directory())
        server = self.server(context=authority.server("gitlab.example"))
        server.paths["/api"] = answers(200, b"{}")
        lines: list[bytes] = []
        factory = Factory.forProtocol(lambda: ForwardProxy(server.port, lines))
        factory.noisy = False
        proxy = self.serve(Listening(reactor, factory))
        fetcher = self.fetcher(ca_file=authority.file, proxy=proxy.url)
        assert (await fetcher.fetch("GET", "https://gitlab.example/api", {"PRIVATE-TOKEN": SECRET})).status == 200
        assert lines == [b"CONNECT gitlab.example:443 HTTP/1.1"]
        assert server.seen[0].header("Private-Token") == SECRET
