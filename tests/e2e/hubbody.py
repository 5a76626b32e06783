"""The body of a blob as the Hub double's CDN sends it: as fast as the peer takes it, or as a fault says."""

from __future__ import annotations

import re
from typing import Any, BinaryIO, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from twisted.web.server import Request
from zope.interface import implementer

from tests.e2e.hubstate import Fault, State

CHUNK = 1 << 16


def span_of(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open span of a ``bytes=N-`` or ``bytes=N-M`` header; None for anything else."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if found is None or int(found[1]) >= size:
        return None
    return int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)


@implementer(IPushProducer)
class Body:
    """Sends part of a file as a response's body; the transport says when to pause."""

    def __init__(self, reactor: IReactorTime, state: State, request: Request, fault: Fault) -> None:
        self._reactor = reactor
        self._state = state
        self._request = request
        self._fault = fault
        self._gone = False
        self._resumed: Deferred[None] | None = None

    async def send(self, file: BinaryIO, start: int, stop: int) -> None:
        """Send the bytes from ``start`` to ``stop`` and finish, or break off where the fault says so."""
        request, fault = self._request, self._fault
        request.notifyFinish().addErrback(lambda _: self.stopProducing())
        request.registerProducer(self, True)
        request.write(b"")  # the headers go out even if the body is held
        file.seek(start)
        end = stop if fault.cut is None else min(stop, start + fault.cut)
        position, gate = start, None if fault.gate is None else start + fault.gate
        while not self._gone:
            if gate is not None and position >= gate:
                gate = None
                await self._state.gate()
            elif position >= end:
                break
            else:
                until = min(end, position + CHUNK, end if gate is None else gate)
                position += await self._some(file.read(until - position), position)
        if self._gone:
            return
        request.unregisterProducer()
        if end < stop:
            cast(Any, request.transport).loseConnection()  # not abort: the bytes before the cut shall arrive
        else:
            request.finish()

    async def _some(self, data: bytes, position: int) -> int:
        wrong = self._fault.corrupt
        if wrong is not None and position <= wrong < position + len(data):
            index = wrong - position
            data = data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :]
        self._request.write(data)
        if self._resumed is not None:
            await self._resumed
        if self._fault.throttle:
            await deferLater(self._reactor, len(data) / self._fault.throttle)
        return len(data)

    def pauseProducing(self) -> None:
        if self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        self._gone = True
        self.resumeProducing()
