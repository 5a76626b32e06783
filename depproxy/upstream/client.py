"""A registry as a client sees it (OCI distribution-spec, section "Pull"): `RegistryClient`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.client import HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.iweb import IResponse
from zope.interface import implementer

from depproxy.config import UpstreamSettings
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import MANIFEST_TYPES, MAX_MANIFEST, OCI_INDEX
from depproxy.oci.reference import Name, Reference
from depproxy.upstream.agent import IDLE, Limits, UpstreamAgent
from depproxy.upstream.answers import content_range, digest_of, json_object, manifest_type, media_type_of, size_of
from depproxy.upstream.auth import Authenticator
from depproxy.upstream.body import BlobStream, drop, read
from depproxy.upstream.connect import Direct, IRoutes, ThroughProxy, https_policy
from depproxy.upstream.credentials import Credentials, Given
from depproxy.upstream.errors import Invalid
from depproxy.upstream.exchange import Ask, Elsewhere, Exchange
from depproxy.upstream.health import Health
from depproxy.upstream.http import Http, header
from depproxy.upstream.interface import (
    Credential,
    Document,
    IBlobStream,
    IUpstream,
    Manifest,
    ManifestHead,
    RateLimit,
    UpstreamState,
)
from depproxy.upstream.ratelimit import RateLimits, read_rate_limit
from depproxy.upstream.retry import Retry
from depproxy.upstream.waiting import Permit, Permits, TimedOut, bounded

MAX_DOCUMENT = 4 * 1024 * 1024

# Seconds that connections in the pool get to say goodbye.
_FAREWELL = 2.0

# All of them, always, in one header: whoever is asked for one type converts, or picks a platform.
_MANIFESTS = {"Accept": ", ".join(MANIFEST_TYPES)}


class _QuietFactory(_HTTP11ClientFactory):
    noisy = False


class QuietPool(HTTPConnectionPool):
    """Twisted's pool, without two lines in the log for each connection."""

    _factory = _QuietFactory


@implementer(IUpstream)
class RegistryClient:
    """One upstream. Built by `make_upstream`; to be closed."""

    def __init__(
        self,
        settings: UpstreamSettings,
        clock: IReactorTime,
        *,
        pool: HTTPConnectionPool,
        auth: Authenticator,
        permits: Permits,
        ratelimits: RateLimits,
        exchange: Exchange,
        health: Health,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._silence = settings.silence_timeout
        self._clock = clock
        self._pool = pool
        self._auth = auth
        self._permits = permits
        self._ratelimits = ratelimits
        self._exchange = exchange
        self._health = health

    @property
    def state(self) -> UpstreamState:
        """How it has been."""
        settings, health = self._settings, self._health
        return UpstreamState(
            self.name,
            settings.url,
            settings.username,
            self.connections,
            settings.max_connections,
            health.last_success,
            health.last_failure,
            health.failure,
            self.rate_limits,
        )

    @property
    def rate_limits(self) -> Mapping[str, RateLimit]:
        """What upstream said last about the pulls it allows, by source."""
        return self._ratelimits.sources

    @property
    def connections(self) -> int:
        """How many connections are in use."""
        return self._permits.held

    def acting_as(self, credential: Credential) -> RegistryClient:
        """The same upstream, asked with another credential. Connections and limits are shared, what is learned from
        its answers, too; it need not be closed."""
        acting = copy(self)
        acting._exchange = self._exchange.acting_as(Given(credential))
        return acting

    def forget(self, credential: Credential) -> None:
        """A credential is not in use any more: drop the tokens that it was given."""
        self._auth.forget(credential)

    async def close(self) -> None:
        """Give up the token requests under way and close idle connections. Streams belong to those who opened
        them."""
        self._auth.close()
        with suppress(TimedOut):
            await bounded(self._pool.closeCachedConnections(), self._clock, _FAREWELL, lambda _: None)

    async def head_manifest(self, repository: Name, reference: Reference) -> ManifestHead:
        async def take(response: IResponse, _: Permit) -> ManifestHead:
            headers = response.headers
            return ManifestHead(digest_of(headers), media_type_of(headers), size_of(headers))

        return await self._exchange.ask(Ask("HEAD", repository, f"manifests/{reference}", _MANIFESTS), take)

    async def head_rate_limit(self, repository: Name, reference: Reference) -> tuple[str, RateLimit] | None:
        """What the answer to a HEAD of a manifest says about limits, with the source that it names."""

        async def take(response: IResponse, _: Permit) -> tuple[str, RateLimit] | None:
            return read_rate_limit(response.headers)

        return await self._exchange.ask(
            Ask("HEAD", repository, f"manifests/{reference}", _MANIFESTS, retry=False), take
        )

    async def get_manifest(self, repository: Name, reference: Reference) -> Manifest:
        async def take(response: IResponse, _: Permit) -> Manifest:
            body = await self._read(response, MAX_MANIFEST)
            return self._manifest(response, reference, body)

        return await self._exchange.ask(Ask("GET", repository, f"manifests/{reference}", _MANIFESTS), take)

    async def head_blob(self, repository: Name, digest: Digest) -> int | None:
        async def take(response: IResponse, _: Permit) -> int | None:
            return size_of(response.headers)

        try:
            return await self._exchange.ask(Ask("HEAD", repository, f"blobs/{digest}"), take)
        except Elsewhere:
            # A CDN's URL may be signed for GET alone. That upstream gave it out says that the blob is there.
            return None

    async def open_blob(self, repository: Name, digest: Digest, offset: int = 0, *, retry: bool = True) -> IBlobStream:
        async def take(response: IResponse, permit: Permit) -> IBlobStream:
            return self._stream(response, permit, offset)

        headers = {"Range": f"bytes={offset}-"} if offset else {}
        ask = Ask("GET", repository, f"blobs/{digest}", headers, long=True, retry=retry)
        return await self._exchange.ask(ask, take)

    async def get_document(self, repository: Name, path: str, query: str) -> Document:
        async def take(response: IResponse, _: Permit) -> Document:
            body = await self._read(response, MAX_DOCUMENT)
            if json_object(body) is None:
                raise Invalid(self.name, f"{path} of {repository} is no JSON document", response.code)
            kept = {name: header(response.headers, name) for name in ("Link", "OCI-Filters-Applied")}
            return Document(
                body,
                media_type_of(response.headers) or "application/json",
                {name: value for name, value in kept.items() if value is not None},
            )

        accept = {"Accept": OCI_INDEX if path.startswith("referrers/") else "application/json"}
        return await self._exchange.ask(Ask("GET", repository, f"{path}?{query}" if query else path, accept), take)

    async def _read(self, response: IResponse, limit: int) -> bytes:
        if response.code != 200:
            drop(response)
            raise Invalid(self.name, f"it answered {response.code} to a request for the whole", response.code)
        return await read(response, self.name, self._clock, self._silence, limit)

    def _manifest(self, response: IResponse, reference: Reference, body: bytes) -> Manifest:
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        digest = Digest.of(body, algorithm)
        if isinstance(reference, Digest) and digest != reference:
            raise Invalid(self.name, f"the manifest {reference} has other bytes: they are {digest}")
        claimed = digest_of(response.headers)
        if claimed is not None and Digest.of(body, claimed.algorithm) != claimed:
            raise Invalid(self.name, f"manifest {reference} is said to be {claimed}, but is {digest}")
        claimed_type = media_type_of(response.headers)
        media_type = manifest_type(claimed_type, body)
        # Without a digest to compare with, and perhaps without a length, only the bytes can say that they are all.
        proven = claimed is not None or isinstance(reference, Digest)
        if media_type is None or not (proven or json_object(body) is not None):
            raise Invalid(self.name, f"manifest {reference} is no manifest, but {claimed_type or 'something'}")
        return Manifest(body, media_type, digest)

    def _stream(self, response: IResponse, permit: Permit, offset: int) -> IBlobStream:
        length = response.length if isinstance(response.length, int) else None
        size = length
        if response.code == 206:
            found = content_range(header(response.headers, "Content-Range"))
            wanted = found is not None and found.start == offset
            if found is None or not wanted or length not in (None, found.last - found.start + 1):
                drop(response)
                raise Invalid(self.name, f"it answered a request for the bytes from {offset} on with others", 206)
            size = found.total
        else:
            offset = 0
        return BlobStream(
            response,
            self.name,
            self._clock,
            self._silence,
            permit.release,
            offset=offset,
            size=size,
        )


def make_upstream(
    reactor: Any,
    settings: UpstreamSettings,
    metrics: Metrics,
    *,
    clock: IReactorTime | None = None,
    jitter: Callable[[], float] = random.random,
    now: Callable[[], float] = time.time,
) -> RegistryClient:
    """A client for the upstream that ``settings`` describe. ``clock`` measures all limits of time; the reactor
    does by default. ``now`` is Unix time."""
    name, clock = settings.name, reactor if clock is None else clock
    pool = QuietPool(clock, persistent=True)  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated.
    pool.maxPersistentPerHost = settings.max_connections
    pool.cachedConnectionTimeout = IDLE
    policy = https_policy(settings.ca_file)
    routes: IRoutes = Direct(reactor, policy, settings.connect_timeout)
    if settings.proxy is not None:
        routes = ThroughProxy(reactor, policy, settings.connect_timeout, settings.proxy)
    agent = UpstreamAgent(
        name,
        clock,
        pool=pool,
        routes=routes,
        limits=Limits(settings.connect_timeout, settings.first_byte_timeout),
        answered=lambda method, status: metrics.upstream_requests.labels(name, method, str(status)).inc(),
        plain_http=settings.url.startswith("http:"),
    )
    http = Http(name, reactor, clock, agent)
    auth = Authenticator(settings, http, clock)
    permits = Permits(settings.max_connections)
    ratelimits = RateLimits(name, metrics)
    health = Health(now)
    exchange = Exchange(
        settings.url,
        http=http,
        auth=auth,
        credentials=Credentials(settings),
        permits=permits,
        retry=Retry(clock, jitter, settings.retries, settings.first_byte_timeout),
        ratelimits=ratelimits,
        health=health,
    )
    return RegistryClient(
        settings, clock, pool=pool, auth=auth, permits=permits, ratelimits=ratelimits, exchange=exchange, health=health
    )
