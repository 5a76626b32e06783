"""The admin socket: who may use it, what is answered there, and how long operations tell how far they are."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock, deferLater

from depproxy import __version__
from depproxy.index.interface import IndexUnavailable
from depproxy.upstream.errors import Unavailable
from depproxy.web.admin.answers import AdminError, Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.progress import ALIVE_INTERVAL, MISSED_MOMENTS, Progress
from depproxy.web.admin.site import MAX_BODY, AdminSite
from depproxy.web.admin.socket import AdminSocketError, listen
from tests.web_support import REACTOR, Answer, Client, WebTestCase, until

LINE = {"line": "x" * 1000}


class Face:
    """A face as a command has one."""

    app = AdminApplication()

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.steps: Callable[[Progress], Awaitable[None]] | None = None
        self.cancelled = False

    @app.answers("GET", "/v1/try", "text", "flag")
    async def shown(self, ask: Ask) -> Document:
        if self.error is not None:
            raise self.error
        return {"text": ask.text("text"), "flag": ask.flag("flag")}

    @app.answers("POST", "/v1/try/done", "text", "texts", "flag")
    async def done(self, ask: Ask) -> Document:
        return {"text": ask.text("text"), "texts": ask.texts("texts"), "flag": ask.flag("flag")}

    @app.tells("/v1/try/long", "text")
    async def long(self, ask: Ask, progress: Progress) -> Document:
        try:
            if self.steps is not None:
                await self.steps(progress)
        except CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return {"text": ask.text("text")}


class BetweenBindAndChmod:
    """A reactor whose listenUNIX goes no further than to bind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.mode = 0

    def listenUNIX(self, address: str, factory: Any, backlog: int, mode: int) -> None:
        factory.doStart()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(address)
            self.mode = stat.S_IMODE(self._path.stat().st_mode)
        raise CannotListenError(None, address, OSError("no further"))


class AdminTestCase(WebTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.face = Face()
        self.path = self.directory / "admin.sock"

    def open(self, clock: Any = REACTOR) -> IListeningPort:
        self.site = AdminSite({"try": self.face.app.resource()}, clock)
        port = listen(REACTOR, self.path, self.site)

        async def end() -> None:
            await maybeDeferred(port.stopListening)
            self.site.close()
            await until(lambda: not self.site.channels and all(client.reason for client in self._clients))

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        return port

    async def send(self, method: str, path: str, body: bytes = b"") -> Client:
        client = await self.client(str(self.path))
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.send(head.encode(), body)
        return client

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and document of an answer, which is one in every respect."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        answer = await (await self.send(method, path, raw)).answer(method)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["server"] == f"depproxy/{__version__}"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-length"] == str(len(answer.body))
        return answer.status, json.loads(answer.body)

    async def error(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        status, document = await self.ask(method, path, body)
        assert set(document) == {"error"}
        return status, document["error"]


class Socket(AdminTestCase):
    async def test_only_its_owner_may_open_it(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.open()
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
        assert os.umask(0) == 0

    async def test_nor_may_anybody_else_while_it_is_made(self) -> None:
        """Between bind and chmod a moment passes, in which it has the mode that the umask leaves."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        bound = BetweenBindAndChmod(self.path)
        with pytest.raises(AdminSocketError):
            listen(bound, self.path, AdminSite({}, REACTOR))
        assert bound.mode == 0o600

    async def test_it_goes_with_the_port(self) -> None:
        port = self.open()
        await maybeDeferred(port.stopListening)
        assert not self.path.exists()

    async def test_the_file_of_a_dead_process_is_replaced(self) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
            dead.listen()
        self.open()
        assert (await self.ask("GET", "/v1/try"))[0] == 200

    async def test_a_living_process_keeps_its_socket(self) -> None:
        self.open()
        with pytest.raises(AdminSocketError, match="is in use by another process"):
            listen(REACTOR, self.path, self.site)
        assert (await self.ask("GET", "/v1/try"))[0] == 200

    async def test_a_living_process_whose_queue_is_full(self) -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
            busy.bind(str(self.path))
            busy.listen(0)
            waiting.connect(str(self.path))
            with pytest.raises(AdminSocketError, match="is in use by another process"):
                self.open()

    async def test_another_file_stays(self) -> None:
        self.path.write_text("precious")
        with pytest.raises(AdminSocketError, match=r"admin\.sock: is there and is no socket"):
            self.open()
        assert self.path.read_text() == "precious"

    async def test_no_directory(self) -> None:
        self.path = self.directory / "nowhere" / "admin.sock"
        with pytest.raises(AdminSocketError, match=r"cannot be made \(.*No such file.*\)"):
            self.open()


class Answering(AdminTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.open()

    async def test_arguments_of_a_query(self) -> None:
        assert await self.ask("GET", "/v1/try") == (200, {"text": None, "flag": False})
        found = await self.ask("GET", "/v1/try?text=a%2Fb%20%C3%A9&flag=true")
        assert found == (200, {"text": "a/b é", "flag": True})

    async def test_arguments_of_a_body(self) -> None:
        nothing: dict[str, object] = {"text": None, "texts": [], "flag": False}
        assert await self.ask("POST", "/v1/try/done") == (200, nothing)
        body = {"text": "é", "texts": ["a", "b"], "flag": True}
        assert await self.ask("POST", "/v1/try/done", body) == (200, body)
        assert await self.ask("POST", "/v1/try/done", dict.fromkeys(("text", "texts"))) == (200, nothing)

    async def test_wrong_arguments(self) -> None:
        for body, words in (
            ({"x": 1}, "does not know the argument 'x'"),
            ({"text": 7}, "text must be a text"),
            ({"text": ""}, "text must be a text"),
            ({"text": "x" * 1025}, "text must be a text"),
            ({"texts": "x"}, "texts must be an array"),
            ({"texts": ["x"] * 1001}, "texts must be an array"),
            ({"texts": ["x", 7]}, "each of texts"),
            ({"flag": 1}, "flag must be true or false"),
            ({"flag": "perhaps"}, "flag must be true or false"),
            ([], "must be a JSON object"),
            (b"{", "is not JSON"),
            (b"[" * 10_000, "is not JSON"),
        ):
            status, error = await self.error("POST", "/v1/try/done", body)
            assert (status, words in error) == (400, True), error
        for query, words in (("text=a&text=b", "twice"), ("text=%ff", "UTF-8"), ("x=1", "does not know the argument")):
            status, error = await self.error("GET", f"/v1/try?{query}")
            assert (status, words in error) == (400, True), error

    async def test_unknown_commands(self) -> None:
        for path in ("/", "/v1/", "/v1/nothing", "/v2/try", "/v1/try/nothing", "/v1/try%20"):
            assert await self.error("GET", path) == (
                404,
                f"the running service, depproxy {__version__}, does not know this command",
            )

    async def test_other_methods(self) -> None:
        assert await self.error("POST", "/v1/try") == (405, "this is asked by GET")
        assert await self.error("GET", "/v1/try/done") == (405, "this is asked by POST")

    async def test_errors(self) -> None:
        for error, status, message in (
            (AdminError("not so"), 400, "not so"),
            (AdminError("not there", 404), 404, "not there"),
            (IndexUnavailable("refused"), 503, "the cache index is not available: refused"),
            (Unavailable("docker.io", "down"), 502, "docker.io: down"),
            (ZeroDivisionError("1/0"), 500, "depproxy failed on this request; its log says why"),
        ):
            self.face.error = error
            assert await self.error("GET", "/v1/try") == (status, message)
        assert self.failures(ZeroDivisionError) == 1

    async def test_a_large_body(self) -> None:
        fits = json.dumps({"texts": ["x" * 500] * 500}).encode()
        assert (await self.ask("POST", "/v1/try/done", fits))[0] == 200
        status, error = await self.error("POST", "/v1/try/done", b" " * (MAX_BODY + 1))
        assert (status, error) == (413, f"the request's body is larger than {MAX_BODY} bytes")

    async def test_a_large_body_in_chunks(self) -> None:
        client = await self.client(str(self.path))
        client.send(b"POST /v1/try/done HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            client.send(b"10000\r\n", b" " * 0x10000, b"\r\n")
        client.send(b"0\r\n\r\n")
        assert (await client.answer()).status == 413


class Telling(AdminTestCase):
    async def begin(self, steps: Callable[[Progress], Awaitable[None]] | None = None) -> Client:
        self.face.steps = steps
        return await self.send("POST", "/v1/try/long", b'{"text": "end"}')

    async def lines(self, client: Client) -> list[Any]:
        answer: Answer = await client.answer()
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        assert answer.body.endswith(b"\n")
        return [json.loads(line) for line in answer.body.splitlines()]

    async def test_lines(self) -> None:
        async def steps(progress: Progress) -> None:
            await progress.tell({"at": 1})
            await progress.tell({"at": 2})

        self.open()
        found = await self.lines(await self.begin(steps))
        assert found == [{"at": 1}, {"at": 2}, {"text": "end", "done": True}]
        assert await self.lines(await self.begin()) == [{"text": "end", "done": True}]

    async def test_each_line_comes_at_once(self) -> None:
        held: Deferred[None] = Deferred()

        async def steps(progress: Progress) -> None:
            await progress.tell({"at": 1})
            await held

        self.open()
        client = await self.begin(steps)
        await client.until(lambda: b'{"at":1}\n' in client.data)
        held.callback(None)
        assert (await self.lines(client))[-1]["done"] is True

    async def test_a_refusal_before_the_first_line_has_a_status(self) -> None:
        self.open()
        self.face.error = AdminError("not so", 409)
        assert await self.error("POST", "/v1/try/long") == (409, "not so")
        assert await self.error("GET", "/v1/try/long") == (405, "this is asked by POST")

    async def test_an_error_later_is_the_last_line(self) -> None:
        async def steps(progress: Progress) -> None:
            await progress.tell({"at": 1})

        self.open()
        self.face.error = Unavailable("docker.io", "down")
        assert await self.lines(await self.begin(steps)) == [{"at": 1}, {"error": "docker.io: down"}]

    async def test_a_client_that_leaves_cancels(self) -> None:
        for told in (True, False):

            async def steps(progress: Progress, told: bool = told) -> None:
                if told:
                    await progress.tell({"at": 1})
                self.waiting = True
                await Deferred[None]()

            self.waiting = self.face.cancelled = False
            if told:
                self.open()
            client = await self.begin(steps)
            await until(lambda: self.waiting)
            client.leave()
            await until(lambda: self.face.cancelled)

    async def test_the_end_of_the_service_cancels(self) -> None:
        async def steps(progress: Progress) -> None:
            await progress.tell({"at": 1})
            await Deferred[None]()

        self.open()
        client = await self.begin(steps)
        await client.until(lambda: b'{"at":1}\n' in client.data)
        self.site.close()
        await until(lambda: self.face.cancelled)

    async def test_a_slow_client_slows_the_operation(self) -> None:
        count = 0

        async def steps(progress: Progress) -> None:
            nonlocal count
            while count < 3000:
                await progress.tell(LINE)
                count += 1

        self.open()
        client = await self.client(str(self.path))
        client.stop_reading()
        self.face.steps = steps
        client.send(b"POST /v1/try/long HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        last = -1
        while count != last or not count:
            last = count
            await deferLater(REACTOR, 0.05)
        assert count < 2000
        client.read_on()
        assert len(await self.lines(client)) == 3001

    def stalled(self) -> bool:
        """Whether the one connection waits for its client to read."""
        return any(channel._waitingForTransport for channel in self.site.channels)

    async def test_several_at_a_time(self) -> None:
        """As when images are fetched side by side: a slow client slows each, and forgets none."""

        async def one(progress: Progress, number: int) -> None:
            for count in range(500):
                await progress.tell({**LINE, "number": number, "count": count})

        async def steps(progress: Progress) -> None:
            await gatherResults([Deferred.fromCoroutine(one(progress, number)) for number in range(3)])

        self.open()
        client = await self.client(str(self.path))
        client.stop_reading()
        self.face.steps = steps
        client.send(b"POST /v1/try/long HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await until(self.stalled)
        client.read_on()
        *lines, last = await self.lines(client)
        assert last["done"] is True
        for number in range(3):
            assert [line["count"] for line in lines if line["number"] == number] == list(range(500))

    async def test_what_takes_long_says_that_it_goes_on(self) -> None:
        clock = Clock()
        self.open(clock)
        held: Deferred[None] = Deferred()

        begun: Deferred[None] = Deferred()

        async def steps(progress: Progress) -> None:
            begun.callback(None)
            await held

        client = await self.begin(steps)
        await begun
        clock.advance(ALIVE_INTERVAL)
        await client.until(lambda: b"\r\n\n\r\n" in client.data)
        held.callback(None)
        answer = await client.answer()
        assert answer.body == b'\n{"text":"end","done":true}\n'

    async def test_who_does_not_read_is_gone(self) -> None:
        clock = Clock()
        self.open(clock)

        async def steps(progress: Progress) -> None:
            while True:
                await progress.tell(LINE)

        client = await self.client(str(self.path))
        client.stop_reading()
        self.face.steps = steps
        client.send(b"POST /v1/try/long HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        for _ in range(MISSED_MOMENTS + 2):
            await deferLater(REACTOR, 0.02)
            clock.advance(ALIVE_INTERVAL)
        await until(lambda: self.face.cancelled)
        client.read_on()


def test_the_socket_is_none_of_the_listeners(tmp_path: Path) -> None:
    """A directory in its place is told."""
    (tmp_path / "admin.sock").mkdir()
    with pytest.raises(AdminSocketError, match="is no socket"):
        listen(REACTOR, tmp_path / "admin.sock", AdminSite({}, REACTOR))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(("a", "b")), JSON))
def test_any_arguments(arguments: dict[str, Any]) -> None:
    """They are what a handler wants, or refused."""
    ask = Ask(arguments)
    for read, kind in ((ask.text, (str, type(None))), (ask.texts, (tuple,)), (ask.flag, (bool,))):
        with contextlib.suppress(AdminError):
            assert isinstance(read("a"), kind)
