"""Small real implementations of the interfaces, kept in memory, checked by the same tests as the real ones."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from depproxy.access.throttle import LocalBuckets
from depproxy.index.codec import DAY
from depproxy.index.interface import (
    MAX_PINS,
    Entry,
    Holding,
    Home,
    IBuckets,
    ICacheIndex,
    IGroupIndex,
    IGroupSettings,
    IndexUnavailable,
    Link,
    SettingsTable,
    Share,
    Sums,
    TagRecord,
)
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_MANIFEST
from depproxy.oci.reference import Name, Reference, Tag
from depproxy.upstream.errors import Invalid, NotFound, UpstreamError
from depproxy.upstream.interface import (
    Document,
    IBlobStream,
    IBodySink,
    IUpstream,
    IUpstreams,
    Manifest,
    ManifestHead,
)

T = TypeVar("T")
N = TypeVar("N", bound=str)


@implementer(ICacheIndex, IGroupIndex, IBuckets, IGroupSettings)
class MemoryIndex:
    """`ICacheIndex`, and what else is kept beside it, in memory. With `available` set to False every async method
    raises `IndexUnavailable`.

    `now` gives Unix time. `used` is what the real one has in its sorted set: the last use of each known blob in
    whole seconds, as of the last flush. `wrong` says how many bytes are too many in the sum of a group, "" for all.
    While `blocked` is True, questions wait for `release`. `asked` lists what was asked of the buckets, with their keys.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.available = True
        self.blocked = False
        self._waiting: list[Deferred[None]] = []
        self.used: dict[Digest, int] = {}
        self.wrong: dict[str, int] = {}
        self._now = now
        self._tags: dict[tuple[Home, Tag], TagRecord] = {}
        self._links: dict[tuple[Home, Digest], Link] = {}
        self._sizes: dict[Digest, int] = {}
        self._touched: dict[tuple[Home, Digest], int] = {}
        # By group: the last read of each blob that it holds, and of each of its homes.
        self._held: dict[str, dict[Digest, int]] = {}
        self._homes: dict[str, dict[Home, int]] = {}
        # What the last group has let go of.
        self._let_go: set[Digest] = set()
        self._pins: set[tuple[Home, Reference]] = set()
        self._buckets = LocalBuckets(now)
        self.asked: list[tuple[str, str]] = []
        self.settings: dict[str, dict[str, bytes]] = {}
        self._settings_version = 0

    async def get_tag(self, home: Home, tag: Tag) -> TagRecord | None:
        await self._ask()
        return self._tags.get((home, tag))

    async def put_tag(self, home: Home, tag: Tag, record: TagRecord) -> None:
        await self._ask()
        self._known(home)
        self._tags[home, tag] = record

    async def forget_tag(self, home: Home, tag: Tag) -> None:
        await self._ask()
        self._tags.pop((home, tag), None)

    async def get_link(self, home: Home, digest: Digest) -> Link | None:
        await self._ask()
        return self._links.get((home, digest))

    async def put_links(self, home: Home, links: Mapping[Digest, Link]) -> None:
        await self._ask()
        for digest, link in links.items():
            self._known(home)
            self._links[home, digest] = evolve(link, since=int(self._now() // DAY) * DAY)

    async def put_blob(self, digest: Digest, size: int, homes: Iterable[Home]) -> None:
        await self._ask()
        self._sizes[digest] = size
        self._read(digest, int(self._now()), homes)

    async def forget_blob(self, digest: Digest) -> None:
        await self._ask()
        self._forget(digest)

    def touch(self, home: Home, digest: Digest) -> None:
        self._touched[home, digest] = int(self._now())

    async def flush(self) -> None:
        await self._ask()
        touched, self._touched = self._touched, {}
        for (home, digest), when in touched.items():
            if digest in self._sizes:
                self._read(digest, when, [home])

    async def totals(self) -> tuple[int, int]:
        sums = await self.sums()
        return sums.blobs, sums.size

    def touched(self, digest: Digest) -> bool:
        return any(digest == touched for _, touched in self._touched)

    async def coldest(self, count: int, skip: int = 0) -> Sequence[Entry]:
        await self._ask()
        return self._coldest(self.used, count, skip)

    async def forget_unused(self, entries: Sequence[Entry]) -> Sequence[Digest]:
        await self._ask()
        forgotten = []
        for entry in entries:
            if self.used.get(entry.digest) == entry.used:
                self._forget(entry.digest)
                forgotten.append(entry.digest)
        return forgotten

    async def known(self, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        await self._ask()
        return {digest: self._sizes[digest] for digest in digests if digest in self._sizes}

    async def adopt(self, entries: Sequence[Entry]) -> None:
        await self._ask()
        for entry in entries:
            self._sizes[entry.digest] = entry.size
            self.used.setdefault(entry.digest, entry.used)

    async def scan(self, cursor: str) -> tuple[str, Mapping[Digest, Holding]]:
        await self._ask()
        after, digests = _page(sorted(self._sizes), cursor)
        return after, {digest: self._holding(digest) for digest in digests}

    async def groups(self) -> Mapping[str, Share]:
        return (await self.sums()).groups

    async def sums(self) -> Sums:
        await self._ask()
        names = {group for table in (self._held, self._homes) for group, known in table.items() if known}
        held = {name: self._held.get(name, {}) for name in names}
        return Sums(
            len(self._sizes),
            sum(self._sizes.values()) + self.wrong.get("", 0),
            {
                name: Share(len(blobs), sum(map(self._sizes.__getitem__, blobs)) + self.wrong.get(name, 0))
                for name, blobs in held.items()
            },
        )

    async def replace_sums(self, seen: Sums, right: Sums) -> bool:
        now = await self.sums()
        if now != seen:
            return False
        for name, share in now.groups.items():
            wanted = right.groups.get(name, Share(0, 0)).size
            self.wrong[name] = self.wrong.get(name, 0) + wanted - share.size
        self.wrong[""] = self.wrong.get("", 0) + right.size - now.size
        return True

    async def sizes(self, groups: Sequence[str]) -> Mapping[str, int]:
        shares = (await self.sums()).groups
        return {group: shares[group].size if group in shares else 0 for group in groups}

    async def coldest_of(self, group: str, count: int, skip: int = 0) -> Sequence[Entry]:
        await self._ask()
        return self._coldest(self._held.get(group, {}), count, skip)

    async def held(self, group: str, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        await self._ask()
        held = self._held.get(group, {})
        return {digest: held[digest] for digest in digests if digest in held}

    async def holdings(self, digests: Sequence[Digest]) -> Mapping[Digest, Holding]:
        await self._ask()
        return {digest: self._holding(digest) for digest in digests if digest in self._sizes}

    async def let_go(self, group: str, entries: Sequence[Entry]) -> Sequence[Digest]:
        await self._ask()
        held = self._held.get(group, {})
        free = [entry.digest for entry in entries if held.get(entry.digest) == entry.used]
        for digest in free:
            held.pop(digest, None)
        unheld = [digest for digest in dict.fromkeys(free) if not self._holders(digest)]
        self._let_go.update(unheld)
        return unheld

    async def forget_unheld(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        await self._ask()
        forgotten = []
        for digest in digests:
            if digest in self._sizes and not self._holders(digest):
                self._forget(digest)
                forgotten.append(digest)
        return forgotten

    async def count_homes(self, group: str) -> int:
        await self._ask()
        return len(self._homes.get(group, {}))

    async def homes(self, group: str, cursor: str) -> tuple[str, Mapping[Home, int]]:
        await self._ask()
        homes = {str(home): home for home in self._homes.get(group, {})}
        after, names = _page(sorted(homes), cursor)
        return after, {homes[name]: self._homes[group][homes[name]] for name in names}

    async def tags(self, home: Home, cursor: str) -> tuple[str, Mapping[Tag, TagRecord]]:
        await self._ask()
        # Before every tag stands a sign, so that none of them looks like the first cursor.
        after, names = _page(sorted(f"+{tag}" for at, tag in self._tags if at == home), cursor)
        return after, {Tag(name[1:]): self._tags[home, Tag(name[1:])] for name in names}

    async def links(self, home: Home, cursor: str) -> tuple[str, Mapping[Digest, Link]]:
        await self._ask()
        after, digests = _page(sorted(digest for at, digest in self._links if at == home), cursor)
        return after, {digest: self._links[home, digest] for digest in digests}

    async def linked(self, home: Home, digests: Sequence[Digest]) -> Mapping[Digest, Link]:
        await self._ask()
        return {digest: self._links[home, digest] for digest in digests if (home, digest) in self._links}

    async def unlink(self, home: Home, digests: Sequence[Digest]) -> None:
        await self._ask()
        for digest in digests:
            self._links.pop((home, digest), None)

    async def forget_home(self, home: Home, used: int | None = None) -> bool:
        await self._ask()
        if used is not None and self._homes.get(home.group, {}).get(home) != used:
            return False
        self._homes.get(home.group, {}).pop(home, None)
        self._tags = {key: record for key, record in self._tags.items() if key[0] != home}
        self._links = {key: link for key, link in self._links.items() if key[0] != home}
        return True

    async def pin(self, home: Home, reference: Reference) -> bool:
        await self._ask()
        if len(self._pins) >= MAX_PINS and (home, reference) not in self._pins:
            return False
        self._pins.add((home, reference))
        return True

    async def unpin(self, home: Home, reference: Reference) -> bool:
        await self._ask()
        known = (home, reference) in self._pins
        self._pins.discard((home, reference))
        return known

    async def pins(self) -> Collection[tuple[Home, Reference]]:
        await self._ask()
        return list(self._pins)

    def _known(self, home: Home) -> None:
        self._homes.setdefault(home.group, {}).setdefault(home, int(self._now()))

    def _read(self, digest: Digest, when: int, homes: Iterable[Home]) -> None:
        self.used[digest] = max(self.used.get(digest, when), when)
        for home in homes:
            self._let_go.discard(digest)
            for table, key in (self._held, digest), (self._homes, home):
                known: dict[Any, int] = table.setdefault(home.group, {})
                known[key] = max(known.get(key, when), when)

    def _holding(self, digest: Digest) -> Holding:
        return Holding(self._sizes[digest], frozenset(self._holders(digest)), digest in self._let_go)

    def _holders(self, digest: Digest) -> list[str]:
        return [group for group, held in self._held.items() if digest in held]

    def _forget(self, digest: Digest) -> None:
        self._sizes.pop(digest, None)
        self._let_go.discard(digest)
        self.used.pop(digest, None)
        for held in self._held.values():
            held.pop(digest, None)

    def _coldest(self, uses: Mapping[Digest, int], count: int, skip: int) -> Sequence[Entry]:
        order = sorted((when, bytes.fromhex(digest.encoded), digest) for digest, when in uses.items())
        return [Entry(digest, self._sizes.get(digest, 0), when) for when, _, digest in order[skip : skip + count]]

    async def take(self, key: str, capacity: float, per_second: float, cost: float = 1.0, debt: float = 0.0) -> float:
        self.asked.append(("take", key))
        await self._ask()
        wait: float = await self._buckets.take(key, capacity, per_second, cost, debt)
        return wait

    async def peek(self, key: str, capacity: float, per_second: float, cost: float = 1.0) -> float:
        self.asked.append(("peek", key))
        await self._ask()
        wait: float = await self._buckets.peek(key, capacity, per_second, cost)
        return wait

    async def read_settings(self, seen: str | None) -> SettingsTable | None:
        await self._ask()
        version = str(self._settings_version)
        groups = {group: dict(values) for group, values in self.settings.items() if values}
        return None if seen == version else SettingsTable(version, groups)

    async def write_settings(self, group: str, values: Mapping[str, bytes | None]) -> None:
        await self._ask()
        self._settings_version += 1
        kept: dict[str, bytes | None] = {**self.settings.get(group, {}), **values}
        self.settings[group] = {key: value for key, value in kept.items() if value is not None}

    def release(self) -> None:
        """Answer all questions that wait."""
        self.blocked = False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    async def _ask(self) -> None:
        if self.blocked:
            waiter: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(waiter)
            await waiter
        if not self.available:
            raise IndexUnavailable("the cache index was made unavailable")


def _page(names: Sequence[N], cursor: str) -> tuple[str, Sequence[N]]:
    """Three of the sorted names at a time: what comes or goes meanwhile moves nothing else."""
    left = [name for name in names if cursor == "0" or name > cursor]
    return (left[2] if len(left) > 3 else "0"), left[:3]


class Job:
    """One call in a thread. `run` is what the thread does, `tell` is when the reactor hears of it."""

    def __init__(self, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        self.name = getattr(function, "__name__", "")
        # Cancelling it does not stop the thread, as with `deferToThread`.
        self.outcome: Deferred[Any] = Deferred()
        self.has_run = False
        self._function = function
        self._args = args
        self._result: object = None

    def run(self) -> None:
        if self.has_run:
            return
        self.has_run = True
        try:
            self._result = self._function(*self._args)
        except Exception:
            self._result = Failure()

    def fail(self, error: Exception) -> None:
        """The thread does nothing but fail."""
        self.has_run = True
        self._result = Failure(error)

    def tell(self) -> None:
        self.run()
        if isinstance(self._result, Failure):
            self.outcome.errback(self._result)
        else:
            self.outcome.callback(self._result)


class Threads:
    """A `ThreadRunner` with one thread, in which nothing happens by itself while `held` is True: see `finish`.
    Otherwise every job is done when the call returns. With `error` set, jobs fail with it instead."""

    def __init__(self, *, held: bool = False) -> None:
        self.held = held
        self.error: Exception | None = None
        self.jobs: list[Job] = []

    def __call__(self, function: Callable[..., T], *args: object) -> "Deferred[T]":
        job = Job(function, args)
        self.jobs.append(job)
        if not self.held:
            self.finish()
        return job.outcome

    def finish(self, most: int = 1_000_000) -> int:
        """Do the jobs in their order, at most so many, those that they cause included; how many that were."""
        done = 0
        while self.jobs and done < most:
            job = self.jobs.pop(0)
            if self.error is not None:
                job.fail(self.error)
            job.tell()
            done += 1
        return done


@implementer(IBlobStream)
class MemoryStream:
    """`IBlobStream` whose bytes flow when the test says so: `send`, then `close` or `break_off`."""

    def __init__(self, upstream: str, data: bytes, offset: int, size: int | None) -> None:
        self.offset = offset
        self.size = size
        self.paused = False
        self.started = False
        # Stopped or ended.
        self.over = False
        self.stopped = False
        self.resumed = 0
        self._upstream = upstream
        self._left = memoryview(data)[offset:]
        self._sink: IBodySink | None = None

    def start(self, sink: IBodySink) -> None:
        if self.over:
            return
        if self.started:
            raise RuntimeError("a stream is started once")
        self.started = True
        self._sink = sink

    def pause(self) -> None:
        if not self.over:
            self.paused = True

    def resume(self) -> None:
        if not self.over:
            self.paused = False
            self.resumed += 1

    def stop(self) -> None:
        self.over = self.stopped = True
        self._sink = None

    # What follows is for the test.

    @property
    def left(self) -> int:
        """Bytes of the body that are not sent yet."""
        return len(self._left)

    @property
    def flows(self) -> bool:
        """Whether `send` would deliver: it is started, and neither stopped nor ended. (A stream that is paused
        may still deliver a few bytes.)"""
        return self._sink is not None

    def send(self, count: int | None = None) -> None:
        """Deliver the next bytes, all that are left if `count` is None; nothing when it does not flow."""
        if self._sink is not None:
            piece = bytes(self._left[:count])
            self._left = self._left[len(piece) :]
            self._sink.received(piece)

    def close(self) -> None:
        """Upstream closes the body cleanly, whether all was sent or not."""
        self._end(None)

    def break_off(self, error: UpstreamError) -> None:
        """The connection breaks."""
        self._end(error)

    def finish(self) -> None:
        """Send the rest, then close."""
        self.send()
        self.close()

    def _end(self, error: UpstreamError | None) -> None:
        sink, self._sink = self._sink, None
        self.over = True
        if sink is not None:
            sink.ended(error)


@implementer(IUpstream)
class MemoryUpstream:
    """`IUpstream` in memory. `asked` lists the questions as they came, such as `HEAD library/alpine manifests/3`,
    and `GET ... blobs/sha256:... from 5`; `streams` are the blob bodies that it gave out, `retries` tells for
    each that was asked for whether it was to be retried.

    `errors` maps the name of a method to what it raises instead of answering. While `held` is True questions wait
    for `release`, and are answered as things are then. `head_digest`, `head_type` and `sizes` tell whether the
    headers Docker-Content-Digest, Content-Type and Content-Length are sent.
    """

    def __init__(self, name: str = "docker.io") -> None:
        self.name = name
        self.asked: list[str] = []
        self.streams: list[MemoryStream] = []
        self.retries: list[bool] = []
        self.errors: dict[str, Exception] = {}
        self.held = False
        self.ignores_range = False
        self.head_digest = self.head_type = self.sizes = True
        # What Content-Length says where it lies.
        self.claimed_size: int | None = None
        self.manifests: dict[tuple[Name, Reference], Manifest] = {}
        self.blobs: dict[tuple[Name, Digest], bytes] = {}
        self.documents: dict[tuple[Name, str, str], Document] = {}
        self._waiting: list[Deferred[None]] = []

    async def head_manifest(self, repository: Name, reference: Reference) -> ManifestHead:
        await self._ask("head_manifest", f"HEAD {repository} manifests/{reference}")
        manifest = self._find(self.manifests, (repository, reference))
        return ManifestHead(
            manifest.digest if self.head_digest else None,
            manifest.media_type if self.head_type else None,
            len(manifest.body) if self.sizes else None,
        )

    async def get_manifest(self, repository: Name, reference: Reference) -> Manifest:
        await self._ask("get_manifest", f"GET {repository} manifests/{reference}")
        return self._find(self.manifests, (repository, reference))

    async def head_blob(self, repository: Name, digest: Digest) -> int | None:
        await self._ask("head_blob", f"HEAD {repository} blobs/{digest}")
        return self._size(self._find(self.blobs, (repository, digest)))

    async def open_blob(self, repository: Name, digest: Digest, offset: int = 0, *, retry: bool = True) -> IBlobStream:
        self.retries.append(retry)
        suffix = f" from {offset}" if offset else ""
        await self._ask("open_blob", f"GET {repository} blobs/{digest}{suffix}")
        data = self._find(self.blobs, (repository, digest))
        if self.ignores_range:
            offset = 0
        if offset and offset >= len(data):
            raise Invalid(self.name, "416 there are no such bytes", 416)
        stream = MemoryStream(self.name, data, offset, self._size(data))
        self.streams.append(stream)
        return stream

    async def get_document(self, repository: Name, path: str, query: str) -> Document:
        await self._ask("get_document", f"GET {repository} {path}?{query}")
        return self._find(self.documents, (repository, path, query))

    # What follows is for the test.

    def put_manifest(
        self, repository: Name, body: bytes, tag: Tag | None = None, media_type: str = OCI_MANIFEST
    ) -> Digest:
        """Push a manifest, and have `tag` point at it."""
        manifest = Manifest(body, media_type, Digest.of(body))
        self.manifests[repository, manifest.digest] = manifest
        if tag is not None:
            self.manifests[repository, tag] = manifest
        return manifest.digest

    def put_blob(self, repository: Name, data: bytes, digest: Digest | None = None) -> Digest:
        """Push a blob; with `digest`, one whose bytes may be wrong."""
        digest = Digest.of(data) if digest is None else digest
        self.blobs[repository, digest] = data
        return digest

    def release(self) -> None:
        """Answer all questions that wait, in their order."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def count(self, beginning: str = "") -> int:
        """How many questions begin so."""
        return sum(question.startswith(beginning) for question in self.asked)

    async def _ask(self, method: str, question: str) -> None:
        self.asked.append(question)
        if self.held:
            waiter: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(waiter)
            await waiter
        error = self.errors.get(method)
        if error is not None:
            raise error

    def _find(self, things: Mapping[Any, T], key: tuple[object, ...]) -> T:
        if key not in things:
            raise NotFound(self.name, "it has no such thing", 404)
        return things[key]

    def _size(self, data: bytes) -> int | None:
        if not self.sizes:
            return None
        return len(data) if self.claimed_size is None else self.claimed_size


@implementer(IUpstreams)
class MemoryUpstreams:
    """`IUpstreams` in memory: one for each name, but for the groups in `own`, by upstream and group."""

    def __init__(self, *upstreams: MemoryUpstream) -> None:
        self.own: dict[tuple[str, str], IUpstream] = {}
        self._upstreams = {upstream.name: upstream for upstream in upstreams}

    def of(self, upstream: str, group: str) -> IUpstream:
        return self.own.get((upstream, group), self._upstreams[upstream])
