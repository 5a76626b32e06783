"""Many downloads on one thread, cheaply: the kernel drops the bytes, only their count comes up here."""

import heapq
import math
import select
import socket
import time
from collections.abc import Callable, Sequence

from attrs import define, field

READ = 256 * 1024
SLOW_READ = 64 * 1024
HEAD_LIMIT = 32 * 1024


@define(eq=False)
class Download:
    """One GET. Times are on the monotonic clock, NaN until they come; `pace` is bytes per second.

    With `first_only` it is over with the first byte of the body.
    """

    path: str
    pace: float | None = None
    first_only: bool = False
    status: int = 0
    length: int = -1
    got: int = 0
    sent: float = math.nan
    first: float = math.nan
    done: float = math.nan
    error: str = ""
    head: bytearray = field(factory=bytearray, repr=False)

    @property
    def complete(self) -> bool:
        return self.status == 200 and self.got == self.length and not self.error

    def headers_in(self, data: bytes) -> bool:
        """Take bytes of the response's head, and of the body behind it; True when the head is whole."""
        self.head += data
        head, mark, rest = bytes(self.head).partition(b"\r\n\r\n")
        if not mark:
            if len(head) > HEAD_LIMIT:
                raise ValueError("response head too long")
            return False
        status, *fields = head.split(b"\r\n")
        self.status = int(status.split(b" ", 2)[1])
        for line in fields:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                self.length = int(value)
        if self.status != 200 or self.length < 0:
            raise ValueError(f"status {self.status}, length {self.length}: {rest[:200]!r}")
        self.got = len(rest)
        return True


class Crowd:
    """Runs downloads against one server, `parallel` at a time, for at most `limit` seconds."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._buffer = memoryview(bytearray(READ))
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, Download]] = {}
        self._unpaced = 0
        self._resting: list[tuple[float, int]] = []

    def run(
        self,
        downloads: Sequence[Download],
        *,
        parallel: int,
        limit: float,
        tick: Callable[[], None] = lambda: None,
    ) -> float:
        """Seconds from the first request to the last byte (or the limit); `tick` runs twice a second.

        All connections of the first batch stand before the first request goes out. Failures are told
        in each download's `error`. Paced downloads are cut off once the others are done.
        """
        waiting = list(reversed(downloads))
        try:
            batch = [self._connect(waiting.pop()) for _ in range(min(parallel, len(waiting)))]
            start = time.monotonic()
            for sock, download in batch:
                self._ask(sock, download)
            next_tick = start
            while self._busy(waiting) and (now := time.monotonic()) < start + limit:
                if now >= next_tick:
                    tick()
                    next_tick = now + 0.5
                self._turn(min(next_tick, start + limit))
                while waiting and len(self._open) < parallel:
                    self._ask(*self._connect(waiting.pop()))
            return time.monotonic() - start
        finally:
            tick()
            for sock, download in self._open.values():
                sock.close()
                download.error = "cut off"
            self._epoll.close()

    def _busy(self, waiting: Sequence[Download]) -> bool:
        return bool(waiting) or self._unpaced > 0

    def _connect(self, download: Download) -> tuple[socket.socket, Download]:
        sock = socket.socket()
        # Left alone, the kernel reads ahead by several MiB for each client: hundreds of them then meet its limit
        # for all TCP buffers together, and slow readers are not seen by the server.
        buffered = READ if download.pace is None else SLOW_READ
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffered)
        sock.settimeout(10)
        sock.connect(self._address)
        sock.setblocking(False)
        return sock, download

    def _ask(self, sock: socket.socket, download: Download) -> None:
        host = f"{self._address[0]}:{self._address[1]}"
        download.sent = time.monotonic()
        sock.send(f"GET {download.path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode())
        self._open[sock.fileno()] = sock, download
        self._unpaced += download.pace is None
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _turn(self, until: float) -> None:
        if self._resting:
            until = min(until, self._resting[0][0])
        for fd, _ in self._epoll.poll(max(0.0, until - time.monotonic())):
            self._read(fd)
        now = time.monotonic()
        while self._resting and self._resting[0][0] <= now:
            _, fd = heapq.heappop(self._resting)
            if fd in self._open:
                self._epoll.modify(fd, select.EPOLLIN)

    def _read(self, fd: int) -> None:
        sock, download = self._open[fd]
        try:
            if download.length < 0:
                if not (data := sock.recv(16 * 1024)):
                    raise ConnectionResetError("closed before the response")
                count = len(data)
                if not download.headers_in(data):
                    return
            else:
                # MSG_TRUNC on TCP: the bytes are dropped without being copied (tcp(7)).
                room = min(READ if download.pace is None else SLOW_READ, download.length - download.got)
                count = sock.recv_into(self._buffer, room, socket.MSG_TRUNC)
                if not count:
                    raise ConnectionResetError(f"closed after {download.got} of {download.length} bytes")
                download.got += count
        except (OSError, ValueError) as error:
            download.error = str(error)
            self._close(fd)
            return
        now = time.monotonic()
        if download.got and math.isnan(download.first):
            download.first = now
        if download.got >= download.length or (download.first_only and download.got):
            download.done = now
            self._close(fd)
        elif download.pace is not None:
            self._epoll.modify(fd, 0)
            heapq.heappush(self._resting, (now + count / download.pace, fd))

    def _close(self, fd: int) -> None:
        sock, download = self._open.pop(fd)
        self._unpaced -= download.pace is None
        self._epoll.unregister(fd)
        sock.close()
