"""How busy each party was, and whatever else ran: what holds a figure back."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from .figures import DIRECT
from .process import Server, cpu_seconds


def _our_seconds() -> float:
    """CPU time of the load generator: this process, and the wrk processes that it has waited for."""
    return sum(os.times()[:4])


def _machine_seconds() -> float:
    """CPU time of everything on this machine, of the hypervisor's other guests too ("steal")."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def foreign(seconds: float = 1.0) -> float:
    """Cores that this machine keeps busy while we only wait."""
    before, start = _machine_seconds(), time.monotonic()
    time.sleep(seconds)
    return (_machine_seconds() - before) / (time.monotonic() - start)


@contextlib.contextmanager
def busy(servers: Mapping[str, Server]) -> Iterator[dict[str, float]]:
    """Gives a dict that, after the block, holds the cores that each server kept busy, the load, and others.

    "others" is what no party accounts for: the kernel's network work, and foreign programs. Much of it in
    a row that moves few bytes means that the machine was not ours alone.
    """
    trees = {name: server.tree() for name, server in servers.items()}
    before = {name: cpu_seconds(tree) for name, tree in trees.items()}
    machine, load, start = _machine_seconds(), _our_seconds(), time.monotonic()
    cores: dict[str, float] = {}
    yield cores
    wall = time.monotonic() - start
    cores |= {name: (cpu_seconds(tree) - before[name]) / wall for name, tree in trees.items()}
    cores["load"] = (_our_seconds() - load) / wall
    parties = sum(share for name, share in cores.items() if name != DIRECT)
    cores["others"] = max(0.0, (_machine_seconds() - machine) / wall - parties)
