"""One run of a redis-server: its output goes to our log, its end can be waited for."""

import os
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from depproxy.index import launch

MAX_LINE = 2000
LAST_LINES = 10
TERM_EVERY = 0.5
# Not the rest: credentials, and what the service manager says to depproxy alone, are none of its business.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")


class RedisProcess(ProcessProtocol):
    """A redis-server that is running until `ended` fires."""

    _log = Logger()
    transport: IProcessTransport

    def __init__(self) -> None:
        self.exited = False
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.status = "is running"
        self._line = b""
        self._waiting: list[Deferred[None]] = []

    def ended(self) -> Deferred[None]:
        """Fires when the process has ended; at once if it already has."""
        waiter: Deferred[None] = Deferred()
        if self.exited:
            waiter.callback(None)
        else:
            self._waiting.append(waiter)
        return waiter

    async def stop(self, clock: IReactorTime, limit: float) -> None:
        """Let it save and end: SIGTERM, and SIGKILL after `limit` seconds. Returns when it has ended."""
        until = clock.seconds() + limit
        # More than once: what arrives between fork and exec is lost on a handler of ours that the child still has.
        while not self.exited and (left := until - clock.seconds()) > 0:
            self._signal("TERM")
            await self._ended_within(min(left, TERM_EVERY), clock)
        if not self.exited:
            self._log.error("cache index: redis-server did not end within {limit:g} s, it is killed", limit=limit)
            self._signal("KILL")
            await self.ended()

    async def _ended_within(self, seconds: float, clock: IReactorTime) -> None:
        with suppress(TimeoutError):
            await self.ended().addTimeout(seconds, clock)

    def connectionMade(self) -> None:
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > MAX_LINE:
            lines.append(self._line)
            self._line = b""
        for line in lines:
            self._tell(line)

    def processEnded(self, reason: Failure) -> None:
        if self._line:
            self._tell(self._line)
        signal, code = getattr(reason.value, "signal", None), getattr(reason.value, "exitCode", None)
        self.status = f"ended by signal {signal}" if signal else f"ended with exit code {code}"
        self.exited = True
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def _tell(self, line: bytes) -> None:
        text = line[:MAX_LINE].decode("utf-8", "replace").strip()
        if text:
            self.last_lines.append(text)
            self._log.info("redis-server: {text}", text=text)

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)


def spawn(
    reactor: IReactorProcess, binary: Path, config: Path, directory: Path, environ: Mapping[str, str]
) -> RedisProcess:
    """Start `binary` on `config`, in a session of its own, and to be stopped by the kernel when this process
    dies."""
    process = RedisProcess()
    command = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(binary), str(config)]
    env = {name: environ[name] for name in PASSED_ON if name in environ}
    reactor.spawnProcess(process, sys.executable, command, env=env, path=str(directory))
    return process
