"""Blobs: a hit, a join of the fill under way, or the start of one.

Bytes are shared by digest, permission never is: a group's repository gets a blob only when it is linked to it, by
a manifest that was served there or because upstream, asked in that repository's name, has it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from depproxy.cache.background import ended
from depproxy.cache.deadline import Deadline
from depproxy.cache.entries import Entries
from depproxy.cache.fill import Fill
from depproxy.cache.interface import BlobSource, Outcome, StorageError
from depproxy.cache.links import Links
from depproxy.cache.shared import Shared
from depproxy.cache.sources import FollowedBlob, StoredBlob
from depproxy.cache.uses import Uses
from depproxy.coalesce import Coalescer
from depproxy.index.interface import Home, ICacheIndex, IndexUnavailable, Link
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.storage.interface import IBlobStore
from depproxy.upstream.errors import Refused, Unavailable, UpstreamError
from depproxy.upstream.interface import IUpstream, IUpstreams

REMEMBERED = 10_000
# What a registry that knows no HEAD for blobs may answer, beside a refusal: it is not in trouble.
NO_HEADS = frozenset({500, 501})


class Blobs:
    """Every way to a blob's bytes."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        entries: Entries,
        links: Links,
        uses: Uses,
        upstreams: IUpstreams,
        clock: IReactorTime,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._entries = entries
        self._links = links
        self._uses = uses
        self._upstreams = upstreams
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._fills: dict[Digest, Fill] = {}
        self._stopped = False
        self._tasks: dict[Fill, Deferred[None]] = {}
        # For whom each is under way: their groups will hold the blob.
        self._readers: dict[Fill, set[Home]] = {}
        self._checks: Coalescer[Digest, bool] = Coalescer()
        # Files that are right though a manifest names another size, by their own.
        self._sound: LRUCache[Digest, int] = LRUCache(REMEMBERED)
        # The upstream stands for the credential in use: another one has to prove it anew.
        self._proofs: Shared[tuple[IUpstream, Home, Digest], Link | None] = Shared()
        self._proofs_by_get: Shared[tuple[IUpstream, Home, Digest], Link] = Shared()

    async def open(self, home: Home, digest: Digest) -> BlobSource:
        """
        The blob's bytes, to be closed by the caller.

        Raises UpstreamError, or StorageError. May be cancelled: a fill that was started goes on.
        """
        deadline = Deadline.after(self._clock)
        link = await self._links.find(home, digest) or await self._prove(home, digest, deadline)
        while True:
            if link is None and (digest in self._fills or self._store.contains(digest) is not None):
                # The bytes are here for somebody else, and a HEAD that is refused proves nothing.
                link = await self._prove_by_get(home, digest, deadline)
            opened = self._store.open(digest)
            if opened is not None and link is not None and 0 <= link.size != opened.size:
                opened.close()
                if await self._damaged(digest, opened.size):
                    continue
                opened = self._store.open(digest)
            if opened is not None:
                self._index.touch(home, digest)
                return StoredBlob(opened, self._held(digest))
            fill, outcome = self._fills.get(digest), Outcome.JOINED
            if fill is None or fill.failure is not None:
                fill, outcome = self._start(home, digest, link), Outcome.MISS
            try:
                await deadline.wait(fill.ready(), fill.upstream.name, str(digest))
            except UpstreamError:
                if fill.failure is not None and outcome is Outcome.JOINED and not self._starts_alike(fill, home):
                    # What was refused to somebody else may not be refused to us.
                    continue
                raise
            except OSError as error:
                raise StorageError(f"the cache cannot store {digest}: {error.strerror or error}") from error
            if link is None:
                # The fill's own GET was the proof.
                link = Link("", -1 if fill.size is None else fill.size)
                self._links.add(home, {digest: link})
            self._readers.get(fill, set()).add(home)
            return FollowedBlob(fill, outcome, self._held(digest))

    async def stat(self, home: Home, digest: Digest) -> tuple[int | None, Outcome]:
        """The blob's size (None: upstream does not say), for a HEAD. Nothing is downloaded. Raises UpstreamError."""
        deadline = Deadline.after(self._clock)
        link = await self._links.find(home, digest)
        size, fill = self._store.contains(digest), self._fills.get(digest)
        if link is None or (size is None and fill is None):
            # A link tells that it was there once; only upstream knows whether it still is.
            link = await self._prove(home, digest, deadline) or await self._prove_by_get(home, digest, deadline)
        if size is not None:
            return size, Outcome.HIT
        if link.size < 0 and fill is not None:
            return fill.size, Outcome.MISS
        return (link.size if link.size >= 0 else None), Outcome.MISS

    def filling(self) -> int:
        """How many fills are under way."""
        return len(self._fills)

    def fills(self) -> Sequence[Fill]:
        """Those under way."""
        return tuple(self._fills.values())

    async def stop(self) -> None:
        """Stop what is being downloaded, whose bytes stay for the next start; what is complete is stored first."""
        self._stopped = True
        self._proofs.cancel()
        self._proofs_by_get.cancel()
        for fill, task in tuple(self._tasks.items()):
            if not fill.verified:
                task.cancel()
        await ended(self._tasks.values())

    async def _damaged(self, digest: Digest, size: int) -> bool:
        """Whether a file that is not as long as it should be has other bytes, too; then it is removed. It may be the
        manifest that is wrong."""
        return self._sound.get(digest) != size and await self._checks.join(digest, lambda: self._check(digest, size))

    async def _check(self, digest: Digest, size: int) -> bool:
        try:
            damaged = await self._store.verify(digest) is False
        except OSError as error:
            raise StorageError(f"the cache cannot read {digest}: {error.strerror or error}") from error
        if not damaged:
            self._sound[digest] = size
            return False
        self._log.error("{digest} is damaged, and removed: it has {size} bytes", digest=digest, size=size)
        try:
            await self._index.forget_blob(digest)
        except IndexUnavailable as error:
            # Without a file, it is a miss.
            self._log.warn("{digest} keeps its entry for now: {error}", digest=digest, error=error)
            self._metrics.errors.labels("index").inc()
        stays = (await self._store.remove([digest])).get(digest)
        if stays is not None:
            raise StorageError(f"the cache cannot remove {digest}, which is damaged: {stays.strerror or stays}")
        self._metrics.removed_blobs.labels("damaged").inc()
        self._metrics.removed_bytes.labels("damaged").inc(size)
        return True

    def _held(self, digest: Digest) -> Callable[[], None]:
        """Keep the blob from being evicted until what this returns is called."""
        self._uses.hold(digest)
        return partial(self._uses.release, digest)

    def _starts_alike(self, fill: Fill, home: Home) -> bool:
        return fill.upstream == self._upstream(home) and fill.repository == home.repository

    def _upstream(self, home: Home) -> IUpstream:
        upstream: IUpstream = self._upstreams.of(home.upstream, home.group)
        return upstream

    async def _prove(self, home: Home, digest: Digest, deadline: Deadline) -> Link | None:
        """
        Have upstream confirm by a HEAD that this repository holds the blob, and link it. None where HEAD is not known
        there (ECR): a GET can tell. Raises UpstreamError.
        """
        upstream = self._upstream(home)

        async def ask() -> Link | None:
            try:
                return self._proved(home, digest, await upstream.head_blob(home.repository, digest))
            except (Refused, Unavailable) as error:
                if not isinstance(error, Refused) and error.status not in NO_HEADS:
                    raise
                return None

        return await self._proofs.ask((upstream, home, digest), ask, deadline, home.upstream, str(digest))

    async def _prove_by_get(self, home: Home, digest: Digest, deadline: Deadline) -> Link:
        """The same by the headers of a GET, whose body is not read."""
        upstream = self._upstream(home)

        async def ask() -> Link:
            stream = await upstream.open_blob(home.repository, digest)
            size = stream.size
            stream.stop()
            return self._proved(home, digest, size)

        return await self._proofs_by_get.ask((upstream, home, digest), ask, deadline, home.upstream, str(digest))

    def _proved(self, home: Home, digest: Digest, size: int | None) -> Link:
        link = Link("", -1 if size is None else size)
        if self._links.known(home, digest) is None:
            self._links.add(home, {digest: link})
        return link

    def _start(self, home: Home, digest: Digest, link: Link | None) -> Fill:
        if self._stopped:
            # Somebody whose fill was just stopped would start his own.
            raise Unavailable(home.upstream, "depproxy is stopping")
        size = link.size if link is not None and link.size >= 0 else None
        upstream = self._upstream(home)
        fill = Fill(digest, upstream, home.repository, size, self._store, self._clock, self._random, self._metrics)
        self._fills[digest] = fill
        self._readers[fill] = {home}
        self._uses.hold(digest)
        task = Deferred.fromCoroutine(self._run(fill, proven=link is not None))
        if not task.called:
            self._tasks[fill] = task
        return fill

    async def _run(self, fill: Fill, *, proven: bool) -> None:
        """A fill's whole life: download, then it is no longer there to join, then the index entry."""
        try:
            stored = await fill.start(proven=proven)
            # Who comes now finds the file; without one, a fill that has closed its own is of no use.
            if self._fills.get(fill.digest) is fill:
                del self._fills[fill.digest]
            if stored:
                assert fill.size is not None
                await self._entries.stored(fill.digest, fill.size, self._readers[fill])
        except CancelledError:
            self._log.info("the fill of {digest} is stopped", digest=fill.digest)
        finally:
            self._uses.release(fill.digest)
            self._tasks.pop(fill, None)
            del self._readers[fill]
