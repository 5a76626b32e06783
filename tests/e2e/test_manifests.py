"""Manifests by raw HTTP: what each costs upstream, what arrives, and what stands on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e import images, wire
from tests.e2e.pulls import pull, together
from tests.e2e.servers import Hub, Proxy, Registry

FIRST = {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}
StartProxy = Callable[..., Proxy]


@pytest.fixture(scope="module")
def busybox(registry: Registry) -> images.Manifest:
    return registry.push("library/plain", images.busybox("manifests"), "1")


@pytest.mark.parametrize("layout", ["group", "repository"])
def test_first_second_and_moved(proxy: Proxy, hub: Hub, registry: Registry, layout: str) -> None:
    """The first pull fetches each thing once; the second costs a HEAD; a moved tag costs what is new."""
    old = registry.push(f"library/moving-{layout}", images.busybox("old"), "1")
    base = getattr(proxy, layout)(f"moving-{layout}")
    first = pull(base, "1")
    assert first.is_exactly(old)
    assert set(first.outcomes) == {"miss"}
    assert hub.cost() == FIRST
    assert hub.counts()["GET token"] == 1
    assert hub.counts()["challenge"] <= 1

    proxy.idle()
    hub.reset()
    second = pull(base, "1")
    assert second.is_exactly(old)
    assert set(second.outcomes) == {"hit"}
    assert hub.cost() == {"HEAD manifest": 1}

    new = registry.push(f"library/moving-{layout}", images.busybox("new"), "1")
    hub.reset()
    assert pull(base, "1").is_exactly(new)
    # The layer with busybox in it is the same; the config and the layer with the note are not.
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}
    hub.reset()
    assert wire.manifest(base, old.digest).body == old.body
    assert hub.cost() == {}


def test_get_by_tag(proxy: Proxy, hub: Hub, busybox: images.Manifest) -> None:
    """podman asks with a GET: the first costs a HEAD and a GET, the next a HEAD."""
    for outcome, cost in (
        ("miss", {"HEAD manifest": 1, "GET manifest": 1}),
        ("hit", {"HEAD manifest": 2, "GET manifest": 1}),
    ):
        answer = wire.manifest(proxy.repository("library/plain"), "1")
        assert (answer.body, answer.outcome) == (busybox.body, outcome)
        assert hub.cost() == cost


def test_upstream_is_asked_for_every_type(proxy: Proxy, hub: Hub, busybox: images.Manifest) -> None:
    """Whatever little a client accepts, upstream is asked for all types, and without content coding."""
    answer = wire.fetch(f"{proxy.repository('plain')}/manifests/1")
    assert answer.body == busybox.body
    for seen in hub.requests():
        if seen["kind"] == "manifest":
            types = {images.DOCKER_MANIFEST, images.DOCKER_LIST, images.OCI_MANIFEST, images.OCI_INDEX}
            assert types <= {accept.split(";")[0] for accept in seen["accept"]}
        assert seen["encoding"] in (None, "identity")


def test_headers(proxy: Proxy, busybox: images.Manifest) -> None:
    """HEAD and GET say the same: type as stored, length, digest, ETag, API version; 304 where it matches."""
    base = proxy.repository("plain")
    wire.manifest(base, "1")
    for method in ("HEAD", "GET"):
        for reference in ("1", busybox.digest):
            answer = wire.manifest(base, reference, method)
            assert answer.status == 200
            assert answer.headers["content-type"] == busybox.media_type
            assert answer.headers["content-length"] == str(len(busybox.body))
            assert answer.headers["docker-content-digest"] == busybox.digest
            assert answer.headers["etag"] == f'"{busybox.digest}"'
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
            assert answer.body == (b"" if method == "HEAD" else busybox.body)
    same = {"If-None-Match": f'"{busybox.digest}"'}
    answer = wire.manifest(base, "1", **same)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == f'"{busybox.digest}"'
    assert wire.manifest(base, "1", **{"If-None-Match": '"sha256:other"'}).status == 200


def test_head_never_causes_a_get(proxy: Proxy, hub: Hub, busybox: images.Manifest) -> None:
    base = proxy.repository("plain")
    by_tag = wire.manifest(base, "1", "HEAD")
    assert by_tag.headers["docker-content-digest"] == busybox.digest
    assert hub.cost() == {"HEAD manifest": 1}
    assert wire.manifest(base, busybox.digest, "HEAD").headers["content-length"] == str(len(busybox.body))
    blob = wire.blob(base, busybox.layers[0].digest, "HEAD")
    assert (blob.status, blob.headers["content-length"]) == (200, str(len(busybox.layers[0].data)))
    assert [what for what in hub.cost() if what.startswith("GET")] == []
    assert hub.cost()["HEAD manifest"] <= 2


@pytest.mark.parametrize("oci", [False, True])
def test_index_stays_whole(proxy: Proxy, hub: Hub, registry: Registry, oci: bool) -> None:
    """An amd64 pull leaves the index as it is: the arm64 client gets the same index and its own image."""
    index = registry.push("team/multi", images.multiarch(f"raw-{oci}", oci=oci), f"oci-{oci}")
    base = proxy.repository("team/multi")
    for child, architecture in zip(index.manifests, (images.NATIVE, images.FOREIGN), strict=True):
        pulled = pull(base, f"oci-{oci}", architecture)
        assert pulled.content == {index.digest: index.body} | child.everything()
    assert wire.manifest(base, f"oci-{oci}").headers["content-type"] == index.media_type
    assert hub.cost() == {"HEAD manifest": 3, "GET manifest": 3, "GET blob": 4, "GET cdn": 4}


def test_a_hundred_at_once(proxy: Proxy, hub: Hub, busybox: images.Manifest) -> None:
    """A hundred clients that ask for a cold tag while the first HEAD is held share one HEAD and one GET."""
    hub.fault("manifest", method="HEAD", path="plain", gate=0)
    base = proxy.repository("plain")

    def one(number: int) -> bytes:
        if number < 100:
            return wire.manifest(base, "1").body
        # The last one opens the gate. Its probes take the same way through the proxy after the others:
        # when they are answered, the others wait for the HEAD that is held.
        for probe in range(3):
            wire.manifest(proxy.repository("other"), f"probe{probe}")
        hub.release()
        return busybox.body

    assert set(together(101, one)) == {busybox.body}
    plain = [seen for seen in hub.requests() if "plain/manifests" in seen["path"] and seen["status"] == 200]
    assert [seen["method"] for seen in plain] == ["HEAD", "GET"]


def test_fresh_tags_need_no_head(start_proxy: StartProxy, hub: Hub, busybox: images.Manifest) -> None:
    proxy = start_proxy(upstream='freshness = { "1" = "forever" }')
    base = proxy.repository("plain")
    assert pull(base, "1").is_exactly(busybox)
    hub.reset()
    assert pull(base, "1").is_exactly(busybox)
    assert hub.cost() == {}


def test_missing_tag_is_remembered_for_a_while(start_proxy: StartProxy, hub: Hub, registry: Registry) -> None:
    proxy = start_proxy('[cache]\nnegative_ttl = "1h"\n')
    base = proxy.repository("team/late")
    for method in ("GET", "HEAD", "GET"):
        answer = wire.manifest(base, "1", method)
        assert answer.status == 404
    assert answer.code in ("MANIFEST_UNKNOWN", "NAME_UNKNOWN")
    assert hub.cost() == {"HEAD manifest": 1}
    other = start_proxy('[cache]\nnegative_ttl = "0s"\n')
    base = other.repository("team/late")
    assert wire.manifest(base, "1").status == 404
    image = registry.push("team/late", images.sized(1000, "late"), "1")
    assert wire.manifest(base, "1").body == image.body


@pytest.mark.parametrize(("policy", "status"), [("follow", 404), ("keep", 200)])
def test_deleted_tag(start_proxy: StartProxy, hub: Hub, registry: Registry, policy: str, status: int) -> None:
    """Upstream deletes: ``follow`` forgets the tag as well, ``keep`` serves the copy as stale."""
    proxy = start_proxy(upstream=f'on_404 = "{policy}"')
    image = registry.push(f"team/gone-{policy}", images.sized(1000, policy), "1")
    base = proxy.repository(f"team/gone-{policy}")
    assert pull(base, "1").is_exactly(image)
    deleted = wire.fetch(f"{registry.url}/v2/team/gone-{policy}/manifests/{image.digest}", "DELETE")
    assert deleted.status == 202
    answer = wire.manifest(base, "1")
    assert answer.status == status
    if policy == "keep":
        assert (answer.body, answer.outcome) == (image.body, "stale")
        assert answer.headers["warning"].startswith("110 ")
    else:
        assert answer.code == "MANIFEST_UNKNOWN"


def test_upstream_without_digest_header(proxy: Proxy, hub: Hub, busybox: images.Manifest) -> None:
    """The digest is computed from the bytes where upstream does not tell it."""
    hub.fault("manifest", no_digest=True)
    for _ in range(2):
        answer = wire.manifest(proxy.repository("plain"), "1")
        assert answer.body == busybox.body
        assert answer.headers["docker-content-digest"] == busybox.digest
    assert wire.manifest(proxy.repository("plain"), busybox.digest).outcome == "hit"
