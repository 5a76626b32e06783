"""The process: start, stop, restart, power cut; its index by Redis; its status pages."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import images, wire
from tests.e2e.processes import Process, free_port, program, run, wait_until
from tests.e2e.pulls import pull
from tests.e2e.servers import ROOT, Hub, Proxy, Registry

StartProxy = Callable[..., Proxy]
MIB = images.MIB
# Twisted ends by the signal that stopped it, once everything is stopped; systemd takes both for success.
ENDED_WELL = (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def image(registry: Registry) -> images.Manifest:
    return registry.push("team/service", images.sized(8 * MIB, "service"), "1")


class Redis:
    """A redis-server of the test's own, on a TCP port and a unix socket."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self._directory = directory
        self._options = options
        self.socket = directory / "sock"
        self.process = self.start()

    def start(self) -> Process:
        argv = [program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        argv += ["--unixsocket", str(self.socket), "--dir", str(self._directory), *self._options]
        self.process = Process("redis-server", argv, self._directory / "log")
        self.process.wait_for(lambda: self.ask("PING", check=False) == "PONG", "PING")
        return self.process

    def ask(self, *command: str, check: bool = True) -> str:
        return run("redis-cli", "-p", str(self.port), *command, check=check).stdout.strip()


@pytest.fixture
def start_redis(place: Path) -> Iterator[Callable[..., Redis]]:
    started: list[Redis] = []

    def start(*options: str) -> Redis:
        started.append(Redis(place / f"redis{len(started)}", *options))
        return started[-1]

    yield start
    for redis in started:
        redis.process.stop()


def of_directory(directory: Path) -> list[str]:
    """The command lines of the processes that were started for ``directory``."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(directory) in line]


def test_restart_then_pull(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    """After a restart everything is still here: a pull costs one HEAD."""
    base = proxy.repository("team/service")
    assert pull(base, "1").is_exactly(image)
    proxy.idle()
    proxy.restart()
    hub.reset()
    second = pull(base, "1")
    assert second.is_exactly(image)
    assert set(second.outcomes) == {"hit"}
    assert hub.cost() == {"HEAD manifest": 1}


def test_power_cut_then_pull(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    """Killed without warning: what was stored is served; the index may ask again whether it may be."""
    base = proxy.repository("team/service")
    assert pull(base, "1").is_exactly(image)
    proxy.idle()
    proxy.kill()
    proxy.restart()
    hub.reset()
    assert pull(base, "1").is_exactly(image)
    assert "GET cdn" not in hub.cost()


def test_power_cut_in_mid_fill(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    """The bytes of an interrupted fill are not fetched again."""
    layer = image.layers[0]
    base = proxy.repository("team/service")
    wire.manifest(base, "1")
    hub.fault("cdn", gate=4 * MIB)
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        download.exactly(4 * MIB - 1)
        proxy.kill()
    hub.reset()
    proxy.restart()
    assert wire.blob(base, layer.digest).body == layer.data
    ranges = [seen["range"] for seen in hub.requests() if (seen["kind"], seen["method"]) == ("cdn", "GET")]
    assert ranges == [f"bytes={4 * MIB}-"]


def test_spoilt_leftover(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    """A power cut may leave wrong bytes: who is given them is cut off, and the next one gets the right ones."""
    layer = image.layers[0]
    base = proxy.repository("team/service")
    wire.manifest(base, "1")
    hub.fault("cdn", gate=4 * MIB)
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        download.exactly(4 * MIB - 1)
        proxy.kill()
    hub.reset()
    (leftover,) = (path for path in proxy.data.rglob("*") if path.is_file() and path.stat().st_size >= MIB)
    with leftover.open("r+b") as file:
        file.seek(1000)
        file.write(b"spoilt")
    proxy.restart()
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        try:
            assert download.rest() == layer.data
        except wire.CutShort:
            assert download.received < len(layer.data)
    proxy.idle()
    assert wire.blob(base, layer.digest).body == layer.data


def test_stop_lets_answers_end(start_proxy: StartProxy, hub: Hub, image: images.Manifest) -> None:
    """SIGTERM: no new connection, but the answer under way is finished. It ends well."""
    proxy = start_proxy()
    layer = image.layers[0]
    base = proxy.repository("team/service")
    wire.manifest(base, "1")
    hub.fault("cdn", gate=MIB)
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        proxy.terminate()
        wait_until(lambda: not listens(proxy.port), "the port is closed")
        hub.release()
        assert download.equals(layer.data)
    assert proxy.process.wait() in ENDED_WELL
    assert of_directory(proxy.directory) == []


def test_stop_does_not_wait_for_ever(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    """An answer that does not end within the drain time is aborted, not ended as if it were whole."""
    proxy.configure(f'[upstreams."docker.io"]\nurl = "{hub.url}"\n', server='drain_timeout = "200ms"')
    proxy.restart()
    layer = image.layers[0]
    base = proxy.repository("team/service")
    wire.manifest(base, "1")
    hub.fault("cdn", gate=MIB)
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        proxy.terminate()
        assert len(download.until_cut()) < len(layer.data)
    assert proxy.process.wait() in ENDED_WELL


def listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def by_arguments(place: Path, port: int, *options: str) -> Process:
    """depproxy without a configuration file."""
    argv = [str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=", "depproxy"]
    argv += ["--listen", f"tcp:{port}:interface=127.0.0.1", "--data", str(place / "data"), *options]
    return Process("depproxy", argv, place / "log", {"PYTHONPATH": str(ROOT)})


def test_without_a_file(hub: Hub, place: Path, image: images.Manifest) -> None:
    """The command line alone is enough."""
    port = free_port()
    process = by_arguments(place, port, "--upstream", f"docker.io={hub.url}")
    try:
        process.wait_for(lambda: listens(port), "its port")
        assert pull(f"http://127.0.0.1:{port}/v2/team/service", "1").is_exactly(image)
    finally:
        assert process.stop() in ENDED_WELL


def test_taken_port(proxy: Proxy, place: Path) -> None:
    """A depproxy that cannot listen ends, and says why."""
    second = by_arguments(place, proxy.port)
    assert second.wait() not in ENDED_WELL
    assert f"{proxy.port}" in second.log
    assert "in use" in second.log


def test_wrong_configuration(place: Path) -> None:
    """One line that names file, key and value stops the start; check-config says the same."""
    config = place / "wrong.toml"
    config.write_text('[cache]\nserve_stale = "soon"\n')
    bin_directory = Path(sys.executable).parent
    twistd = [str(bin_directory / "twistd"), "--nodaemon", "--pidfile=", "depproxy", "--config", str(config)]
    check = [sys.executable, "-m", "depproxy.cli", "check-config", str(config)]
    said = []
    for argv in (twistd, check):
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode != 0
        line = next(line for line in (done.stdout + done.stderr).splitlines() if str(config) in line and "soon" in line)
        assert "serve_stale" in line
        assert "Traceback" not in done.stderr
        said.append(line[line.index(str(config)) :])
    assert said[0] == said[1]


@pytest.mark.parametrize("scheme", ["redis", "unix"])
def test_redis_of_ones_own(
    start_proxy: StartProxy, start_redis: Callable[..., Redis], hub: Hub, image: images.Manifest, scheme: str
) -> None:
    redis = start_redis()
    where = f"127.0.0.1:{redis.port}" if scheme == "redis" else str(redis.socket)
    proxy = start_proxy(f'[index]\nurl = "{scheme}://{where}"\n')
    base = proxy.repository("team/service")
    assert pull(base, "1").is_exactly(image)
    proxy.idle()
    wait_until(lambda: redis.ask("DBSIZE") != "0", "keys are there")
    assert all(key.startswith("depproxy:") for key in redis.ask("KEYS", "*").splitlines())
    assert not any("redis-server" in line for line in of_directory(proxy.data))
    proxy.restart()
    hub.reset()
    assert pull(base, "1").is_exactly(image)
    assert hub.cost() == {"HEAD manifest": 1}


def test_redis_that_evicts(start_proxy: StartProxy, start_redis: Callable[..., Redis]) -> None:
    redis = start_redis("--maxmemory-policy", "allkeys-lru")
    proxy = start_proxy(f'[index]\nurl = "redis://127.0.0.1:{redis.port}"\n')
    assert "maxmemory-policy" in proxy.log


def test_redis_goes_and_comes(
    start_proxy: StartProxy, start_redis: Callable[..., Redis], hub: Hub, image: images.Manifest
) -> None:
    """Without its index depproxy still serves what is on disk, for upstream's word that it may."""
    redis = start_redis()
    proxy = start_proxy(f'[index]\nurl = "redis://127.0.0.1:{redis.port}"\n')
    base = proxy.repository("team/service")
    assert pull(base, "1").is_exactly(image)
    proxy.idle()
    redis.process.stop()
    hub.reset()
    assert pull(base, "1").is_exactly(image)
    assert "GET cdn" not in hub.cost()
    redis.start()
    wait_until(lambda: wire.fetch(f"{proxy.url}/readyz").status == 200, "ready again")
    assert pull(base, "1").is_exactly(image)


def test_private_redis_is_supervised(proxy: Proxy, image: images.Manifest) -> None:
    """Kill the private redis-server: another one comes, and it goes with depproxy."""
    base = proxy.repository("team/service")
    assert pull(base, "1").is_exactly(image)
    first = proxy.redis_pid()
    run("kill", "-KILL", str(first))
    second = wait_until(lambda: (proxy.redis_pid() or first) != first and proxy.redis_pid(), "another one")
    wait_until(lambda: wire.fetch(f"{proxy.url}/readyz").status == 200, "ready again")
    assert pull(base, "1").is_exactly(image)
    assert proxy.stop() in ENDED_WELL
    wait_until(lambda: not Path(f"/proc/{second}").exists(), "the private redis-server is gone")


def test_status_pages(proxy: Proxy, image: images.Manifest) -> None:
    for page in ("/healthz", "/readyz", "/metrics"):
        for method in ("GET", "HEAD"):
            assert wire.fetch(f"{proxy.url}{page}", method).status == 200
    base = proxy.repository("team/service")
    for _ in range(2):
        pull(base, "1")
        proxy.idle()
    for kind, outcome, count in (
        ("manifest", "miss", 2),  # a HEAD and a GET
        ("manifest", "hit", 2),
        ("blob", "miss", 2),
        ("blob", "hit", 2),
    ):
        assert proxy.metric("depproxy_requests_total", kind=kind, outcome=outcome) == count
    blobs = sum(len(blob.data) for blob in image.blobs)
    assert proxy.metric("depproxy_served_bytes_total", kind="blob") == 2 * blobs
    assert proxy.metric("depproxy_fetched_bytes_total", upstream="docker.io") == blobs
    assert proxy.metric("depproxy_fills_total", outcome="stored") == 2
    assert proxy.metric("depproxy_upstream_requests_total", upstream="docker.io", method="HEAD") >= 2
    wait_until(lambda: proxy.metric("depproxy_cache_blobs") == 3, "the store's size is told")
