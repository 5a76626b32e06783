"""`python -m benchmarks`: measure depproxy beside its peers and print the table."""

import argparse
import contextlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from . import report
from .figures import NGINX, REGISTRY, US, Figure, plain, tables
from .meter import foreign
from .plan import FULL, QUICK, BenchError, Plan
from .process import find_programs
from .rows import ROWS
from .run import Run
from .servers import House
from .source import Source

SERVERS = (US, REGISTRY, NGINX)
QUIET = 0.1  # cores


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: under 90 seconds")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row alone; may be repeated")
    parser.add_argument("--server", action="append", choices=SERVERS, help="this server alone; may be repeated")
    parser.add_argument("--rounds", type=int, choices=range(1, 10), help="instead of the plan's")
    parser.add_argument("--record", action="store_true", help="write benchmarks/RESULTS.rst")
    chosen = parser.parse_args(arguments)
    if chosen.record and (chosen.quick or chosen.only or chosen.server):
        parser.error("--record is for whole runs: not with --quick, --only or --server")
    return chosen


def raise_file_limit() -> None:
    """As many descriptors as we may have: here, and in the servers that inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(plan: Plan, programs: Mapping[str, str], rows: Sequence[str], servers: Sequence[str]) -> list[Figure]:
    """Run the rows; the servers and their folders are gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="depproxy-bench-"))
        say("starting the source registry and the front, filling the source")
        house = House(programs, Path(folder), plan)
        stack.callback(house.close)
        data = Source(house.source.port).fill(plan)
        run = Run(house, plan, data, wrk=programs["wrk"], names=servers, say=say)
        figures: list[Figure] = []
        for row in rows:
            say(f"{row}: {(ROWS[row].__doc__ or '').strip()}")
            figures += ROWS[row](run)
        return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every row was measured, however the figures are; 1 when something failed."""
    chosen = options(arguments)
    plan = QUICK if chosen.quick else FULL
    if chosen.rounds:
        plan = attrs.evolve(plan, rounds=chosen.rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    start = time.monotonic()
    busy = foreign()
    if busy > QUIET:
        say(f"other work keeps {busy:.2f} cores of this machine busy: the figures will be noisy")
    try:
        programs = find_programs()
        figures = measure(plan, programs, chosen.only or list(ROWS), chosen.server or SERVERS)
    except BenchError as error:
        say(f"benchmarks: {error}")
        return 1
    except KeyboardInterrupt:
        say("benchmarks: interrupted")
        return 130
    print("\n\n".join(map(plain, tables(figures))))
    print(f"\nJSON: {report.write_json(figures, plan, programs, busy)}; {time.monotonic() - start:.0f} s in all")
    if chosen.record:
        print(f"Recorded: {report.record(figures, plan, programs, busy)}")
    return int(any(figure.failed for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
