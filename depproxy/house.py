"""Every object of a running depproxy, built from its settings: the one place that knows them all."""

import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from depproxy.access.administration import Administration
from depproxy.access.gate import Gate
from depproxy.access.groups import Groups
from depproxy.access.hashing import Hashing
from depproxy.access.issuer import Issuer
from depproxy.access.keys import KeyRing, KeyRingError
from depproxy.access.networks import Networks
from depproxy.access.sealing import Sealer
from depproxy.access.settings import RunTimeSettings
from depproxy.access.throttle import Throttle
from depproxy.access.tokens import Tokens
from depproxy.cache.background import Background
from depproxy.cache.blobs import Blobs
from depproxy.cache.documents import Documents
from depproxy.cache.entries import Entries
from depproxy.cache.links import Links
from depproxy.cache.manifests import Manifests
from depproxy.cache.questions import Questions
from depproxy.cache.schedules import Schedules
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.cache.warm import Warmer
from depproxy.config import Settings, image_names, taken_over
from depproxy.index.factory import make_index
from depproxy.keeping import Keeping
from depproxy.metrics import Metrics
from depproxy.sources import Sources, fingerprint
from depproxy.storage.files import FileStore
from depproxy.upstream.client import make_upstream
from depproxy.upstream.upstreams import Upstreams
from depproxy.web.addresses import Addresses
from depproxy.web.admin.backup import BackupFace
from depproxy.web.admin.ratelimit import RateLimitFace
from depproxy.web.admin.site import AdminSite
from depproxy.web.admin.status import Running, StatusFace
from depproxy.web.admin.warm import WarmFace
from depproxy.web.api import Api
from depproxy.web.origin import Origin
from depproxy.web.pem import TLSFileError
from depproxy.web.registry import Registry
from depproxy.web.render import TOKEN_PATH
from depproxy.web.site import Faces
from depproxy.web.status import STATUS_PATHS, Status
from depproxy.web.tls import TLSContexts
from depproxy.web.token import Token

T = TypeVar("T")

# Threads for file I/O, apart from the reactor's own, which resolve names: a slow disk must not stop that.
FILE_THREADS = 8
# Threads for password hashes, which take all of a core: logins must not stop pulls.
HASHING_THREADS = 2
# What tokens name as their issuer; not the public URL, which may change.
ISSUER = "depproxy"


class Threads:
    """Threads for what would hold up the reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._files = ThreadPool(0, FILE_THREADS, "files")
        self._hashing = ThreadPool(0, HASHING_THREADS, "hashing")

    def files(self, function: Callable[..., T], *args: object) -> "Deferred[T]":
        """Run work on files."""
        return deferToThreadPool(self._reactor, self._files, function, *args)

    def hashing(self, function: Callable[..., T], *args: object) -> "Deferred[T]":
        """Run work on passwords."""
        return deferToThreadPool(self._reactor, self._hashing, function, *args)

    def start(self) -> None:
        """Start with the first work that comes."""
        self._files.start()
        self._hashing.start()

    def stop(self) -> None:
        """Wait for the work under way. May be called without a start."""
        for pool in (self._files, self._hashing):
            if pool.started:
                pool.stop()


class House:
    """The objects. Nothing is started by building them, and nothing is written."""

    _log = Logger()

    def __init__(self, settings: Settings, reactor: Any, environ: Mapping[str, str]) -> None:
        self.settings = settings
        random = Random()
        self.threads = threads = Threads(reactor)
        self.metrics = metrics = Metrics()
        self.store = FileStore(settings.storage.path, threads.files)
        self.index = make_index(reactor, settings.index, settings.storage.path, now=time.time, environ=environ)
        keys = settings.storage.path / "keys"
        self.sealer = Sealer(keys)
        self.owners = RunTimeSettings(self.index, self.sealer, reactor, self._owners_changed)
        self.owners.configured_ttls = _ttls(settings)
        clients = {name: make_upstream(reactor, upstream, metrics) for name, upstream in settings.upstreams.items()}
        self.upstreams = Upstreams(clients, self.owners)
        self.background = background = Background(metrics)
        self.entries = entries = Entries(self.index, metrics)
        tags, links = Tags(self.index, background, metrics), Links(self.index, background, metrics)
        uses = Uses(reactor)
        self.questions = Questions(self.upstreams, settings.cache.negative_ttl, reactor)
        self.manifests = Manifests(
            self.store,
            self.index,
            entries,
            tags,
            links,
            uses,
            self.questions,
            background,
            settings.cache,
            settings.upstreams,
            reactor,
            metrics,
        )
        self.blobs = Blobs(self.store, self.index, entries, links, uses, self.upstreams, reactor, random, metrics)
        names = image_names(settings.mirror, settings.upstreams)
        self.keeping = Keeping(
            settings,
            self.store,
            self.index,
            entries,
            tags,
            links,
            uses,
            background,
            self.manifests.forget,
            self.owners.ttl,
            metrics,
        )
        self.warmer = Warmer(names, self.manifests, self.blobs, reactor, metrics)
        self.schedules = Schedules(self.warmer, reactor, metrics)
        self.documents = Documents(self.upstreams, settings.cache.documents_ttl, reactor)
        self.keys = KeyRing(keys, settings.access.algorithm)
        self._build_access(settings, reactor, threads)
        addresses = Addresses(settings.mirror, settings.upstreams)
        self.token = Token(addresses, self.issuer, metrics)
        self.registry = Registry(
            addresses,
            self.gate,
            self.manifests,
            self.blobs,
            self.documents,
            reactor,
            settings.server.stall_timeout,
            metrics,
        )
        self.api = Api(self.administration, self.keeping.purges, addresses, metrics)
        status = Status(self.index, self.index, metrics, self.blobs.filling).app.resource()
        self.site = Faces(
            self.registry.app.resource(),
            {**dict.fromkeys(STATUS_PATHS, status), TOKEN_PATH: self.token.app.resource()},
            self.api.app.resource(),
            _networks(settings),
            _origin(settings),
            settings.server.max_connections,
            reactor,
        )
        # Told by who listens.
        self.listeners: list[str] = []
        self._build_admin(reactor)
        self.tls = TLSContexts(settings.server.client_ca, time.time)
        self._authority = fingerprint(settings.server.client_ca)

    def _build_access(self, settings: Settings, reactor: Any, threads: Threads) -> None:
        self.tokens = Tokens(self.keys, ISSUER, settings.access.token_lifetime, time.time)
        self.refresh_tokens = Tokens(self.keys, f"{ISSUER}/refresh", settings.access.refresh_lifetime, time.time)
        self.hashing = Hashing(threads.hashing, threads=HASHING_THREADS)
        self.sources = Sources(reactor, self.hashing, self.metrics)
        self.throttle = Throttle(self.index, time.time, settings.access)
        groups, accounts = _groups(settings), self.sources.accounts(settings)
        self.gate = Gate(groups, accounts, self.tokens, self.owners.enabled)
        self.issuer = Issuer(groups, accounts, self.tokens, self.refresh_tokens, self.throttle)
        self.administration = Administration(groups, accounts, self.throttle, self.owners)

    def _build_admin(self, reactor: Any) -> None:
        running = Running(
            self.listeners,
            lambda: self.site.draining,
            lambda: self.settings.storage.max_size,
            self.blobs.fills,
            self.questions.holding_off,
        )
        data = self.settings.storage.path
        faces = {
            "backup": BackupFace(self.index, self.index, data).app.resource(),
            "status": StatusFace(running, self.index, self.upstreams, self.metrics, reactor).app.resource(),
            "ratelimit": RateLimitFace(self.upstreams, reactor).app.resource(),
            "warm": WarmFace(self.warmer, self.keeping.named).app.resource(),
            **self.keeping.faces,
        }
        self.admin = AdminSite(faces, reactor)

    def _owners_changed(self) -> None:
        """An owner has changed settings of a group, here or in another process."""
        self.upstreams.retain(self.owners.credentials())
        self.gate.forget()

    def take_over(self, wanted: Settings) -> tuple[str, ...]:
        """
        Give each object its part of new settings. Returns the keys whose change needs a restart.

        Raises ConfigError, and nothing has changed.
        """
        settings, kept = taken_over(self.settings, wanted)
        # What may fail comes first.
        accounts = self.sources.accounts(settings)
        self.settings = settings
        self.site.networks = _networks(settings)
        self.site.origin = _origin(settings)
        addresses = Addresses(settings.mirror, settings.upstreams)
        self.registry.addresses = self.token.addresses = self.api.addresses = addresses
        self.registry.stall_timeout = settings.server.stall_timeout
        self.owners.configured_ttls = _ttls(settings)
        self.manifests.settings = settings.cache
        self.manifests.upstreams = settings.upstreams
        self.questions.negative_ttl = settings.cache.negative_ttl
        self.keeping.take_over(settings)
        self.warmer.names = image_names(settings.mirror, settings.upstreams)
        self.schedules.replace(settings.warm)
        self.documents.ttl = settings.cache.documents_ttl
        self.tokens.lifetime = settings.access.token_lifetime
        self.refresh_tokens.lifetime = settings.access.refresh_lifetime
        self.tokens.forget()
        self.refresh_tokens.forget()
        self.throttle.settings = settings.access
        self.hashing.forget()
        groups = _groups(settings)
        self.gate.replace(groups, accounts)
        self.issuer.replace(groups, accounts)
        self.administration.replace(groups, accounts)
        self._read_again()
        return kept

    def _read_again(self) -> None:
        """
        The files that settings name. One that is wrong is left as it was, and keeps nothing else from counting: a token
        that was revoked is revoked, whatever is wrong with a certificate.
        """
        self.keys.algorithm = self.settings.access.algorithm
        try:
            self.keys.reload()
        except KeyRingError as error:
            self._log.error("the signing keys stay as they were: {error}", error=error)
        try:
            self.tls.reload(self.settings.server.client_ca)
        except TLSFileError as error:
            self._log.error("the certificates of listeners stay as they were: {error}", error=error)
        authority = fingerprint(self.settings.server.client_ca)
        if authority != self._authority:
            # Connections were proved by other authorities than there are now.
            self._authority = authority
            self.site.forget_certificates()


def _groups(settings: Settings) -> Groups:
    return Groups(settings.groups, settings.mirror, enabled=settings.server.enabled)


def _ttls(settings: Settings) -> Mapping[str, float]:
    return {path: group.ttl for path, group in settings.groups.items() if group.ttl is not None}


def _networks(settings: Settings) -> Networks:
    return Networks(settings.server.metrics, unix_sockets=settings.mirror.unix_sockets)


def _origin(settings: Settings) -> Origin:
    return Origin(settings.server.trusted_proxies, settings.server.public_url)
