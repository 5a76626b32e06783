"""The Docker engine: through GitLab's layout, and with depproxy as its registry-mirror."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.e2e import images
from tests.e2e.engines import Docker
from tests.e2e.servers import Hub, Proxy, Registry

FIRST = {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}


def is_exactly(docker: Docker, name: str, image: images.Manifest, directory: Path) -> bool:
    """True if the engine holds ``image``: by its digests, and by the bytes that `docker save` gives back."""
    found = docker.inspect(name)
    saved = directory / "saved.tar"
    docker("save", "--output", str(saved), name)
    with tarfile.open(saved) as archive:

        def member(path: str) -> bytes:
            file = archive.extractfile(path)
            assert isinstance(file, io.BufferedReader)
            return file.read()

        (entry,) = json.loads(member("manifest.json"))
        layers = [images.digest_of(member(path)) for path in entry["Layers"]]
        config = images.digest_of(member(entry["Config"]))
    diff_ids = [layer.diff_id for layer in image.layers]
    return bool(
        found["Id"] == config == image.config.digest
        and found["RepoDigests"][0].endswith(f"@{image.digest}")
        and found["RootFS"]["Layers"] == layers == diff_ids
    )


@pytest.mark.parametrize("layout", ["group", "mirror"])
def test_cold_warm_and_moved(
    docker: Docker, proxy: Proxy, hub: Hub, registry: Registry, place: Path, layout: str
) -> None:
    """docker pull and run: cold, warm, after the tag moved, after depproxy restarted, and with upstream down."""
    repository = f"library/runnable-{layout}"
    old = registry.push(repository, images.busybox(f"old {layout}"), "1")
    if layout == "mirror":
        docker.mirror(proxy.url)
        name = f"runnable-{layout}:1"
    else:
        name = f"{proxy.host}/local/dependency_proxy/containers/runnable-{layout}:1"

    docker.pull(name)
    assert is_exactly(docker, name, old, place)
    assert docker("run", "--rm", "--network", "none", name).stdout == f"old {layout}"
    assert hub.cost() == FIRST
    assert hub.counts()["GET token"] == 1
    proxy.idle()

    docker("image", "rm", name)
    hub.reset()
    docker.pull(name)
    assert is_exactly(docker, name, old, place)
    assert hub.cost() == {"HEAD manifest": 1}

    new = registry.push(repository, images.busybox(f"new {layout}"), "1")
    docker("image", "rm", name)
    hub.reset()
    docker.pull(name)
    assert is_exactly(docker, name, new, place)
    assert docker("run", "--rm", "--network", "none", name).stdout == f"new {layout}"
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}
    proxy.idle()

    proxy.restart()
    docker("image", "rm", name)
    hub.reset()
    docker.pull(name)
    assert hub.cost() == {"HEAD manifest": 1}

    docker("image", "rm", name)
    hub.down()
    docker.pull(name)
    assert is_exactly(docker, name, new, place)


def test_large_layer(docker: Docker, proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    image = registry.push("team/large", images.sized(64 * images.MIB, "large"), "1")
    name = f"{proxy.host}/local/dependency_proxy/containers/team/large:1"
    docker.pull(name)
    assert is_exactly(docker, name, image, place)
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}


@pytest.mark.parametrize("oci", [False, True])
def test_other_architecture(docker: Docker, proxy: Proxy, hub: Hub, registry: Registry, place: Path, oci: bool) -> None:
    """After the native pull, a pull of the other platform gets that platform's image from the same index."""
    index = registry.push("team/platforms", images.multiarch(f"docker-{oci}", oci=oci), f"oci-{oci}")
    name = f"{proxy.host}/local/dependency_proxy/containers/team/platforms:oci-{oci}"
    for architecture, child in zip((images.NATIVE, images.FOREIGN), index.manifests, strict=True):
        docker("pull", "--quiet", "--platform", f"linux/{architecture}", name)
        found = docker.inspect(name)
        assert found["Architecture"] == architecture
        assert found["Id"] == child.config.digest
        assert found["RepoDigests"][0].endswith(f"@{index.digest}")
        docker("image", "rm", name)
    assert hub.cost() == {"HEAD manifest": 2, "GET manifest": 3, "GET blob": 4, "GET cdn": 4}


def test_missing_image(docker: Docker, proxy: Proxy) -> None:
    """The engine says what is wrong, rather than that it cannot parse an answer."""
    done = docker("pull", f"{proxy.host}/local/dependency_proxy/containers/team/nothing:1", check=False)
    assert done.returncode != 0
    assert "error parsing" not in done.stderr
    assert "not found" in done.stderr or "unknown" in done.stderr
