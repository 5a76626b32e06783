"""Blobs that are here: ranges, conditions, and who may have them."""

from __future__ import annotations

import re

import pytest

from tests.e2e import images, wire
from tests.e2e.pulls import pull
from tests.e2e.servers import Hub, Proxy, Registry

SIZE = images.MIB


@pytest.fixture(scope="module")
def sized(registry: Registry) -> images.Manifest:
    return registry.push("team/blobs", images.sized(SIZE, "blobs"), "1")


@pytest.fixture
def base(proxy: Proxy, hub: Hub, sized: images.Manifest) -> str:
    """The repository, with the image in the cache and the double's memory empty."""
    base = proxy.repository("team/blobs")
    assert pull(base, "1").is_exactly(sized)
    proxy.idle()
    hub.reset()
    return base


def test_headers(base: str, sized: images.Manifest, hub: Hub) -> None:
    layer = sized.layers[0]
    for method in ("HEAD", "GET"):
        answer = wire.blob(base, layer.digest, method)
        assert (answer.status, answer.outcome) == (200, "hit")
        assert answer.headers["docker-content-digest"] == layer.digest
        assert answer.headers["content-length"] == str(len(layer.data))
        assert answer.headers["etag"] == f'"{layer.digest}"'
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
        assert "content-type" in answer.headers
        assert "content-encoding" not in answer.headers
        assert answer.body == (b"" if method == "HEAD" else layer.data)
    assert wire.blob(base, layer.digest, **{"If-None-Match": f'"{layer.digest}"'}).status == 304
    assert hub.cost() == {}


@pytest.mark.parametrize(
    ("span", "start", "stop"),
    [
        ("bytes=0-", 0, None),
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=70000-", 70000, None),
        ("bytes=-5", -5, None),
        # regclient resumes with an end one past the last byte, and more
        ("bytes=1000-99999999", 1000, None),
    ],
)
def test_one_range(base: str, sized: images.Manifest, span: str, start: int, stop: int | None) -> None:
    data = sized.layers[0].data
    answer = wire.blob(base, sized.layers[0].digest, Range=span)
    assert (answer.status, answer.body) == (206, data[start:stop])
    first = start % len(data)
    last = first + len(answer.body) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(data)}"
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("span", ["items=0-5", "bytes=", "bytes=5", "bytes=9-3", "bytes=a-b", "nonsense"])
def test_what_is_no_range_is_ignored(base: str, sized: images.Manifest, span: str) -> None:
    answer = wire.blob(base, sized.layers[0].digest, Range=span)
    assert (answer.status, answer.body) == (200, sized.layers[0].data)


def test_unsatisfiable_range(base: str, sized: images.Manifest) -> None:
    size = len(sized.layers[0].data)
    for span in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        answer = wire.blob(base, sized.layers[0].digest, Range=span)
        assert (answer.status, answer.code) == (416, "RANGE_INVALID")
        assert answer.headers["content-range"] == f"bytes */{size}"


def test_podman_asks_for_several_ranges(base: str, sized: images.Manifest) -> None:
    """zstd:chunked pulls: 206 multipart/byteranges with each part where it belongs, or 200 with the whole."""
    data = sized.layers[0].data
    spans = [(0, 99), (5000, 5999), (len(data) - 10, len(data) - 1)]
    value = "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)
    answer = wire.blob(base, sized.layers[0].digest, Range=value)
    if answer.status == 200:
        assert answer.body == data
        return
    assert answer.status == 206
    found = re.fullmatch(r'multipart/byteranges; ?boundary="?([^"]+)"?', answer.headers["content-type"])
    assert found, answer.headers
    assert answer.headers["content-length"] == str(len(answer.body))
    boundary = b"--" + found[1].encode()
    parts = answer.body.removeprefix(b"\r\n").split(b"\r\n" + boundary)
    parts[0] = parts[0].removeprefix(boundary)
    assert parts.pop().startswith(b"--")
    assert len(parts) == len(spans)
    for part, (first, last) in zip(parts, spans, strict=True):
        head, _, body = part.partition(b"\r\n\r\n")
        assert f"bytes {first}-{last}/{len(data)}".encode() in head
        assert body == data[first : last + 1]


def test_if_range(base: str, sized: images.Manifest) -> None:
    """A Range with an If-Range of another entity tag is answered with the whole (RFC 9110 13.1.5)."""
    layer = sized.layers[0]
    same = wire.blob(base, layer.digest, Range="bytes=5-9", **{"If-Range": f'"{layer.digest}"'})
    assert (same.status, same.body) == (206, layer.data[5:10])
    other = wire.blob(base, layer.digest, Range="bytes=5-9", **{"If-Range": '"something else"'})
    assert (other.status, other.body) == (200, layer.data)


def test_range_of_a_blob_never_asked_for(proxy: Proxy, hub: Hub, registry: Registry, sized: images.Manifest) -> None:
    """A Range on a cold blob starts a fill of the whole, once."""
    layer = registry.push("team/cold", images.sized(SIZE, "cold"), "1").layers[0]
    base = proxy.repository("team/cold")
    wire.manifest(base, "1")
    answer = wire.blob(base, layer.digest, Range="bytes=500000-500099")
    assert (answer.status, answer.body, answer.outcome) == (206, layer.data[500000:500100], "miss")
    proxy.idle()
    assert wire.blob(base, layer.digest).body == layer.data
    assert hub.counts()["GET cdn"] == 1


def test_bytes_are_shared_but_permission_is_not(
    base: str, proxy: Proxy, hub: Hub, registry: Registry, sized: images.Manifest
) -> None:
    """Another repository gets the cached blob for a HEAD upstream if it is there as well, and else a 404."""
    layer = sized.layers[0]
    registry.push("team/sharer", sized, "1")
    shared = wire.blob(proxy.repository("team/sharer"), layer.digest)
    assert (shared.status, shared.body) == (200, layer.data)
    assert hub.cost() == {"HEAD blob": 1, "HEAD cdn": 1}
    registry.push("team/stranger", images.sized(1000, "stranger"), "1")
    hub.reset()
    answer = wire.blob(proxy.repository("team/stranger"), layer.digest)
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    assert hub.cost() == {"HEAD blob": 1}
    # A manifest is bytes as well: it is not given to a repository that does not have it.
    assert wire.manifest(proxy.repository("team/stranger"), sized.digest).status == 404


def test_cold_blob_without_its_manifest(proxy: Proxy, hub: Hub, sized: images.Manifest) -> None:
    """A blob asked for by digest alone is proved by a HEAD, then fetched once."""
    layer = sized.layers[0]
    answer = wire.blob(proxy.repository("team/blobs"), layer.digest)
    assert (answer.status, answer.body) == (200, layer.data)
    assert hub.cost() == {"HEAD blob": 1, "HEAD cdn": 1, "GET blob": 1, "GET cdn": 1}


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_upstream_that_knows_no_blob_head(proxy: Proxy, hub: Hub, sized: images.Manifest, status: int) -> None:
    """ECR refuses them. With a manifest at hand none is sent; without, a refusal is followed by the GET."""
    hub.fault("blob", method="HEAD", status=status)
    layer = sized.layers[0]
    base = proxy.repository("team/blobs")
    if status != 404:  # that is an answer, not a refusal
        assert wire.blob(base, layer.digest).body == layer.data
    assert pull(base, "1").is_exactly(sized)


def test_keep_alive(base: str, sized: images.Manifest, proxy: Proxy) -> None:
    """Several answers on one connection, each whole: a HEAD, a hit sent by sendfile, a 404, a hit again."""
    layer = sized.layers[0]
    path = base.removeprefix(proxy.url)
    missing = images.digest_of(b"missing")
    asks = [("HEAD", layer.digest), ("GET", layer.digest), ("GET", missing), ("GET", layer.digest)]
    sizes = []
    with wire.KeptConnection(proxy.url) as connection:
        for method, digest in asks:
            answer = connection.ask(f"{path}/blobs/{digest}", method)
            sizes.append((answer.status, len(answer.body)))
    size = len(layer.data)
    assert sizes[:2] + sizes[3:] == [(200, 0), (200, size), (200, size)]
    assert sizes[2][0] == 404
