"""The unit files, read by systemd itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent.parent / "systemd"
NAMES = ("depproxy.service", "depproxy.socket")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host as README.rst installs it, as far as systemd looks at it."""
    installed = tmp_path / "etc/systemd/system"
    installed.mkdir(parents=True)
    for name in NAMES:
        shutil.copy(UNITS / name, installed)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    for program in ("opt/depproxy/bin/depproxy", "opt/depproxy/bin/twistd", "bin/sh"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return tmp_path


def verify(root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", *NAMES], capture_output=True, text=True, check=False
    )


def test_systemd_finds_nothing_wrong(root: Path) -> None:
    result = verify(root)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_it_would_find_a_mistake(root: Path) -> None:
    unit = root / "etc/systemd/system/depproxy.service"
    unit.write_text(unit.read_text().replace("TimeoutStopSec=", "TimeoutStopSecond="))
    assert "TimeoutStopSecond" in verify(root).stderr


def test_a_stop_waits_longer_than_the_drain(root: Path) -> None:
    """With a shorter TimeoutStopSec systemd would kill what is allowed to end."""
    unit = (root / "etc/systemd/system/depproxy.service").read_text()
    limit = next(line for line in unit.splitlines() if line.startswith("TimeoutStopSec="))
    assert int(limit.partition("=")[2]) > 30
    assert 'drain_timeout = "30s"' in (UNITS / "depproxy.toml").read_text()
