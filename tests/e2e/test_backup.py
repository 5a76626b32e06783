"""`depproxy backup` and `restore`: what was known and set comes back, bytes or none, and nothing by halves."""

from __future__ import annotations

import io
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e import images, wire
from tests.e2e.engines import Skopeo
from tests.e2e.processes import Process, run, wait_until
from tests.e2e.servers import ROOT, Hub, Proxy, Registry
from tests.e2e.test_service import Redis

MIB = images.MIB
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


def command(proxy: Proxy, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "depproxy.cli", *arguments, "--config", str(proxy.directory / "depproxy.toml")]


def depproxy(proxy: Proxy, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the operator's to its end."""
    return run(*command(proxy, *arguments), environment=ENVIRONMENT, check=check)


def restore(proxy: Proxy, file: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """For whoever runs these tests: there is no directory yet that would tell."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    return depproxy(proxy, "restore", "--user", user, str(file), *arguments, check=check)


def lose(proxy: Proxy) -> None:
    """Stop it, and everything that it had is gone, its configuration too."""
    proxy.stop()
    shutil.rmtree(proxy.data)
    (proxy.directory / "depproxy.toml").unlink()


def holdings(proxy: Proxy) -> dict[str, Any]:
    """What the metrics tell of the cache."""
    names = ("depproxy_cache_blobs", "depproxy_cache_bytes", "depproxy_group_blobs", "depproxy_group_bytes")
    return {name: proxy.metric(name) for name in names}


def test_with_blobs_clients_need_no_upstream(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    image = registry.push("team/kept", images.sized(3 * MIB, "kept"), "1")
    assert Skopeo(place / "before").copy(f"{proxy.host}/team/kept:1").is_exactly(image)
    proxy.idle()
    before = holdings(proxy)
    file = place / "b.tar"
    done = depproxy(proxy, "backup", "--with-blobs", str(file))
    assert f"{file}: configuration, keys and index" in done.stderr
    assert "and 3 blobs of 3.0 MiB" in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lose(proxy)
    hub.down()
    done = restore(proxy, file)
    assert done.stdout.startswith(f"{file}: restored 2 files of keys, ")
    assert done.stdout.endswith(", 3 blobs\n")
    proxy.restart()
    assert holdings(proxy) == before
    assert Skopeo(place / "after").copy(f"{proxy.host}/team/kept:1").is_exactly(image)
    assert wire.blob(proxy.repository("team/kept"), image.layers[0].digest).outcome == "hit"


def test_without_blobs_they_are_fetched_again(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    image = registry.push("team/bare", images.sized(MIB, "bare"), "1")
    assert Skopeo(place / "before").copy(f"{proxy.host}/team/bare:1").is_exactly(image)
    proxy.idle()
    file = place / "b.tar"
    done = depproxy(proxy, "backup", str(file))
    assert "blobs" not in done.stderr
    assert file.stat().st_size < MIB // 2
    lose(proxy)
    restore(proxy, file)
    proxy.restart()
    wait_until(lambda: proxy.metric("depproxy_cache_blobs") == 0, "the sweep forgets what has no file")
    assert proxy.metric("depproxy_cache_bytes") == 0
    hub.reset()
    # The link is known still: nobody has to prove it.
    assert wire.blob(proxy.repository("team/bare"), image.layers[0].digest).body == image.layers[0].data
    assert hub.cost() == {"GET blob": 1, "GET cdn": 1}
    assert Skopeo(place / "after").copy(f"{proxy.host}/team/bare:1").is_exactly(image)
    proxy.idle()
    assert proxy.metric("depproxy_cache_blobs") == 3


def test_what_owners_have_set_can_be_read_again(
    start_proxy: Callable[..., Proxy], hub: Hub, registry: Registry, place: Path
) -> None:
    """The secret is sealed: keys and index belong together."""
    password = "correct horse"
    hashed = run(
        sys.executable, "-m", "depproxy.cli", "hash-password", environment=ENVIRONMENT, told=password
    ).stdout.strip()
    config = f'[users.ann]\npassword = "{hashed}"\n[groups.acme]\nmembers = {{ ann = "owner" }}\n'
    proxy = start_proxy(config)
    address = f"{proxy.url}/api/v4/groups/acme/dependency_proxy/settings"
    login = {"Authorization": "Basic " + b64encode(f"ann:{password}".encode()).decode()}
    body = json.dumps({"identity": "bob", "secret": "s3cret", "ttl_policy_enabled": True, "ttl_days": 7}).encode()
    answer = wire.fetch(address, "PATCH", {**login, "Content-Type": "application/json"}, body)
    assert answer.status == 200, answer.body
    before = wire.fetch(address, headers=login).document
    assert (before["identity"], before["secret_usable"]) == ("bob", True)
    file = place / "b.tar"
    depproxy(proxy, "backup", str(file))
    lose(proxy)
    restore(proxy, file)
    proxy.restart()
    assert wire.fetch(address, headers=login).document == before
    registry.push("team/own", images.sized(1000, "own"), "1")
    hub.reset()
    token = wire.fetch(f"{proxy.url}/jwt/auth?service=dependency_proxy&scope=", headers=login).document["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert wire.fetch(f"{proxy.group('team/own', 'acme')}/manifests/1", headers=headers).status == 200
    logins = {seen["authorization"] for seen in hub.requests() if seen["kind"] == "token"}
    assert logins == {"Basic " + b64encode(b"bob:s3cret").decode()}


def test_while_clients_pull(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    """What is being downloaded is not in it, all the rest is; and nobody waits for the backup."""
    done = registry.push("team/done", images.sized(MIB, "done"), "1")
    assert Skopeo(place / "done").copy(f"{proxy.host}/team/done:1").is_exactly(done)
    proxy.idle()
    image = registry.push("team/going", images.sized(4 * MIB, "going"), "1")
    assert wire.manifest(proxy.repository("team/going"), "1").status == 200
    hub.fault("cdn", method="GET", gate=MIB)
    with wire.Download(f"{proxy.repository('team/going')}/blobs/{image.layers[0].digest}") as download:
        first = download.exactly(MIB // 2)
        with tarfile.open(fileobj=piped(proxy, place), mode="r|") as archive:
            names = [member.name for member in archive]
        hub.release()
        assert first + download.rest() == image.layers[0].data
    for layer in done.layers:
        assert f"blobs/{layer.digest.replace(':', '/')}" in names
    assert f"blobs/{image.layers[0].digest.replace(':', '/')}" not in names
    assert names[0] == "depproxy-backup.json"
    assert names[1] == "configuration.toml"
    assert names[-1] == "manifest.json"
    assert {"keys/signing-keys.json", "keys/settings-key", "index/00000000.jsonl"} < set(names)


def piped(proxy: Proxy, place: Path) -> io.BytesIO:
    """A backup with blobs from standard output."""
    argv = command(proxy, "backup", "--with-blobs", "-")
    done = subprocess.run(argv, env={**os.environ, **ENVIRONMENT}, capture_output=True, timeout=60, check=True)
    assert b"standard output: configuration, keys and index" in done.stderr
    return io.BytesIO(done.stdout)


def test_what_a_restore_refuses(proxy: Proxy, registry: Registry, place: Path) -> None:
    """And then nothing has changed."""
    image = registry.push("team/refused", images.sized(1000, "refused"), "1")
    assert wire.manifest(proxy.repository("team/refused"), "1").body == image.body
    file, damaged = place / "b.tar", place / "d.tar"
    depproxy(proxy, "backup", str(file))
    done = restore(proxy, file, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    expected = "is in use: stop depproxy first (systemctl stop depproxy.socket depproxy.service)\n"
    assert done.stderr == f"{proxy.data} {expected}"
    before = (proxy.data / "keys" / "settings-key").read_bytes()
    proxy.stop()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    done = restore(proxy, damaged, "--force", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{damaged}: is damaged")
    done = restore(proxy, file, check=False)
    assert done.returncode == 1
    assert done.stderr == "the cache index is not empty: give --force to replace it, and the keys with it\n"
    assert (proxy.data / "keys" / "settings-key").read_bytes() == before
    proxy.restart()
    assert wire.manifest(proxy.repository("team/refused"), image.digest).outcome == "hit"
    proxy.stop()
    restore(proxy, file, "--force")
    proxy.restart()
    assert wire.manifest(proxy.repository("team/refused"), image.digest).outcome == "hit"


def test_a_restore_that_is_cut_off(proxy: Proxy, hub: Hub, registry: Registry, place: Path) -> None:
    """The service does not start on half of it; the same command, once more, makes it whole."""
    image = registry.push("team/cut", images.sized(32 * MIB, "cut"), "1")
    assert Skopeo(place / "before").copy(f"{proxy.host}/team/cut:1").is_exactly(image)
    proxy.idle()
    file = place / "b.tar"
    depproxy(proxy, "backup", "--with-blobs", str(file))
    lose(proxy)
    # The store is full, as it were, where a directory cannot be made.
    proxy.data.mkdir(mode=0o700)
    (proxy.data / "blobs").mkdir()
    (proxy.data / "blobs" / "sha256").write_text("in the way")
    done = restore(proxy, file, check=False)
    assert done.returncode == 1
    assert "mend that, and restore again; depproxy does not start before" in done.stderr
    (proxy.data / "blobs" / "sha256").unlink()
    argv = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "depproxy", "--config"]
    service = Process("depproxy", [*argv, str(proxy.directory / "depproxy.toml")], place / "log", ENVIRONMENT)
    assert service.wait() == 1
    assert "is restored in part only: run depproxy restore again" in service.log
    restore(proxy, file)
    hub.down()
    proxy.restart()
    assert Skopeo(place / "after").copy(f"{proxy.host}/team/cut:1").is_exactly(image)


def test_it_belongs_to_the_user_of_the_service(
    start_proxy: Callable[..., Proxy], registry: Registry, place: Path
) -> None:
    """Root restores, and all is somebody else's: whose the directory is, or who is named."""
    # A directory that can be reached by everybody, unlike those of these tests.
    reachable = Path(tempfile.mkdtemp(dir="/var/tmp"))
    reachable.chmod(0o755)
    redis = Redis(place / "redis", "--unixsocket", str(reachable / "redis.sock"), "--unixsocketperm", "777")
    try:
        password = place / "p0" / "secrets" / "hub"
        password.parent.mkdir(parents=True)
        password.write_text("s3cret")
        named = 'username = "bob"\npassword_file = "secrets/hub"\n'
        proxy = start_proxy(f'[index]\nurl = "unix://{reachable}/redis.sock"\n', named)
        image = registry.push("team/nobodys", images.sized(1000, "nobodys"), "1")
        assert Skopeo(place / "before").copy(f"{proxy.host}/team/nobodys:1").is_exactly(image)
        proxy.idle()
        file = place / "b.tar"
        depproxy(proxy, "backup", "--with-blobs", str(file))
        lose(proxy)
        shutil.rmtree(password.parent)
        arguments = ("restore", "--force", str(file), "--data", str(reachable / "data"))
        done = depproxy(proxy, *arguments, check=False)
        assert done.stderr == f"{reachable / 'data'}: is not there; name the user that it shall belong to by --user\n"
        assert not password.exists()
        nobody = pwd.getpwnam("nobody")
        for more in (["--user", "nobody"], []):
            done = depproxy(proxy, *arguments, *more)
            found = [reachable / "data", *(reachable / "data").rglob("*")]
            assert {path.name for path in found} >= {"data", "keys", "settings-key", "lock", image.digest[7:]}
            assert {(path.stat().st_uid, path.stat().st_gid) for path in found} == {(nobody.pw_uid, nobody.pw_gid)}
            assert not any(path.stat().st_mode & 0o077 for path in found)
            for path in (password, proxy.directory / "depproxy.toml"):
                state = path.stat()
                assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (0, nobody.pw_gid, 0o640)
                assert (f"{path} was put there\n" in done.stderr) == bool(more)
        assert password.read_text() == "s3cret"
    finally:
        redis.process.stop()
        shutil.rmtree(reachable)


def test_into_a_redis_of_the_operators(start_proxy: Callable[..., Proxy], registry: Registry, place: Path) -> None:
    """Keys of others stay."""
    redis = Redis(place / "redis")
    try:
        redis.ask("-n", "3", "SET", "theirs", "1")
        proxy = start_proxy(f'[index]\nurl = "redis://127.0.0.1:{redis.port}/3"\n')
        image = registry.push("team/outside", images.sized(1000, "outside"), "1")
        assert wire.manifest(proxy.repository("team/outside"), "1").body == image.body
        proxy.idle()
        file = place / "b.tar"
        depproxy(proxy, "backup", str(file))
        proxy.stop()
        redis.ask("-n", "3", "FLUSHDB")
        redis.ask("-n", "3", "SET", "theirs", "2")
        redis.ask("-n", "3", "SET", "depproxy:2:bucket:x", "1")
        restore(proxy, file)
        assert redis.ask("-n", "3", "GET", "depproxy:schema") == "2"
        assert redis.ask("-n", "3", "GET", "theirs") == "2"
        assert redis.ask("-n", "3", "EXISTS", "depproxy:2:bucket:x") == "0"
        proxy.restart()
        assert wire.manifest(proxy.repository("team/outside"), image.digest).outcome == "hit"
        proxy.stop()
    finally:
        redis.process.stop()
