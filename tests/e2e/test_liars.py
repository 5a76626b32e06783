"""Upstreams that send what cannot be right: nothing of it is served as good, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import images, wire
from tests.e2e.conftest import ACCOUNT
from tests.e2e.pulls import pull
from tests.e2e.servers import Hub, Proxy, Registry

USER, PASSWORD = ACCOUNT.split(":")
HTML = "<html><body>Please log in to this network</body></html>"


@pytest.fixture(scope="module")
def image(registry: Registry) -> images.Manifest:
    return registry.push("team/lied-about", images.sized(images.MIB, "lied about"), "1")


@pytest.fixture
def base(proxy: Proxy) -> str:
    return proxy.repository("team/lied-about")


@pytest.mark.parametrize(
    "body", ["{}", HTML, "", " " * (5 << 20)], ids=["another manifest", "a page", "nothing", "too much"]
)
def test_another_manifest_than_asked_for(hub: Hub, base: str, image: images.Manifest, body: str) -> None:
    headers = {"Content-Type": image.media_type, "Docker-Content-Digest": image.digest}
    hub.fault("manifest", method="GET", status=200, headers=headers, body=body)
    for reference in ("1", image.digest):
        answer = wire.manifest(base, reference)
        assert answer.status == 502
        assert answer.code
    hub.reset()
    assert wire.manifest(base, "1").body == image.body


def test_a_page_in_place_of_a_blob(proxy: Proxy, hub: Hub, base: str, image: images.Manifest) -> None:
    """A captive portal answers 200 to everything."""
    wire.manifest(base, "1")
    hub.fault("cdn", status=200, headers={"Content-Type": "text/html"}, body=HTML)
    answer = wire.blob(base, image.layers[0].digest)
    assert answer.status == 502
    assert answer.code
    hub.reset()
    proxy.idle()
    assert wire.blob(base, image.layers[0].digest).body == image.layers[0].data


@pytest.mark.parametrize("at", [0, -1], ids=["first byte", "last byte"])
def test_one_wrong_byte(proxy: Proxy, hub: Hub, base: str, image: images.Manifest, at: int) -> None:
    """Wherever the wrong byte is, and whether the client asks for all or for a part with the last byte in it."""
    wire.manifest(base, "1")
    layer = image.layers[0]
    hub.fault("cdn", corrupt=at % len(layer.data))
    for headers in ({}, {"Range": f"bytes={len(layer.data) - 10}-"}):
        with wire.Download(f"{base}/blobs/{layer.digest}", headers=headers) as download:
            assert download.status in (200, 206)
            length = download.length
            assert length is not None
            assert len(download.until_cut()) < length
        proxy.idle()
    hub.reset()
    assert wire.blob(base, layer.digest).body == layer.data


def test_wrong_bytes_after_a_resume(proxy: Proxy, hub: Hub, base: str, image: images.Manifest) -> None:
    """The digest is of the whole, over all connections that it took."""
    wire.manifest(base, "1")
    layer = image.layers[0]
    hub.fault("cdn", times=1, cut=500_000)
    hub.fault("cdn", times=1, corrupt=600_000)
    with wire.Download(f"{base}/blobs/{layer.digest}") as download:
        assert len(download.until_cut()) < len(layer.data)
    proxy.idle()
    assert wire.blob(base, layer.digest).body == layer.data


def test_a_wrong_part(proxy: Proxy, hub: Hub, base: str, image: images.Manifest) -> None:
    """A 206 for another part than asked for is not glued on."""
    wire.manifest(base, "1")
    layer = image.layers[0]
    hub.fault("cdn", times=1, cut=500_000)
    wrong = {"Content-Range": f"bytes 0-9/{len(layer.data)}"}
    hub.fault("cdn", times=1, status=206, headers=wrong, body="0123456789")
    url = f"{base}/blobs/{layer.digest}"
    with wire.Download(url) as download:
        try:
            assert download.rest() == layer.data
        except wire.CutShort:
            assert download.received < len(layer.data)
    proxy.idle()
    assert wire.fetch(url).body == layer.data


@pytest.mark.parametrize("trusted", [False, True])
def test_realm_on_another_host(
    start_proxy: Callable[..., Proxy], area: Path, registry: Registry, place: Path, trusted: bool
) -> None:
    """The password goes to a realm on a foreign host only if the configuration names that host."""
    image = registry.push("private/realm", images.sized(1000, "realm"), "1")
    other = Hub(place / "hub", registry, "--account", ACCOUNT, "--realm-host", "localhost")
    try:
        password = place / "password"
        password.write_text(PASSWORD)
        password.chmod(0o600)
        table = f'username = "{USER}"\npassword_file = "{password}"\n'
        table += 'token_hosts = ["localhost"]\n' if trusted else ""
        proxy = start_proxy(url=other.url, upstream=table)
        if trusted:
            assert pull(proxy.repository("private/realm"), "1").is_exactly(image)
        else:
            answer = wire.manifest(proxy.repository("private/realm"), "1")
            assert answer.status in (401, 403)
            assert "localhost" in answer.document["errors"][0]["message"]
            assert [seen for seen in other.requests() if seen["kind"] == "token"] == []
    finally:
        other.stop()
