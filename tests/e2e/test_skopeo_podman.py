"""skopeo and podman: straight at depproxy, and with it as the mirror in a registries.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import images
from tests.e2e.engines import Podman, Skopeo
from tests.e2e.servers import Hub, Proxy, Registry


def test_skopeo_cold_warm_and_moved(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    skopeo = Skopeo(place / "skopeo")
    name = f"{proxy.host}/local/dependency_proxy/containers/skopeo:1"
    old = registry.push("library/skopeo", images.busybox("skopeo old"), "1")
    assert skopeo.copy(name).is_exactly(old)
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}
    proxy.idle()
    hub.reset()
    assert skopeo.copy(name).is_exactly(old)
    assert hub.cost() == {"HEAD manifest": 1}
    new = registry.push("library/skopeo", images.busybox("skopeo new"), "1")
    hub.reset()
    assert skopeo.copy(name).is_exactly(new)
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}
    proxy.idle()
    hub.down()
    assert skopeo.copy(name).is_exactly(new)


@pytest.mark.parametrize("oci", [False, True])
def test_skopeo_architectures(proxy: Proxy, hub: Hub, registry: Registry, place: Path, oci: bool) -> None:
    """Each architecture by itself, and the whole index with ``--all``."""
    skopeo = Skopeo(place / "skopeo")
    index = registry.push("team/skopeo-multi", images.multiarch(f"skopeo-{oci}", oci=oci), f"oci-{oci}")
    name = f"{proxy.host}/team/skopeo-multi:oci-{oci}"
    for architecture, child in zip((images.NATIVE, images.FOREIGN), index.manifests, strict=True):
        assert skopeo.copy(name, select=("--override-arch", architecture)).is_exactly(child)
    assert hub.cost() == {"HEAD manifest": 2, "GET manifest": 3, "GET blob": 4, "GET cdn": 4}
    proxy.idle()
    hub.reset()
    assert skopeo.copy(name, "--all").is_exactly(index)
    assert hub.cost() == {"HEAD manifest": 1}


def test_skopeo_artifact_and_empty_layer(proxy: Proxy, registry: Registry, place: Path) -> None:
    skopeo = Skopeo(place / "skopeo")
    image = registry.push("team/odd", images.with_empty_blob("skopeo"), "empty")
    registry.push("team/odd", images.artifact(image), "artifact")
    assert skopeo.copy(f"{proxy.host}/team/odd:empty").is_exactly(image)
    assert skopeo.copy(f"{proxy.host}/team/odd:artifact").is_exactly(images.artifact(image))


def test_skopeo_by_mirror(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    image = registry.push("library/skopeo-mirror", images.sized(100_000, "mirror", oci=True), "1")
    skopeo = Skopeo(place / "skopeo", mirror=proxy.host)
    assert skopeo.copy("docker.io/library/skopeo-mirror:1").is_exactly(image)
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}


@pytest.mark.parametrize("layout", ["group", "mirror", "prefixed mirror"])
def test_podman(proxy: Proxy, hub: Hub, registry: Registry, place: Path, layout: str) -> None:
    """podman pull, cold and warm, from stores of its own; the file in the image is what was put there."""
    repository = f"library/podman-{layout.replace(' ', '-')}"
    short = repository.removeprefix("library/")
    image = registry.push(repository, images.busybox(layout), "1")
    mirror = {"group": "", "mirror": proxy.host, "prefixed mirror": f"{proxy.host}/docker.io"}[layout]
    name = f"docker.io/{repository}:1"
    if layout == "group":
        name = f"{proxy.host}/local/dependency_proxy/containers/{short}:1"
    for number, cost in enumerate(
        ({"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}, {"HEAD manifest": 1})
    ):
        hub.reset()
        podman = Podman(place / f"podman{number}", mirror=mirror)
        podman.pull(name)
        found = podman.inspect(name)
        assert found["Digest"] == image.digest
        assert f"sha256:{found['Id']}" == image.config.digest
        assert found["RootFS"]["Layers"] == [layer.diff_id for layer in image.layers]
        mounted = Path(podman("image", "mount", name).strip())
        assert (mounted / "note").read_text() == layout
        podman("image", "unmount", name)
        assert hub.cost() == cost
        proxy.idle()


def test_podman_architecture(proxy: Proxy, registry: Registry, place: Path) -> None:
    index = registry.push("team/podman-multi", images.multiarch("podman", oci=True), "1")
    name = f"{proxy.host}/team/podman-multi:1"
    for architecture, child in zip((images.NATIVE, images.FOREIGN), index.manifests, strict=True):
        podman = Podman(place / architecture)
        podman.pull(name, "--arch", architecture)
        assert f"sha256:{podman.inspect(name)['Id']}" == child.config.digest
