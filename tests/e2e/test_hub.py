"""The double by itself: clients that pull straight from it, and each fault. Later tests trust its counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import images, wire
from tests.e2e.engines import Ctr, Docker, Podman, Skopeo
from tests.e2e.servers import Hub, Registry


@pytest.fixture(scope="module")
def busybox(registry: Registry) -> images.Manifest:
    return registry.push("hub/busybox", images.busybox("hub"), "1")


@pytest.fixture(scope="module")
def sized(registry: Registry) -> images.Manifest:
    return registry.push("hub/sized", images.sized(images.MIB, "hub"), "1")


def token(hub: Hub, repository: str, headers: dict[str, str] | None = None) -> dict[str, str]:
    """The header with a token for ``repository``."""
    scope = f"service=registry.double&scope=repository:{repository}:pull"
    answer = wire.fetch(f"{hub.url}/token?{scope}", headers=headers)
    assert answer.status == 200, answer
    return {"Authorization": f"Bearer {answer.document['token']}"}


def location(hub: Hub, image: images.Manifest) -> str:
    """The CDN's URL of the image's layer."""
    url = f"{hub.url}/v2/hub/sized/blobs/{image.layers[0].digest}"
    answer = wire.fetch(url, headers=token(hub, "hub/sized"))
    assert answer.status == 307
    assert answer.headers["location"].startswith(hub.cdn)
    return answer.headers["location"]


def test_challenge_and_token(hub: Hub, busybox: images.Manifest) -> None:
    """Without a token: 401 with a realm on its own host; a token is good for its repository alone."""
    base = f"{hub.url}/v2/hub/busybox"
    refused = wire.manifest(base, "1")
    assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
    assert refused.headers["www-authenticate"] == (
        f'Bearer realm="{hub.url}/token",service="registry.double",scope="repository:hub/busybox:pull"'
    )
    assert wire.manifest(base, "1", **token(hub, "hub/other")).status == 401
    assert wire.manifest(base, "1", **token(hub, "hub/busybox")).body == busybox.body
    hub.forget_tokens()
    assert hub.counts() == {"challenge": 2, "GET token": 2, "GET manifest": 1}


def test_private_needs_the_account(hub: Hub, registry: Registry) -> None:
    registry.push("private/app", images.sized(1000, "private"), "1")
    url = f"{hub.url}/v2/private/app/manifests/1"
    assert wire.fetch(url, headers=token(hub, "private/app")).status == 401
    basic = {"Authorization": "Basic Ym9iOnMzY3JldA=="}  # bob:s3cret
    assert wire.fetch(url, headers=token(hub, "private/app", basic)).status == 200
    wrong = {"Authorization": "Basic Ym9iOndyb25n"}
    assert wire.fetch(f"{hub.url}/token?service=registry.double", headers=wrong).status == 401


def test_rate_limit_counts_manifest_gets(hub: Hub, busybox: images.Manifest) -> None:
    base, headers = f"{hub.url}/v2/hub/busybox", token(hub, "hub/busybox")
    head = wire.manifest(base, "1", "HEAD", **headers)
    assert head.headers["ratelimit-remaining"] == "100;w=21600"
    assert head.headers["content-length"] == str(len(busybox.body))
    assert head.headers["docker-content-digest"] == busybox.digest
    for _ in range(100):
        last = wire.manifest(base, "1", **headers)
    assert (last.status, last.headers["ratelimit-remaining"]) == (200, "0;w=21600")
    over = wire.manifest(base, "1", **headers)
    assert (over.status, over.code, over.headers["retry-after"]) == (429, "TOOMANYREQUESTS", "60")


def test_cdn(hub: Hub, sized: images.Manifest) -> None:
    """The CDN serves the signed URL whole and in part, and refuses an unsigned one or one with a token."""
    url, data = location(hub, sized), sized.layers[0].data
    assert wire.fetch(url).body == data
    part = wire.fetch(url, headers={"Range": "bytes=1000-"})
    assert (part.status, part.body) == (206, data[1000:])
    assert part.headers["content-range"] == f"bytes 1000-{len(data) - 1}/{len(data)}"
    head = wire.fetch(url, "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(data)), b"")
    assert wire.fetch(url.split("?")[0]).status == 403
    assert wire.fetch(url, headers=token(hub, "hub/sized")).status == 400


def test_unknown(hub: Hub, sized: images.Manifest) -> None:
    headers = token(hub, "hub/sized")
    assert wire.fetch(f"{hub.url}/v2/hub/sized/manifests/none", headers=headers).code == "MANIFEST_UNKNOWN"
    missing = images.digest_of(b"missing")
    assert wire.fetch(f"{hub.url}/v2/hub/sized/blobs/{missing}", headers=headers).status == 404


def test_faults_of_answers(hub: Hub, busybox: images.Manifest) -> None:
    base, headers = f"{hub.url}/v2/hub/busybox", token(hub, "hub/busybox")
    hub.fault("manifest", method="HEAD", times=1, status=429, headers={"Retry-After": "7"}, body="slow")
    hub.fault("manifest", method="GET", times=1, no_digest=True)
    assert wire.manifest(base, "1", "HEAD", **headers).headers["retry-after"] == "7"
    assert wire.manifest(base, "1", "HEAD", **headers).status == 200
    assert "docker-content-digest" not in wire.manifest(base, "1", **headers).headers
    hub.down()
    with pytest.raises((wire.CutShort, ConnectionError)):
        wire.manifest(base, "1", **headers)
    hub.reset()
    assert wire.manifest(base, "1", **token(hub, "hub/busybox")).status == 200


def test_faults_of_bodies(hub: Hub, sized: images.Manifest) -> None:
    url, data = location(hub, sized), sized.layers[0].data
    hub.fault("cdn", times=1, cut=70_000)
    with wire.Download(url) as download:
        assert download.until_cut() == data[:70_000]
    hub.fault("cdn", times=1, corrupt=5)
    wrong = wire.fetch(url).body
    assert [index for index in range(len(data)) if wrong[index] != data[index]] == [5]
    hub.fault("cdn", times=1, ignore_range=True)
    assert wire.fetch(url, headers={"Range": "bytes=9-"}).status == 200
    hub.fault("cdn", times=1, chunked=True)
    chunked = wire.fetch(url)
    assert "content-length" not in chunked.headers
    assert chunked.body == data


def test_gate(hub: Hub, sized: images.Manifest) -> None:
    """The headers and the bytes before the gate come; the rest only after the release."""
    url, data = location(hub, sized), sized.layers[0].data
    hub.fault("cdn", gate=100)
    with wire.Download(url) as download, wire.Download(url) as other:
        assert download.exactly(100) == data[:100]
        assert other.exactly(100) == data[:100]
        assert hub.release() == 2
        assert download.rest() == data[100:]
        assert other.rest() == data[100:]


def test_skopeo(hub: Hub, busybox: images.Manifest, place: Path) -> None:
    skopeo = Skopeo(place / "skopeo")
    assert skopeo.copy(f"{hub.host}/hub/busybox:1").is_exactly(busybox)
    assert hub.cost() == {"GET manifest": 1, "GET blob": 3, "GET cdn": 3}


def test_podman(hub: Hub, busybox: images.Manifest, place: Path) -> None:
    podman = Podman(place / "podman")
    podman.pull(f"{hub.host}/hub/busybox:1")
    assert podman.inspect(f"{hub.host}/hub/busybox:1")["Digest"] == busybox.digest


def test_docker(hub: Hub, busybox: images.Manifest, docker: Docker) -> None:
    name = f"{hub.host}/hub/busybox:1"
    docker.pull(name)
    assert docker.inspect(name)["Id"] == busybox.config.digest
    assert docker("run", "--rm", "--network", "none", name).stdout == "hub"
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}


def test_ctr(hub: Hub, registry: Registry, ctr: Ctr) -> None:
    index = registry.push("hub/multi", images.multiarch("hub", oci=True), "1")
    foreign = index.manifests[1]
    ctr.pull(f"{hub.host}/hub/multi:1", "--plain-http", "--platform", f"linux/{images.FOREIGN}")
    for digest, data in foreign.everything().items():
        assert ctr.content(digest) == data
    assert not ctr.holds(index.manifests[0].layers[0].digest)
