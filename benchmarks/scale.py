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
QUIET = "cached manifests, 99% within"
EVICTING = "the same while blobs are evicted, to without"
SWEEPING = "the same while files and index are compared, to without"
EXPIRING = "the same while groups expire, too, to without"
FIGURES: Sequence[tuple[Any, ...]] = (
    (START, "s", Target(5)),
    (MEMORY, "bytes", Target(600)),
    (EVICTION, "s", Target(2)),
    (BESIDE, "s", Target(2)),
    (QUIET, "ms"),
    (EVICTING, "x", Target(1.1)),
    (SWEEPING, "x", Target(1.1)),
    (EXPIRING, "x", Target(1.1)),
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
    quiet: list[float] = field(factory=list)
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
            sweeping = self._watched(server)
            server.told("files had no entry", limit=SWEEP_LIMIT)
            self._evict(server)
        with self._started(EXPIRES) as server:
            expiring = self._watched(server)
        quiet = statistics.median(self.quiet)
        for measure, values in (SWEEPING, sweeping), (EXPIRING, expiring):
            for value in values:
                self.add(measure, value / quiet)
        self.tell(SWEEPING, EXPIRING)

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

    def _p99(self, server: Server) -> float:
        """Milliseconds within which 99% of the requests for a cached manifest are answered."""
        plan = evolve(self.run.plan, seconds=self.run.plan.scale_seconds)
        result = wrk.run(self.run.wrk, plan, server.base, [self.run.data.image.digest_path], ACCEPT)
        if result.p99 is None:
            raise BenchError("wrk told no latencies")
        return result.p99

    def _watched(self, server: Server) -> list[float]:
        return [self._p99(server) for _ in range(self.run.plan.rounds)]

    def _evict(self, server: Server) -> None:
        """Blobs that were read longer ago than all others go, by and by."""
        plan = self.run.plan
        rounds, long = plan.rounds, EVICTED_PER_SECOND * plan.scale_seconds
        waiting = self._coldest([EVICTED] * rounds + [long] * rounds)
        for _ in range(rounds):
            self.add(EVICTION, self._end(server, *self._begin(server, *next(waiting))))
        for _ in range(rounds):
            self.quiet.append(self._p99(server))
            self.add(QUIET, self.quiet[-1])
            going = self._begin(server, *next(waiting))
            self.add(EVICTING, self._p99(server) / self.quiet[-1])
            self.add(BESIDE, self._end(server, *going))
        self.tell(EVICTION, BESIDE, QUIET, EVICTING)

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
        return reversed(found)


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
