"""Referrers, tag lists, and the questions that docker 29 asks in vain on each pull."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e import images, wire
from tests.e2e.pulls import pull
from tests.e2e.servers import Hub, Proxy, Registry


@pytest.fixture(scope="module")
def subject(registry: Registry) -> images.Manifest:
    return registry.push("team/signed", images.sized(1000, "signed"), "1")


def test_docker_29_asks_in_vain_once(proxy: Proxy, hub: Hub, subject: images.Manifest) -> None:
    """No referrers API: an empty index, then 404 for the fallback tag; asking again costs nothing."""
    base = proxy.repository("team/signed")
    fallback = subject.digest.replace(":", "-")
    for _ in range(3):
        answer = wire.fetch(f"{base}/referrers/{subject.digest}")
        assert answer.status == 200
        assert answer.headers["content-type"] == images.OCI_INDEX
        assert answer.document["manifests"] == []
        missing = wire.manifest(base, fallback)
        assert (missing.status, missing.code) == (404, "MANIFEST_UNKNOWN")
    assert hub.cost() == {"GET document": 1, "HEAD manifest": 1}


def test_referrers(proxy: Proxy, hub: Hub, registry: Registry, subject: images.Manifest) -> None:
    """What upstream's API says arrives as it is, once for all; the artifact that it names can be pulled."""
    artifact = registry.push("team/signed", images.artifact(subject))
    body = images.referrers_index([artifact])
    headers = {"Content-Type": images.OCI_INDEX, "OCI-Filters-Applied": "artifactType"}
    hub.fault("document", path="/referrers/", status=200, headers=headers, body=body.decode())
    base = proxy.repository("team/signed")
    for _ in range(2):
        url = f"{base}/referrers/{subject.digest}?artifactType=application/vnd.example.signature"
        answer = wire.fetch(url)
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["content-type"] == images.OCI_INDEX
        assert answer.headers["oci-filters-applied"] == "artifactType"
    assert hub.cost() == {"GET document": 1}
    assert "artifactType=" in next(s["path"] for s in hub.requests() if s["kind"] == "document" and s["status"])
    pulled = wire.manifest(base, artifact.digest)
    assert pulled.body == artifact.body
    for blob in artifact.blobs:
        assert wire.blob(base, blob.digest).body == blob.data


def test_fallback_tag_is_served(proxy: Proxy, registry: Registry, subject: images.Manifest) -> None:
    """A registry without the API keeps referrers under a tag, which is a tag like any other."""
    artifact = registry.push("team/fallback", images.artifact(subject))
    body = images.referrers_index([artifact])
    index = images.Manifest(images.OCI_INDEX, body)
    registry.push("team/fallback", index, subject.digest.replace(":", "-"))
    answer = wire.manifest(proxy.repository("team/fallback"), subject.digest.replace(":", "-"))
    assert (answer.status, answer.body) == (200, body)


def test_tags(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    """tags/list is passed through as it is, and cached for a moment."""
    for tag in ("a", "b", "c"):
        registry.push("team/tagged", images.sized(1000, "tagged"), tag)
    base = proxy.repository("team/tagged")
    expected = wire.fetch(f"{registry.url}/v2/team/tagged/tags/list").body
    for _ in range(2):
        assert wire.fetch(f"{base}/tags/list").body == expected
    assert hub.cost() == {"GET document": 1}
    missing = [wire.fetch(f"{proxy.repository('team/none')}/tags/list") for _ in range(2)]
    assert [(answer.status, answer.code) for answer in missing] == [(404, "NAME_UNKNOWN")] * 2
    assert hub.cost() == {"GET document": 2}


def test_documents_grow_old(
    start_proxy: Callable[..., Proxy], hub: Hub, registry: Registry, subject: images.Manifest
) -> None:
    """With no time to live, each question goes upstream."""
    proxy = start_proxy('[cache]\ndocuments_ttl = "0s"\nnegative_ttl = "0s"\n')
    for _ in range(2):
        assert wire.fetch(f"{proxy.repository('team/signed')}/tags/list").status == 200
    assert hub.cost() == {"GET document": 2}


def test_image_with_a_blob_of_no_bytes(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    image = registry.push("team/empty", images.with_empty_blob("empty"), "1")
    base = proxy.repository("team/empty")
    for _ in range(2):
        assert pull(base, "1").is_exactly(image)
        proxy.idle()
    assert wire.blob(base, image.layers[1].digest, "HEAD").headers["content-length"] == "0"
    assert hub.cost() == {"HEAD manifest": 2, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}
