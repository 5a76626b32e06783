"""A connection to Redis that comes back by itself, and never lets a caller wait for long."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from depproxy.index.address import Credentials
from depproxy.index.interface import IncompatibleSchema, IndexUnavailable
from depproxy.index.wire import Reply, ReplyError, Script, Wire, WireLost, Word, dial

FIRST_DELAY = 0.1
MAX_DELAY = 5.0


class Connection:
    """Commands to one Redis, each bounded to `limit` seconds.

    While the connection is down a command fails at once, and a new connection is tried again and again, after
    `FIRST_DELAY` seconds and then ever later up to `MAX_DELAY`. `name` is how messages call this Redis;
    `prepare` runs on each new connection before anybody may use it, and what it raises counts as down.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        name: str,
        prepare: Callable[[Wire], Awaitable[None]],
        limit: float = 2.0,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._name = name
        self._prepare = prepare
        self._limit = limit
        self._wire: Wire | None = None
        self._reason = "it was not started"
        self._running: Deferred[None] | None = None
        self._stopped = False
        self._first: Deferred[Exception | None] | None = None

    async def start(self) -> None:
        """Connect. Returns when that succeeded or failed; in the latter case it goes on trying by itself.

        Raises `IncompatibleSchema` alone, and does not go on then.
        """
        first: Deferred[Exception | None] = Deferred()
        self._first = first
        self._stopped = False
        self._reason = "it is not connected yet"
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)
        error = await first
        if isinstance(error, IncompatibleSchema):
            await self.stop()
            raise error

    async def stop(self) -> None:
        """Close the connection, and try no more. Returns when it is closed, after `limit` seconds at the
        latest."""
        self._stopped = True
        self._reason = "it was stopped"
        running, self._running = self._running, None
        wire, self._wire = self._wire, None
        if running is not None:
            running.cancel()
        self._settle(None)
        if wire is not None:
            wire.close()
            try:
                await wire.lost().addTimeout(self._limit, self._clock)
            except TimeoutError:
                wire.abort()
                await wire.lost()

    def deadline(self) -> float:
        """When an operation of several commands that begins now has to be over."""
        return self._clock.seconds() + self._limit

    async def call(self, *words: Word, until: float | None = None) -> Reply:
        """Send one command and return its reply, before the `deadline` if one is given. Raises
        `IndexUnavailable`."""
        try:
            return await self._send(words, until)
        except ReplyError as error:
            raise self._refused(words, error) from error

    async def run(
        self, script: Script, keys: Sequence[Word], args: Sequence[Word], until: float | None = None
    ) -> Reply:
        """Run `script` in Redis and return its reply. Raises `IndexUnavailable`."""
        words = (script.sha, len(keys), *keys, *args)
        until = self.deadline() if until is None else until
        try:
            return await self._send(("EVALSHA", *words), until)
        except ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise self._refused(("EVALSHA",), error) from error
        # A new Redis, or one that was told to forget its scripts: EVAL makes it remember.
        return await self.call("EVAL", script.source, *words[1:], until=until)

    def _refused(self, words: Sequence[Word], error: ReplyError) -> IndexUnavailable:
        return IndexUnavailable(f"cache index at {self._name}: {words[0]!s} was refused: {error}")

    async def _send(self, words: Sequence[Word], until: float | None) -> Reply:
        wire = self._wire
        if wire is None:
            raise IndexUnavailable(f"cache index at {self._name} is unavailable: {self._reason}")
        left = self._limit if until is None else until - self._clock.seconds()
        if left <= 0:
            raise IndexUnavailable(f"cache index at {self._name}: no answer in time")
        try:
            return await _bounded(wire.send(*words), left, self._clock)
        except TimeoutError:
            # Redis answers in order: where one command waited for so long, all after it wait too. But the last of
            # many commands may have had a moment only.
            if left > self._limit / 2:
                self._down(wire, f"no answer for {left:.3g} s")
                wire.abort()
            raise IndexUnavailable(f"cache index at {self._name}: no answer in time") from None
        except WireLost as error:
            raise IndexUnavailable(f"cache index at {self._name} is unavailable: {error}") from None

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            opening = Deferred.fromCoroutine(self._open())
            try:
                wire = await opening.addTimeout(self._limit, self._clock)
            except CancelledError:
                raise
            except TimeoutError:
                self._down(None, f"no answer for {self._limit:g} s")
            except Exception as error:
                self._down(None, str(error) or type(error).__name__, error)
            else:
                delay = FIRST_DELAY
                self._up(wire)
                await wire.lost()
                self._down(wire, wire.reason)
            if self._stopped:
                # What an endpoint or a protocol makes of being cancelled is not always CancelledError.
                return
            await deferLater(self._clock, delay)
            delay = min(delay * 2, MAX_DELAY)

    async def _open(self) -> Wire:
        wire = await dial(self._endpoint)
        try:
            await self._prepare(wire)
        except BaseException:
            wire.abort()
            raise
        return wire

    def _up(self, wire: Wire) -> None:
        self._log.info("cache index: connected to {name}", name=self._name)
        self._wire = wire
        self._settle(None)

    def _down(self, wire: Wire | None, reason: str, error: Exception | None = None) -> None:
        """Note that the connection is down; `wire` is the one that failed, None if none could be made."""
        if wire is not None and wire is not self._wire:
            return
        self._wire = None
        if reason != self._reason:
            self._log.warn("cache index: {name} is unavailable: {reason}", name=self._name, reason=reason)
        self._reason = reason
        self._settle(error)

    def _settle(self, error: Exception | None) -> None:
        first, self._first = self._first, None
        if first is not None:
            # Not from here: whoever waits may stop this connection at once, and so cancel what is running
            # just now.
            self._clock.callLater(0, first.callback, error)

    def _ended(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self._log.failure("cache index: the connection to {name} is given up", failure=failure, name=self._name)


def _bounded(reply: Deferred[Reply], seconds: float, clock: IReactorTime) -> Deferred[Reply]:
    """Let `reply` fail with TimeoutError after `seconds`.

    Where this process itself was late, the reply may be there to be read, but timers come before reading. So
    the time is up one turn of the reactor later.
    """
    expired = False
    timer: IDelayedCall

    def expire() -> None:
        nonlocal timer
        timer = clock.callLater(0, give_up)

    def give_up() -> None:
        nonlocal expired
        expired = True
        reply.cancel()

    def settle(result: Reply | Failure) -> Reply | Failure:
        if timer.active():
            timer.cancel()
        if expired and isinstance(result, Failure) and isinstance(result.value, CancelledError):
            raise TimeoutError
        return result

    timer = clock.callLater(seconds, expire)
    return reply.addBoth(settle)


async def sign_in(wire: Wire, credentials: Credentials | None, database: int) -> None:
    """What each new connection begins with. Raises `IndexUnavailable` where the credentials are refused."""
    if credentials is not None:
        user = () if credentials.username is None else (credentials.username,)
        try:
            await wire.send("AUTH", *user, credentials.password)
        except ReplyError as error:
            # An error may quote the command that it is about. Its code alone is safe to show.
            code = re.match(r"(WRONGPASS|NOPERM|NOAUTH|LOADING|BUSY)\b", str(error))
            raise IndexUnavailable(f"AUTH was refused{f' ({code[1]})' if code else ''}") from None
    if database:
        await wire.send("SELECT", database)
