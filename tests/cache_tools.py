"""What the tests of the cache and of the store share."""

import math
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from depproxy.cache.background import Background
from depproxy.cache.blobs import Blobs
from depproxy.cache.check import Checker
from depproxy.cache.collection import Collector
from depproxy.cache.contents import Contents
from depproxy.cache.entries import Entries
from depproxy.cache.eviction import Evictor
from depproxy.cache.expiry import Expirer
from depproxy.cache.inspection import Inspector
from depproxy.cache.inventory import Inventory
from depproxy.cache.links import Links
from depproxy.cache.manifests import Manifests
from depproxy.cache.pins import Pins
from depproxy.cache.purge import Purger, Purges
from depproxy.cache.questions import Questions
from depproxy.cache.reconcile import Reconciler
from depproxy.cache.removal import Remover
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.config import CacheSettings, UpstreamSettings
from depproxy.index.interface import Home
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name
from depproxy.storage.files import FileStore
from tests.fakes import MemoryIndex, MemoryUpstream, MemoryUpstreams, Threads

T = TypeVar("T")

NAME = Name("library/alpine")
ELSEWHERE = Name("library/debian")
HOME = Home("acme", "docker.io", NAME)
# The same repository for another group, and another repository.
NEIGHBOUR = Home("other", "docker.io", NAME)
STRANGER = Home("other", "docker.io", ELSEWHERE)


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two stretches are alike."""
    return Random(seed).randbytes(size)


class Outcome(Generic[T]):
    """Watches a Deferred or a coroutine from outside: what came of it, if anything did."""

    def __init__(self, work: "Awaitable[T] | Deferred[T]") -> None:
        self.results: list[T | Failure] = []
        coroutine: Any = work
        running: Any = work if isinstance(work, Deferred) else Deferred.fromCoroutine(coroutine)
        self._running: Deferred[Any] = running
        running.addBoth(self._note)

    def then(self, told: Callable[[Any], object]) -> None:
        """Call `told` with the result in the moment in which it comes."""
        self._running.addCallback(told)

    @property
    def waits(self) -> bool:
        return not self.results

    @property
    def value(self) -> T:
        """The result; raises the error that came instead."""
        assert len(self.results) == 1, "it still waits"
        (result,) = self.results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    @property
    def error(self) -> BaseException:
        assert len(self.results) == 1, "it still waits"
        (result,) = self.results
        assert isinstance(result, Failure), f"it did not fail: {result}"
        assert result.value is not None
        return result.value

    def _note(self, result: Any) -> Any:
        self.results.append(result)
        return None if isinstance(result, Failure) else result

    def cancel(self) -> None:
        self._running.cancel()

    def leave(self) -> None:
        """Cancel it. Nothing else must come of it."""
        self.cancel()
        assert isinstance(self.error, CancelledError)


class Place:
    """A store in a directory of its own; use it as a context manager, or close it."""

    def __init__(self, *, held: bool = False) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="depproxy-")
        self.root = Path(self._directory.name) / "store"
        self.threads = Threads(held=held)
        self.store = FileStore(self.root, self.threads)
        self.store.prepare()
        self.metrics = Metrics()

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.store.close()
        self._directory.cleanup()

    def growing(self, digest: Digest) -> Path:
        """Where the growing file of `digest` is."""
        return self.root / "growing" / digest.algorithm / digest.encoded

    def blob(self, digest: Digest) -> Path:
        """Where the stored blob is."""
        return self.root / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded

    def leave_behind(self, digest: Digest, data: bytes) -> None:
        """What a fill that was interrupted left."""
        path = self.growing(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def stored(self, digest: Digest) -> bytes | None:
        """The bytes of a stored blob, read through the store."""
        opened = self.store.open(digest)
        if opened is None:
            return None
        try:
            return os.pread(opened.fd, opened.size + 1, 0)
        finally:
            opened.close()

    def files(self) -> list[str]:
        """All that lies in the store, but for its lock."""
        return sorted(
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file() and path.name != "lock"
        )

    def open_files(self) -> list[str]:
        """What this process has open in the store, once for each descriptor, removed files included, its lock left
        out."""
        found = []
        for fd in os.listdir("/proc/self/fd"):
            # The descriptor that listdir used is gone.
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
        return sorted(path for path in found if path.startswith(f"{self.root}/") and not path.endswith("/lock"))


class Cache:
    """The whole cache on a clock, with an index and one upstream in memory, and a store whose threads do their work
    at once. Close it."""

    def __init__(
        self,
        *,
        settings: CacheSettings | None = None,
        upstream: UpstreamSettings | None = None,
        max_size: float = math.inf,
        index: type[MemoryIndex] = MemoryIndex,
    ) -> None:
        self.place = Place()
        self.clock = Clock()
        self.index = index(self.now)
        self.upstream = MemoryUpstream()
        self.settings = settings or CacheSettings()
        self.upstream_settings = upstream or UpstreamSettings("docker.io", "https://registry-1.docker.io")
        self.max_size = max_size
        # Seconds by group.
        self.ttls: dict[str, float] = {}
        self.start()

    def now(self) -> float:
        return 1_700_000_000.0 + self.clock.seconds()

    def start(self) -> None:
        """Make the objects of a process; called again, those of the next one, which remembers nothing."""
        self.upstreams = MemoryUpstreams(self.upstream)
        self.metrics = Metrics()
        self.background = Background(self.metrics)
        self.entries = Entries(self.index, self.metrics)
        self.tags = Tags(self.index, self.background, self.metrics)
        self.links = Links(self.index, self.background, self.metrics)
        self.uses = Uses(self.clock)
        self.questions = Questions(self.upstreams, self.settings.negative_ttl, self.clock)
        self.manifests = Manifests(
            self.place.store,
            self.index,
            self.entries,
            self.tags,
            self.links,
            self.uses,
            self.questions,
            self.background,
            self.settings,
            {"docker.io": self.upstream_settings},
            self.clock,
            self.metrics,
            self.now,
        )
        self.blobs = Blobs(
            self.place.store,
            self.index,
            self.entries,
            self.links,
            self.uses,
            self.upstreams,
            self.clock,
            Random(0),
            self.metrics,
        )

        self.contents = Contents(self.place.store, self.index)
        self.pins = Pins(self.index, self.contents)
        self.remover = Remover(
            self.place.store, self.index, self.index, self.uses, self.manifests.forget, self.metrics, self.now
        )
        self.evictor = Evictor(
            self.index,
            self.index,
            self.entries,
            self.uses,
            self.pins,
            self.remover,
            self.background,
            self.max_size,
            {},
            self.metrics,
        )
        self.expirer = Expirer(
            self.index,
            self.index,
            self.tags,
            self.links,
            self.uses,
            self.pins,
            self.remover,
            self.background,
            self.ttls.get,
            self.metrics,
            self.now,
        )
        self.purger = Purger(
            self.index, self.index, self.contents, self.tags, self.links, self.uses, self.remover, self.now
        )
        self.purges = Purges(self.purger, self.background)
        self.reconciler = Reconciler(
            self.place.store, self.index, self.entries, self.uses, self.remover, self.background, self.metrics
        )

        # Bytes, of all and by group.
        self.limit = self.max_size
        self.quotas: dict[str, float] = {}
        self.checker = Checker(
            self.place.store, self.index, self.index, self.entries, self.uses, self.reconciler, self.remover
        )
        self.collector = Collector(
            self.place.store,
            self.index,
            self.index,
            self.uses,
            self.pins,
            self.evictor,
            self.expirer,
            self.reconciler,
            self.background,
            lambda: (self.limit, self.quotas),
            self.ttls.get,
            self.now,
        )
        self.inventory = Inventory(
            self.index, self.index, self.contents, lambda: self.quotas, self.ttls.get, lambda: ["acme"]
        )
        self.inspector = Inspector(self.index, self.index, self.contents)

    def close(self) -> None:
        self.place.close()


class CacheTestCase(SynchronousTestCase):
    """With a cache."""

    def setUp(self) -> None:
        self.use(Cache())

    def use(self, cache: Cache) -> None:
        """Have another cache in its place."""
        self.cache = cache
        self.addCleanup(cache.close)
        self.upstream, self.index, self.clock, self.place = cache.upstream, cache.index, cache.clock, cache.place

    def asked(self) -> list[str]:
        """What upstream was asked since the last time."""
        asked = list(self.upstream.asked)
        self.upstream.asked.clear()
        return asked

    def errors(self, where: str) -> float:
        """How many errors of that place were counted."""
        value: float = self.cache.metrics.errors.labels(where)._value.get()
        return value
