"""Processes of one run: started here, watched by id, ended by id."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from .plan import BenchError

# Program -> Debian package.
PACKAGES = {
    "docker-registry": "docker-registry",
    "nginx": "nginx",
    "wrk": "wrk",
    "redis-server": "redis-server",
    "setpriv": "util-linux",
}
START_LIMIT = 30.0
STOP_LIMIT = 15.0


def find_programs() -> dict[str, str]:
    """Where each program is; BenchError names the packages of those that are missing."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=path) for name in PACKAGES}
    if missing := sorted({PACKAGES[name] for name, place in found.items() if not place}):
        raise BenchError(f"missing programs; install them: apt-get install {' '.join(missing)}")
    return {name: place for name, place in found.items() if place}


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@frozen
class Memory:
    """Bytes of one process: resident now, the highest that it was, and the part that is no file's page."""

    resident: int
    peak: int
    anonymous: int


def memory(pid: int) -> Memory:
    """What /proc says; zeros for a process that is gone."""
    fields: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if rest.endswith(" kB"):
                fields[name] = int(rest.split()[0]) * 1024
    return Memory(fields.get("VmRSS", 0), fields.get("VmHWM", 0), fields.get("RssAnon", 0))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; [] for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time, user and system, that these processes have used up to now."""
    ticks = sum(int(fields[11]) + int(fields[12]) for pid in pids if (fields := _stat(pid)))
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """The processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


class Server:
    """A server process on a loopback port; the constructor returns when `ready` answers 200.

    Should this process be killed, the kernel sends the server a SIGTERM.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        ready: str,
        log: Path,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.base = f"http://127.0.0.1:{port}"
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=cwd,
                env=environ,
            )
        try:
            self._wait(ready)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def told(self, pattern: str, since: int = 0, limit: float = 60) -> re.Match[str]:
        """What in the log, behind the character `since`, matches first; BenchError where that does not come in `limit`
        seconds."""
        deadline = time.monotonic() + limit
        while not (found := re.compile(pattern).search(self.log.read_text(errors="replace"), since)):
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} has not logged {pattern!r} within {limit:g} s")
            time.sleep(0.005)
        return found

    def hang_up(self) -> None:
        """Have it read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    def tree(self) -> list[int]:
        """This process and all below it."""
        return [self.pid, *descendants(self.pid)]

    def _wait(self, ready: str) -> None:
        deadline = time.monotonic() + START_LIMIT
        while self._process.poll() is None and time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError, urllib.error.URLError),
                urllib.request.urlopen(self.base + ready, timeout=5) as response,
            ):
                if response.status == 200:
                    return
            time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-2000:].strip()
        raise BenchError(f"{self.name} did not come up ({self.base}{ready}); its last words:\n{tail}")

    def stop(self) -> None:
        """End the process in good order; one that lingers is killed, and what it has left behind too."""
        family = {pid: _started(pid) for pid in self.tree()}
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid, started in family.items():
            # Only the process that we saw: the id could be another's by now.
            if started and _started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _started(pid: int) -> str:
    """When the process started, in ticks since boot; "" when it is gone or dead."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""
