"""Blobs: a hit, a join of the fill under way, or the start of one.

Bytes are shared by digest, permission never is: a group's repository gets a blob only when it is linked to it, by
a manifest that was served there or because upstream, asked in that repository's name, has it.
"""

from collections.abc import Mapping
from random import Random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeadlineError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from depproxy.cache.coalesce import Coalescer
from depproxy.cache.fill import Fill
from depproxy.cache.interface import BlobSource, Outcome
from depproxy.cache.links import Links
from depproxy.cache.sources import FollowedBlob, StoredBlob
from depproxy.index.interface import Home, ICacheIndex, IndexUnavailable, Link
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name
from depproxy.storage.interface import IBlobStore
from depproxy.upstream.errors import Refused, Unavailable, UpstreamError
from depproxy.upstream.interface import IUpstream

# containerd 2.3 gives a server 30 s for the response header.
READY_TIMEOUT = 25.0


class Blobs:
    """Every way to a blob's bytes."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        links: Links,
        upstreams: Mapping[str, IUpstream],
        clock: IReactorTime,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._links = links
        self._upstreams = upstreams
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._fills: dict[Digest, Fill] = {}
        self._tasks: set[Deferred[None]] = set()
        self._proofs: Coalescer[tuple[Home, Digest], Link] = Coalescer()

    async def open(self, home: Home, digest: Digest) -> BlobSource:
        """
        The blob's bytes, to be closed by the caller.

        Raises UpstreamError. May be cancelled: a fill that was started goes on.
        """
        link = await self._linked(home, digest) or await self._prove(home, digest)
        while True:
            opened = self._store.open(digest)
            if opened is not None:
                self._index.touch(digest)
                return StoredBlob(opened)
            fill, outcome = self._fills.get(digest), Outcome.JOINED
            if fill is None or fill.failure is not None:
                fill, outcome = self._start(home, digest, link), Outcome.MISS
            try:
                await self._ready(fill)
            except UpstreamError:
                if outcome is Outcome.JOINED and self._address(home) != (fill.upstream, fill.repository):
                    # What was refused to somebody else may not be refused to us.
                    continue
                raise
            return FollowedBlob(fill, outcome)

    async def stat(self, home: Home, digest: Digest) -> tuple[int | None, Outcome]:
        """The blob's size (None: upstream does not say), for a HEAD. Nothing is downloaded. Raises UpstreamError."""
        link = await self._linked(home, digest)
        size = self._store.contains(digest)
        if link is None or (size is None and digest not in self._fills):
            # A link tells that it was there once; only upstream knows whether it still is.
            link = await self._prove(home, digest)
        if size is not None:
            return size, Outcome.HIT
        return (link.size if link.size >= 0 else None), Outcome.MISS

    def filling(self) -> int:
        """How many fills are under way."""
        return len(self._fills)

    def stop(self) -> None:
        """Stop all fills; their bytes stay for the next start."""
        for task in tuple(self._tasks):
            task.cancel()

    def _address(self, home: Home) -> tuple[IUpstream, Name]:
        return self._upstreams[home.upstream], home.repository

    async def _linked(self, home: Home, digest: Digest) -> Link | None:
        return await self._links.find(home, digest)

    async def _prove(self, home: Home, digest: Digest) -> Link:
        """Have upstream confirm that this repository holds the blob, and link it. Raises UpstreamError."""
        return await self._proofs.join((home, digest), lambda: self._ask(home, digest))

    async def _ask(self, home: Home, digest: Digest) -> Link:
        upstream, repository = self._address(home)
        try:
            size = await upstream.head_blob(repository, digest)
        except (Refused, Unavailable) as error:
            if error.status is None:
                raise
            # Some registries (ECR) know no HEAD for blobs; the headers of a GET say the same.
            stream = await upstream.open_blob(repository, digest)
            size = stream.size
            stream.stop()
        link = Link("", -1 if size is None else size)
        if self._links.known(home, digest) is None:
            self._links.add(home, {digest: link})
        return link

    async def _ready(self, fill: Fill) -> None:
        waiter = fill.ready().addTimeout(READY_TIMEOUT, self._clock)
        try:
            await waiter
        except DeadlineError:
            raise Unavailable(
                fill.upstream.name,
                f"no answer for {fill.digest} within {READY_TIMEOUT:.0f} s; it is still being tried",
            ) from None

    def _start(self, home: Home, digest: Digest, link: Link) -> Fill:
        upstream, repository = self._address(home)
        size = link.size if link.size >= 0 else None
        fill = Fill(digest, upstream, repository, size, self._store, self._clock, self._random, self._metrics)
        self._fills[digest] = fill
        task = Deferred.fromCoroutine(self._run(fill))
        self._tasks.add(task)
        task.addBoth(lambda _: self._tasks.discard(task))
        return fill

    async def _run(self, fill: Fill) -> None:
        """A fill's whole life: download, then the index entry, then it is no longer there to join."""
        try:
            if await fill.start():
                assert fill.size is not None
                await self._index.put_blob(fill.digest, fill.size)
        except IndexUnavailable as error:
            # The file is the truth: the blob is served all the same.
            self._log.warn("no index entry for {digest}: {error}", digest=fill.digest, error=error)
            self._metrics.errors.labels("index").inc()
        except CancelledError:
            self._log.info("the fill of {digest} is stopped", digest=fill.digest)
        finally:
            if self._fills.get(fill.digest) is fill:
                del self._fills[fill.digest]
