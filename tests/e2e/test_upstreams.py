"""What upstreams do to us: down, slow, throttling, private; and several of them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import images, wire
from tests.e2e.conftest import ACCOUNT
from tests.e2e.processes import free_port, wait_until
from tests.e2e.pulls import pull, together
from tests.e2e.servers import Hub, Proxy, Registry

StartProxy = Callable[..., Proxy]
USER, PASSWORD = ACCOUNT.split(":")


@pytest.fixture(scope="module")
def image(registry: Registry) -> images.Manifest:
    return registry.push("team/weather", images.sized(100_000, "weather"), "1")


def fail_by_drop(hub: Hub) -> None:
    hub.down()


def fail_by_503(hub: Hub) -> None:
    hub.fault("manifest", status=503)


def fail_by_429(hub: Hub) -> None:
    hub.fault("manifest", status=429)


def fail_by_silence(hub: Hub) -> None:
    hub.fault("manifest", gate=0)


def fail_by_token_endpoint(hub: Hub) -> None:
    hub.forget_tokens()
    hub.fault("token", status=500)


FAILURES = [fail_by_drop, fail_by_503, fail_by_429, fail_by_silence, fail_by_token_endpoint]


@pytest.mark.parametrize("fail", FAILURES)
def test_stale_copy_when_upstream_fails(
    start_proxy: StartProxy, hub: Hub, image: images.Manifest, fail: Callable[[Hub], None]
) -> None:
    """A tag whose copy is here is served, marked as stale, blobs and all."""
    proxy = start_proxy('[cache]\nrevalidate_timeout = "500ms"\n')
    base = proxy.repository("team/weather")
    assert pull(base, "1").is_exactly(image)
    proxy.idle()
    fail(hub)
    for method in ("GET", "HEAD"):
        answer = wire.manifest(base, "1", method)
        assert (answer.status, answer.outcome) == (200, "stale")
        assert answer.headers["warning"].startswith("110 ")
        assert answer.headers["docker-content-digest"] == image.digest
    assert pull(base, "1").is_exactly(image)
    assert proxy.metric("depproxy_requests_total", kind="manifest", outcome="stale") >= 2


def test_fresh_again_when_upstream_is_back(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    old = registry.push("team/back", images.sized(1000, "old"), "1")
    new = images.sized(1000, "new")
    base = proxy.repository("team/back")
    assert pull(base, "1").is_exactly(old)
    hub.down()
    assert wire.manifest(base, "1").outcome == "stale"
    registry.push("team/back", new, "1")
    assert wire.manifest(base, "1").body == old.body
    hub.reset()
    wait_until(lambda: wire.manifest(base, "1").outcome != "stale", "upstream is asked again")
    assert pull(base, "1").is_exactly(new)


def test_nothing_known_and_upstream_down(start_proxy: StartProxy, hub: Hub, image: images.Manifest) -> None:
    """Whoever asks for what is not here gets a 504 with a document, the status that every client retries."""
    proxy = start_proxy(upstream="retries = 1")
    hub.down()
    base = proxy.repository("team/weather")
    for answer in (
        wire.manifest(base, "1"),
        wire.manifest(base, image.digest),
        wire.blob(base, image.layers[0].digest),
        wire.fetch(f"{base}/tags/list"),
    ):
        assert (answer.status, answer.code) == (504, "UNAVAILABLE")
    assert wire.manifest(base, "1", "HEAD").status == 504
    hub.reset()
    wait_until(lambda: wire.manifest(base, "1").status == 200, "upstream is asked again")


def test_starts_with_every_upstream_down(start_proxy: StartProxy) -> None:
    proxy = start_proxy(url=f"http://127.0.0.1:{free_port()}")
    answer = wire.manifest(proxy.repository("team/weather"), "1")
    assert (answer.status, answer.code) == (504, "UNAVAILABLE")
    assert wire.fetch(f"{proxy.url}/v2/").status == 200


def test_silent_upstream(start_proxy: StartProxy, hub: Hub, image: images.Manifest) -> None:
    """An upstream that takes connections and says nothing is given up: for manifests, documents and blobs."""
    proxy = start_proxy(upstream='first_byte_timeout = "200ms"\nretries = 1')
    base = proxy.repository("team/weather")
    for kind, path in (
        ("manifest", "manifests/1"),
        ("document", "tags/list"),
        ("blob", f"blobs/{image.layers[0].digest}"),
    ):
        hub.fault(kind, gate=0)
        answer = wire.fetch(f"{base}/{path}")
        assert (answer.status, answer.code) == (504, "UNAVAILABLE"), kind
        hub.release()


def test_silence_in_mid_blob(start_proxy: StartProxy, hub: Hub, image: images.Manifest) -> None:
    """An upstream that falls silent in the middle is asked again from where it stopped."""
    proxy = start_proxy(upstream='silence_timeout = "200ms"')
    base, layer = proxy.repository("team/weather"), image.layers[0]
    wire.manifest(base, "1")
    hub.fault("cdn", times=1, gate=50_000)
    assert wire.blob(base, layer.digest).body == layer.data
    ranges = [seen["range"] for seen in hub.requests() if seen["kind"] == "cdn"]
    assert ranges == [None, "bytes=50000-"]


def test_throttled_with_nothing_known(proxy: Proxy, hub: Hub) -> None:
    hub.fault("manifest", status=429, headers={"Retry-After": "600"})
    answer = wire.manifest(proxy.repository("team/weather"), "1")
    assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
    assert 0 < int(answer.headers["retry-after"]) <= 600


def test_short_trouble_is_absorbed(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    """One 503, one dropped connection, one 429 with a short Retry-After: the client sees nothing of them."""
    hub.fault("manifest", times=1, status=503)
    hub.fault("blob", times=1, drop=True)
    hub.fault("cdn", times=1, status=429, headers={"Retry-After": "1"})
    assert pull(proxy.repository("team/weather"), "1").is_exactly(image)


def test_rate_limit_is_told(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    wire.manifest(proxy.repository("team/weather"), "1")
    labels = {"upstream": "docker.io", "source": "127.0.0.1"}
    assert proxy.metric("depproxy_upstream_ratelimit_limit", **labels) == 100
    assert proxy.metric("depproxy_upstream_ratelimit_remaining", **labels) == 99


def test_one_token_for_all_who_wait(proxy: Proxy, hub: Hub, image: images.Manifest) -> None:
    """Twenty clients at once on cold blobs of one repository: one token; and another one once it is refused."""
    base = proxy.repository("team/weather")
    digests = [blob.digest for blob in image.blobs]
    hub.fault("token", gate=0, times=1)

    def one(number: int) -> int:
        if number == 20:
            wait_until(lambda: hub.counts()["GET token"], "the token is asked for")
            hub.release()
            return 200
        return wire.blob(base, digests[number % 2]).status

    assert set(together(21, one)) == {200}
    assert hub.counts()["GET token"] == 1
    hub.forget_tokens()
    assert wire.manifest(base, "1").body == image.body
    assert hub.counts()["GET token"] == 2


def test_credentials(start_proxy: StartProxy, hub: Hub, registry: Registry, place: Path) -> None:
    """A private repository needs the account; the password goes to the token endpoint and nowhere else."""
    image = registry.push("private/credentials", images.sized(1000, "credentials"), "1")
    without = wire.manifest(start_proxy().repository("private/credentials"), "1")
    assert without.code in ("DENIED", "UNAUTHORIZED")
    assert without.status in (401, 403)
    password = place / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    hub.reset()
    proxy = start_proxy(upstream=f'username = "{USER}"\npassword_file = "{password}"')
    assert pull(proxy.repository("private/credentials"), "1").is_exactly(image)
    basic = [seen["kind"] for seen in hub.requests() if (seen["authorization"] or "").startswith("Basic")]
    assert basic == ["token"]
    assert PASSWORD not in proxy.log


def test_wrong_password(start_proxy: StartProxy, hub: Hub, image: images.Manifest, place: Path) -> None:
    """Never a 404: that would tell the client that the image does not exist."""
    password = place / "password"
    password.write_text("wrong\n")
    password.chmod(0o600)
    proxy = start_proxy(upstream=f'username = "{USER}"\npassword_file = "{password}"')
    answer = wire.manifest(proxy.repository("team/weather"), "1")
    assert answer.code in ("DENIED", "UNAUTHORIZED")
    assert answer.status in (401, 403)


def test_basic_upstream(start_proxy: StartProxy, registry: Registry, place: Path) -> None:
    """A registry that asks for Basic, and sends its blobs itself."""
    image = registry.push("team/basic", images.sized(1000, "basic"), "1")
    htpasswd = place / "htpasswd"
    # bob:s3cret
    htpasswd.write_text("bob:$2y$05$Z8IG8EyQ4E92NgjMGsUcYeQTZYTOGSqLVZPZarIkHU2J6C38vNHW2\n")
    password = place / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    basic = Registry(place / "basic", htpasswd, registry.storage)
    try:
        table = f'url = "{basic.url}"\nusername = "{USER}"\npassword_file = "{password}"\n'
        proxy = start_proxy(f'[upstreams."basic.example"]\n{table}')
        assert pull(proxy.repository("basic.example/team/basic"), "1").is_exactly(image)
    finally:
        basic.stop()


def test_several_upstreams(start_proxy: StartProxy, hub: Hub, registry: Registry) -> None:
    """Each way to name an upstream other than Docker Hub; the same name there and here are two repositories."""
    plain = registry.push("org/app", images.sized(1000, "app"), "1")
    table = f'[upstreams."quay.example"]\nurl = "{registry.url}"\nprefixes = ["quay"]\n'
    proxy = start_proxy(table)
    for base in (
        proxy.repository("quay.example/org/app"),
        proxy.repository("quay/org/app"),
        f"{proxy.url}/quay.example/v2/org/app",
        f"{proxy.url}/quay/v2/org/app",
        proxy.group("quay.example/org/app"),
    ):
        assert pull(base, "1").is_exactly(plain), base
    answer = wire.fetch(
        f"{proxy.repository('org/app')}/manifests/1?ns=quay.example", headers={"Accept": plain.media_type}
    )
    assert (answer.status, answer.body) == (200, plain.body)
    assert answer.headers["oci-namespace"] == "quay.example"
    assert hub.cost() == {}
    assert wire.manifest(proxy.repository("org/app"), "1").body == plain.body
    assert hub.cost() == {"HEAD manifest": 1}


def test_ways_to_name_docker_hub(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    """Every layout and prefix leads to the same repository, which is fetched once."""
    image = registry.push("library/layouts", images.sized(1000, "layouts"), "1")
    for base in (
        proxy.repository("layouts"),
        proxy.repository("library/layouts"),
        proxy.repository("docker.io/layouts"),
        proxy.repository("docker.io/library/layouts"),
        f"{proxy.url}/docker.io/v2/library/layouts",
        proxy.group("layouts"),
        proxy.group("library/layouts"),
        proxy.group("docker.io/library/layouts"),
    ):
        assert pull(base, "1").is_exactly(image), base
    for host in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        answer = wire.fetch(f"{proxy.repository('library/layouts')}/manifests/1?ns={host}")
        assert (answer.status, answer.body, answer.headers["oci-namespace"]) == (200, image.body, host)
    assert hub.cost() == {"HEAD manifest": 11, "GET manifest": 1, "GET blob": 2, "GET cdn": 2}


def test_too_old_to_be_served_stale(start_proxy: StartProxy, hub: Hub, image: images.Manifest) -> None:
    proxy = start_proxy('[cache]\nserve_stale = "0s"\n', upstream="retries = 0")
    base = proxy.repository("team/weather")
    assert pull(base, "1").is_exactly(image)
    hub.down()
    answer = wire.manifest(base, "1")
    assert (answer.status, answer.code) == (504, "UNAVAILABLE")
