"""One established connection to Redis: the only place that touches txredisapi, which is not typed.

Of txredisapi the protocol alone is used. Its pool speaks through the global reactor, and a command given to
it while Redis is down waits for ever, even with a reply timeout.
"""

from __future__ import annotations

from collections.abc import Awaitable
from hashlib import sha1
from typing import Any, TypeAlias, cast

import txredisapi
from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

Reply: TypeAlias = "int | str | bytes | list[Reply] | None"
"""A bulk reply is bytes, exactly as stored; a status such as OK is a str."""

Word: TypeAlias = str | bytes | int


class ReplyError(Exception):
    """Redis answered with an error. The text begins with its code, but for plain ERR, which has none."""


class WireLost(Exception):
    """The connection is gone, and with it what Redis may have answered."""


@frozen
class Script:
    """A Lua script, known to Redis by its SHA-1 once it was sent."""

    source: str
    sha: str = field(init=False)

    @sha.default
    def _sha(self) -> str:
        return sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Wire:
    """A connection over which commands are pipelined. `dial` makes one."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._lost: list[Deferred[None]] = []
        self.connected = True
        protocol.whenDisconnected().addCallback(self._disconnected)

    def send(self, *words: Word) -> Deferred[Reply]:
        """Send one command. Fires with its reply, or fails with `ReplyError` or `WireLost`; never times out.

        May be cancelled: the reply is then read and dropped.
        """
        try:
            # Without a charset txredisapi encodes str as UTF-8, and leaves bytes as they are.
            reply: Deferred[Reply] = self._protocol.execute_command(*words)
        except txredisapi.ConnectionError:
            reply = _failed(WireLost(self.reason))
        return reply.addErrback(self._translate)

    def lost(self) -> Deferred[None]:
        """Fires when the connection is gone; at once if it already is."""
        waiter: Deferred[None] = Deferred()
        if self.connected:
            self._lost.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    def close(self) -> None:
        """Close, after what was sent is written."""
        self._protocol.transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection. What was not answered fails with `WireLost`."""
        self._protocol.transport.abortConnection()

    @property
    def reason(self) -> str:
        """Why the connection is gone."""
        why: Failure | None = getattr(self._protocol, "why", None)
        return "not connected" if why is None else f"the connection was lost: {why.getErrorMessage()}"

    def _translate(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, txredisapi.ResponseError):
            raise ReplyError(str(error)) from None
        if isinstance(error, txredisapi.RedisError):
            raise WireLost(self.reason) from None
        return failure

    def _disconnected(self, _: object) -> None:
        self.connected = False
        waiters, self._lost = self._lost, []
        for waiter in waiters:
            waiter.callback(None)


async def dial(endpoint: IStreamClientEndpoint) -> Wire:
    """Connect, without any command sent. Fails as the endpoint does."""
    return Wire(await cast(Awaitable[Any], endpoint.connect(_Factory())))


class _Protocol(txredisapi.BaseRedisProtocol):  # type: ignore[misc]  # it has no types
    """
    Reads in one go what has arrived. txredisapi itself leaves to the reactor after each part of a reply, and so to all
    requests that there are: a reply of a hundred parts takes a hundred turns of a busy reactor.
    """

    why: Failure | None = None
    line_mode = 1

    def __init__(self) -> None:
        # By default it would turn the tag 0123 into the number 123, and bytes into str.
        super().__init__(charset=None, convertNumbers=False)
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        received, at = self._received + data, 0
        while True:
            if self.line_mode:
                end = received.find(b"\r\n", at)
                if end < 0:
                    break
                # A bulk's head ends the line mode, and sets its length, with the line end behind it.
                line, at = received[at:end], end + 2
                self.lineReceived(line.decode())
            elif len(received) - at >= self.bulk_length:
                bulk = received[at : at + self.bulk_length - 2]
                at += self.bulk_length
                self.line_mode = 1
                self.bulkDataReceived(bulk)
            else:
                break
        self._received = received[at:]
        if self.line_mode and len(self._received) > self.MAX_LENGTH:
            self.transport.abortConnection()

    def connectionLost(self, why: Failure) -> None:
        # txredisapi tells nobody why, and TLS tells of a wrong certificate here alone.
        self.why = why
        super().connectionLost(why)


class _Factory(Factory):
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        protocol = _Protocol()
        protocol.factory = self
        return protocol


def _failed(error: Exception) -> Deferred[Reply]:
    failed: Deferred[Reply] = Deferred()
    failed.errback(error)
    return failed
