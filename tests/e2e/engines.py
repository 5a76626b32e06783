"""The container engines and tools that pull: Docker, containerd, podman, skopeo."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.images import Manifest, digest_of
from tests.e2e.processes import DEBIAN_PATH, Process, need_root, program, run, wait_until

CONTAINERD_CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{directory}/sock"
[ttrpc]
address = "{directory}/sock.ttrpc"
"""
# Where a failing mirror would send an engine: nobody listens there, so a test cannot succeed past depproxy.
NOWHERE = "http://127.0.0.1:9"


class Containerd:
    """A containerd of our own, for ctr and for the Docker engine."""

    def __init__(self, directory: Path) -> None:
        need_root("containerd")
        directory.mkdir()
        self.socket = directory / "sock"
        config = directory / "config.toml"
        config.write_text(CONTAINERD_CONFIG.format(directory=directory))
        argv = [program("containerd"), "--config", str(config)]
        self.process = Process("containerd", argv, directory / "log", {"PATH": DEBIAN_PATH})
        self.process.wait_for(lambda: self.ctr("version", check=False).returncode == 0, "its socket")

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("ctr", "--address", str(self.socket), "--namespace", "e2e", *arguments, check=check)

    def stop(self) -> None:
        self.process.stop()


class Ctr:
    """``ctr images pull`` with a hosts.toml, and the content store that it fills."""

    def __init__(self, containerd: Containerd, hosts: Path) -> None:
        self._containerd = containerd
        self._hosts = hosts

    def mirror(self, registry: str, url: str) -> None:
        """Make ``url`` the mirror of ``registry``, with nothing behind it."""
        (self._hosts / registry).mkdir(parents=True, exist_ok=True)
        (self._hosts / registry / "hosts.toml").write_text(
            f'server = "{NOWHERE}"\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n'
        )

    def pull(self, image: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._containerd.ctr(
            *("images", "pull", "--hosts-dir", str(self._hosts), "--snapshotter", "native", *options, image),
            check=check,
        )

    def content(self, digest: str) -> bytes:
        """The bytes that containerd stored."""
        argv = [program("ctr"), "--address", str(self._containerd.socket), "--namespace", "e2e"]
        return subprocess.run([*argv, "content", "get", digest], capture_output=True, check=True).stdout

    def holds(self, digest: str) -> bool:
        return digest in self._containerd.ctr("content", "ls", "--quiet").stdout.split()

    def run(self, image: str, *command: str) -> str:
        """The output of a container without network."""
        options = ("--rm", "--snapshotter", "native")
        return self._containerd.ctr("run", *options, image, "e2e-run", *command).stdout

    def clear(self) -> None:
        """Remove all images and wait until their content is gone."""
        names = self._containerd.ctr("images", "ls", "--quiet").stdout.split()
        if names:
            self._containerd.ctr("images", "rm", "--sync", *names)
        wait_until(lambda: not self._containerd.ctr("content", "ls", "--quiet").stdout, "no content left")


class Docker:
    """The Docker engine, with the vfs driver, no network and no iptables, and its command-line client."""

    def __init__(self, directory: Path, containerd: Containerd) -> None:
        need_root("dockerd")
        directory.mkdir()
        self._socket = f"unix://{directory}/sock"
        self._config = directory / "daemon.json"
        self._config.write_text("{}")
        self._client = {"DOCKER_CONFIG": str(directory / "client")}
        argv = [program("dockerd"), "--config-file", str(self._config), "--host", self._socket]
        argv += ["--containerd", str(containerd.socket), "--storage-driver=vfs", "--bridge=none"]
        argv += ["--iptables=false", "--ip6tables=false", "--data-root", str(directory / "data")]
        argv += ["--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid")]
        self.process = Process("dockerd", argv, directory / "log", {"PATH": DEBIAN_PATH})
        self.process.wait_for(lambda: self("version", check=False).returncode == 0, "its socket")

    def __call__(self, *arguments: str, check: bool = True, told: str = "") -> subprocess.CompletedProcess[str]:
        """Run the client."""
        return run("docker", "--host", self._socket, *arguments, environment=self._client, check=check, told=told)

    def login(self, host: str, user: str, password: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``docker login``."""
        return self("login", "--username", user, "--password-stdin", host, check=check, told=password)

    def kept(self, host: str) -> dict[str, str]:
        """What the client keeps of a login."""
        config = json.loads(Path(self._client["DOCKER_CONFIG"], "config.json").read_text())
        kept: dict[str, str] = config["auths"][host]
        return kept

    def mirror(self, *urls: str) -> None:
        """Set ``registry-mirrors`` in the running engine, as an operator does with SIGHUP."""
        self.configure(json.dumps({"registry-mirrors": list(urls)}))

    def configure(self, text: str) -> None:
        """Give the running engine this `daemon.json`, and wait until its mirrors are in force."""
        self._config.write_text(text)
        urls = json.loads(text)["registry-mirrors"]
        self.process.signal(signal.SIGHUP)
        wanted = [f"{url}/" for url in urls]
        self.process.wait_for(lambda: self._mirrors() == wanted, f"mirrors {wanted}")

    def _mirrors(self) -> list[str]:
        info = self("info", "--format", "{{json .RegistryConfig.Mirrors}}").stdout
        return json.loads(info) or []

    def pull(self, image: str) -> None:
        self("pull", "--quiet", image)

    def inspect(self, image: str) -> Any:
        return json.loads(self("image", "inspect", image).stdout)[0]

    def clear(self) -> None:
        """Remove all images and mirrors."""
        names = self("image", "ls", "--quiet", "--no-trunc").stdout.split()
        if names:
            self("image", "rm", "--force", *sorted(set(names)))
        if self._mirrors():
            self.mirror()

    def stop(self) -> None:
        self.process.stop()


class Podman:
    """podman with a store of its own; ``mirror`` is the host:port that stands for docker.io."""

    def __init__(self, directory: Path, mirror: str = "") -> None:
        need_root("podman")
        directory.mkdir()
        self._policy = insecure_policy(directory)
        self._environment = {"CONTAINERS_REGISTRIES_CONF": str(registries_conf(directory, mirror))}
        self._options = ["--root", f"{directory}/root", "--runroot", f"{directory}/run"]
        self._options += ["--storage-driver=vfs", "--tmpdir", f"{directory}/tmp", "--events-backend=none"]
        self._options += ["--cgroup-manager=cgroupfs"]

    def __call__(self, *arguments: str) -> str:
        return run("podman", *self._options, *arguments, environment=self._environment).stdout

    def pull(self, image: str, *options: str) -> None:
        self("pull", "--quiet", "--tls-verify=false", "--signature-policy", str(self._policy), *options, image)

    def inspect(self, image: str) -> Any:
        return json.loads(self("image", "inspect", image))[0]


class Skopeo:
    """``skopeo copy`` into directories; ``mirror`` is the host:port that stands for docker.io."""

    def __init__(self, directory: Path, mirror: str = "") -> None:
        directory.mkdir()
        self._directory = directory
        self._options = ["--policy", str(insecure_policy(directory))]
        self._options += ["--registries-conf", str(registries_conf(directory, mirror))]
        self._copies = 0

    def copy(self, image: str, *options: str, select: tuple[str, ...] = ()) -> Copied:
        """Copy ``docker://image`` as it is; ``select`` goes before the command (``--override-arch``)."""
        self._copies += 1
        target = self._directory / f"copy{self._copies}"
        command = ("copy", "--preserve-digests", "--src-tls-verify=false", *options)
        run("skopeo", *self._options, *select, *command, f"docker://{image}", f"dir:{target}")
        return Copied(target)

    def inspect(self, image: str) -> Any:
        command = ("inspect", "--tls-verify=false", f"docker://{image}")
        return json.loads(run("skopeo", *self._options, *command).stdout)


class Copied:
    """What skopeo laid down: ``manifest.json`` and blobs named by their hex digests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def manifest(self) -> bytes:
        return (self._directory / "manifest.json").read_bytes()

    def digests(self) -> set[str]:
        """The digest, computed anew, of each file that came."""
        files = [path for path in self._directory.iterdir() if path.name != "version"]
        return {digest_of(path.read_bytes()) for path in files}

    def is_exactly(self, image: Manifest) -> bool:
        """True if the same bytes came as ``image`` has, all of them and nothing else."""
        return self.digests() == set(image.everything())


def insecure_policy(directory: Path) -> Path:
    """A policy file that asks for no signatures."""
    policy = directory / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return policy


def registries_conf(directory: Path, mirror: str) -> Path:
    """A registries.conf in which ``mirror``, where given, is asked for docker.io and nobody else is."""
    path = directory / "registries.conf"
    text = 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n'
    if mirror:
        text += '[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:9"\ninsecure = true\n'
        text += f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
    path.write_text(text)
    return path
