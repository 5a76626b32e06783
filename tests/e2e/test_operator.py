"""The operator's command before a running service: its own process on one end, and the service's on the other."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from depproxy import __version__
from tests.e2e import images, wire
from tests.e2e.engines import Docker
from tests.e2e.processes import Failed, run, wait_until
from tests.e2e.pulls import pull
from tests.e2e.servers import ROOT, Hub, Proxy, Registry

StartProxy = Callable[..., Proxy]
MIB = images.MIB
PREVIEW = "ratelimitpreview/test"


@pytest.fixture(scope="module")
def image(registry: Registry) -> images.Manifest:
    return registry.push("team/operated", images.sized(8 * MIB, "operated"), "1")


def depproxy(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as an operator of this service gives it."""
    return subprocess.run(
        [sys.executable, "-m", "depproxy.cli", *arguments, "--config", str(proxy.directory / "depproxy.toml")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(proxy: Proxy, *arguments: str) -> str:
    done = depproxy(proxy, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def status(proxy: Proxy) -> Any:
    return json.loads(told(proxy, "status", "--json"))


def refused(proxy: Proxy, *arguments: str) -> str:
    done = depproxy(proxy, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_status_during_a_slow_fill(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    layer, base = image.layers[0], proxy.repository("team/operated")
    wire.manifest(base, "1")
    hub.fault("cdn", gate=4 * MIB)
    address = f"{base}/blobs/{layer.digest}"
    with wire.Download(address) as first, wire.Download(address) as second:
        first.exactly(4 * MIB - 1)
        second.exactly(4 * MIB - 1)
        (fill,) = status(proxy)["fills"]
        assert fill.pop("seconds") > 0
        assert fill == {
            "digest": layer.digest,
            "upstream": "docker.io",
            "repository": "team/operated",
            "bytes": 4 * MIB,
            "size": len(layer.data),
            "waiters": 2,
        }
        (line,) = (line for line in told(proxy, "status").splitlines() if layer.digest in line)
        assert line.split()[:6] == ["docker.io/team/operated", "4.0", "MiB", "8.0", "MiB", "50"]
        hub.release()
        rest = layer.data[4 * MIB - 1 :]
        assert first.rest() == second.rest() == rest
    proxy.idle()
    found = status(proxy)
    assert found["fills"] == []
    assert (found["requests"]["blob"]["miss"], found["requests"]["blob"]["joined"]) == (1, 1)
    assert found["cache"]["bytes"] >= len(layer.data)
    assert (found["version"], found["listeners"]) == (__version__, [proxy.host])
    assert found["upstreams"][0]["last_success"] is not None
    assert found["upstreams"][0]["rate_limits"][0]["limit"] == 100


def test_status_while_redis_is_stopped(proxy: Proxy, image: images.Manifest) -> None:
    """Stopped, not gone: it takes connections, and answers nothing."""
    assert pull(proxy.repository("team/operated"), "1").is_exactly(image)
    proxy.idle()
    redis = proxy.redis_pid()
    assert redis is not None
    os.kill(redis, signal.SIGSTOP)
    try:
        found = status(proxy)
        assert found["index"]["reachable"] is False
        assert (found["cache"]["bytes"], found["cache"]["blobs"]) == (None, None)
        assert found["requests"]["manifest"]["miss"] > 0
        assert "index      cannot be reached: " in told(proxy, "status")
    finally:
        os.kill(redis, signal.SIGCONT)
    wait_until(lambda: status(proxy)["index"]["reachable"], "Redis is back")
    assert status(proxy)["cache"]["blobs"] > 0


def test_status_while_upstream_is_down(proxy: Proxy, hub: Hub) -> None:
    hub.down()
    assert wire.manifest(proxy.repository("team/operated"), "2").status == 504
    (upstream,) = status(proxy)["upstreams"]
    assert upstream["last_failure"] is not None
    assert upstream["held_off"] > 0
    assert f"docker.io failed last with: {upstream['failure']}\n" in told(proxy, "status")


def test_rate_limit(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    """One HEAD, which costs nothing of what it asks about."""
    registry.push(PREVIEW, images.sized(1, "preview"), "latest")
    limit = {"source": "127.0.0.1", "limit": 100, "remaining": 100, "window": 21600}
    found = json.loads(told(proxy, "ratelimit", "--json"))
    assert found == {"upstream": "docker.io", "username": None, "asked": True, "rate_limits": [limit]}
    assert hub.cost() == {"HEAD manifest": 1}
    lines = [line.split() for line in told(proxy, "ratelimit", "docker.io").splitlines()]
    assert lines == [["docker.io"], ["LEFT", "OF", "IN", "COUNTED", "FOR"], ["100", "100", "6h", "127.0.0.1"]]


def test_rate_limit_of_others(start_proxy: StartProxy, registry: Registry) -> None:
    """They are not asked; a plain registry has no limits to tell of either."""
    proxy = start_proxy(f'[upstreams."plain.example"]\nurl = "{registry.url}"\n')
    silent = "plain.example has said nothing about limits since depproxy was started.\n"
    assert told(proxy, "ratelimit", "plain.example") == silent
    assert "'quay.io' is no configured upstream; there are " in refused(proxy, "ratelimit", "quay.io")


def test_rate_limit_of_a_hub_that_is_down(proxy: Proxy, hub: Hub) -> None:
    hub.down()
    assert refused(proxy, "ratelimit").startswith("docker.io: ")


def test_the_socket_comes_and_goes_with_the_service(proxy: Proxy) -> None:
    path = proxy.data / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    proxy.kill()
    # Of a process that was killed.
    assert path.is_socket()
    assert refused(proxy, "status").startswith(f"{path}: no depproxy is running there; ")
    proxy.restart()
    assert status(proxy)["pid"] == proxy.process.pid
    proxy.stop()
    assert not path.exists()
    assert refused(proxy, "status").startswith(f"{path}: no depproxy is running there; ")


def test_the_socket_of_a_living_service_is_not_taken(proxy: Proxy, start_proxy: StartProxy) -> None:
    with pytest.raises(Failed, match=r"admin\.sock: is in use by another process"):
        start_proxy(server=f'admin_socket = "{proxy.data}/admin.sock"')
    assert status(proxy)["pid"] == proxy.process.pid


def test_status_while_clients_are_drained(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    layer, base = image.layers[0], proxy.repository("team/operated")
    wire.manifest(base, "1")
    hub.fault("cdn", gate=4 * MIB)
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        download.exactly(4 * MIB - 1)
        proxy.terminate()
        wait_until(lambda: status(proxy)["state"] == "stopping", "it is stopping")
        assert status(proxy)["fills"][0]["waiters"] == 1
        hub.release()
        assert download.rest() == layer.data[4 * MIB - 1 :]
    proxy.process.wait()


def test_what_docker_is_configured_with(
    docker: Docker, proxy: Proxy, hub: Hub, registry: Registry, place: Path
) -> None:
    """The snippet as it is printed makes a real engine pull through this service."""
    image = registry.push("library/configured", images.busybox("configured"), "1")
    printed = depproxy(proxy, "configure", "docker")
    assert printed.returncode == 0
    assert "/etc/docker/daemon.json" in printed.stderr
    docker.configure(printed.stdout)
    docker.pull("configured:1")
    assert docker.inspect("configured:1")["RepoDigests"][0].endswith(f"@{image.digest}")
    assert proxy.metric("depproxy_requests_total", kind="manifest", outcome="miss") > 0


def test_what_a_ci_is_given(start_proxy: StartProxy, registry: Registry) -> None:
    """An image by the prefix that is printed."""
    registry.push("library/prefixed", images.sized(1, "prefixed"), "1")
    proxy = start_proxy('[groups."acme/tools"]\nanonymous = ["127.0.0.0/8"]\n')
    printed = depproxy(proxy, "ci-variables", "--group", "acme/tools").stdout
    variables = dict(line.split("=", 1) for line in printed.splitlines())
    prefix = variables["CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX"]
    server = variables["CI_DEPENDENCY_PROXY_SERVER"]
    assert prefix.startswith(f"{server}/")
    inspected = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{prefix}/prefixed:1")
    assert json.loads(inspected.stdout)["layers"]
