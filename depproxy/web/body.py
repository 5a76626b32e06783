"""Senders: the bytes of a blob to one client, at that client's pace.

A sender costs no memory for a slow client: it reads when the client can take more, from the page cache as a rule.
It sends no byte beyond what its source calls readable, and ends in one of three ways: everything was sent; the
client left; or the connection is cut, because the source failed or the client took nothing for too long. A body
that is not whole is never ended cleanly.
"""

import os
import socket
from collections.abc import Callable, Sequence
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IPushProducer,
    IReactorFDSet,
    IReactorTime,
    IWriteDescriptor,
)
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from zope.interface import implementer

from depproxy.cache.interface import BlobSource
from depproxy.web.channel import BoundedChannel
from depproxy.web.render import cut
from depproxy.web.tcpinfo import progress

# What one sender may send before others get their turn.
BURST = 4 << 20
# What is read at once where sendfile cannot be used.
CHUNK = 256 << 10

# Literal bytes (the frame of a multipart part), or a range of the blob: first byte, and the one after the last
# (None: the end, wherever that proves to be).
Part = bytes | tuple[int, int | None]


class Stalled(Exception):
    """The client took no byte for too long."""


@implementer(IPushProducer)
class Sender:
    """What the two ways of sending share; `_send` is what they do not."""

    _log = Logger()

    def __init__(
        self,
        request: Request,
        source: BlobSource,
        parts: Sequence[Part],
        clock: IReactorTime,
        stall_timeout: float,
        count: Callable[[int], None],
    ) -> None:
        self._request = request
        self._source = source
        self._parts = list(parts)
        self._clock = clock
        self._stall_timeout = stall_timeout
        self._count = count
        self._blocked = False
        self._pumping = False
        self._progress = clock.seconds()
        self._taken = 0
        self._timer: IDelayedCall | None = None
        self._done: Deferred[None] = Deferred(lambda _: self._close())
        self._closed = False

    def start(self) -> "Deferred[None]":
        """
        Send; fires when all is on its way. Never fires when the connection had to be cut: the request's own
        end cancels it then. Cancelling stops the sending. The source is closed in any case.
        """
        self._request.registerProducer(self, True)
        self._source.subscribe(self._pump)
        self._pump()
        return self._done

    def stopProducing(self) -> None:
        self._close()

    def pauseProducing(self) -> None:
        """The transport's own buffer is full."""

    def resumeProducing(self) -> None:
        """The transport's own buffer is empty."""

    def _send(self, part: "bytes | tuple[int, int]") -> int:
        """Send some of `part`, a non-empty one; how many bytes that were, 0 when the client takes none now."""
        raise NotImplementedError

    def _pump(self) -> None:
        """Send what can be sent now."""
        if self._closed or self._pumping:
            return
        self._pumping = True
        try:
            self._send_parts()
        except (OSError, Stalled) as error:
            self._cut(error)
        finally:
            self._pumping = False

    def _send_parts(self) -> None:
        left = BURST
        self._blocked = False
        while self._parts:
            part = self._sendable(self._parts[0])
            if part is None:
                self._parts.pop(0)
                continue
            if not part or (isinstance(part, tuple) and part[0] == part[1]):
                # All that may be read is sent.
                if self._source.failure is not None:
                    self._cut(self._source.failure)
                return
            if left <= 0:
                self._take_turns()
                return
            sent = self._send(part)
            if self._closed:
                return
            if sent == 0:
                self._block()
                return
            left -= sent
            self._progress = self._clock.seconds()
            self._advance(sent)
        self._finish()

    def _take_turns(self) -> None:
        """Go on when others had their turn."""
        self._block()

    def _sendable(self, part: Part) -> "bytes | tuple[int, int] | None":
        """What of `part` may be sent now; None when nothing is left of it."""
        if isinstance(part, bytes):
            return part or None
        start, stop = part
        if stop is None:
            stop = self._source.size
        if start == stop:
            return None
        readable = self._source.readable
        return start, max(start, readable if stop is None else min(stop, readable))

    def _advance(self, sent: int) -> None:
        part = self._parts[0]
        if isinstance(part, bytes):
            self._parts[0] = part[sent:]
        else:
            self._parts[0] = (part[0] + sent, part[1])
            self._count(sent)

    def _block(self) -> None:
        self._blocked = True
        if self._timer is None:
            self._timer = self._clock.callLater(self._stall_timeout, self._check_stall)

    def _check_stall(self) -> None:
        self._timer = None
        taken, self._taken = self._taken, progress(self._request.channel.transport).taken
        if self._taken > taken:
            self._progress = self._clock.seconds()
        quiet = self._clock.seconds() - self._progress
        if self._blocked and quiet >= self._stall_timeout:
            self._cut(Stalled(f"the client took no byte for {quiet:.0f} s"))
        else:
            # While there is nothing to send it is not the client that stalls.
            wait = self._stall_timeout - quiet if self._blocked else self._stall_timeout
            self._timer = self._clock.callLater(wait, self._check_stall)

    def _cut(self, error: Exception) -> None:
        self._log.warn(
            "{peer} {uri}: cut off: {error}",
            peer=getattr(self._request.getClientAddress(), "host", "unix"),
            uri=self._request.uri.decode("latin-1"),
            error=error,
        )
        self._close()
        cut(self._request)

    def _left(self) -> None:
        """The client is gone, which the transport may never see: it reads no more when requests are pipelined."""
        if not self._closed:
            self._close()
            cut(self._request)

    def _finish(self) -> None:
        self._request.unregisterProducer()
        self._close()
        self._done.callback(None)

    def _close(self) -> None:
        """Give everything back. Idempotent: a disconnect stops the producer, and then cancels the handler."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._source.close()


class ChunkSender(Sender):
    """Through the transport's own buffer: for TLS, and for bodies of unknown length."""

    _paused = False
    _turn: IDelayedCall | None = None

    def _take_turns(self) -> None:
        # Nothing else wakes us: a transport that has sent everything at once was never paused.
        self._turn = self._clock.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        self._pump()

    def _close(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        super()._close()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._pump()

    def _send(self, part: "bytes | tuple[int, int]") -> int:
        if self._paused:
            return 0
        if cast(BoundedChannel, self._request.channel).leaving:
            # TLS takes everything then, and sends nothing.
            self._left()
            return 0
        if isinstance(part, bytes):
            data = part
        else:
            start, stop = part
            data = os.pread(self._source.fd, min(CHUNK, stop - start), start)
            if not data:
                raise OSError(f"the file ends at byte {start}, before its time")
        # May call pauseProducing() before it returns.
        self._request.write(data)
        return len(data)


@implementer(IWriteDescriptor)
class SendfileSender(Sender):
    """
    From the page cache to the socket without a copy, beside the transport: on a duplicate of its descriptor, with
    its buffer empty.
    """

    def __init__(
        self,
        request: Request,
        source: BlobSource,
        parts: Sequence[Part],
        clock: IReactorTime,
        stall_timeout: float,
        count: Callable[[int], None],
        reactor: IReactorFDSet,
        sock: socket.socket,
    ) -> None:
        super().__init__(request, source, parts, clock, stall_timeout, count)
        self._reactor = reactor
        self._fd = os.dup(sock.fileno())
        self._writing = False

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "SendfileSender"

    def doWrite(self) -> None:
        """The socket can take more."""
        self._pump()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw the connection end on our descriptor."""
        self._left()

    def _send(self, part: "bytes | tuple[int, int]") -> int:
        try:
            if isinstance(part, bytes):
                sent = os.write(self._fd, part)
            else:
                start, stop = part
                sent = os.sendfile(self._fd, self._source.fd, start, min(stop - start, BURST))
                if sent == 0:
                    raise OSError(f"the file ends at byte {start}, before its time")
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            self._left()
            return 0
        self._request.sentLength += sent
        return sent

    def _send_parts(self) -> None:
        super()._send_parts()
        if self._blocked != self._writing and not self._closed:
            self._writing = self._blocked
            if self._blocked:
                self._reactor.addWriter(self)
            else:
                self._reactor.removeWriter(self)

    def _close(self) -> None:
        if self._closed:
            return
        super()._close()
        if self._writing:
            self._reactor.removeWriter(self)
        # The reactor may still hold this object for the turn under way: no descriptor, no events.
        fd, self._fd = self._fd, -1
        os.close(fd)


def plain_socket(request: Request) -> socket.socket | None:
    """The socket to send on beside the transport, the head being out; None where that cannot be done."""
    # The head goes out now: the bytes may be long in coming.
    request.write(b"")
    flushed = cast(BoundedChannel, request.channel).flush()
    transport: object = request.channel.transport
    if not flushed or not isinstance(transport, Connection) or transport.TLS:
        return None
    sock: socket.socket = transport.socket
    return sock
