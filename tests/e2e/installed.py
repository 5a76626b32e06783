"""A root directory with what every host has, and with depproxy as README.rst installs it."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from tests.e2e.processes import run
from tests.e2e.servers import ROOT

UNITS = ROOT / "systemd"
SERVICE, SOCKET = "depproxy.service", "depproxy.socket"
CONFIGURATION = "etc/depproxy/depproxy.toml"
# The shipped configuration asks this one for what names no registry; here it is ours.
HUB = "registry-1.docker.io"
# Where README.rst installs, and where that finds what it needs of this run's environment, which may itself be in a
# place that ProtectHome= or PrivateTmp= hides.
PREFIX = "/opt/depproxy"
PYTHON = Path("/opt/python")
PACKAGES = "/opt/packages"
# Logins, which would be refused, and a bus that nobody needs.
MASKED = ("console-getty.service", "dbus.service", "dbus.socket", "getty.target", "systemd-logind.service")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """A file with this text, whatever the umask; the directories to it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def lay_out(root: Path, authority: Path) -> None:
    """What every host has. ``authority`` is trusted; /usr is empty, for this host's to be bound there."""
    for directory in ("opt", "root", "usr/lib", "var/lib"):
        (root / directory).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (Path("/") / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group"):
        write(root / "etc" / name, Path(f"/usr/share/base-passwd/{name}.master").read_text())
    write(root / "etc/os-release", Path("/usr/lib/os-release").read_text())
    write(root / "etc/machine-id", "b0071e57" * 4 + "\n")
    write(root / "etc/nsswitch.conf", "hosts: files\n")
    write(root / "etc/hosts", f"127.0.0.1 localhost {HUB}\n")
    write(root / "etc/ssl/certs/ca-certificates.crt", authority.read_text())
    write(root / "etc/ld.so.conf", f"{PYTHON}/lib\n/usr/local/lib\n")
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    for name in MASKED:
        (units / name).symlink_to("/dev/null")


def install(root: Path) -> None:
    """depproxy, enabled. What it needs is expected at PACKAGES, and a Python that is not in /usr at PYTHON."""
    version = f"python{sysconfig.get_python_version()}"
    prefix = root / PREFIX.lstrip("/")
    executable = Path(os.path.realpath(sys.executable))
    if not python_in_usr():
        executable = PYTHON / executable.relative_to(os.path.realpath(sys.base_prefix))
    write(prefix / "pyvenv.cfg", f"home = {executable.parent}\ninclude-system-site-packages = false\n")
    (prefix / "bin").mkdir()
    (prefix / "bin/python3").symlink_to(executable)
    for name in ("depproxy", "twistd"):
        script = Path(sys.executable).with_name(name).read_text()
        write(prefix / "bin" / name, f"#!{PREFIX}/bin/python3\n" + script.partition("\n")[2], 0o755)
    packages = prefix / "lib" / version / "site-packages"
    for name in ("depproxy", "twisted"):
        shutil.copytree(ROOT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    write(packages / "packages.pth", f"{PACKAGES}\n")
    write(root / CONFIGURATION, (UNITS / "depproxy.toml").read_text())
    for name in (SERVICE, SOCKET):
        write(root / "etc/systemd/system" / name, (UNITS / name).read_text())
    snippets = root / "usr/lib/sysusers.d"
    shutil.copytree("/usr/lib/sysusers.d", snippets)
    write(snippets / "depproxy.conf", (UNITS / "depproxy.sysusers").read_text())
    run("systemd-sysusers", f"--root={root}")
    run("systemctl", f"--root={root}", "enable", SOCKET, SERVICE)
    # All of /etc and /var is as new as /usr: nothing is brought up to date while it boots.
    for name in ("etc", "var"):
        (root / name / ".updated").touch()


def python_in_usr() -> bool:
    """Whether the Python of this run is below /usr."""
    return Path(sys.base_prefix).is_relative_to("/usr")
