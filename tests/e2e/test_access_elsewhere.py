"""Logins with accounts that live elsewhere, by a real Docker client: a GitLab's, and ID tokens of CI jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import images
from tests.e2e.engines import Ctr, Docker, Podman, Skopeo
from tests.e2e.processes import Process
from tests.e2e.servers import ROOT, Hub, Proxy, Registry
from tests.oidc_issuer import AUDIENCE

CONFIG = """
[mirror]
anonymous = []
[access.gitlab]
url = "{gitlab}"
token_file = "{token_file}"
[[access.oidc]]
issuer = "{issuer}"
audience = "{audience}"
[[access.oidc.rules]]
claims = {{ namespace_path = "acme" }}
group = "{{namespace_path}}"
[[access.oidc.rules]]
claims = {{ repository_owner = "Acme", ref = "refs/heads/main" }}
group = "acme"
[groups.acme]
"""
KINDS = (
    "GitLab's personal token",
    "GitLab's job token",
    "GitLab's deploy token",
    "ID token of GitLab",
    "ID token of GitHub",
)


@pytest.fixture
def elsewhere(place: Path) -> Iterator[Any]:
    argv = [sys.executable, "-m", "tests.e2e.elsewhere", str(place)]
    process = Process("elsewhere", argv, place / "elsewhere.log", {"PYTHONPATH": str(ROOT)})
    process.wait_for(lambda: "\n" in process.log, "what it serves")
    yield json.loads(process.log.splitlines()[0])
    process.stop()


@pytest.fixture
def proxy(start_proxy: Callable[..., Proxy], elsewhere: Any) -> Proxy:
    return start_proxy(CONFIG.format(audience=AUDIENCE, **elsewhere))


def test_docker(proxy: Proxy, docker: Docker, hub: Hub, registry: Registry, elsewhere: Any) -> None:
    image = registry.push("team/elsewhere", images.busybox("elsewhere"), "1")
    name = f"{proxy.host}/acme/dependency_proxy/containers/team/elsewhere:1"
    assert set(elsewhere["logins"]) == set(KINDS)
    for kind, login in elsewhere["logins"].items():
        docker.login(proxy.host, *login)
        docker.pull(name)
        assert docker.inspect(name)["Id"] == image.config.digest, kind
        docker("image", "rm", name)
        docker("logout", proxy.host)
    proxy.idle()
    # The first fetched it; each of the others cost a HEAD.
    assert hub.cost() == {"HEAD manifest": len(KINDS), "GET manifest": 1, "GET blob": 3, "GET cdn": 3}


def test_podman_skopeo_and_ctr(proxy: Proxy, ctr: Ctr, registry: Registry, elsewhere: Any, place: Path) -> None:
    image = registry.push("team/elsewhere", images.busybox("elsewhere, by others"), "2")
    name = f"{proxy.host}/acme/dependency_proxy/containers/team/elsewhere:2"
    podman, skopeo = Podman(place / "podman"), Skopeo(place / "skopeo")
    for kind, (user, password) in elsewhere["logins"].items():
        podman.pull(name, "--creds", f"{user}:{password}")
        assert podman.inspect(name)["Id"] == image.config.digest.removeprefix("sha256:"), kind
        podman("image", "rm", name)
        assert skopeo.copy(name, "--src-creds", f"{user}:{password}").is_exactly(image), kind
        ctr.pull(name, "--plain-http", "--user", f"{user}:{password}")
        assert ctr.holds(image.digest), kind
        ctr.clear()


def test_strangers(proxy: Proxy, docker: Docker, hub: Hub, elsewhere: Any) -> None:
    """Known there, and without a role here; or not meant by any rule. GitLab tells a token its user's number alone."""
    name = f"{proxy.host}/acme/dependency_proxy/containers/team/elsewhere:1"
    for kind, login in elsewhere["strangers"].items():
        done = docker.login(proxy.host, *login, check=False)
        if kind.startswith("GitLab"):
            assert done.returncode == 0, done.stderr
            done = docker("pull", name, check=False)
            docker("logout", proxy.host)
            assert "group acme: GitLab user 101 has no role here" in " ".join(done.stderr.split())
        else:
            assert done.returncode != 0
            assert "unauthorized" in done.stderr
    assert hub.counts() == {}
    assert "glpat" not in proxy.log
    assert "eyJ" not in proxy.log
