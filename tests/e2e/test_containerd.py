"""containerd's own client, with depproxy as the mirror in a hosts.toml."""

from __future__ import annotations

import pytest

from tests.e2e import images
from tests.e2e.engines import Ctr
from tests.e2e.servers import Hub, Proxy, Registry


def test_cold_warm_and_moved(ctr: Ctr, proxy: Proxy, hub: Hub, registry: Registry) -> None:
    """ctr pull and run: cold, warm, after the tag moved, after depproxy restarted, and with upstream down."""
    ctr.mirror("docker.io", proxy.url)
    name = "docker.io/library/ctr-runnable:1"
    old = registry.push("library/ctr-runnable", images.busybox("ctr old", oci=True), "1")
    ctr.pull(name)
    for digest, data in old.everything().items():
        assert ctr.content(digest) == data
    assert ctr.run(name, "/bin/busybox", "cat", "/note") == "ctr old"
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}
    proxy.idle()

    ctr.clear()
    hub.reset()
    ctr.pull(name)
    assert hub.cost() == {"HEAD manifest": 1}

    new = registry.push("library/ctr-runnable", images.busybox("ctr new", oci=True), "1")
    ctr.clear()
    hub.reset()
    ctr.pull(name)
    for digest, data in new.everything().items():
        assert ctr.content(digest) == data
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}
    proxy.idle()

    proxy.restart()
    ctr.clear()
    hub.reset()
    ctr.pull(name)
    assert hub.cost() == {"HEAD manifest": 1}

    ctr.clear()
    hub.down()
    ctr.pull(name)
    assert ctr.content(new.digest) == new.body


@pytest.mark.parametrize("oci", [False, True])
def test_other_architecture(ctr: Ctr, proxy: Proxy, hub: Hub, registry: Registry, oci: bool) -> None:
    """The other platform's pull after the native one: the same index, its own image, and nothing else."""
    index = registry.push("library/ctr-multi", images.multiarch(f"ctr-{oci}", oci=oci), f"oci-{oci}")
    ctr.mirror("docker.io", proxy.url)
    native, foreign = index.manifests
    for architecture, child, other in (
        (images.NATIVE, native, foreign),
        (images.FOREIGN, foreign, native),
    ):
        ctr.pull(f"docker.io/library/ctr-multi:oci-{oci}", "--platform", f"linux/{architecture}")
        for digest, data in ({index.digest: index.body} | child.everything()).items():
            assert ctr.content(digest) == data
        assert not ctr.holds(other.layers[0].digest)
        ctr.clear()
    assert hub.cost() == {"HEAD manifest": 2, "GET manifest": 3, "GET blob": 4, "GET cdn": 4}


def test_another_registry_by_ns(ctr: Ctr, proxy: Proxy, hub: Hub, registry: Registry) -> None:
    """containerd names the registry that the mirror stands for as ``ns``, also for others than Docker Hub."""
    image = registry.push("org/by-ns", images.sized(1000, "by-ns", oci=True), "1")
    proxy.configure(f'[upstreams."docker.io"]\nurl = "{hub.url}"\n[upstreams."ghcr.example"]\nurl = "{registry.url}"\n')
    proxy.restart()
    ctr.mirror("ghcr.example", proxy.url)
    ctr.pull("ghcr.example/org/by-ns:1")
    assert ctr.content(image.layers[0].digest) == image.layers[0].data
    assert hub.cost() == {}
