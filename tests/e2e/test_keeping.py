"""The cache looks after itself, and is purged, while clients pull from it."""

from __future__ import annotations

import os
import signal
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from depproxy.access.passwords import hash_password
from tests.e2e import images, wire
from tests.e2e.engines import Docker
from tests.e2e.images import MIB
from tests.e2e.processes import wait_until
from tests.e2e.pulls import pull
from tests.e2e.servers import Hub, Proxy, Registry

PASSWORD = "correct horse"
GROUPS = f"""
[users.alice]
password = "{hash_password(PASSWORD)}"
[groups.acme]
anonymous = ["127.0.0.0/8"]
members = {{ alice = "owner" }}
[groups.other]
anonymous = ["127.0.0.0/8"]
"""
OWNER = {"Authorization": "Basic " + b64encode(f"alice:{PASSWORD}".encode()).decode()}


def purge(proxy: Proxy, group: str, query: str = "", headers: dict[str, str] = OWNER) -> wire.Answer:
    return wire.fetch(f"{proxy.url}/api/v4/groups/{group}/dependency_proxy/cache{query}", "DELETE", headers)


def purged(proxy: Proxy, what: str, times: int = 1) -> None:
    """Wait for what the log says of it."""
    wait_until(lambda: proxy.log.count(f"purged {what}: ") == times, f"the purge of {what}")


def stored(proxy: Proxy) -> dict[str, int]:
    """The files of blobs, with their sizes."""
    found = {}
    for path in (proxy.data / "blobs").rglob("*"):
        if path.is_file():
            found[f"sha256:{path.name}"] = path.stat().st_size
    return found


def counted(proxy: Proxy) -> tuple[float, float]:
    """The number of blobs, and their bytes, by the metrics."""
    return proxy.metric("depproxy_cache_blobs"), proxy.metric("depproxy_cache_bytes")


@pytest.fixture
def proxy(start_proxy: Callable[..., Proxy]) -> Proxy:
    return start_proxy(GROUPS)


def test_purging_a_group(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    image = registry.push("team/purged", images.busybox("purging a group"), "1")
    for group in ("acme", "other"):
        assert pull(proxy.group("team/purged", group), "1").is_exactly(image)
    proxy.idle()
    hub.reset()
    answer = purge(proxy, "acme")
    assert (answer.status, answer.document) == (202, {"group": "acme", "image": None})
    purged(proxy, "group acme")
    # The other one has everything still, and the tag costs what it always costs.
    pulled = pull(proxy.group("team/purged", "other"), "1")
    assert pulled.is_exactly(image)
    assert set(pulled.outcomes) == {"hit"}
    assert hub.cost() == {"HEAD manifest": 1}
    # This one has to prove again that it may have the bytes that are here.
    assert pull(proxy.group("team/purged", "acme"), "1").is_exactly(image)
    assert hub.cost() == {"HEAD manifest": 2}
    purge(proxy, "acme")
    purged(proxy, "group acme", 2)
    assert purge(proxy, "other").status == 403
    assert purge(proxy, "acme", headers={}).status == 401
    assert purge(proxy, "acme").status == 404


def test_purging_the_last_of_it(proxy: Proxy, hub: Hub, registry: Registry, docker: Docker) -> None:
    """The bytes are gone, and docker pulls them anew."""
    first, second = (
        registry.push("team/last", images.busybox(f"purging the last of it {tag}"), tag) for tag in ("1", "2")
    )
    for tag, image in (("1", first), ("2", second)):
        assert pull(proxy.group("team/last", "acme"), tag).is_exactly(image)
    proxy.idle()
    shared = {blob.digest for blob in first.layers} & {blob.digest for blob in second.layers}
    assert len(shared) == 1
    answer = purge(proxy, "acme", "?image=team/last:1")
    assert (answer.status, answer.document) == (202, {"group": "acme", "image": "team/last:1"})
    purged(proxy, "docker.io/team/last:1 of group acme")
    assert stored(proxy).keys() == second.everything().keys()
    hub.reset()
    docker.pull(name := f"{proxy.host}/acme/dependency_proxy/containers/team/last:1")
    assert docker.inspect(name)["Id"] == first.config.digest
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}
    assert purge(proxy, "acme", "?image=team/last").status == 202
    purged(proxy, "docker.io/team/last of group acme")
    assert stored(proxy) == {}
    assert proxy.metric("depproxy_cache_bytes") == 0


def test_files_that_were_cut(proxy: Proxy, hub: Hub, registry: Registry, docker: Docker) -> None:
    """As by a disk or a hand; one is found by who pulls, one by the sweep after a start."""
    image = registry.push("team/cut", images.busybox("files that were cut"), "1")
    name = f"{proxy.host}/acme/dependency_proxy/containers/team/cut:1"
    assert pull(proxy.group("team/cut", "acme"), "1").is_exactly(image)
    proxy.idle()
    paths = [
        proxy.data / "blobs" / "sha256" / hexed[:2] / hexed
        for hexed in (blob.digest.removeprefix("sha256:") for blob in image.layers)
    ]
    os.truncate(paths[0], 1000)
    hub.reset()
    docker.pull(name)
    assert docker.inspect(name)["Id"] == image.config.digest
    assert hub.cost() == {"HEAD manifest": 1, "GET blob": 1, "GET cdn": 1}
    proxy.idle()
    proxy.process.stop()
    os.truncate(paths[1], 0)
    proxy.restart()
    wait_until(lambda: not paths[1].exists(), "the sweep")
    assert proxy.log.count("is damaged, and removed") == 2
    assert pull(proxy.group("team/cut", "acme"), "1").is_exactly(image)
    proxy.idle()
    assert proxy.metric("depproxy_removed_blobs_total", why="damaged") == 1


def test_who_downloads_what_is_purged(proxy: Proxy, registry: Registry) -> None:
    image = registry.push("team/reading", images.sized(20 * MIB, "who downloads"), "1")
    base = proxy.group("team/reading", "acme")
    assert pull(base, "1").is_exactly(image)
    proxy.idle()
    (layer,) = image.layers
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        download.some()
        purge(proxy, "acme")
        purged(proxy, "group acme")
        assert stored(proxy) == {}
        assert layer.data.endswith(download.rest())


def test_all_of_it_while_clients_pull(start_proxy: Callable[..., Proxy], hub: Hub, registry: Registry) -> None:
    """Evictions, a quota and purges one after the other, and every pull is right to the last byte."""
    pushed = [registry.push("team/busy", images.sized(12 * MIB, f"busy {n}"), str(n)) for n in range(12)]
    limits = '[storage]\npath = "{}"\nmax_size = "100 MiB"\n'
    proxy = start_proxy(GROUPS.replace("[groups.other]\n", '[groups.other]\nquota = "100 MiB"\n'))
    config = proxy.directory / "depproxy.toml"
    config.write_text(config.read_text().replace(f'[storage]\npath = "{proxy.data}"\n', limits.format(proxy.data)))
    over = Event()

    def work(group: str, first: int) -> int:
        count = 0
        while not over.is_set():
            number = (first + count) % len(pushed)
            assert pull(proxy.group("team/busy", group), str(number)).is_exactly(pushed[number])
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, group, n) for n, group in enumerate(("acme", "other", "acme", "other"))]
        try:
            wait_until(lambda: stored(proxy), "the first blobs")
            for round_ in range(4):
                # The limit counts from the first reload on.
                os.kill(proxy.process.pid, signal.SIGHUP)
                evicted = proxy.metric("depproxy_removed_blobs_total", why="evicted")
                wait_until(
                    lambda: proxy.metric("depproxy_removed_blobs_total", why="evicted") > evicted,  # noqa: B023
                    "an eviction",
                )
                assert purge(proxy, "acme", "?image=team/busy" if round_ % 2 else "").status == 202
        finally:
            over.set()
        assert min(worker.result() for worker in workers) > 0
    proxy.idle()
    purge(proxy, "acme")
    # Evictions and purges may still be under way.
    wait_until(lambda: counted(proxy) == (len(sizes := stored(proxy)), sum(sizes.values())), "the sums to be right")
    wait_until(lambda: sum(stored(proxy).values()) <= 100 * MIB, "what is above the limit to go")
    assert proxy.metric("depproxy_errors_total") == 0
