"""Blobs on their way: one download, many readers, and nobody is given a wrong byte or waits for another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.e2e import images, wire
from tests.e2e.processes import wait_until
from tests.e2e.pulls import Crowd, together
from tests.e2e.servers import Hub, Proxy, Registry

MIB = images.MIB
ONE_FETCH = {"GET blob": 1, "GET cdn": 1}


@pytest.fixture(scope="module")
def image(registry: Registry) -> images.Manifest:
    return registry.push("team/fills", images.sized(8 * MIB, "fills"), "1")


@pytest.fixture(scope="module")
def big(registry: Registry) -> images.Manifest:
    return registry.push("team/big", images.sized(64 * MIB, "big"), "1")


@pytest.fixture
def layer(image: images.Manifest) -> images.Blob:
    return image.layers[0]


def warm(proxy: Proxy, hub: Hub, name: str, layer: images.Blob) -> str:
    """The URL of the layer, its manifest in the cache and its bytes not; the double's memory empty."""
    base = proxy.repository(name)
    assert wire.manifest(base, "1").status == 200
    hub.reset()
    return f"{base}/blobs/{layer.digest}"


@pytest.fixture
def url(proxy: Proxy, hub: Hub, layer: images.Blob) -> str:
    return warm(proxy, hub, "team/fills", layer)


@contextlib.contextmanager
def held(hub: Hub, at: int) -> Iterator[None]:
    """The CDN holds each body after ``at`` bytes until the end of the block, or hub.release()."""
    hub.fault("cdn", method="GET", gate=at)
    try:
        yield
    finally:
        hub.release()


def test_a_hundred_at_once(proxy: Proxy, hub: Hub, url: str, layer: images.Blob) -> None:
    """All hundred have joined before the first byte of the body is let go; each gets every byte."""
    with held(hub, 0), Crowd(100, url) as crowd:
        assert sorted(map(str, crowd.outcomes())) == ["joined"] * 99 + ["miss"]
        assert {download.length for download in crowd.downloads} == {len(layer.data)}
        hub.release()
        assert crowd.all_equal(layer.data)
    assert hub.cost() == ONE_FETCH
    proxy.idle()
    assert wire.fetch(url).outcome == "hit"
    assert hub.cost() == ONE_FETCH
    assert proxy.metric("depproxy_requests_total", kind="blob", outcome="joined") == 99
    assert proxy.metric("depproxy_fetched_bytes_total") == len(layer.data)


def test_bytes_come_as_they_arrive(hub: Hub, url: str, layer: images.Blob) -> None:
    """Readers get what there is while the rest is held upstream, also one that comes late."""
    with held(hub, MIB), wire.Download(url) as early:
        assert early.exactly(MIB // 2) == layer.data[: MIB // 2]
        with wire.Download(url) as late:
            assert late.outcome == "joined"
            assert late.exactly(MIB // 2) == layer.data[: MIB // 2]
            hub.release()
            assert late.rest() == layer.data[MIB // 2 :]
        assert early.rest() == layer.data[MIB // 2 :]
    assert hub.cost() == ONE_FETCH


def test_containerd_2_fetches_in_parallel(hub: Hub, url: str, layer: images.Blob) -> None:
    """Several open-ended ranges on one blob in flight, each closed after its chunk, share one fetch."""
    chunk = 2 * MIB
    starts = range(0, len(layer.data), chunk)

    def part(download: wire.Download, start: int) -> bytes:
        with download:
            return download.exactly(min(chunk, len(layer.data) - start))

    with held(hub, 0):
        downloads = together(len(starts), lambda n: wire.Download(url, headers={"Range": f"bytes={starts[n]}-"}))
        for download, start in zip(downloads, starts, strict=True):
            assert download.status == 206
            size = len(layer.data)
            assert download.headers["content-range"] == f"bytes {start}-{size - 1}/{size}"
        assert sorted(str(download.outcome) for download in downloads) == ["joined"] * (len(starts) - 1) + ["miss"]
        hub.release()
        parts = together(len(starts), lambda n: part(downloads[n], starts[n]))
    assert b"".join(parts) == layer.data
    assert hub.cost() == ONE_FETCH


def test_ranges_while_filling(proxy: Proxy, hub: Hub, url: str, layer: images.Blob) -> None:
    """Bounded, suffix and unsatisfiable ranges on a blob in flight."""
    size = len(layer.data)
    with held(hub, MIB), wire.Download(url) as first:
        here = wire.fetch(url, headers={"Range": "bytes=1000-1999"})
        assert (here.status, here.body, here.outcome) == (206, layer.data[1000:2000], "joined")
        beyond = wire.fetch(url, headers={"Range": f"bytes={size}-"})
        assert (beyond.status, beyond.code) == (416, "RANGE_INVALID")
        with wire.Download(url, headers={"Range": "bytes=-7"}) as suffix:
            assert suffix.headers["content-range"] == f"bytes {size - 7}-{size - 1}/{size}"
            hub.release()
            assert suffix.rest() == layer.data[-7:]
        assert first.rest() == layer.data
    assert hub.cost() == ONE_FETCH


def test_head_while_filling(hub: Hub, url: str, layer: images.Blob) -> None:
    with held(hub, 0), wire.Download(url):
        head = wire.fetch(url, "HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(layer.data)))


def test_the_fill_outlives_its_clients(proxy: Proxy, hub: Hub, url: str, layer: images.Blob) -> None:
    """Everybody leaves in the middle; the fill goes on and the next client has a hit."""
    with held(hub, MIB), Crowd(5, url) as crowd:
        for download in crowd.downloads:
            download.exactly(1000)
            download.close()
        wait_until(lambda: proxy.metric("depproxy_fill_followers") == 0, "all followers are gone")
        hub.release()
    proxy.idle()
    answer = wire.fetch(url)
    assert (answer.body, answer.outcome) == (layer.data, "hit")
    assert hub.cost() == ONE_FETCH


def test_one_leaver_harms_nobody(hub: Hub, url: str, layer: images.Blob) -> None:
    """The client whose request started the fill goes before the first byte."""
    with held(hub, 0), wire.Download(url) as first, wire.Download(url) as second:
        first.close()
        hub.release()
        assert second.equals(layer.data)
    assert hub.cost() == ONE_FETCH


def test_a_slow_reader_slows_nobody(proxy: Proxy, hub: Hub, big: images.Manifest) -> None:
    """A client stops; another gets all 64 MiB; then the first one does, from what is here by now."""
    data = big.layers[0].data
    url = warm(proxy, hub, "team/big", big.layers[0])
    with wire.Download(url, receive_buffer=65536) as slow:
        assert slow.exactly(1000) == data[:1000]
        with wire.Download(url) as quick:
            assert quick.equals(data)
        proxy.idle()
        assert slow.equals(data, 1000)
    assert hub.cost() == ONE_FETCH


def test_followers_cost_no_memory(proxy: Proxy, hub: Hub, big: images.Manifest) -> None:
    """Forty clients that stop reading a 64 MiB blob: what they have not read is on disk, not in memory."""
    url = warm(proxy, hub, "team/big", big.layers[0])
    with held(hub, 0), Crowd(40, url) as crowd:
        before = proxy.resident()
        hub.release()
        with wire.Download(url) as quick:
            assert quick.equals(big.layers[0].data)
        assert proxy.resident() - before < 40 * MIB
        assert len(crowd.downloads) == 40


def test_corrupt_bytes_reach_nobody_whole(proxy: Proxy, hub: Hub, url: str, layer: images.Blob) -> None:
    """One wrong byte: each connection breaks before its last byte, nothing is kept, a retry is clean."""
    hub.fault("cdn", times=1, corrupt=1000, gate=MIB)
    with Crowd(20, url) as crowd:
        hub.release()

        def received(number: int) -> int:
            return len(crowd.downloads[number].until_cut())

        assert max(together(20, received)) < len(layer.data)
    proxy.idle()
    answer = wire.fetch(url)
    assert (answer.status, answer.body) == (200, layer.data)
    assert answer.outcome in ("miss", "joined")
    assert hub.cost() == {"GET blob": 2, "GET cdn": 2}


def test_the_last_byte_waits_for_the_digest(hub: Hub, url: str, layer: images.Blob) -> None:
    """With all but one byte let go, a client has all but two or so; the last comes after the proof."""
    size = len(layer.data)
    with held(hub, size - 1), wire.Download(url) as download:
        got = download.exactly(size - 2)
        hub.release()
        assert got + download.rest() == layer.data


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_cut_is_mended(hub: Hub, url: str, layer: images.Blob, ignore_range: bool) -> None:
    """Upstream breaks off twice; no client notices. It goes on by Range, or skips where that is ignored."""
    hub.fault("cdn", times=2, cut=3 * MIB if not ignore_range else 6 * MIB, ignore_range=ignore_range)
    if ignore_range:
        hub.fault("cdn", ignore_range=True)
    results = together(10, lambda _: wire.fetch(url).body == layer.data)
    assert results == [True] * 10
    ranges = [seen["range"] for seen in hub.requests() if seen["kind"] == "cdn"]
    assert len(ranges) == 3
    assert ranges[0] is None
    if not ignore_range:
        assert ranges[1:] == [f"bytes={3 * MIB}-", f"bytes={6 * MIB}-"]


def test_upstream_without_length(proxy: Proxy, hub: Hub, layer: images.Blob, url: str) -> None:
    """A chunked body: the length is known from the manifest."""
    hub.fault("cdn", chunked=True)
    assert wire.fetch(url).body == layer.data
    proxy.idle()
    assert wire.fetch(url).outcome == "hit"
    assert hub.cost() == ONE_FETCH


def test_upstream_gives_up(proxy: Proxy, hub: Hub, url: str, layer: images.Blob) -> None:
    """No byte ever: the waiter gets a document, not a broken connection; and the next one tries anew."""
    hub.fault("blob", status=503)
    answer = wire.fetch(url)
    assert (answer.status, answer.code) == (504, "UNAVAILABLE")
    hub.reset()
    assert wire.fetch(url).body == layer.data
