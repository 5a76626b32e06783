"""What keeps a machine apart from its host: a network and a cgroup of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.processes import MissingProgram, need_root, run, wait_until

CLONE_NEWNET = 0x40000000
OWN_NETWORK = "/proc/thread-self/ns/net"


class Network:
    """A network with loopback and nothing else."""

    def __init__(self) -> None:
        need_root("a network namespace")
        self._libc = ctypes.CDLL(None, use_errno=True)
        with self._back():
            self._called(self._libc.unshare(CLONE_NEWNET))
            self._fd = os.open(OWN_NETWORK, os.O_RDONLY)
            run("ip", "link", "set", "lo", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and the threads and processes that it starts meanwhile, are in the network."""
        with self._back():
            self._enter(self._fd)
            yield

    def close(self) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def _back(self) -> Iterator[None]:
        before = os.open(OWN_NETWORK, os.O_RDONLY)
        try:
            yield
        finally:
            self._enter(before)
            os.close(before)

    def _enter(self, fd: int) -> None:
        self._called(self._libc.setns(fd, CLONE_NEWNET))

    def _called(self, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class Cgroup:
    """A cgroup (version 2): all that is started in it can be ended, whatever else it leaves."""

    def __init__(self, name: str) -> None:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
        top = next((mount for mount, kind in mounts if kind == "cgroup2"), None)
        if top is None:
            raise MissingProgram("no cgroup2 file system is mounted here, which a machine of today has")
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
        self.path = Path(top, own, name)
        self.path.mkdir()
        # Beside a version 1, nspawn makes the same there.
        self._twins = [Path(mount, own, name) for mount, kind in mounts if kind == "cgroup"]

    def end(self) -> None:
        """Kill what is still in it, and remove it."""
        wait_until(self._ended, f"the end of {self.path}")

    def _ended(self) -> bool:
        for procs in self.path.glob("**/cgroup.procs"):
            with contextlib.suppress(OSError):
                for pid in procs.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        for top in (self.path, *self._twins):
            for directory in sorted(top.glob("**/"), reverse=True):
                # Not while somebody is in it.
                with contextlib.suppress(OSError):
                    directory.rmdir()
        return not self.path.exists()
