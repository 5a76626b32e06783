"""How far a long operation is: one JSON object per line, and a last one that says how it ended."""

from typing import Any, cast

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.http import Request
from zope.interface import implementer

from depproxy.coalesce import Waiters
from depproxy.web.admin.answers import Document, as_error, set_headers, written

# How often (seconds) an empty line says that the operation goes on, and how many of these moments a client may let
# pass without reading before it counts as gone.
ALIVE_INTERVAL = 10.0
MISSED_MOMENTS = 6


@implementer(IPushProducer)
class Progress:
    """
    An answer of type application/x-ndjson. Nothing is sent before the first line, so that an operation that is refused
    has a status of its own.

    A client that leaves cancels the operation, as does the end of the service: what it waits for raises CancelledError.
    """

    def __init__(self, request: Request, clock: IReactorTime) -> None:
        self._request = request
        self._begun = False
        self._gone = False
        self._missed = 0
        self._waiting: Waiters[None] = Waiters()
        self._paused = False
        self._alive = LoopingCall(self._say_alive)
        self._alive.clock = clock
        self._alive.start(ALIVE_INTERVAL, now=False)
        # By then Klein knows that there is nobody to answer.
        request.notifyFinish().addErrback(lambda _: self.close())

    async def tell(self, document: Document) -> None:
        """
        Send a line, and wait until the client has taken enough of those before. Several may be told at a time.

        Raises CancelledError once the client has left.
        """
        self._write(written(document) + b"\n")
        if self._gone:
            raise CancelledError
        # write() may have called pauseProducing.
        if self._paused:
            await self._waiting.add()

    def end(self, last: Document) -> None:
        """Send the last line: `done` is true in it."""
        self._write(written({**last, "done": True}) + b"\n")
        self.close()

    def fail(self, failure: Failure) -> bool:
        """Send a last line with the `error`; False if nothing was sent yet, so that there can be a status."""
        if not self._begun:
            self.close()
            return False
        if not self._gone:
            self._write(written({"error": str(as_error(failure))}) + b"\n")
        self.close()
        return True

    def close(self) -> None:
        """No line is sent any more: whoever still waits to tell one is cancelled. May be called twice."""
        if self._alive.running:
            self._alive.stop()
        if self._begun and not self._gone:
            self._request.unregisterProducer()
        self._gone = True
        self._waiting.errback(CancelledError())

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused, self._missed = False, 0
        # Who tells the next line at once, and finds that the client reads no further, waits among others.
        waiting, self._waiting = self._waiting, Waiters()
        waiting.callback(None)

    def stopProducing(self) -> None:
        self._gone = True

    def _write(self, line: bytes) -> None:
        if self._gone:
            return
        if not self._begun:
            self._begun = True
            set_headers(self._request, b"application/x-ndjson")
            self._request.registerProducer(self, True)
        self._request.write(line)

    def _say_alive(self) -> None:
        if not self._paused:
            self._write(b"\n")
            return
        self._missed += 1
        if self._missed >= MISSED_MOMENTS:
            cast(Any, self._request.channel).abortConnection()
