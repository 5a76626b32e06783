"""Start, reload and stop, in their order."""

import resource
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from depproxy import __version__, sdnotify
from depproxy.access.keys import KeyRingError
from depproxy.config import ConfigError, Settings
from depproxy.house import House
from depproxy.index.interface import IncompatibleSchema, IndexUnavailable
from depproxy.index.rundir import EmbeddedRedisError
from depproxy.storage.files import StoreInUse
from depproxy.web.admin import socket as admin_socket
from depproxy.web.admin.socket import AdminSocketError
from depproxy.web.listen import described, with_backlog
from depproxy.web.tls import make_endpoint

SWEEP_INTERVAL = 60 * 60.0
# How often the size of the cache is looked at, beside each blob stored.
EVICT_INTERVAL = 60.0
# Once in 24 of these files and index entries are compared, and what groups have not read for their ttl is looked for;
# where the index was down, in the next of them.
KEEP_INTERVAL = 60 * 60.0
# Files that are open beside those of clients' connections: upstreams, fills, Redis, logs.
RESERVED_FILES = 256
# Why a start may fail that an operator can mend: told in one line, without a traceback.
MENDABLE = (
    OSError,
    CannotListenError,
    AdminSocketError,
    StoreInUse,
    EmbeddedRedisError,
    IncompatibleSchema,
    IndexUnavailable,
    KeyRingError,
    ConfigError,
)


class Depproxy(Service):
    """
    The running service.

    `load` reads the configuration anew for a reload. `reactor` is the reactor. `fatal` is told, in one line, why a
    start failed. `settled` is called before the first request, when all that stays is there.
    """

    _log = Logger()
    name = "depproxy"

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        reactor: Any,
        environ: Mapping[str, str],
        fatal: Callable[[str], None],
        settled: Callable[[], None],
    ) -> None:
        self.house = House(settings, reactor, environ)
        self._load = load
        self._reactor = reactor
        self._environ = environ
        self._fatal = fatal
        self._settled = settled
        self._ports: list[IListeningPort] = []
        self._admin_port: IListeningPort | None = None
        self._started: Deferred[None] | None = None
        self._ready = False
        self._sweeping = LoopingCall(self._sweep)
        self._keeping = LoopingCall(self._keep)
        self._hours = 0
        self._evicting = LoopingCall(self.house.keeping.evictor.check)
        for timer in self._timers():
            timer.clock = reactor

    def _timers(self) -> tuple[LoopingCall, ...]:
        return self._sweeping, self._keeping, self._evicting

    def startService(self) -> None:
        super().startService()
        # After twistd has installed its own handlers: a SIGHUP would end the process.
        self._reactor.callWhenRunning(signal.signal, signal.SIGHUP, self._hangup)
        self._started = Deferred.fromCoroutine(self._start())
        self._started.addErrback(self._failed)

    async def _start(self) -> None:
        """Everything that requests need, then the listeners, then READY. No upstream is contacted."""
        self._limit_connections()
        self.house.store.prepare()
        self.house.keys.load()
        self.house.sealer.load()
        self.house.threads.start()
        await self.house.index.start()
        if not self.running:
            # Cancelling ended the wait, not the start.
            return
        await self.house.owners.start()
        if not self.running:
            self.house.owners.stop()
            return
        self._settled()
        self._sweeping.start(SWEEP_INTERVAL)
        self._admin_port = admin_socket.listen(self._reactor, self.house.settings.server.admin_socket, self.house.admin)
        for description in self.house.settings.server.listen:
            port = await make_endpoint(self._reactor, with_backlog(description), self.house.tls).listen(self.house.site)
            self._ports.append(port)
            self.house.listeners.append(described(port.getHost()))
            self._log.info("listening on {address}", address=self.house.listeners[-1])
        for name, upstream in self.house.settings.upstreams.items():
            self._log.info("upstream {name} is {url}", name=name, url=upstream.url)
        self._log.info(
            "depproxy {version} is ready: {url}", version=__version__, url=self.house.settings.server.public_url
        )
        self._ready = True
        self._tell("READY=1")
        self._keeping.start(KEEP_INTERVAL)
        self._evicting.start(EVICT_INTERVAL)
        self.house.schedules.replace(self.house.settings.warm)

    def _limit_connections(self) -> None:
        self.house.site.max_connections = self._affordable(self.house.settings.server.max_connections)

    def _affordable(self, wanted: int) -> int:
        """
        How many connections the process may hold. The limit of open files is raised as far as it goes; a connection
        that is sent a blob has three of them.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = wanted if hard == resource.RLIM_INFINITY else max(1, (hard - RESERVED_FILES) // 3)
        if limit < wanted:
            self._log.warn(
                "only {limit} clients can connect at a time, because only {hard} files may be open: raise that limit"
                " (LimitNOFILE=, ulimit -n) to {needed}, or lower server.max_connections",
                limit=limit,
                hard=hard,
                needed=wanted * 3 + RESERVED_FILES,
            )
        return min(limit, wanted)

    def _failed(self, failure: Failure) -> None:
        if not self.running:
            # It is to stop already.
            return
        if failure.check(*MENDABLE):
            self._log.critical("depproxy cannot start: {error}", error=failure.value)
        else:
            self._log.failure("start failed", failure)
        self._fatal(f"depproxy cannot start: {failure.value}")

    def _tell(self, state: str) -> None:
        """Tell systemd; a supervisor that does not listen is no reason to stop serving."""
        try:
            sdnotify.notify(state, self._environ)
        except OSError as error:
            self._log.warn("NOTIFY_SOCKET: {state} was not told: {error}", state=state, error=error)

    async def _stop(self) -> None:
        """New connections first, requests under way next, then what they left to do, then the rest."""
        self._tell("STOPPING=1")
        if self._started is not None:
            self._started.cancel()
        for step in (self._stop_serving, self._stop_admin, self._stop_working, self._stop_rest):
            try:
                await step()
            except Exception:
                # The next step gives back what this one did not.
                self._log.failure("{step} failed", step=step.__name__)
        self.house.store.close()
        self._log.info("depproxy has stopped")

    async def _stop_serving(self) -> None:
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        await self.house.site.drain(self.house.settings.server.drain_timeout)

    async def _stop_admin(self) -> None:
        """Operators can look at what is drained; what they have asked for and takes longer is given up."""
        if self._admin_port is not None:
            await maybeDeferred(self._admin_port.stopListening)
        self.house.admin.close()

    async def _stop_working(self) -> None:
        await self.house.schedules.stop()
        self.house.questions.close()
        self.house.documents.close()
        for timer in self._timers():
            if timer.running:
                timer.stop()
        self.house.keeping.reconciler.stop()
        self.house.keeping.evictor.stop()
        self.house.keeping.expirer.stop()
        self.house.keeping.purges.stop()
        await self.house.blobs.stop()
        await self.house.background.drain()

    async def _stop_rest(self) -> None:
        self.house.owners.stop()
        await self.house.upstreams.close()
        await self.house.sources.close()
        await self.house.index.stop()
        if self._started is not None:
            # A start that was cancelled may still have to notice it.
            await self._started
        self.house.threads.stop()

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _sweep(self) -> None:
        # An exception would end the timer for good.
        try:
            await self.house.entries.catch_up()
            removed = await self.house.store.sweep(time.time())
        except Exception:
            self._log.failure("sweep failed")
            self.house.metrics.errors.labels("storage").inc()
        else:
            if removed:
                self._log.info("{count} leftover files removed", count=removed)

    def _keep(self) -> None:
        """What is due at the start and once a day, and in between what could not be done to its end."""
        daily = self._hours % 24 == 0
        self._hours += 1
        keeping = self.house.keeping
        if daily or keeping.reconciler.late:
            keeping.reconciler.sweep()
        if daily or keeping.expirer.late:
            keeping.expirer.expire()

    def _hangup(self, signum: int, frame: object) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        """Take over what can change while running; keep everything if the new configuration is wrong."""
        if not self._ready:
            return
        self._tell(sdnotify.reloading())
        try:
            self._take_over(self._load())
        except ConfigError as error:
            self._log.error("configuration not reloaded, the old one stays: {error}", error=error)
        except Exception:
            self._log.failure("configuration not reloaded, the old one stays")
        self._tell("READY=1")

    def _take_over(self, wanted: Settings) -> None:
        running = self.house.settings.server
        kept = self.house.take_over(wanted)
        if kept:
            self._log.warn("a restart is needed for what changed in: {keys}", keys=", ".join(kept))
        if self.house.settings.server.max_connections != running.max_connections:
            self._limit_connections()
        self._log.info("configuration reloaded")
