"""Real processes for the end-to-end tests: start, wait for, read, end."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.e2e import wire

T = TypeVar("T")

# A missing program names the Debian package that brings it.
PACKAGES = {
    "busybox": "busybox-static",
    "containerd": "containerd",
    "ctr": "containerd",
    "docker": "docker.io",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "podman": "podman",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "skopeo": "skopeo",
    "systemctl": "systemd",
    "systemd-nspawn": "systemd-container",
    "systemd-sysusers": "systemd",
    "unshare": "util-linux",
}
# Debian's own directories first: a newer `docker` elsewhere would not match Debian's engine.
DEBIAN_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
DEADLINE = 30.0


class MissingProgram(Exception):
    """A program that these tests cannot do without is not installed; the text says how to get it."""


class Failed(Exception):
    """A process ended, or a command failed, when it should not have; the text has its last lines."""


def program(name: str) -> str:
    """The path of ``name``; raises ``MissingProgram`` rather than letting a test skip."""
    found = shutil.which(name, path=DEBIAN_PATH) or shutil.which(name)
    if found is None:
        raise MissingProgram(f"{name} is not installed: apt-get install {PACKAGES[name]}")
    return found


def need_root(what: str) -> None:
    """The engines mount and make namespaces; without root they fail in ways that do not name the reason."""
    if os.geteuid() != 0:
        raise MissingProgram(f"{what} needs root: run these tests as root (they do in CI)")


def wait_until(condition: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """The first true value of ``condition``, asked again and again; TimeoutError after ``deadline`` s."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline:g} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A port nobody listens on, below the ephemeral range lest an outgoing connection take it meanwhile."""
    while True:
        port = random.randrange(10000, 32000)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def run(
    *command: str,
    environment: Mapping[str, str] | None = None,
    deadline: float = 120,
    check: bool = True,
    told: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end, with ``told`` on its input. Raises ``Failed`` with what it printed if it does not end
    well."""
    argv = [program(command[0]), *command[1:]]
    done = subprocess.run(
        argv,
        env={**os.environ, **(environment or {})},
        input=told,
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
    )
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


class Process:
    """A server process in a session of its own, its output in a file, ended by its id with its children."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log_path = log
        with log.open("ab") as output:
            # pdeathsig: if the test run itself is killed, nothing stays behind.
            self._popen = subprocess.Popen(
                [program_or_path("setpriv"), "--pdeathsig", "TERM", "--", *argv],
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def log(self) -> str:
        """Everything that the process has printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
        """``wait_until``, but an ended process ends the waiting, and a failure shows the log's last lines."""

        def alive() -> T | None:
            value = condition()
            if not value and not self.running:
                raise Failed(f"{self.name} ended with {self._popen.returncode}:\n{self.log[-4000:]}")
            return value

        try:
            return wait_until(alive, f"{self.name}: {what}", deadline)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log[-4000:]}") from None

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            self._popen.send_signal(number)

    def wait(self, deadline: float = DEADLINE) -> int:
        """The exit code, once the process has ended."""
        return self._popen.wait(deadline)

    def stop(self, deadline: float = DEADLINE) -> int:
        """SIGTERM, and SIGKILL to its whole session if that does not end it in time. The exit code."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(deadline)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> int:
        """SIGKILL to its whole session: the power cut. The exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()


def program_or_path(name: str) -> str:
    """The path of a program that every Debian has."""
    return shutil.which(name, path=DEBIAN_PATH) or name


def end_leftovers(directory: Path) -> None:
    """End what still runs with ``directory`` in its command line, and unmount what is below it.

    Container shims leave their parent's session on purpose, so they are found by the one thing that is ours.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(directory) in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{directory}/")), reverse=True):
        subprocess.run([program_or_path("umount"), "--lazy", mount], check=False)


def answers(url: str, status: int = 200) -> bool:
    """True if a GET of ``url`` is answered with ``status``."""
    try:
        return wire.fetch(url).status == status
    except OSError:
        return False
