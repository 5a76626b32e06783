"""What is wrong with a request is said as an OCI error document, in every layout, and costs upstream nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import images, wire
from tests.e2e.servers import Hub, Proxy

UNKNOWN_DIGEST = images.digest_of(b"nobody has this")
LAYOUTS = {
    "mirror": "/v2/{name}",
    "gitlab": "/v2/local/dependency_proxy/containers/{name}",
    "prefix inside": "/v2/docker.io/{name}",
    "prefix before": "/docker.io/v2/{name}",
}


@pytest.fixture(scope="module")
def one_proxy(one_hub: Hub, area: Path) -> Iterator[Proxy]:
    """One depproxy for the whole module: nothing here changes anything, which the tests check."""
    with Proxy(area / "errors", f'[upstreams."docker.io"]\nurl = "{one_hub.url}"\n') as proxy:
        yield proxy
        assert "Traceback" not in proxy.log


@pytest.fixture
def proxy(one_proxy: Proxy, hub: Hub) -> Iterator[Proxy]:
    """Fails the test if its bad requests made depproxy ask upstream or keep anything."""
    yield one_proxy
    assert hub.cost() == {}
    assert one_proxy.metric("depproxy_cache_blobs") == 0


@pytest.fixture(params=LAYOUTS)
def base(request: pytest.FixtureRequest, proxy: Proxy) -> Callable[[str], str]:
    """Makes the base URL of a repository in one layout after the other."""
    layout = LAYOUTS[request.param]
    return lambda name: proxy.url + layout.format(name=name)


@pytest.mark.parametrize("name", ["UPPER/case", "a..b", "under/_score", "x" * 256, "a%2F..%2Fb", "é"])
def test_bad_name(base: Callable[[str], str], name: str) -> None:
    for path in ("manifests/1", f"blobs/{UNKNOWN_DIGEST}", "tags/list", f"referrers/{UNKNOWN_DIGEST}"):
        answer = wire.fetch(f"{base(name)}/{path}".replace("é", "%C3%A9"))
        assert (answer.status, answer.code) == (400, "NAME_INVALID"), path


@pytest.mark.parametrize("tag", [".hidden", "-dash", "x" * 129, "sp%20ace"])
def test_bad_tag(base: Callable[[str], str], tag: str) -> None:
    answer = wire.fetch(f"{base('team/app')}/manifests/{tag}")
    assert (answer.status, answer.code) == (400, "TAG_INVALID")


@pytest.mark.parametrize(
    "digest", ["sha256:abc", "sha256:" + "G" * 64, "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha512:" + "0" * 64]
)
def test_bad_digest(base: Callable[[str], str], digest: str) -> None:
    for path in (f"manifests/{digest}", f"blobs/{digest}", f"referrers/{digest}"):
        answer = wire.fetch(f"{base('team/app')}/{path}")
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID"), path
    assert wire.fetch(f"{base('team/app')}/blobs/latest").code == "DIGEST_INVALID"


def test_pushing_is_not_supported(base: Callable[[str], str]) -> None:
    for method, path in (
        ("PUT", "manifests/1"),
        ("DELETE", "manifests/1"),
        ("POST", "blobs/uploads/"),
        ("PATCH", "blobs/uploads/some"),
        ("DELETE", f"blobs/{UNKNOWN_DIGEST}"),
        ("POST", "manifests/1"),
    ):
        answer = wire.fetch(f"{base('team/app')}/{path}", method, body=b"{}")
        assert (answer.status, answer.code) == (405, "UNSUPPORTED"), (method, path)


@pytest.mark.parametrize("path", ["/", "/nothing", "/v2/team/app/nothing/1", "/v2/_catalog", "/v3/"])
def test_unknown_address(proxy: Proxy, path: str) -> None:
    answer = wire.fetch(f"{proxy.url}{path}")
    assert 400 <= answer.status < 500
    assert answer.code


def test_ping(proxy: Proxy) -> None:
    """200 with the API's version, with and without the last slash, and no redirect."""
    for path in ("/v2/", "/v2"):
        for method in ("GET", "HEAD"):
            answer = wire.fetch(f"{proxy.url}{path}", method)
            assert answer.status == 200
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


def test_error_to_a_head(base: Callable[[str], str]) -> None:
    """The status and no body."""
    answer = wire.fetch(f"{base('UPPER')}/manifests/1", "HEAD")
    assert (answer.status, answer.body) == (400, b"")


@pytest.mark.parametrize(
    ("status", "path", "headers"),
    [
        (413, "/v2/team/app/manifests/1", {"Content-Length": str(1 << 30)}),
        (414, "/v2/team/app/manifests/" + "x" * 20_000, {}),
        (431, "/v2/", {"X-Large": "x" * 100_000}),
        (431, "/v2/", {f"X-{number}": "x" for number in range(2000)}),
    ],
    ids=["body", "url", "header", "headers"],
)
def test_too_large(proxy: Proxy, status: int, path: str, headers: dict[str, str]) -> None:
    """Refused with a document, before anything large is read."""
    method = "PUT" if status == 413 else "GET"
    answer = wire.fetch(f"{proxy.url}{path}", method, headers)
    assert answer.status == status
    assert answer.code


def test_garbage(proxy: Proxy) -> None:
    """What is no HTTP is answered or dropped, and harms nobody."""
    for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 100, b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert wire.fetch(f"{proxy.url}/healthz").status == 200


def test_tls_client_on_the_plain_port(proxy: Proxy) -> None:
    """docker, podman and skopeo try TLS first on a registry that they know to be insecure, and wait ten seconds.

    depproxy hangs up on the first bytes of a TLS handshake, so that they try plain HTTP at once.
    """
    hello = bytes.fromhex("16030100c8010000c40303") + b"\x01" * 194
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(hello)
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or answer.startswith((b"HTTP/1.", b"\x15"))


def test_nobody_else_may_pull(start_proxy: Callable[..., Proxy], hub: Hub) -> None:
    """Whom the networks of [mirror] leave out gets a challenge whose realm is where the client asked."""
    proxy = start_proxy('[mirror]\nanonymous = ["192.0.2.0/24"]\n')
    challenge = f'Bearer realm="{proxy.url}/jwt/auth",service="dependency_proxy"'
    for path in ("/v2/", "/v2/team/app/manifests/1", f"/v2/team/app/blobs/{UNKNOWN_DIGEST}"):
        answer = wire.fetch(f"{proxy.url}{path}")
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"].startswith(challenge)
    assert hub.cost() == {}
