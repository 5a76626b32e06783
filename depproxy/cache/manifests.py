"""Manifests: what a tag means now, and whether the copy at hand may be served.

By digest, a linked copy is served without a word to upstream. By tag, one HEAD (shared by all who ask at the
moment) tells the digest; the body is fetched only when it is not here yet. When upstream fails or is slow and a
copy is known, the copy is served and marked stale.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from attrs import evolve
from cachetools import LRUCache, TTLCache
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.cache.deadline import Deadline
from depproxy.cache.entries import Entries
from depproxy.cache.interface import Outcome, ServedManifest
from depproxy.cache.links import Links
from depproxy.cache.questions import Questions
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.config import CacheSettings, UpstreamSettings
from depproxy.index.interface import Home, ICacheIndex, Link, TagRecord
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import MAX_MANIFEST, InvalidManifest, children, is_manifest
from depproxy.oci.reference import Reference, Tag
from depproxy.storage.interface import IBlobStore
from depproxy.upstream.errors import Invalid, NotFound, Throttled, Unavailable, UpstreamError
from depproxy.upstream.interface import Manifest, ManifestHead

# The bodies of recent manifests, in memory: most are a few KiB.
BODIES_SIZE = 64 << 20
LARGEST_BODY = BODIES_SIZE // 16
REMEMBERED_TAGS = 20_000
# How often (seconds) the log tells of one tag that it is served stale.
TELL_INTERVAL = 60.0


class Manifests:
    """Every way to a manifest. `settings` and `upstreams` may be replaced at any time."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        entries: Entries,
        tags: Tags,
        links: Links,
        uses: Uses,
        questions: Questions,
        background: Background,
        settings: CacheSettings,
        upstreams: Mapping[str, UpstreamSettings],
        clock: IReactorTime,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._store = store
        self._index = index
        self._entries = entries
        self._tags = tags
        self._links = links
        self._uses = uses
        self._questions = questions
        self._background = background
        self.settings = settings
        self.upstreams = upstreams
        self._metrics = metrics
        self._now = now
        self._bodies: LRUCache[Digest, bytes] = LRUCache(BODIES_SIZE, getsizeof=len)
        # Tags that moved to a manifest whose body is not here yet; until it is, the old copy can still stand in.
        # Each with the record that it replaces.
        self._moved: LRUCache[tuple[Home, Digest], dict[Tag, tuple[TagRecord, TagRecord]]] = LRUCache(REMEMBERED_TAGS)
        self._told: TTLCache[tuple[Home, Tag], bool] = TTLCache(REMEMBERED_TAGS, TELL_INTERVAL, timer=clock.seconds)

    async def get(self, home: Home, reference: Reference, *, body: bool = True) -> ServedManifest:
        """
        The manifest under `reference`; without `body`, what its headers say, for at most one upstream HEAD.

        Raises UpstreamError. May be cancelled: what was asked upstream goes on.
        """
        deadline = Deadline.after(self._clock)
        if isinstance(reference, Digest):
            return await self._by_digest(home, reference, body, deadline)
        return await self._by_tag(home, reference, body, deadline)

    def forget(self, digest: Digest) -> None:
        """
        A blob leaves the store, and memory with it: what is served is stored, or it would be lost with a restart.

        Tags and links stay, for they say what upstream holds; whether it is here, the store is asked.
        """
        self._bodies.pop(digest, None)

    # By digest

    async def _by_digest(self, home: Home, digest: Digest, body: bool, deadline: Deadline) -> ServedManifest:
        link = await self._links.find(home, digest)
        if link is not None and is_manifest(link.media_type):
            data = await self._body(digest)
            if data is not None:
                self._index.touch(home, digest)
                return _served(Manifest(data, link.media_type, digest), body, Outcome.HIT)
        absence = self._questions.absent(home, digest)
        if absence is not None:
            raise absence
        if body and not (link is None and self._here(digest)):
            return await self._fetch(home, digest, deadline)
        # Only the headers are wanted, or the bytes are here for somebody else: a HEAD tells, and proves.
        head = await self._questions.head(home, digest, deadline)
        data = await self._proved(home, digest, head.media_type)
        if not body:
            return ServedManifest(digest, head.media_type, head.size, None, Outcome.MISS)
        if data is None or not head.media_type:
            return await self._fetch(home, digest, deadline)
        return _served(Manifest(data, head.media_type, digest), body, Outcome.HIT)

    async def _proved(self, home: Home, digest: Digest, media_type: str | None) -> bytes | None:
        """Upstream has just said that this repository holds `digest`: link it, if it is here."""
        data = await self._body(digest)
        if data is not None and media_type and await self._links.find(home, digest) is None:
            self._link_all(home, Manifest(data, media_type, digest))
        return data

    def _here(self, digest: Digest) -> bool:
        return digest in self._bodies or self._small(digest)

    def _small(self, digest: Digest) -> bool:
        # Whoever asks for a layer as a manifest must not have it read into memory.
        size = self._store.contains(digest)
        return size is not None and size <= MAX_MANIFEST

    async def _body(self, digest: Digest) -> bytes | None:
        data = self._bodies.get(digest)
        if data is None and self._small(digest):
            data = await self._store.read(digest)
            # Unless it was removed meanwhile.
            if data is not None and self._store.contains(digest) is not None:
                self._remember(digest, data)
        return data

    def _remember(self, digest: Digest, data: bytes) -> None:
        if len(data) <= LARGEST_BODY:
            self._bodies[digest] = data

    # By tag

    async def _by_tag(self, home: Home, tag: Tag, body: bool, deadline: Deadline) -> ServedManifest:
        record = await self._tags.find(home, tag)
        absence = self._questions.absent(home, tag)
        if absence is not None:
            return await self._gone(home, tag, record, body, absence)
        if record is not None:
            if self._now() - record.checked < self.upstreams[home.upstream].freshness_of(tag):
                # Where its bytes are lost, and gone upstream, the tag points elsewhere by now.
                with suppress(NotFound):
                    return await self._as_recorded(home, tag, record, body, deadline)
            if self._questions.held_off(home):
                stale = await self._stale(home, tag, record, body, f"{home.upstream} has just failed")
                if stale is not None:
                    return stale
            if self._may_be_stale(record) and self._here(record.digest):
                deadline = deadline.within(self.settings.revalidate_timeout)
        try:
            head = await self._questions.head(home, tag, deadline)
            return await self._as_described(home, tag, record, head, body, deadline)
        except NotFound as error:
            return await self._gone(home, tag, record, body, error)
        except (Unavailable, Throttled, Invalid) as error:
            stale = await self._stale(home, tag, record, body, error)
            if stale is None:
                raise
            return stale

    async def _as_described(
        self, home: Home, tag: Tag, record: TagRecord | None, head: ManifestHead, body: bool, deadline: Deadline
    ) -> ServedManifest:
        """Serve what upstream has just said that the tag means."""
        digest = head.digest
        if digest is None:
            # Only the body tells its digest then, and a client's HEAD never causes a GET.
            if body:
                return await self._fetch(home, tag, deadline)
            return ServedManifest(None, head.media_type, head.size, None, Outcome.MISS)
        if record is None or record.digest != digest:
            size = -1 if head.size is None else head.size
            moved = TagRecord(digest, head.media_type or "", size, self._now())
            if await self._proved(home, digest, head.media_type) is not None or record is None:
                self._tags.put(home, tag, moved)
            else:
                self._moved.setdefault((home, digest), {})[tag] = (record, moved)
            record = moved
        else:
            record = evolve(record, checked=self._now())
            self._tags.confirm(home, tag, record)
        try:
            return await self._as_recorded(home, tag, record, body, deadline)
        except NotFound:
            # The tag moved on between our two questions, and its old manifest was deleted: ask for the tag itself.
            return await self._fetch(home, tag, deadline)

    async def _as_recorded(
        self, home: Home, tag: Tag, record: TagRecord, body: bool, deadline: Deadline
    ) -> ServedManifest:
        digest = record.digest
        media_type = await self._type(home, record)
        if not body and media_type and record.size >= 0:
            outcome = Outcome.HIT if self._here(digest) else Outcome.MISS
            return ServedManifest(digest, media_type, record.size, None, outcome)
        copy = await self._copy(home, record, media_type)
        if copy is not None:
            return _served(copy, body, Outcome.HIT)
        if body:
            return await self._fetch(home, digest, deadline)
        return ServedManifest(digest, media_type or None, None, None, Outcome.MISS)

    async def _type(self, home: Home, record: TagRecord) -> str:
        """The type that came with the body, if that is known: some registries' HEADs say something else, or nothing."""
        link = await self._links.find(home, record.digest)
        return record.media_type if link is None or not is_manifest(link.media_type) else link.media_type

    async def _copy(self, home: Home, record: TagRecord, media_type: str) -> Manifest | None:
        """The bytes at hand, for use: linked here with all that they name, as upstream has confirmed the record."""
        data = await self._body(record.digest)
        if data is None or not media_type:
            return None
        manifest = Manifest(data, media_type, record.digest)
        if not self._is_linked(home, record.digest):
            self._link_all(home, manifest)
        self._index.touch(home, record.digest)
        return manifest

    def _is_linked(self, home: Home, digest: Digest) -> bool:
        link = self._links.known(home, digest)
        return link is not None and is_manifest(link.media_type)

    async def _gone(
        self, home: Home, tag: Tag, record: TagRecord | None, body: bool, error: NotFound
    ) -> ServedManifest:
        if record is None:
            raise error
        if self.upstreams[home.upstream].on_404 == "keep":
            stale = await self._stale(home, tag, record, body, error)
            if stale is not None:
                return stale
        self._tags.forget(home, tag)
        raise error

    def _may_be_stale(self, record: TagRecord) -> bool:
        return self._now() - record.checked <= self.settings.serve_stale

    async def _stale(
        self, home: Home, tag: Tag, record: TagRecord | None, body: bool, why: UpstreamError | str
    ) -> ServedManifest | None:
        """The copy at hand, marked stale; None where there is none, or it is too old."""
        if record is None or not self._may_be_stale(record):
            return None
        copy = await self._copy(home, record, await self._type(home, record))
        if copy is None:
            return None
        if (home, tag) not in self._told:
            # Not once for each of a thousand jobs.
            self._told[home, tag] = True
            self._log.warn(
                "{upstream}/{repository}:{tag} (group {group}) is served stale: {why}",
                upstream=home.upstream,
                repository=home.repository,
                tag=tag,
                group=home.group,
                why=why,
            )
        return _served(copy, body, Outcome.STALE)

    # From upstream

    async def _fetch(self, home: Home, reference: Reference, deadline: Deadline) -> ServedManifest:
        """One GET for all who ask now."""
        manifest, joined = await self._questions.fetch(home, reference, deadline, partial(self._took, home))
        digest, size = manifest.digest, len(manifest.body)
        if not joined or not self._is_linked(home, digest):
            self._link_all(home, manifest)
        self._index.touch(home, digest)
        if isinstance(reference, Tag):
            self._tags.put(home, reference, TagRecord(digest, manifest.media_type, size, self._now()))
        for tag, (replaced, moved) in self._moved.pop((home, digest), {}).items():
            # Unless the tag has moved on since.
            if self._tags.known(home, tag) == replaced:
                self._tags.put(home, tag, moved)
        outcome = Outcome.JOINED if joined else Outcome.MISS
        return ServedManifest(digest, manifest.media_type, size, manifest.body, outcome)

    def _took(self, home: Home, manifest: Manifest) -> None:
        """Keep what was fetched. The client need not wait for the disk: the bytes are verified, and in memory."""
        self._remember(manifest.digest, manifest.body)
        self._background.spawn(self._keep(home, manifest), str(manifest.digest))

    async def _keep(self, home: Home, manifest: Manifest) -> None:
        self._uses.hold(manifest.digest)
        try:
            await self._store.write(manifest.digest, manifest.body)
            await self._entries.stored(manifest.digest, len(manifest.body), [home])
        finally:
            self._uses.release(manifest.digest)

    def _link_all(self, home: Home, manifest: Manifest) -> None:
        """This repository holds the manifest, and all that it names: a manifest is never linked without."""
        links = {manifest.digest: Link(manifest.media_type, len(manifest.body))}
        try:
            for child in children(manifest.media_type, manifest.body):
                links.setdefault(child.digest, Link(child.media_type, child.size))
        except InvalidManifest as error:
            # Served as received all the same; its blobs will have to be proved one by one.
            self._log.warn("{digest} from {home}: {error}", digest=manifest.digest, home=str(home), error=error)
        self._links.add(home, links)


def _served(manifest: Manifest, body: bool, outcome: Outcome) -> ServedManifest:
    data = manifest.body
    return ServedManifest(manifest.digest, manifest.media_type, len(data), data if body else None, outcome)
