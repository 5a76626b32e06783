"""Logins by real clients, with each kind of credential, over http and https; and what they show of a refusal."""

from __future__ import annotations

import shutil
from base64 import b64decode
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from depproxy.access.passwords import hash_password, hash_token
from tests.certificates import Authority
from tests.e2e import images, wire
from tests.e2e.engines import Ctr, Docker, Podman, Skopeo
from tests.e2e.images import Manifest
from tests.e2e.processes import Failed, free_port, run
from tests.e2e.servers import Hub, Proxy, Registry

PASSWORD = "correct horse"
LAPTOP, OLD, DEPLOY, BOT = "dpp_laptop", "dpp_old", "dpd_deploy", "dpg_bot"
ACCOUNTS = f"""
[mirror]
anonymous = []
[users.alice]
password = "{hash_password(PASSWORD)}"
certificates = ["runner.example"]
[users.alice.tokens.laptop]
hash = "{hash_token(LAPTOP)}"
[users.alice.tokens.old]
hash = "{hash_token(OLD)}"
expires = 2026-01-01
[users.bob]
password = "{hash_password(PASSWORD)}"
[groups.acme]
members = {{ alice = "guest" }}
[groups.acme.deploy_tokens.ci]
username = "acme-ci"
hash = "{hash_token(DEPLOY)}"
[groups.acme.access_tokens.bot]
hash = "{hash_token(BOT)}"
[groups."acme/tools"]
[groups.off]
enabled = false
members = {{ alice = "guest" }}
"""
LOGINS = {
    "password": ("alice", PASSWORD),
    "personal token": ("alice", LAPTOP),
    "deploy token": ("acme-ci", DEPLOY),
    "group token": ("bot", BOT),
}
MARK = "dependency_proxy/containers"


@pytest.fixture
def image(registry: Registry, request: pytest.FixtureRequest) -> Manifest:
    """At docker.io/team/access:1, another one for each test: docker keeps manifests for a while after their image."""
    return registry.push("team/access", images.busybox(f"access {request.node.name}"), "1")


@pytest.fixture
def proxy(start_proxy: Callable[..., Proxy]) -> Proxy:
    return start_proxy(ACCOUNTS)


def shows(error: str, *words: str) -> bool:
    """Whether a client has shown the words, at whatever columns it breaks its lines."""
    flat = " ".join(error.split())
    return all(word in flat for word in words)


@pytest.mark.parametrize("kind", LOGINS)
@pytest.mark.parametrize("group", ["acme", "acme/tools"])
def test_docker(proxy: Proxy, docker: Docker, hub: Hub, image: Manifest, kind: str, group: str) -> None:
    """Log in, pull cold and warm, log out, and be refused."""
    name = f"{proxy.host}/{group}/{MARK}/team/access:1"
    assert "Login Succeeded" in docker.login(proxy.host, *LOGINS[kind]).stdout
    docker.pull(name)
    assert docker.inspect(name)["Id"] == image.config.digest
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}
    proxy.idle()
    docker("image", "rm", name)
    hub.reset()
    docker.pull(name)
    assert hub.cost() == {"HEAD manifest": 1}
    docker("logout", proxy.host)
    done = docker("pull", name, check=False)
    assert done.returncode != 0
    assert shows(done.stderr, "a user name and a password or token are needed here")


def test_docker_without_a_port(start_proxy: Callable[..., Proxy], docker: Docker, image: Manifest) -> None:
    """The name of the host alone, as behind a proxy on the standard port."""
    start_proxy(ACCOUNTS, listen="tcp:80:interface=127.0.5.1")
    name = f"127.0.5.1/acme/{MARK}/team/access:1"
    docker.login("127.0.5.1", "alice", LAPTOP)
    docker.pull(name)
    docker("logout", "127.0.5.1")
    assert docker.inspect(name)["Id"] == image.config.digest


@pytest.mark.parametrize(
    ("login", "words"),
    [
        (("alice", "wrong"), "wrong user name, password or token"),
        (("nobody", PASSWORD), "wrong user name, password or token"),
        (("alice", OLD), "the token old of alice has expired"),
        (("bob", DEPLOY), "wrong user name, password or token"),
    ],
)
def test_docker_login_refused(proxy: Proxy, docker: Docker, login: tuple[str, str], words: str) -> None:
    done = docker.login(proxy.host, *login, check=False)
    assert done.returncode != 0
    assert shows(done.stderr, words)


@pytest.mark.parametrize(
    ("login", "group", "words"),
    [
        (("bob", PASSWORD), "acme", "denied: group acme: bob has no role here"),
        (("bob", PASSWORD), "nowhere", "denied: group nowhere: bob has no role here"),
        (("alice", PASSWORD), "off", "denied: group off: its dependency proxy is turned off"),
    ],
)
def test_docker_says_why(
    proxy: Proxy, docker: Docker, hub: Hub, image: Manifest, login: tuple[str, str], group: str, words: str
) -> None:
    docker.login(proxy.host, *login)
    done = docker("pull", f"{proxy.host}/{group}/{MARK}/team/access:1", check=False)
    docker("logout", proxy.host)
    assert done.returncode != 0
    assert shows(done.stderr, words)
    assert hub.counts() == {}


def test_docker_mirror_beside_accounts(
    start_proxy: Callable[..., Proxy], docker: Docker, hub: Hub, registry: Registry
) -> None:
    """A mirror needs no login, not even with a password of Docker Hub, which docker sends along [moby#42022]."""
    proxy = start_proxy(ACCOUNTS.replace("anonymous = []", 'anonymous = ["127.0.0.0/8"]', 1))
    image = registry.push("library/mirrored", images.busybox("mirrored"), "1")
    docker.mirror(proxy.url)
    docker.pull("mirrored:1")
    assert docker.inspect("mirrored:1")["Id"] == image.config.digest
    assert hub.cost() == {"HEAD manifest": 1, "GET manifest": 1, "GET blob": 3, "GET cdn": 3}
    # The same request with somebody's password.
    query = "service=dependency_proxy&scope=repository:library/mirrored:pull"
    headers = {"Authorization": "Basic aHViOnNlY3JldA=="}
    assert wire.fetch(f"{proxy.url}/jwt/auth?{query}", headers=headers).status == 200


@pytest.mark.parametrize("kind", LOGINS)
def test_podman_skopeo_and_ctr(proxy: Proxy, ctr: Ctr, image: Manifest, place: Path, kind: str) -> None:
    name = f"{proxy.host}/acme/{MARK}/team/access:1"
    user, password = LOGINS[kind]
    podman = Podman(place / "podman")
    podman.pull(name, "--creds", f"{user}:{password}")
    assert podman.inspect(name)["Id"] == image.config.digest.removeprefix("sha256:")
    skopeo = Skopeo(place / "skopeo")
    assert skopeo.copy(name, "--src-creds", f"{user}:{password}").is_exactly(image)
    ctr.pull(name, "--plain-http", "--user", f"{user}:{password}")
    assert ctr.holds(image.digest)


def test_what_others_say(proxy: Proxy, ctr: Ctr, hub: Hub, image: Manifest, place: Path) -> None:
    name = f"{proxy.host}/acme/{MARK}/team/access:1"
    for arguments, words in (
        (("--src-creds", "alice:wrong"), "unauthorized"),
        (("--src-creds", f"bob:{PASSWORD}"), "group acme: bob has no role here"),
    ):
        with pytest.raises(Failed) as failed:
            Skopeo(place / f"skopeo-{words[:3]}").copy(name, *arguments)
        assert shows(str(failed.value), words)
    done = ctr.pull(name, "--plain-http", "--user", f"bob:{PASSWORD}", check=False)
    assert done.returncode != 0
    assert "403" in done.stderr
    assert hub.counts() == {}


def test_https(start_proxy: Callable[..., Proxy], docker: Docker, image: Manifest, place: Path) -> None:
    """docker takes any certificate on loopback; curl checks it, and one of the client's own is a login."""
    authority = Authority(str(place / "tls"))
    port = free_port()
    proxy = start_proxy(
        ACCOUNTS,
        server=f'client_ca = "{authority.file}"',
        listen=f"ssl:{port}:{authority.issue().listener}:interface=127.0.0.1",
    )
    host = f"127.0.0.1:{port}"
    name = f"{host}/acme/{MARK}/team/access:1"
    docker.login(host, "alice", PASSWORD)
    docker.pull(name)
    docker("logout", host)
    assert docker.inspect(name)["Id"] == image.config.digest
    url = f"https://{host}/v2/acme/{MARK}/team/access/manifests/1"

    def curl(name: str) -> str:
        pair = authority.issue(name, name, ())
        certified = ("--cert", str(pair.certificate), "--key", str(pair.key))
        return run("curl", "--silent", "--cacert", str(authority.file), *certified, url).stdout

    assert curl("runner.example").encode() == image.body
    assert '"UNAUTHORIZED"' in curl("stranger.example")
    assert proxy.metric("depproxy_tokens_total", status="200") == 2


def test_https_by_others(start_proxy: Callable[..., Proxy], ctr: Ctr, image: Manifest, place: Path) -> None:
    """skopeo, podman and containerd check the certificate, and the client's own is a login."""
    authority = Authority(str(place / "tls"))
    port = free_port()
    start_proxy(
        ACCOUNTS,
        server=f'client_ca = "{authority.file}"',
        listen=f"ssl:{port}:{authority.issue().listener}:interface=127.0.0.1",
    )
    name = f"127.0.0.1:{port}/acme/{MARK}/team/access:1"
    pair = authority.issue("runner", "runner.example", ())
    certificates = place / "certs"
    certificates.mkdir()
    for source, target in (
        (authority.file, "ca.crt"),
        (pair.certificate, "client.cert"),
        (pair.key, "client.key"),
    ):
        shutil.copy(source, certificates / target)
    skopeo, podman = Skopeo(place / "skopeo"), Podman(place / "podman")
    assert skopeo.copy(name, "--src-tls-verify=true", "--src-cert-dir", str(certificates)).is_exactly(image)
    podman.pull(name, "--tls-verify=true", "--cert-dir", str(certificates))
    assert podman.inspect(name)["Id"] == image.config.digest.removeprefix("sha256:")
    hosts = place / "hosts" / f"127.0.0.1:{port}"
    hosts.mkdir(parents=True)
    url = f"https://127.0.0.1:{port}"
    (hosts / "hosts.toml").write_text(
        f'server = "{url}"\n[host."{url}"]\nca = "{authority.file}"\nclient = [["{pair.certificate}", "{pair.key}"]]\n'
    )
    ctr.pull(name)
    assert ctr.holds(image.digest)


@pytest.mark.parametrize("port", ["", ":"])
def test_every_login_over_https(
    start_proxy: Callable[..., Proxy], docker: Docker, ctr: Ctr, image: Manifest, place: Path, port: str
) -> None:
    """Each client with each kind of credential, on the standard port, which is not written, and on another one."""
    authority = Authority(str(place / "tls"))
    number = free_port() if port else 443
    pair = authority.issue(alternatives=[x509.IPAddress(ip_address("127.0.6.1"))])
    start_proxy(ACCOUNTS, listen=f"ssl:{number}:{pair.listener}:interface=127.0.6.1")
    host = f"127.0.6.1:{number}" if port else "127.0.6.1"
    name = f"{host}/acme/{MARK}/team/access:1"
    certificates = place / "certs"
    certificates.mkdir()
    shutil.copy(authority.file, certificates / "ca.crt")
    hosts = place / "hosts" / host
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(f'server = "https://{host}"\n[host."https://{host}"]\nca = "{authority.file}"\n')
    skopeo, podman = Skopeo(place / "skopeo"), Podman(place / "podman")
    for user, password in LOGINS.values():
        docker.login(host, user, password)
        docker.pull(name)
        assert docker.inspect(name)["Id"] == image.config.digest
        docker("logout", host)
        docker("image", "rm", name)
        credentials = f"{user}:{password}"
        trusting = ("--src-tls-verify=true", "--src-cert-dir", str(certificates))
        assert skopeo.copy(name, *trusting, "--src-creds", credentials).is_exactly(image)
        podman.pull(name, "--tls-verify=true", "--cert-dir", str(certificates), "--creds", credentials)
        assert podman.inspect(name)["Id"] == image.config.digest.removeprefix("sha256:")
        podman("image", "rm", name)
        ctr.pull(name, "--user", credentials)
        assert ctr.holds(image.digest)
        ctr.clear()
    done = ctr.pull(name, "--user", "alice:wrong", check=False)
    assert done.returncode != 0
    assert shows(done.stderr, "401")


def test_docker_with_a_refresh_token(start_proxy: Callable[..., Proxy], docker: Docker, image: Manifest) -> None:
    """docker keeps it in place of the password, and pulls with it."""
    proxy = start_proxy(f'[access]\nrefresh_lifetime = "1d"\n{ACCOUNTS}')
    name = f"{proxy.host}/acme/{MARK}/team/access:1"
    docker.login(proxy.host, "alice", PASSWORD)
    kept = docker.kept(proxy.host)
    assert set(kept) == {"auth", "identitytoken"}
    assert b64decode(kept["auth"]) == b"alice:"
    docker.pull(name)
    docker("logout", proxy.host)
    assert docker.inspect(name)["Id"] == image.config.digest
