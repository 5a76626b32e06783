"""Bodies as streams: every order of events on a real parser, then backpressure and giving up on real sockets."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, Request
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.body import BlobStream, drain, read
from depproxy.upstream.errors import Invalid, NotFound, Unavailable, UpstreamError
from depproxy.upstream.interface import IBlobStream
from tests.certificates import Authority
from tests.upstream_fake import Call, Raw, Ready, Server, Sink, UpstreamCase, answers, reactor

REPOSITORY = Name("library/alpine")
DIGEST = Digest.of(b"")
PATH = f"/v2/{REPOSITORY}/blobs/{DIGEST}"
SILENCE = 10.0
CHUNK = b"x" * 65536


class Wire:
    """A response on a transport that keeps what is done to it."""

    def __init__(self, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.transport = StringTransport()
        self.protocol = HTTP11ClientProtocol()
        self.protocol.makeConnection(self.transport)
        asked = self.protocol.request(Request(b"GET", b"/", Headers({"Host": ["x"]}), None, persistent=True))
        found: list[IResponse] = []
        asked.addCallback(found.append)
        self.protocol.dataReceived(head)
        (self.response,) = found

    @property
    def reading(self) -> bool:
        return self.transport.producerState == "producing"

    @property
    def dropped(self) -> bool:
        return self.transport.producerState == "stopped" or self.transport.disconnecting

    def receive(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def lose(self, reason: type[Exception] = ConnectionDone) -> None:
        self.protocol.connectionLost(Failure(reason()))


class StreamMachine(RuleBasedStateMachine):
    """Start, pause, resume, stop, data, silence and the end of the connection in any order."""

    @initialize(length=st.sampled_from([None, 100_000]), acts=st.lists(st.sampled_from("pr.."), max_size=6))
    def begin(self, length: int | None, acts: list[str]) -> None:
        self.length = length
        head = b"HTTP/1.1 200 OK\r\n" + (b"" if length is None else b"Content-Length: %d\r\n" % length) + b"\r\n"
        self.wire = Wire(head)
        self.clock = Clock()
        self.released = 0
        self.sink = Sink(lambda _: self.within(acts))
        self.stream = BlobStream(self.wire.response, "fake", self.clock, SILENCE, self.release, size=length)
        self.started = self.stopped = self.paused = self.over = self.connection_gone = False
        self.sent = bytearray()
        self.idle = 0.0

    def release(self) -> None:
        self.released += 1

    def within(self, acts: list[str]) -> None:
        """The sink pauses and resumes from within `received`, as it may."""
        act = acts.pop() if acts else "."
        if act == "p":
            self.stream.pause()
            self.paused = True
        elif act == "r":
            self.stream.resume()
            self.paused = False

    @rule()
    def start(self) -> None:
        if self.started and not self.stopped and not self.over:
            return
        if not self.started:
            self.stream.start(self.sink)
            self.started = True
            self.idle = 0.0
            self.settle()
        else:
            self.stream.start(self.sink)

    @rule()
    def pause(self) -> None:
        self.stream.pause()
        self.paused = True

    @rule()
    def resume(self) -> None:
        self.stream.resume()
        if self.paused:
            self.idle = 0.0
        self.paused = False

    @rule()
    def stop(self) -> None:
        self.stream.stop()
        if not self.over:
            self.stopped = True

    @precondition(lambda self: not self.connection_gone)
    @rule(data=st.binary(min_size=1, max_size=20))
    def data(self, data: bytes) -> None:
        self.wire.receive(data)
        if not self.stopped and not self.over:
            self.sent += data
            self.idle = 0.0

    @precondition(lambda self: not self.connection_gone)
    @rule(reason=st.sampled_from([ConnectionDone, ConnectionLost]))
    def lose(self, reason: type[Exception]) -> None:
        self.wire.lose(reason)
        self.connection_gone = True
        self.settle()

    @rule(seconds=st.sampled_from([1.0, 4.0, 9.0]))
    def wait(self, seconds: float) -> None:
        counting = self.started and not self.paused and not self.over and not self.stopped
        self.clock.advance(seconds)
        if counting:
            self.idle += seconds
            if self.idle >= SILENCE:
                self.over = True
                assert isinstance(self.sink.ends[0], Unavailable)
                assert "10 s" in str(self.sink.ends[0])
                assert self.wire.dropped

    def settle(self) -> None:
        """After the connection went, and the stream was started: the end is told."""
        if self.connection_gone and self.started and not self.stopped:
            self.over = True

    @invariant()
    def the_sink_got_what_came_in_order(self) -> None:
        if self.started and not self.stopped:
            assert bytes(self.sink.data) == bytes(self.sent)
        assert bytes(self.sent).startswith(bytes(self.sink.data))
        assert self.started or not self.sink.data

    @invariant()
    def the_end_is_told_once_or_not_at_all(self) -> None:
        assert len(self.sink.ends) == int(self.over)

    @invariant()
    def a_body_without_length_ends_cleanly_another_breaks_off(self) -> None:
        if self.connection_gone and self.over and (error := self.sink.ends[0]) is not None:
            assert self.length is not None or "10 s" in str(error)

    @invariant()
    def the_permit_is_given_back_once(self) -> None:
        assert self.released == int(self.over or self.stopped)

    @invariant()
    def no_timer_is_left(self) -> None:
        counting = self.started and not self.paused and not self.over and not self.stopped
        assert len(self.clock.getDelayedCalls()) == int(counting)

    @invariant()
    def the_transport_reads_only_when_it_should(self) -> None:
        if self.connection_gone:
            return
        if self.stopped:
            assert self.wire.dropped
        elif not self.over:
            assert self.wire.reading == (self.started and not self.paused)


TestStreams = StreamMachine.TestCase


def test_a_stream_starts_once() -> None:
    stream = BlobStream(Wire().response, "fake", Clock(), SILENCE, lambda: None)
    stream.start(Sink())
    try:
        stream.start(Sink())
    except RuntimeError:
        stream.stop()
    else:
        raise AssertionError("twice")


def test_a_body_that_was_there_already() -> None:
    for size in (0, 5):
        wire = Wire(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        released: list[None] = []
        stream = BlobStream(wire.response, "fake", Clock(), SILENCE, partial(released.append, None))
        sink = Sink()
        stream.start(sink)
        assert (bytes(sink.data), sink.ends, len(released)) == (b"x" * size, [None], 1)
        stream.stop()
        stream.pause()
        stream.resume()
        assert len(released) == 1


def test_a_sink_that_fails() -> None:
    class Broken(Sink):
        def received(self, data: bytes) -> None:
            raise ValueError("disk full")

    wire, sink = Wire(), Broken()
    stream = BlobStream(wire.response, "fake", Clock(), SILENCE, lambda: None)
    stream.start(sink)
    wire.receive(b"x")
    assert isinstance(sink.ends[0], Unavailable)
    assert len(sink.ends) == 1
    assert wire.dropped


def test_a_sink_that_stops_at_the_first_byte() -> None:
    wire = Wire()
    stream: IBlobStream = BlobStream(wire.response, "fake", Clock(), SILENCE, lambda: None)
    sink = Sink(lambda _: stream.stop())
    stream.start(sink)
    wire.receive(b"x")
    wire.receive(b"y")
    wire.lose()
    assert (bytes(sink.data), sink.ends) == (b"x", [])
    assert wire.dropped


def test_the_bytes_are_not_copied() -> None:
    wire, seen = Wire(), list[bytes]()
    stream = BlobStream(wire.response, "fake", Clock(), SILENCE, lambda: None)
    stream.start(Sink(seen.append))
    wire.receive(CHUNK)
    assert seen[0] is CHUNK
    stream.stop()


class Reading(UpstreamCase):
    def read(self, wire: Wire, limit: int = 100) -> Deferred[bytes]:
        self.clock = Clock()
        return Deferred.fromCoroutine(read(wire.response, "fake", self.clock, SILENCE, limit))

    def refused(self, kind: type[Exception], reading: Deferred[bytes]) -> None:
        self.failureResultOf(reading, kind)  # type: ignore[no-untyped-call]

    def test_up_to_the_limit(self) -> None:
        wire = Wire()
        reading = self.read(wire)
        wire.receive(b"x" * 100)
        wire.lose()
        assert self.successResultOf(reading) == b"x" * 100

    def test_over_the_limit(self) -> None:
        wire = Wire()
        reading = self.read(wire)
        wire.receive(b"x" * 100)
        assert not reading.called
        wire.receive(b"x")
        self.refused(Invalid, reading)
        assert wire.dropped
        wire.receive(b"x")
        wire.lose()

    def test_a_length_over_the_limit_is_not_read(self) -> None:
        wire = Wire(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n")
        self.refused(Invalid, self.read(wire))
        assert wire.dropped

    def test_silence_and_cancellation(self) -> None:
        wire = Wire()
        reading = self.read(wire)
        self.clock.advance(SILENCE)
        self.refused(Unavailable, reading)
        assert wire.dropped
        wire = Wire()
        reading = self.read(wire)
        reading.cancel()
        self.refused(CancelledError, reading)
        assert wire.dropped
        assert not self.clock.getDelayedCalls()
        wire.lose()

    def test_draining_gives_up_after_two_seconds_however_lively(self) -> None:
        wire, clock = Wire(), Clock()
        draining = Deferred.fromCoroutine(drain(wire.response, "fake", clock))
        for _ in range(4):
            assert not draining.called
            wire.receive(b"x")
            clock.advance(0.5)
        assert self.successResultOf(draining) == b""
        assert wire.dropped


class OnSockets(UpstreamCase):
    """Each over plain TCP and over TLS, which have different ways to give up."""

    async def streaming(self, *, tls: bool, **settings: Any) -> tuple[Server, Call, IBlobStream]:
        """A blob of 1 GiB, of which the test writes as much as it likes."""
        calls: list[Call] = []

        def begin(call: Call) -> object:
            calls.append(call)
            return call.begin(200, 2**30)

        server = self.serve(Server(reactor, context=self.authority.server() if tls else None))
        server.paths[PATH] = begin
        client = self.client(server, ca_file=self.authority.file, **settings)
        asking = Deferred.fromCoroutine(client.open_blob(REPOSITORY, DIGEST))
        await server.requests(1)
        calls[0].request.write(b"first")
        return server, calls[0], await asking

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(self.directory())

    async def test_stop_before_start(self) -> None:
        for tls in (False, True):
            server, _, stream = await self.streaming(tls=tls)
            stream.stop()
            await server.gone()

    async def test_stop_in_the_middle_stops_the_flood(self) -> None:
        for tls in (False, True):
            server, call, stream = await self.streaming(tls=tls)
            flood = Flood(call)
            sink = Sink()
            stream.start(sink)
            await sink.first
            stream.stop()
            had = len(sink.data)
            await server.gone()
            assert len(sink.data) == had
            # What the sockets' buffers hold, not what a polite goodbye would have let through.
            assert flood.written < 32 * 2**20
            assert sink.ends == []

    async def test_a_paused_stream_is_not_read(self) -> None:
        for tls in (False, True):
            server, call, stream = await self.streaming(tls=tls)
            server.paths["/v2/library/alpine/manifests/latest"] = answers(404)
            other = self.client(server, ca_file=self.authority.file)
            total = 16 * 2**20
            sink = Sink()
            stream.start(sink)
            await sink.first
            stream.pause()
            call.request.write(bytes(total))
            had = len(sink.data)
            # These go to and fro meanwhile, so it is not that nothing is read at all.
            for _ in range(20):
                await self.fails(NotFound, other.head_manifest(REPOSITORY, Tag("latest")))
            assert len(sink.data) <= had + 2**17
            enough = sink.holds(len(b"first") + total)
            stream.resume()
            await enough
            stream.stop()

    async def test_silence(self) -> None:
        for tls in (False, True):
            clock = Ready()
            server, call, stream = await self.streaming(tls=tls, clock=clock)
            sink = Sink()
            stream.start(sink)
            await sink.first
            clock.advance(59)
            assert sink.ends == []
            again = sink.holds(len(b"firstmore"))
            call.request.write(b"more")
            await again
            clock.advance(59)
            stream.pause()
            clock.advance(3600)
            stream.resume()
            clock.advance(59)
            assert sink.ends == []
            clock.advance(1)
            assert isinstance(sink.ends[0], UpstreamError)
            await server.gone()

    async def test_a_connection_that_breaks(self) -> None:
        for tls in (False, True):
            _, call, stream = await self.streaming(tls=tls)
            sink = Sink()
            stream.start(sink)
            await sink.first
            call.cut()
            await sink.done
            assert isinstance(sink.ends[0], Unavailable)
            assert bytes(sink.data) == b"first"

    async def test_a_chunked_body_that_breaks_is_no_clean_end(self) -> None:
        raw = self.serve(
            Raw(reactor, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", close_after=True)
        )
        stream = await self.client(raw).open_blob(REPOSITORY, DIGEST)
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert isinstance(sink.ends[0], Unavailable)

    async def test_a_finished_body_leaves_the_connection_for_the_next(self) -> None:
        server = self.serve(Server(reactor, context=self.authority.server()))
        server.paths[PATH] = answers(200, b"a blob")
        client = self.client(server, ca_file=self.authority.file)
        for _ in range(3):
            sink = Sink()
            (await client.open_blob(REPOSITORY, DIGEST)).start(sink)
            await sink.done
        assert server.accepted == 1


class Flood:
    """Writes to a request for as long as the reader keeps up, as a push producer."""

    def __init__(self, call: Call) -> None:
        self.written = 0
        self._call = call
        self._running = False
        call.request.registerProducer(self, True)
        call.request.notifyFinish().addErrback(lambda _: self.stopProducing())
        self.resumeProducing()

    def resumeProducing(self) -> None:
        if not self._running:
            self._running = True
            self._write()

    def pauseProducing(self) -> None:
        self._running = False

    def stopProducing(self) -> None:
        self._running = False

    def _write(self) -> None:
        if self._running:
            self.written += len(CHUNK)
            self._call.request.write(CHUNK)
            reactor.callLater(0, self._write)
