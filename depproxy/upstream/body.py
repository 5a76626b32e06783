"""Response bodies: streamed with backpressure, read whole up to a limit, or dropped.

A body arrives paused and must be read, or its connection closed: one that is forgotten keeps its connection.
Giving up is ``transport.stopProducing()``: ``loseConnection`` would go on receiving while TLS says goodbye.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse
from zope.interface import implementer

from depproxy.upstream.errors import Invalid, Unavailable, UpstreamError
from depproxy.upstream.failures import explain
from depproxy.upstream.interface import IBlobStream, IBodySink
from depproxy.upstream.waiting import TimedOut, bounded

# Bytes of an unwanted body (error, redirect) that are read to keep the connection, and seconds spent on it.
MAX_UNWANTED = 64 * 1024
UNWANTED_TIME = 2.0

_log = Logger()


class State(Enum):
    """Where a stream is.

    ========  ==============  ================  ===============  ================  ===============
    state     start           pause / resume    data             end or silence    stop
    ========  ==============  ================  ===============  ================  ===============
    NEW       FLOWING         noted             -                -                 OVER
    FLOWING   an error        timer off / on    to the sink      told, OVER        OVER
    OVER      nothing         nothing           dropped          dropped           nothing
    ========  ==============  ================  ===============  ================  ===============
    """

    NEW = auto()
    FLOWING = auto()
    OVER = auto()


@implementer(IBlobStream)
class BlobStream(Protocol):
    """A response's body as a stream. ``release`` is called once, when its connection is no longer needed.

    ``silence`` is the number of seconds without a byte after which upstream is given up, pauses not counted.
    """

    def __init__(
        self,
        response: IResponse,
        upstream: str,
        clock: IReactorTime,
        silence: float,
        release: Callable[[], object],
        *,
        offset: int = 0,
        size: int | None = None,
    ) -> None:
        self.offset = offset
        self.size = size
        self._response = response
        self._upstream = upstream
        self._clock = clock
        self._silence = silence
        self._release = release
        self._state = State.NEW
        self._paused = False
        self._delivering = False
        self._heard = 0.0
        self._timer: IDelayedCall | None = None
        self._sink: IBodySink | None = None

    def start(self, sink: IBodySink) -> None:
        if self._state is State.OVER:
            return
        if self._state is State.FLOWING:
            raise RuntimeError("a stream is started once")
        self._state = State.FLOWING
        self._sink = sink
        self._listen()
        self._delivering = True
        self._response.deliverBody(self)
        self._delivering = False
        # It has resumed the transport after delivering what was there, whatever we wanted meanwhile.
        if self._state is State.OVER:
            self._cut()
        elif self._paused:
            _producer(self).pauseProducing()

    def pause(self) -> None:
        if self._paused or self._state is State.OVER:
            return
        self._paused = True
        if self._state is State.FLOWING:
            self._deafen()
            if not self._delivering:
                _producer(self).pauseProducing()

    def resume(self) -> None:
        if not self._paused or self._state is State.OVER:
            return
        self._paused = False
        if self._state is State.FLOWING:
            self._listen()
            if not self._delivering:
                _producer(self).resumeProducing()

    def stop(self) -> None:
        if self._state is State.OVER:
            return
        unheard = self._state is State.NEW
        self._finish()
        if unheard:
            drop(self._response)
        else:
            self._cut()

    # What follows is called by the response.

    def dataReceived(self, data: bytes) -> None:
        if self._state is not State.FLOWING or self._sink is None:
            return
        self._heard = self._clock.seconds()
        try:
            self._sink.received(data)
        except Exception:
            _log.failure("{upstream}: the sink of a blob failed", upstream=self._upstream)
            if self._state is State.FLOWING:
                self._fail(Unavailable(self._upstream, "the body could not be taken in"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._state is not State.FLOWING:
            return
        # Without a length, the end of the connection is the end of the body; the sink knows better.
        if reason.check(ResponseDone, PotentialDataLoss):
            self._tell(None)
        else:
            self._tell(Unavailable(self._upstream, f"the body broke off: {explain(reason)}"))

    def _listen(self) -> None:
        if not self._paused:
            self._heard = self._clock.seconds()
            self._timer = self._clock.callLater(self._silence, self._wake)

    def _deafen(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _wake(self) -> None:
        """Look whether something came since; cheaper than moving a timer at each piece."""
        idle = self._clock.seconds() - self._heard
        if idle < self._silence:
            self._timer = self._clock.callLater(self._silence - idle, self._wake)
        else:
            self._fail(Unavailable(self._upstream, f"sent nothing for {self._silence:g} s"))

    def _cut(self) -> None:
        if not self._delivering:
            _producer(self).stopProducing()

    def _fail(self, error: UpstreamError) -> None:
        self._cut()
        self._tell(error)

    def _tell(self, error: UpstreamError | None) -> None:
        sink = self._sink
        self._finish()
        if sink is not None:
            sink.ended(error)

    def _finish(self) -> None:
        self._state = State.OVER
        self._sink = None
        self._deafen()
        self._release()


def drop(response: IResponse) -> None:
    """Close the connection of a response whose body nobody has begun to read."""
    # Only a protocol gets to see the transport.
    dropper = Protocol()
    response.deliverBody(dropper)
    _producer(dropper).stopProducing()


def _producer(protocol: Protocol) -> IPushProducer:
    transport: Any = protocol.transport
    assert transport is not None  # deliverBody has connected it
    # A response's transport is a producer and nothing else.
    return cast(IPushProducer, transport)


@implementer(IBodySink)
class _Collector:
    def __init__(self, upstream: str, limit: int) -> None:
        self._upstream = upstream
        self._room = limit
        self._pieces: list[bytes] = []
        self.whole: Deferred[bytes] = Deferred()
        self.stop: Callable[[], None] = lambda: None

    def received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._room -= len(data)
        if self._room < 0:
            self.stop()
            self.whole.errback(Invalid(self._upstream, "the answer is larger than is allowed"))

    def ended(self, error: UpstreamError | None) -> None:
        if error is None:
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(error)


async def read(response: IResponse, upstream: str, clock: IReactorTime, silence: float, limit: int) -> bytes:
    """The whole body. Raises Invalid above ``limit`` bytes, Unavailable when it breaks off or falls silent;
    in each case, and when cancelled, the connection is closed."""
    stream = BlobStream(response, upstream, clock, silence, lambda: None)
    if isinstance(response.length, int) and response.length > limit:
        stream.stop()
        raise Invalid(upstream, f"the answer has {response.length} bytes, at most {limit} are allowed")
    collector = _Collector(upstream, limit)
    collector.stop = stream.stop
    try:
        stream.start(collector)
        return await collector.whole
    finally:
        stream.stop()


async def drain(response: IResponse, upstream: str, clock: IReactorTime) -> bytes:
    """An unwanted body, read for the sake of its connection; ``b""`` where it was not worth that."""
    reading = Deferred.fromCoroutine(read(response, upstream, clock, UNWANTED_TIME, MAX_UNWANTED))
    try:
        return await bounded(reading, clock, UNWANTED_TIME, lambda _: None)
    except (UpstreamError, TimedOut):
        return b""
