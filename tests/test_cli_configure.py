"""``depproxy configure`` and ``depproxy completion``: what they print is what clients and shells read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import call, misused, refused

LOCAL = '[server]\npublic_url = "http://127.0.0.1:5000"\n[upstreams."ghcr.io"]\nprefixes = ["github"]\n'
REMOTE = '[server]\npublic_url = "http://cache.example:5000"\n[upstreams."quay.io"]\n'
SECURE = """\
[server]
public_url = "https://cache.example"
[upstreams."ghcr.io"]
[upstreams."registry.example:5001"]
[upstreams."other.example:5001"]
prefixes = ["other"]
[mirror]
upstream = "ghcr.io"
"""


def snippet(tmp_path: Path, client: str, text: str) -> tuple[str, str]:
    """What goes into the file, and what is said about it."""
    config = tmp_path / "depproxy.toml"
    config.write_text(text)
    found = call("configure", client, config=config)
    assert found.exit_code == 0
    assert found.stderr.startswith("# ")
    assert found.stderr.count("\n") == 1
    return found.stdout, found.stderr


def test_docker(tmp_path: Path) -> None:
    text, then = snippet(tmp_path, "docker", LOCAL)
    assert json.loads(text) == {"registry-mirrors": ["http://127.0.0.1:5000"]}
    assert "/etc/docker/daemon.json" in then
    assert "systemctl reload docker" in then
    assert json.loads(snippet(tmp_path, "docker", REMOTE)[0]) == {
        "registry-mirrors": ["http://cache.example:5000"],
        "insecure-registries": ["cache.example:5000"],
    }
    # Docker asks mirrors for Docker Hub's images alone, which are not what this one has at its root.
    assert json.loads(snippet(tmp_path, "docker", SECURE)[0]) == {
        "registry-mirrors": ["https://cache.example/docker.io"]
    }


def hosts(text: str) -> dict[str, Any]:
    """The files by their directories."""
    found = {}
    for part in text.split("# /etc/containerd/certs.d/")[1:]:
        first, _, rest = part.partition("\n")
        found[first.removesuffix("/hosts.toml")] = tomllib.loads(rest)
    return found


def test_containerd(tmp_path: Path) -> None:
    host = {"capabilities": ["pull", "resolve"], "dial_timeout": "2s"}
    text, then = snippet(tmp_path, "containerd", LOCAL)
    assert hosts(text) == {
        "docker.io": {"server": "https://registry-1.docker.io", "host": {"http://127.0.0.1:5000": host}},
        "ghcr.io": {"server": "https://ghcr.io", "host": {"http://127.0.0.1:5000": host}},
    }
    assert "config_path" in then
    assert list(hosts(snippet(tmp_path, "containerd", SECURE)[0])) == ["ghcr.io", "other.example:5001", "docker.io"]


def test_podman(tmp_path: Path) -> None:
    text, then = snippet(tmp_path, "podman", LOCAL)
    assert tomllib.loads(text) == {
        "registry": [
            {"location": "docker.io", "mirror": [{"location": "127.0.0.1:5000", "insecure": True}]},
            {"location": "ghcr.io", "mirror": [{"location": "127.0.0.1:5000/github", "insecure": True}]},
        ]
    }
    assert "/etc/containers/registries.conf.d/depproxy.conf" in then
    assert tomllib.loads(snippet(tmp_path, "podman", SECURE)[0]) == {
        "registry": [
            {"location": "ghcr.io", "mirror": [{"location": "cache.example"}]},
            {"location": "other.example:5001", "mirror": [{"location": "cache.example/other"}]},
            {"location": "docker.io", "mirror": [{"location": "cache.example/docker.io"}]},
        ]
    }


def test_buildkit(tmp_path: Path) -> None:
    text, then = snippet(tmp_path, "buildkit", LOCAL)
    assert tomllib.loads(text) == {
        "registry": {
            "docker.io": {"mirrors": ["127.0.0.1:5000"]},
            "ghcr.io": {"mirrors": ["127.0.0.1:5000/github"]},
            "127.0.0.1:5000": {"http": True},
        }
    }
    assert "buildkitd.toml" in then
    assert "cache.example" not in tomllib.loads(snippet(tmp_path, "buildkit", SECURE)[0])["registry"]


def test_kaniko(tmp_path: Path) -> None:
    assert snippet(tmp_path, "kaniko", LOCAL)[0].splitlines() == [
        "--registry-mirror=127.0.0.1:5000",
        "--registry-map=ghcr.io=127.0.0.1:5000/github",
        "--insecure-registry=127.0.0.1:5000",
    ]
    assert snippet(tmp_path, "kaniko", SECURE)[0].splitlines() == [
        "--registry-map=ghcr.io=cache.example",
        "--registry-map=other.example:5001=cache.example/other",
        "--registry-mirror=cache.example/docker.io",
    ]


def test_a_name_with_a_port_needs_a_prefix(tmp_path: Path) -> None:
    """No client takes a colon in a path; so there is nothing to print for it."""
    for client in ("containerd", "podman", "buildkit", "kaniko"):
        assert "registry.example:5001" not in snippet(tmp_path, client, SECURE)[0]


def test_without_a_file(tmp_path: Path) -> None:
    """As for the service that was started without one. A file that is named must be there, and be right."""
    if not Path("/etc/depproxy/depproxy.toml").exists():
        assert json.loads(call("configure", "docker").stdout) == {"registry-mirrors": ["http://127.0.0.1:5000"]}
    nothing = tmp_path / "nothing.toml"
    assert "cannot be read" in refused(call("configure", "docker", config=nothing))
    nothing.write_text("[serve]")
    assert "serve: unknown key" in refused(call("configure", "docker", config=nothing))
    assert "'rkt' is not one of" in misused(call("configure", "rkt"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    found = call("completion", shell)
    assert found.exit_code == 0
    assert "_DEPPROXY_COMPLETE" in found.stdout


def test_bash_completes(tmp_path: Path) -> None:
    """By the script, in a real bash."""
    script = tmp_path / "completion"
    script.write_text(call("completion", "bash").stdout)
    bash = shutil.which("bash")
    assert bash is not None
    words = "COMP_WORDS=(depproxy ci-v); COMP_CWORD=1"
    program = f'source {script}; {words}; _depproxy_completion depproxy; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run(
        [bash, "--norc", "-c", program],
        env={**os.environ, "PATH": f"{directory_with_depproxy(tmp_path)}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["ci-variables"], done.stderr


def directory_with_depproxy(directory: Path) -> Path:
    """The command, as an installation makes it."""
    made = directory / "depproxy"
    made.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n"
        'from depproxy.cli import main\nmain(prog_name="depproxy")\n'
    )
    made.chmod(0o755)
    return directory
