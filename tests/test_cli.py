"""The ``depproxy`` command: what it prints, where, and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from depproxy import __version__
from depproxy.cli import main

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "depproxy.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "STATE_DIRECTORY": "/var/lib/depproxy", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    found = run("--version")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"depproxy {__version__}\n", "")


def test_correct_file_is_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "depproxy.toml"
    (tmp_path / "token").write_text("hunter2")
    path.write_text(
        """
        [server]
        listen = ["tcp:5000:interface=10.0.0.5", "unix:/run/depproxy/http.sock"]
        [index]
        url = "redis://:hunter2@redis.example/1"
        [upstreams."ghcr.io"]
        username = "ci"
        password_file = "token"
        proxy = "http://proxy.example:3128"
        prefixes = ["github"]
        [mirror]
        group = "Runners"
        anonymous = ["10.0.0.0/8"]
        unix_sockets = true
        [groups.acme]
        enabled = false
        """
    )
    found = run("check-config", str(path))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [
        f"{path}: correct",
        "  listen      tcp:5000:interface=10.0.0.5",
        "  listen      unix:/run/depproxy/http.sock",
        "  public URL  http://10.0.0.5:5000",
        "  storage     /var/lib/depproxy",
        "  index       redis://***@redis.example/1",
        "  upstream    ghcr.io at https://ghcr.io, as ci, through http://proxy.example:3128, also as github",
        "  upstream    docker.io at https://registry-1.docker.io",
        "  mirror      docker.io, group runners, open to 10.0.0.0/8, unix sockets",
        "  group       acme (disabled)",
        "  group       runners",
    ]


def test_nobody_may_use_a_mirror_that_admits_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "depproxy.toml"
    path.write_text("mirror.anonymous = []")
    assert main(["check-config", str(path)]) == 0
    assert "group local, open to nobody\n" in capsys.readouterr().out


def test_wrong_file_is_one_line_on_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "depproxy.toml"
    path.write_text('[upstreams."ghcr.io"]\nmax_connections = 0\n')
    found = run("check-config", str(path))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (
        f'{path}: upstreams."ghcr.io".max_connections = 0: must be a whole number from 1 to 10000\n'
    )


def test_missing_file() -> None:
    found = run("check-config", "/nowhere/depproxy.toml")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("/nowhere/depproxy.toml: cannot be read (No such file or directory); ")


@pytest.mark.parametrize("arguments", [[], ["check"], ["check-config"], ["check-config", "a", "b"], ["--vers"]])
def test_wrong_command_is_status_2(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: depproxy")


@pytest.mark.parametrize("arguments", [["--help"], ["check-config", "--help"]])
def test_help_has_an_example(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "  depproxy check-config /etc/depproxy/depproxy.toml\n" in capsys.readouterr().out
