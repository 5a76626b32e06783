"""The private redis-server: started, watched and stopped by depproxy, on a unix socket under its data
path."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorProcess,
    IReactorTime,
    IReactorUNIX,
    IStreamClientEndpoint,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from depproxy.index.process import RedisProcess, spawn
from depproxy.index.rundir import EmbeddedRedisError, RunDirectory, find_redis_server
from depproxy.index.wire import dial

POLL = 0.05
ASK_LIMIT = 2.0
TELL_EVERY = 5.0
FIRST_DELAY = 0.5
MAX_DELAY = 30.0
STABLE = 60.0
"""After so many seconds of running, the next restart is a quick one again."""


class IServerReactor(IReactorProcess, IReactorTime, IReactorUNIX):
    """What the private redis-server needs of a reactor."""


@frozen
class _Answer:
    """What redis-server said of itself. `loaded`: percent of its data, None when it is ready to serve."""

    version: str
    loaded: str | None


@implementer(IStreamClientEndpoint)
class EmbeddedRedis:
    """A redis-server of our own; also the endpoint by which to reach it, wherever its socket lies.

    When it dies it is started again, after `FIRST_DELAY` seconds and then ever later. `restarts` counts that.
    `start_limit` and `stop_limit` are in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IServerReactor,
        data: Path,
        environ: Mapping[str, str],
        *,
        start_limit: float = 60.0,
        stop_limit: float = 10.0,
    ) -> None:
        self._reactor = reactor
        self._environ = environ
        self._place = RunDirectory(data, environ)
        self._start_limit = start_limit
        self._stop_limit = stop_limit
        self._process: RedisProcess | None = None
        self._supervising: Deferred[None] | None = None
        self._stopping = False
        self.restarts = 0

    @property
    def socket(self) -> Path:
        """Where it listens; known for sure only after `start`."""
        return self._place.socket

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        process = self._process
        return None if process is None or process.exited else process.transport.pid

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        endpoint: IStreamClientEndpoint = UNIXClientEndpoint(self._reactor, str(self.socket), timeout=ASK_LIMIT)
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        return connecting

    async def start(self) -> None:
        """Start it; returns when it answers.

        Where it is still loading its data after `start_limit` seconds it returns too, and loading goes on.
        Raises `EmbeddedRedisError` where there is none, where it ends or keeps silent, and where another
        depproxy uses `data`.
        """
        self._stopping = False
        binary = find_redis_server(self._environ)
        self._place.open()
        try:
            await self._stop_leftover()
            self._place.prepare()
            await self._run(binary)
            if self._stopping:
                raise EmbeddedRedisError("redis-server was stopped while it began")
        except BaseException:
            await self.stop()
            raise
        self._supervising = Deferred.fromCoroutine(self._supervise(binary))
        self._supervising.addErrback(self._supervision_ended)

    async def stop(self) -> None:
        """Stop it, and wait until its data is on disk and it has ended."""
        self._stopping = True
        supervising, self._supervising = self._supervising, None
        if supervising is not None:
            supervising.cancel()
        if self._process is not None:
            await self._process.stop(self._reactor, self._stop_limit)
        self._place.close()

    async def _run(self, binary: Path) -> None:
        """Start a process, and wait until it serves."""
        if self._stopping:
            raise EmbeddedRedisError("redis-server was stopped before it began")
        began = self._reactor.seconds()
        place = self._place
        self._process = process = spawn(self._reactor, binary, place.config, place.directory, self._environ)
        answer = await self._wait(process, began + self._start_limit)
        self._log.info(
            "cache index: redis-server {version} {state} on {socket} after {seconds:.1f} s",
            version=answer.version,
            state="is ready" if answer.loaded is None else "goes on loading its data",
            socket=self.socket,
            seconds=self._reactor.seconds() - began,
        )
        # Redis 7 keeps its append-only file in a directory that an older one does not look into.
        if int(answer.version.partition(".")[0]) < 7 and (place.directory / "appendonlydir").is_dir():
            self._log.warn(
                "cache index: {directory} holds the data of a newer Redis, which {binary} cannot read:"
                " the cache index begins without it",
                directory=place.directory,
                binary=binary,
            )

    async def _wait(self, process: RedisProcess, deadline: float) -> _Answer:
        tell_at = self._reactor.seconds() + TELL_EVERY
        answer: _Answer | None = None
        while not process.exited:
            answer = await self._ask() or answer
            late = self._reactor.seconds() >= deadline
            if answer is not None and (answer.loaded is None or late):
                return answer
            if late:
                raise EmbeddedRedisError(f"redis-server does not answer on {self.socket}")
            if self._reactor.seconds() >= tell_at:
                tell_at += TELL_EVERY
                state = "no answer yet" if answer is None else f"{answer.loaded} % of the data loaded"
                self._log.info("cache index: waiting for redis-server: {state}", state=state)
            await deferLater(self._reactor, POLL)
        # The last line is the reason; those before it are in the log.
        said = process.last_lines[-1] if process.last_lines else "(nothing)"
        raise EmbeddedRedisError(
            f"redis-server {process.status}; its last words: {said}; what it keeps in {self._place.directory} is a"
            " cache: if that is damaged, delete it and start again"
        )

    async def _ask(self) -> _Answer | None:
        """Whether it answers, and how far it is; None if it does not."""
        asking = Deferred.fromCoroutine(self._asked())
        try:
            return await asking.addTimeout(ASK_LIMIT, self._reactor)
        except CancelledError:
            raise
        except Exception:
            return None

    async def _asked(self) -> _Answer:
        wire = await dial(self)
        try:
            # One command: while Redis loads its data it reads its connections but now and then.
            reply = await wire.send("INFO")
        finally:
            wire.abort()
        lines = reply.decode("utf-8", "replace").splitlines() if isinstance(reply, bytes) else []
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        loaded = info.get("loading_loaded_perc", "?") if info.get("loading") == "1" else None
        return _Answer(info["redis_version"], loaded)

    async def _supervise(self, binary: Path) -> None:
        delay = FIRST_DELAY
        while True:
            began, process = self._reactor.seconds(), self._process
            assert process is not None
            await process.ended()
            if self._reactor.seconds() - began >= STABLE:
                delay = FIRST_DELAY
            self._log.error(
                "cache index: redis-server {status}, it is started again in {delay:g} s",
                status=process.status,
                delay=delay,
            )
            await deferLater(self._reactor, delay)
            delay = min(delay * 2, MAX_DELAY)
            self.restarts += 1
            try:
                await self._run(binary)
            except CancelledError:
                raise
            except Exception as error:
                self._log.error("cache index: {error}", error=str(error))
                if self._process is not None:
                    await self._process.stop(self._reactor, self._stop_limit)

    def _supervision_ended(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self._log.failure("cache index: redis-server is not watched any more", failure=failure)

    async def _stop_leftover(self) -> None:
        pid = self._place.leftover()
        if pid is None:
            return
        self._log.warn("cache index: redis-server {pid} was left by a depproxy that was killed, it is stopped", pid=pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = self._reactor.seconds() + self._stop_limit
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            while self._place.is_redis(pid):
                if self._reactor.seconds() >= until:
                    break
                await deferLater(self._reactor, POLL)
            else:
                return
        raise EmbeddedRedisError(f"redis-server {pid} was left on {self._place.directory} and cannot be stopped")
