"""`depproxy warm` and [[warm]]: what they cost upstream, and that clients need no upstream after them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import images, wire
from tests.e2e.engines import Skopeo
from tests.e2e.processes import Process, run, wait_until
from tests.e2e.servers import ROOT, Hub, Proxy, Registry

MIB = images.MIB
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


def command(proxy: Proxy, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "depproxy.cli", "warm", "--socket", str(proxy.data / "admin.sock"), *arguments]


def warm(proxy: Proxy, *arguments: str, told: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return run(*command(proxy, *arguments), environment=ENVIRONMENT, told=told, check=check)


def begin(proxy: Proxy, place: Path, *arguments: str) -> Process:
    """Run the command beside the test."""
    return Process("warm", command(proxy, *arguments), place / "warm.log", ENVIRONMENT)


def grown(proxy: Proxy, size: int) -> bool:
    """Whether a file that is being filled has so many bytes."""
    return any(path.stat().st_size >= size for path in (proxy.data / "growing").rglob("*") if path.is_file())


def blob_of(proxy: Proxy, name: str, layer: images.Blob) -> wire.Answer:
    return wire.blob(proxy.repository(name), layer.digest)


@pytest.mark.parametrize("oci", [False, True])
def test_one_platform_of_an_index(proxy: Proxy, hub: Hub, registry: Registry, place: Path, oci: bool) -> None:
    name = f"team/warm-{oci}".lower()
    index = registry.push(name, images.multiarch(f"warm-{oci}", oci=oci), "1")
    done = warm(proxy, f"{name}:1")
    native = index.manifests[0]
    size = sum(len(blob.data) for blob in native.blobs)
    assert done.stdout.startswith(f"{name}:1: done, {size / 1024:.1f} KiB, {size / 1024:.1f} KiB fetched\n")
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 2, "GET blob": 2, "GET cdn": 2}
    hub.reset()
    assert warm(proxy, f"{name}:1").stdout.endswith("was there\n1 image is in the cache, 0 B fetched\n")
    assert warm(proxy, f"{name}@{index.digest}").stdout.endswith("1 image is in the cache, 0 B fetched\n")
    assert hub.cost() == {"HEAD manifest": 1}
    hub.down()
    skopeo = Skopeo(place / "skopeo")
    assert skopeo.copy(f"{proxy.host}/{name}:1").is_exactly(native)


def test_all_platforms(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    index = registry.push("team/warm-all", images.multiarch("warm-all", oci=True), "1")
    done = warm(proxy, "--json", "--platform", "all", "team/warm-all:1")
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 3, "GET blob": 4, "GET cdn": 4}
    assert steps[0] == {"event": "resolving", "image": "team/warm-all:1"}
    platforms = [f"linux/{architecture}" for architecture in sorted((images.NATIVE, images.FOREIGN))]
    assert (steps[1]["digest"], steps[1]["platforms"], steps[1]["layers"]) == (index.digest, platforms, 4)
    blobs = [blob for child in index.manifests for blob in child.blobs]
    ends = {step["digest"]: step["here"] for step in steps[:-1] if step["event"] == "layer"}
    assert ends == {blob.digest: len(blob.data) for blob in blobs}
    size = sum(len(blob.data) for blob in blobs)
    assert steps[-2] == {
        "event": "done",
        "image": "team/warm-all:1",
        "digest": index.digest,
        "size": size,
        "fetched": size,
    }
    assert steps[-1] == {"images": 1, "failed": 0, "fetched": size, "done": True}
    hub.down()
    assert Skopeo(place / "skopeo").copy(f"{proxy.host}/team/warm-all:1", "--all").is_exactly(index)


def test_a_group_of_its_own(start_proxy: Callable[..., Proxy], hub: Hub, registry: Registry) -> None:
    """It may pull what was warmed for it; bytes that are here for another cost one HEAD."""
    proxy = start_proxy("[groups.acme]\n")
    image = registry.push("team/warm-group", images.sized(1000, "warm-group"), "1")
    warm(proxy, "team/warm-group:1", "--group", "Acme")
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}
    hub.reset()
    warm(proxy, "docker.io/team/warm-group:1")
    assert hub.cost() == {"HEAD manifest": 1}
    assert blob_of(proxy, "team/warm-group", image.layers[0]).outcome == "hit"


def test_a_list_of_which_some_fail(proxy: Proxy, registry: Registry) -> None:
    registry.push("team/warm-list", images.multiarch("warm-list"), "1")
    listed = "# images\n\nteam/warm-list:1\nteam/warm-list:2  # not there\nquay.io/org/app\n"
    done = warm(proxy, "-f", "-", "--platform", f"linux/{images.FOREIGN}", told=listed, check=False)
    assert done.returncode == 1
    assert "team/warm-list:1: done, " in done.stdout
    assert "team/warm-list:2: failed\n" in done.stdout
    assert "1 image is in the cache, " in done.stdout
    first, *failures = done.stderr.splitlines()
    assert first == "2 are not:"
    assert [line.partition(": ")[0] for line in failures] == ["  quay.io/org/app", "  team/warm-list:2"]
    assert 'quay.io is no configured upstream: add [upstreams."quay.io"]' in failures[0]
    done = warm(proxy, "--platform", "linux/s390x,linux/arm64", "team/warm-list:1", check=False)
    assert "has no linux/s390x; it has linux/" in done.stderr
    done = warm(proxy, "--platform", "s390x", "team/warm-list:1", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "'s390x' is no platform such as linux/amd64 or linux/arm/v7\n"


def test_it_goes_on_after_a_power_cut(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    image = registry.push("team/warm-cut", images.sized(8 * MIB, "warm-cut"), "1")
    hub.fault("cdn", method="GET", gate=3 * MIB)
    process = begin(proxy, place, "team/warm-cut:1")
    process.wait_for(lambda: grown(proxy, 3 * MIB), "three MiB")
    proxy.kill()
    assert process.wait() == 1
    assert "ended its answer too early" in process.log
    hub.release()
    proxy.restart()
    hub.reset()
    done = warm(proxy, "team/warm-cut:1")
    fetched = [seen["range"] for seen in hub.requests() if seen["kind"] == "cdn"]
    assert fetched == [f"bytes={3 * MIB}-"]
    assert hub.cost()["GET blob"] == 1
    assert f"{(len(image.layers[0].data) - 3 * MIB) / MIB:.1f} MiB fetched" in done.stdout
    assert blob_of(proxy, "team/warm-cut", image.layers[0]).body == image.layers[0].data


def test_clients_that_pull_at_the_same_time(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    """One fetch for all, whoever comes first."""
    image = registry.push("team/warm-both", images.sized(4 * MIB, "warm-both"), "1")
    base = proxy.repository("team/warm-both")
    assert wire.manifest(base, "1").status == 200
    layer = image.layers[0]
    hub.fault("cdn", method="GET", gate=1000)
    with wire.Download(f"{base}/blobs/{layer.digest}") as early:
        process = begin(proxy, place, "team/warm-both:1")
        wait_until(lambda: proxy.metric("depproxy_fill_followers") == 2, "the command waits with the client")
        with wire.Download(f"{base}/blobs/{layer.digest}") as late:
            hub.release()
            assert late.equals(layer.data)
        assert early.equals(layer.data)
    assert process.wait() == 0
    assert hub.cost() == {"HEAD manifest": 2, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}


def test_the_command_is_given_up(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    """Ctrl-C: the layers under way are completed, and nothing more is begun."""
    count = 9
    layers = [images.layer({"noise": images.noise(MIB, f"given-up {number}")}, compress=0) for number in range(count)]
    registry.push("team/warm-left", images.image(layers), "1")
    hub.fault("cdn", method="GET", gate=0)
    process = begin(proxy, place, "team/warm-left:1")
    process.wait_for(lambda: proxy.metric("depproxy_fills_active") == 6, "six fills")
    process.signal(signal.SIGINT)
    assert process.wait() == 1
    wait_until(lambda: proxy.metric("depproxy_fill_followers") == 0, "nobody waits")
    hub.release()
    proxy.idle()
    assert hub.cost()["GET blob"] == 6
    assert proxy.metric("depproxy_fills_total", outcome="stored") == 6


def test_bars_on_a_terminal(proxy: Proxy, registry: Registry) -> None:
    image = registry.push("team/warm-bars", images.sized(MIB, "warm-bars"), "1")
    here, there = os.openpty()
    argv = command(proxy, "team/warm-bars:1", "team/warm-bars:2")
    environment = {**os.environ, **ENVIRONMENT, "TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(argv, stdout=there, stderr=subprocess.PIPE, env=environment, text=True) as process:
        os.close(there)
        shown = b""
        try:
            while data := os.read(here, 65536):
                shown += data
        except OSError:
            # How a terminal without a writer ends.
            pass
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert process.stderr.read().startswith("1 is not:\n  team/warm-bars:2: docker.io: ")
    os.close(here)
    text = shown.decode()
    assert image.layers[0].digest[7:19] in text
    assert "team/warm-bars:1: done, 1.0 MiB" in text
    assert "team/warm-bars:2: failed" in text


def test_a_list_on_a_schedule(start_proxy: Callable[..., Proxy], hub: Hub, registry: Registry, place: Path) -> None:
    """A reload brings the list in, and its next minute warms it."""
    image: Any = registry.push("team/warm-cron", images.sized(1000, "warm-cron"), "1")
    proxy = start_proxy()
    hub_table = f'[upstreams."docker.io"]\nurl = "{hub.url}"\n'
    proxy.configure(f'{hub_table}[[warm]]\nimages = ["team/warm-cron:1"]\nschedule = "* * * * *"\n')
    proxy.process.signal(signal.SIGHUP)
    wait_until(lambda: proxy.metric("depproxy_warm_runs_total", outcome="done") >= 1, "a run", deadline=90)
    assert proxy.metric("depproxy_warmed_images_total", outcome="done") >= 1
    assert "warm[0]: 1 image warmed, " in proxy.log
    hub.down()
    assert Skopeo(place / "skopeo").copy(f"{proxy.host}/team/warm-cron:1").is_exactly(image)
