"""How depproxy does with more and more blobs in its index: a curve, which has no peer."""

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from . import wrk
from .contents import PARENT, Files, Filler, Repository, coldest, contents
from .figures import Figure, Target, number
from .plan import MIB, BenchError
from .process import Server
from .run import FAULTS, Run, Samples, fetch
from .source import MANIFEST
from .wrk import WrkResult

ACCEPT = f"Accept: {MANIFEST}"
# Blobs that one eviction takes away, and of one that is to last as long as requests are watched: for each second.
EVICTED = 1000
EVICTED_PER_SECOND = 2000
# What an eviction leaves of `max_size`; it begins above that. See depproxy.cache.eviction.
LOW_MARK = 0.9
EXPIRES = f'[groups."{PARENT}"]\nttl = "95d"'
SWEEP_LIMIT = 900.0

START = "start until ready"
MEMORY = "Redis memory of a blob with its link and tags"
EVICTION = "1,000 blobs evicted"
BESIDE = "1,000 blobs evicted, beside full load"
QUIET, RATE = "cached manifests, 99% within", "cached manifests"
EVICTING, SWEEPING, EXPIRING = "eviction", "the sweep", "the sweep and expiry"
FIGURES: Sequence[tuple[Any, ...]] = (
    (START, "s", Target(5)),
    (MEMORY, "bytes", Target(600)),
    (EVICTION, "s", Target(2)),
    (BESIDE, "s", Target(2)),
    (QUIET, "ms"),
    (f"{QUIET}: beside {EVICTING}, to without", "x", Target(1.1)),
    *((f"{QUIET}: beside {work}, to without", "x") for work in (SWEEPING, EXPIRING)),
    (RATE, "1/s"),
    *((f"{RATE}: beside {work}, to without", "x") for work in (EVICTING, SWEEPING, EXPIRING)),
)


def column(blobs: int) -> str:
    """How the table calls an index of so many blobs."""
    return f"{blobs:,}"


@define
class Step:
    """A depproxy with `blobs` blobs in its index, in a folder that the measures share."""

    run: Run
    samples: Samples
    blobs: int
    folder: Path
    seen: dict[str, list[WrkResult]] = field(factory=dict)
    now: int = field(factory=lambda: int(time.time()))

    def add(self, measure: str, value: float) -> None:
        self.samples.add(measure, column(self.blobs), value)

    def tell(self, *measures: str) -> None:
        for measure in measures:
            values = self.samples.values[measure][column(self.blobs)]
            self.run.say(f"  {self.blobs:,} blobs: {measure} {', '.join(map(number, values))}")

    def measure(self) -> None:
        """All of it."""
        self.folder.mkdir()
        self._fill()
        for _ in range(self.run.plan.rounds):
            begin = time.monotonic()
            with self._started():
                self.add(START, time.monotonic() - begin)
        self.tell(MEMORY, START)
        # It has no entry: once files and index are compared, that is told.
        Files(self.folder / "data").make(coldest(1, MIB, self.now, -1).blobs)
        with self._started() as server:
            self._watch(server, SWEEPING)
            server.told("files had no entry", limit=SWEEP_LIMIT)
            self._evict(server)
        with self._started(EXPIRES) as server:
            self._watch(server, EXPIRING)
        self._compare()

    @contextlib.contextmanager
    def _started(self, more: str = "") -> Iterator[Server]:
        server = self.run.house.restarted(self.folder, more)
        try:
            yield server
        finally:
            server.stop()

    def _redis(self) -> contextlib.closing[Filler]:
        return contextlib.closing(Filler(self.folder / "data" / "redis" / "redis.sock"))

    def _fill(self) -> None:
        """The index, and the files, lest the entries be forgotten."""
        with self._started() as server:
            image = self.run.data.image
            fetch(server, "GET", image.digest_path, image.digest)
            with self._redis() as redis:
                before = redis.memory()
                redis.grow(contents(self.blobs, self.now), self.blobs)
                self.add(MEMORY, (redis.memory() - before) / self.blobs)
        files = Files(self.folder / "data")
        for repository in contents(self.blobs, self.now):
            files.link(repository.blobs)

    def _seen(self, server: Server, work: str) -> None:
        """Ask for a cached manifest as often as it goes, once for the plan's seconds, while depproxy does that work."""
        plan = evolve(self.run.plan, seconds=self.run.plan.scale_seconds)
        path = self.run.data.image.digest_path
        self.seen.setdefault(work, []).append(wrk.run(self.run.wrk, plan, server.base, [path], ACCEPT))

    def _watch(self, server: Server, work: str) -> None:
        for _ in range(self.run.plan.scale_watches):
            self._seen(server, work)

    def _compare(self) -> None:
        """What requests felt of each work."""
        quiet = self.seen[QUIET]
        late, many = statistics.median(map(_p99, quiet)), statistics.median(map(_rate, quiet))
        for one in quiet:
            self.add(QUIET, _p99(one))
            self.add(RATE, _rate(one))
        self.tell(QUIET, RATE)
        for work in EVICTING, SWEEPING, EXPIRING:
            slower, fewer = (f"{what}: beside {work}, to without" for what in (QUIET, RATE))
            for one in self.seen[work]:
                self.add(slower, _p99(one) / late)
                self.add(fewer, _rate(one) / many)
            self.tell(slower, fewer)

    def _evict(self, server: Server) -> None:
        """Blobs that were read longer ago than all others go, by and by."""
        rounds, watches = self.run.plan.rounds, self.run.plan.scale_watches
        waiting = self._coldest([EVICTED] * rounds + [EVICTED_PER_SECOND * self.run.plan.scale_seconds] * watches)
        for _ in range(rounds):
            self.add(EVICTION, self._end(server, *self._begin(server, *next(waiting))))
        for _ in range(watches):
            self._seen(server, QUIET)
            going = self._begin(server, *next(waiting))
            self._seen(server, EVICTING)
            self.add(BESIDE, self._end(server, *going))
        self.tell(EVICTION, BESIDE)

    def _begin(self, server: Server, block: Repository, limit: int) -> tuple[Repository, float, int]:
        """Lower the limit; the block, when that was, and where the log ended then."""
        mark = len(server.log.read_text(errors="replace"))
        self.run.house.configure(self.folder, server.port, max_size=f"{limit} MiB")
        server.hang_up()
        return block, time.monotonic(), mark

    def _end(self, server: Server, block: Repository, begin: float, mark: int) -> float:
        """Wait until the block is gone; the seconds that each thousand of it took."""
        gone = int(server.told(r"(\d+) blobs evicted", mark)[1])
        seconds = time.monotonic() - begin
        left = Files(self.folder / "data").count(block.blobs)
        if left > len(block.blobs) / 100:
            raise BenchError(f"{gone} of {len(block.blobs)} blobs were evicted, {left} of their files are there")
        return seconds / gone * EVICTED

    def _coldest(self, counts: Sequence[int]) -> Iterator[tuple[Repository, int]]:
        """Put in so many blobs, the ones that are to go first last; with the limit, in MiB, above which they are."""
        files = Files(self.folder / "data")
        found = []
        with self._redis() as redis:
            for number, count in enumerate(reversed(counts)):
                rest = redis.total()
                block = coldest(count, math.ceil(rest / 8 / count), self.now, number)
                files.make(block.blobs)
                redis.fill([block])
                found.append((block, math.ceil(rest / LOW_MARK / MIB)))
            # That Redis writes its file anew is no part of an eviction.
            redis.settle()
        return reversed(found)


def _p99(seen: WrkResult) -> float:
    if seen.p99 is None:
        raise BenchError("wrk told no latencies")
    return seen.p99


def _rate(seen: WrkResult) -> float:
    return seen.requests_per_second


def scale(run: Run) -> list[Figure]:
    """A growing index: start, memory, eviction, and what requests feel of work on it. depproxy alone."""
    samples = Samples()
    for blobs in run.plan.scale:
        step = Step(run, samples, blobs, run.house.folder())
        try:
            step.measure()
        except FAULTS as error:
            run.failed(samples, column(blobs), error)
    columns = tuple(map(column, run.plan.scale))
    return [
        evolve(samples.figure("scale", what, unit, *targets), columns=columns, judged=columns[-1])
        for what, unit, *targets in FIGURES
    ]
