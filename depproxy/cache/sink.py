"""Where one upstream body goes: into the growing file."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from depproxy.storage.interface import IGrowingFile
from depproxy.upstream.errors import UpstreamError
from depproxy.upstream.interface import IBlobStream, IBodySink

# Bytes that wait for the disk before upstream is told to pause, and before it may go on.
HIGH_WATER = 4 << 20
LOW_WATER = 1 << 20


@implementer(IBodySink)
class FillSink:
    """Takes one body: skips what is known already, writes the rest, holds upstream back when the disk is slow."""

    def __init__(self, stream: IBlobStream, file: IGrowingFile, limit: int, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._file = file
        self._skip = file.written + file.pending - stream.offset
        self._left = limit - file.written - file.pending
        self._count = count
        self._paused = False
        self.overrun = False
        self.done: Deferred[UpstreamError | None] = Deferred(lambda _: stream.stop())

    def received(self, data: bytes) -> None:
        self._count(len(data))
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if len(data) > self._left:
            self.overrun = True
            self._stream.stop()
            self.ended(None)
            return
        if not data:
            return
        self._left -= len(data)
        self._file.append(data)
        if self._file.pending > HIGH_WATER and not self._paused:
            self._paused = True
            self._stream.pause()

    def ended(self, error: UpstreamError | None) -> None:
        if not self.done.called:
            self.done.callback(error)

    def drained(self) -> None:
        """The file took some bytes, or failed to."""
        if self._file.error is not None:
            self._stream.stop()
            self.ended(None)
        elif self._paused and self._file.pending < LOW_WATER:
            self._paused = False
            self._stream.resume()
