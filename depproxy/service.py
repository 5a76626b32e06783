"""The one place that builds the objects, and orders start and stop."""

import re
import resource
import signal
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from depproxy import __version__, sdnotify
from depproxy.access.networks import Networks
from depproxy.cache.background import Background
from depproxy.cache.blobs import Blobs
from depproxy.cache.documents import Documents
from depproxy.cache.entries import Entries
from depproxy.cache.links import Links
from depproxy.cache.manifests import Manifests
from depproxy.cache.questions import Questions
from depproxy.config import ConfigError, Settings
from depproxy.index.factory import make_index
from depproxy.index.interface import IncompatibleSchema, IndexUnavailable
from depproxy.index.rundir import EmbeddedRedisError
from depproxy.metrics import Metrics
from depproxy.storage.files import FileStore, StoreInUse
from depproxy.upstream.client import make_upstream
from depproxy.web.addresses import Addresses
from depproxy.web.registry import Registry
from depproxy.web.site import Faces
from depproxy.web.status import Status

T = TypeVar("T")

# Threads for file I/O, apart from the reactor's own, which resolve names: a slow disk must not stop that.
FILE_THREADS = 8
SWEEP_INTERVAL = 60 * 60.0
# Files that are open beside those of clients' connections: upstreams, fills, Redis, logs.
RESERVED_FILES = 256
# net.core.somaxconn caps it; a thousand jobs may start at once.
BACKLOG = 4096
# Why a start may fail that an operator can mend: told in one line, without a traceback.
MENDABLE = (OSError, CannotListenError, StoreInUse, EmbeddedRedisError, IncompatibleSchema, IndexUnavailable)


class Depproxy(Service):
    """
    The running service.

    `load` reads the configuration anew for a reload. `reactor` is the reactor. `fatal` is told, in one line, why a
    start failed.
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
    ) -> None:
        self._settings = settings
        self._load = load
        self._reactor = reactor
        self._environ = environ
        self._fatal = fatal
        self._ports: list[IListeningPort] = []
        self._pool = ThreadPool(0, FILE_THREADS, "files")
        self._started: Deferred[None] | None = None
        self._ready = False
        self._build()

    def _build(self) -> None:
        settings, reactor, random = self._settings, self._reactor, Random()
        self.metrics = metrics = Metrics()
        self._store = FileStore(settings.storage.path, self._in_thread)
        self._index = make_index(reactor, settings.index, settings.storage.path, now=time.time, environ=self._environ)
        self._upstreams = {
            name: make_upstream(reactor, upstream, metrics) for name, upstream in settings.upstreams.items()
        }
        self._background = background = Background(metrics)
        self._entries = entries = Entries(self._index, metrics)
        links = Links(self._index, background, metrics)
        self._questions = Questions(self._upstreams, settings.cache.negative_ttl, reactor)
        self._manifests = Manifests(
            self._store,
            self._index,
            entries,
            links,
            self._questions,
            background,
            settings.cache,
            settings.upstreams,
            reactor,
            metrics,
        )
        self._blobs = Blobs(self._store, self._index, entries, links, self._upstreams, reactor, random, metrics)
        self._documents = documents = Documents(self._upstreams, settings.cache.documents_ttl, reactor)
        self._registry = Registry(
            Addresses(settings.groups, settings.mirror, settings.upstreams),
            self._manifests,
            self._blobs,
            documents,
            reactor,
            settings.server.stall_timeout,
            metrics,
        )
        self._site = Faces(
            self._registry.app.resource(),
            Status(self._index, metrics, self._blobs.filling).app.resource(),
            _networks(settings),
            settings.server.public_url,
            settings.server.max_connections,
            reactor,
        )
        self._sweeping = LoopingCall(self._sweep)
        self._sweeping.clock = reactor

    def _in_thread(self, function: Callable[..., T], *args: object) -> "Deferred[T]":
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def startService(self) -> None:
        super().startService()
        # After twistd has installed its own handlers: a SIGHUP would end the process.
        self._reactor.callWhenRunning(signal.signal, signal.SIGHUP, self._hangup)
        self._started = Deferred.fromCoroutine(self._start())
        self._started.addErrback(self._failed)

    async def _start(self) -> None:
        """Everything that requests need, then the listeners, then READY. No upstream is contacted."""
        self._site.max_connections = self._affordable(self._settings.server.max_connections)
        self._store.prepare()
        self._pool.start()
        await self._index.start()
        if not self.running:
            # Cancelling ended the wait, not the start.
            return
        self._sweeping.start(SWEEP_INTERVAL)
        for description in self._settings.server.listen:
            endpoint = serverFromString(self._reactor, with_backlog(description))
            port = await endpoint.listen(self._site)
            self._ports.append(port)
            self._log.info("listening on {address}", address=_described(port.getHost()))
        for name, upstream in self._settings.upstreams.items():
            self._log.info("upstream {name} is {url}", name=name, url=upstream.url)
        self._log.info("depproxy {version} is ready: {url}", version=__version__, url=self._settings.server.public_url)
        self._ready = True
        self._tell("READY=1")

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
        for step in (self._stop_serving, self._stop_working, self._stop_rest):
            try:
                await step()
            except Exception:
                # The next step gives back what this one did not.
                self._log.failure("{step} failed", step=step.__name__)
        self._store.close()
        self._log.info("depproxy has stopped")

    async def _stop_serving(self) -> None:
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        await self._site.drain(self._settings.server.drain_timeout)

    async def _stop_working(self) -> None:
        self._questions.close()
        self._documents.close()
        await self._blobs.stop()
        await self._background.drain()
        if self._sweeping.running:
            self._sweeping.stop()

    async def _stop_rest(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()
        await self._index.stop()
        if self._started is not None:
            # A start that was cancelled may still have to notice it.
            await self._started
        if self._pool.started:
            # Waits for the file work under way.
            self._pool.stop()

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _sweep(self) -> None:
        # An exception would end the timer for good.
        try:
            await self._entries.catch_up()
            removed = await self._store.sweep(time.time())
        except Exception:
            self._log.failure("sweep failed")
            self.metrics.errors.labels("storage").inc()
        else:
            if removed:
                self._log.info("{count} leftover files removed", count=removed)

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

    def _take_over(self, settings: Settings) -> None:
        """The mirror and the groups; of the rest, say what needs a restart. Raises ConfigError."""
        running = self._settings
        fixed = [
            part
            for part in ("server", "storage", "index", "upstreams", "cache")
            if getattr(settings, part) != getattr(running, part)
        ]
        if fixed:
            self._log.warn("a restart is needed for what changed in: {parts}", parts=", ".join(fixed))
        if settings.mirror.upstream not in running.upstreams:
            raise ConfigError(f'mirror.upstream: "{settings.mirror.upstream}" is new, which needs a restart')
        self._site.networks = _networks(settings)
        self._registry.addresses = Addresses(settings.groups, settings.mirror, running.upstreams)
        self._log.info("configuration reloaded: mirror and groups")


def with_backlog(description: str) -> str:
    """The endpoint string with our backlog where it can have one and names none: Twisted's 50 is too few."""
    kind = description.partition(":")[0]
    # A colon behind a backslash is part of a value.
    if kind in ("tcp", "ssl", "unix") and ":backlog=" not in re.sub(r"\\.", "", description):
        return f"{description}:backlog={BACKLOG}"
    return description


def _described(address: object) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _networks(settings: Settings) -> Networks:
    return Networks(settings.mirror.anonymous, unix_sockets=settings.mirror.unix_sockets)
