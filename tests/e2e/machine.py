"""A machine to boot the shipped units on: systemd in a container, with the host's programs and loopback alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen
from OpenSSL.crypto import FILETYPE_PEM, dump_certificate, dump_privatekey

from tests.certificates import Authority
from tests.e2e.apart import Cgroup, Network
from tests.e2e.installed import (
    CONFIGURATION,
    HUB,
    PACKAGES,
    PREFIX,
    PYTHON,
    SERVICE,
    SOCKET,
    install,
    lay_out,
    python_in_usr,
    write,
)
from tests.e2e.processes import Process, answers, need_root, program, run
from tests.e2e.servers import REGISTRY_CONFIG, Registry

# Where the packages are that this run uses. Twisted notes in it which plugins there are, if it has not yet.
OURS = sysconfig.get_path("purelib")
# Programs that a small host does without.
LACKING = ("/usr/bin/kill",)
# What a machine of today has; with the older kind a container's systemd is not told when a unit's last process ends.
ENVIRONMENT = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
# A cgroup and a /run of its own: else two machines would share the one, and nspawn leaves directories in the other.
APART = 'echo $$ >"$1/cgroup.procs"; shift; mount -t tmpfs none /run; exec "$@"'


class Upstream:
    """docker-registry as Docker Hub: https, the port of https, over what ``registry`` was given."""

    def __init__(self, directory: Path, registry: Registry) -> None:
        directory.mkdir()
        authority = Authority(str(directory))
        self.authority = authority.file
        server = authority.server(HUB)
        certificate, key = directory / "server.pem", directory / "server.key"
        certificate.write_bytes(dump_certificate(FILETYPE_PEM, server.certificate))
        key.write_bytes(dump_privatekey(FILETYPE_PEM, server.privateKey))
        config = REGISTRY_CONFIG.format(storage=registry.storage, auth="").replace(
            'addr: "127.0.0.1:0"', f'addr: "127.0.0.1:443", tls: {{certificate: {certificate}, key: {key}}}'
        )
        self._config = directory / "config.yml"
        self._config.write_text(config)
        self.start()

    def start(self) -> None:
        argv = [program("docker-registry"), "serve", str(self._config)]
        self._process = Process("docker-registry", argv, self._config.with_name("log"))
        # What it says to plain HTTP.
        self._process.wait_for(lambda: answers("http://127.0.0.1:443/", 400), "its port")

    def stop(self) -> None:
        self._process.stop()

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Nobody listens there meanwhile."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@frozen
class Listener:
    """The processes that hold a listening socket, and the number of connections that nobody has taken yet."""

    holders: set[int]
    waiting: int


class Machine:
    """A booted machine in ``network`` that trusts ``authority``, with depproxy installed and enabled."""

    def __init__(self, directory: Path, network: Network, authority: Path) -> None:
        need_root("systemd-nspawn")
        self.root = directory / "root"
        self._directory = directory
        lay_out(self.root, authority)
        install(self.root)
        self._cgroup = Cgroup(f"depproxy-{os.getpid()}")
        with contextlib.ExitStack() as undo, network.entered():
            undo.callback(self._cgroup.end)
            # README.rst has this; the loader's cache is what an installation of Python leaves.
            command = f"ldconfig && {PREFIX}/bin/twistd depproxy --version"
            prepare = self._nspawn(f"--bind={OURS}:{PACKAGES}", "--pipe", "--", "/bin/sh", "-c", command)
            run(*prepare, environment=ENVIRONMENT)
            boot = self._nspawn(f"--bind-ro={OURS}:{PACKAGES}", "--boot")
            self._process = Process("systemd", boot, directory / "log", ENVIRONMENT)
            undo.callback(self._process.stop)
            self.pid = self._process.wait_for(self._find_leader, "its first process")
            self._process.wait_for(self._has_booted, "the end of its boot")
            self._undo = undo.pop_all()

    def _nspawn(self, *arguments: str) -> list[str]:
        nothing = self._directory / "nothing"
        nothing.touch(mode=0o644)
        bound = ["--bind-ro=/usr"]
        bound += [] if python_in_usr() else [f"--bind-ro={sys.base_prefix}:{PYTHON}"]
        bound += [f"--bind-ro={nothing}:{path}" for path in LACKING if Path(path).exists()]
        return [
            *("unshare", "--mount", "sh", "-euc", APART, "sh", str(self._cgroup.path), program("systemd-nspawn")),
            *("--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            *("--machine=depproxy", f"--directory={self.root}", *bound, *arguments),
        ]

    def _has_booted(self) -> bool:
        """Its first answers are none, and "offline"."""
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _find_leader(self) -> int | None:
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        return None

    def stop(self) -> None:
        """Shut it down, or pull the plug if that takes too long."""
        self._undo.close()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the machine as root."""
        return run("nsenter", f"--target={self.pid}", "--mount", "--pid", "--", *command, check=check)

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", *arguments, check=check)

    def show(self, *properties: str, unit: str = SERVICE) -> dict[str, str]:
        """These properties of the unit."""
        lines = self.systemctl("show", f"--property={','.join(properties)}", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def main_pid(self) -> int:
        """The service's main process as this host numbers it; 0 if there is none."""
        inside = int(self.show("MainPID")["MainPID"])
        return next((pid for pid, status in self.processes().items() if _inside(status) == inside), 0)

    def processes(self) -> dict[int, dict[str, str]]:
        """What the kernel says of each process in the machine, by the id that it has on this host."""
        found = {}
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == own:
                    lines = (entry / "status").read_text().splitlines()
                    found[int(entry.name)] = {key: value.strip() for key, _, value in (x.partition(":") for x in lines)}
        return found

    def names(self) -> set[str]:
        """The names of the processes in the machine."""
        return {status["Name"] for status in self.processes().values()}

    def service(self) -> list[dict[str, str]]:
        """What the kernel says of the service's main process and of its children."""
        main = self.main_pid()
        return [status for pid, status in self.processes().items() if main in (pid, int(status["PPid"]))]

    def listener(self, port: int) -> Listener:
        """The socket that listens on this port of 127.0.0.1."""
        lines = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        (found,) = (line for line in lines if (line[1], line[3]) == (f"0100007F:{port:04X}", "0A"))
        holders = set()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if f"socket:[{found[9]}]" in [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]:
                    holders.add(pid)
        return Listener(holders, int(found[4].partition(":")[2], 16))

    def user(self, name: str) -> list[str]:
        """The fields of the user's line in the machine's /etc/passwd."""
        lines = (self.root / "etc/passwd").read_text().splitlines()
        return next(fields for fields in (line.split(":") for line in lines) if fields[0] == name)

    @property
    def configuration(self) -> str:
        """The text of depproxy's configuration file. Nobody is told when it changes."""
        return (self.root / CONFIGURATION).read_text()

    @configuration.setter
    def configuration(self, text: str) -> None:
        write(self.root / CONFIGURATION, text)

    def settle(self, configuration: str) -> None:
        """Have the service run with this configuration, whatever was done to it."""
        if self.configuration != configuration:
            self.configuration = configuration
            self.systemctl("stop", SERVICE)
        # Also forgets how often it was started lately.
        self.systemctl("reset-failed", SOCKET, SERVICE, check=False)
        self.systemctl("start", SOCKET, SERVICE)

    def journal(self) -> str:
        """All that the service, and systemd about it, have logged by now."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", "--unit=depproxy*", check=False).stdout


def _inside(status: Mapping[str, str]) -> int:
    """The id that the process has in the innermost namespace."""
    return int(status["NSpid"].split()[-1])
