"""Requests per second, by wrk."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from .plan import BenchError, Plan

ROTATE = Path(__file__).with_name("rotate.lua")
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@frozen
class WrkResult:
    """What one run of wrk said; latencies in milliseconds."""

    requests_per_second: float
    requests: int
    median: float | None = None
    p99: float | None = None
    socket_errors: int = 0
    refused: int = 0


def _latency(text: str, percentile: str) -> float | None:
    found = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    return float(found[1]) * _UNITS[found[2]] if found else None


def parse(text: str) -> WrkResult:
    """The figures in wrk's output; ValueError if it holds none."""
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", text, re.MULTILINE)
    requests = re.search(r"^\s+(\d+) requests in ", text, re.MULTILINE)
    if not rate or not requests:
        raise ValueError(f"no figures in wrk's output: {text!r}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return WrkResult(
        requests_per_second=float(rate[1]),
        requests=int(requests[1]),
        median=_latency(text, "50"),
        p99=_latency(text, "99"),
        socket_errors=sum(map(int, errors.groups())) if errors else 0,
        refused=int(refused[1]) if refused else 0,
    )


def run(program: str, plan: Plan, base: str, paths: Sequence[str], *headers: str) -> WrkResult:
    """GET the paths in turn over `plan.connections` connections; BenchError if one was not answered."""
    command = [program, f"-c{plan.connections}", f"-t{plan.threads}", f"-d{plan.seconds}s", "--latency"]
    command += ["--timeout", "10s", *(word for header in headers for word in ("-H", header))]
    command += ["-s", str(ROTATE), base, "--", *paths] if len(paths) > 1 else [base + paths[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=plan.seconds + 30, check=False)
    if done.returncode:
        raise BenchError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    result = parse(done.stdout)
    if result.refused or result.socket_errors:
        raise BenchError(
            f"{result.refused} of {result.requests} answers were no 2xx, {result.socket_errors} socket errors"
        )
    return result
