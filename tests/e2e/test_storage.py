"""The commands that look after what is stored, while real clients pull through the real service."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from tests.e2e import images, wire
from tests.e2e.engines import Docker, Skopeo
from tests.e2e.processes import run, wait_until
from tests.e2e.servers import ROOT, Hub, Proxy, Registry

MIB = images.MIB
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}


def command(
    proxy: Proxy, name: str, *arguments: str, told: str = "", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    argv = [sys.executable, "-m", "depproxy.cli", name, "--socket", str(proxy.data / "admin.sock"), *arguments]
    return run(*argv, environment=ENVIRONMENT, told=told, check=check)


def answer(proxy: Proxy, name: str, *arguments: str) -> Any:
    """What a command prints for programs."""
    return json.loads(command(proxy, name, *arguments, "--json").stdout)


def pull(proxy: Proxy, repository: str, manifest: images.Manifest, tag: str = "1", group: str = "") -> set[str | None]:
    """A manifest by its tag, and all that it names; how the blobs were answered."""
    base = proxy.group(repository, group) if group else proxy.repository(repository)
    found = wire.manifest(base, tag)
    assert (found.status, found.body) == (200, manifest.body)
    outcomes: set[str | None] = set()
    for blob in manifest.blobs:
        got = wire.blob(base, blob.digest)
        assert (got.status, got.body) == (200, blob.data)
        outcomes.add(got.outcome)
    proxy.idle()
    return outcomes


def redis(proxy: Proxy, *words: str) -> None:
    """A command for the private Redis."""
    run("redis-cli", "-s", str(proxy.data / "redis" / "redis.sock"), *words)


def size_of(manifest: images.Manifest) -> int:
    return len(manifest.body) + sum(len(blob.data) for blob in manifest.blobs)


def test_what_was_pulled(proxy: Proxy, registry: Registry) -> None:
    index = registry.push("team/shown", images.multiarch("shown", oci=True), "1")
    plain = registry.push("team/plain", images.sized(MIB, "plain"), "2")
    native = index.manifests[0]
    assert wire.manifest(proxy.repository("team/shown"), "1").body == index.body
    base = proxy.repository("team/shown")
    assert wire.manifest(base, native.digest).body == native.body
    for blob in native.blobs:
        assert wire.blob(base, blob.digest).status == 200
    pull(proxy, "team/plain", plain, "2")
    found = answer(proxy, "ls", "local")
    by_name = {image["image"]: image for image in found["images"]}
    assert by_name.keys() == {"docker.io/team/shown:1", "docker.io/team/plain:2"}
    shown = by_name["docker.io/team/shown:1"]
    assert shown["platforms"] == [f"linux/{child}" for child in (images.NATIVE, images.FOREIGN)]
    assert shown["held"] == len(index.body) + size_of(native)
    assert shown["size"] == shown["held"] + len(index.manifests[1].body)
    assert by_name["docker.io/team/plain:2"]["held"] == size_of(plain)
    (group,) = answer(proxy, "ls")["groups"]
    assert (group["group"], group["repositories"], group["bytes"]) == ("local", 2, shown["held"] + size_of(plain))
    assert "docker.io/team/shown:1 " in command(proxy, "ls", "local").stdout
    parts = answer(proxy, "inspect", "team/shown:1")["parts"][0]["parts"]
    assert [(part["platform"], part["here"]) for part in parts] == [
        (f"linux/{images.NATIVE}", True),
        (f"linux/{images.FOREIGN}", False),
    ]
    assert all(part["here"] for part in parts[0]["parts"])
    assert f"manifest linux/{images.FOREIGN}" in command(proxy, "inspect", "team/shown:1").stdout
    done = command(proxy, "inspect", "team/shown:2", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "docker.io/team/shown:2 is not in the cache of group local. `depproxy ls local` shows what is\n",
    )


def test_how_much_there_is(start_proxy: Callable[..., Proxy], hub: Hub, registry: Registry) -> None:
    """Two groups that share a layer, and a download under way."""
    proxy = start_proxy('[groups.acme]\nanonymous = ["127.0.0.0/8"]\n')
    shared, own = images.sized(MIB, "shared").layers[0], images.sized(2 * MIB, "own").layers[0]
    one = registry.push("team/one", images.image([shared]), "1")
    two = registry.push("team/two", images.image([shared, own]), "1")
    pull(proxy, "team/one", one)
    pull(proxy, "team/two", two, group="acme")
    other = registry.push("team/other", images.sized(4 * MIB, "other"), "1")
    wire.manifest(proxy.repository("team/other"), "1")
    hub.fault("cdn", method="GET", gate=MIB)
    with wire.Download(f"{proxy.repository('team/other')}/blobs/{other.layers[0].digest}") as download:
        assert download.exactly(MIB // 2) == other.layers[0].data[: MIB // 2]
        found = answer(proxy, "du")
        hub.release()
        assert download.rest() == other.layers[0].data[MIB // 2 :]
    groups = {group["group"]: group for group in found["groups"]}
    assert groups["acme"]["bytes"] == size_of(two)
    assert groups["acme"]["alone"]["bytes"] == size_of(two) - len(shared.data)
    assert groups["local"]["alone"]["bytes"] == size_of(one) - len(shared.data) + len(other.body)
    assert found["total"]["bytes"] == size_of(one) + size_of(two) - len(shared.data) + len(other.body)
    assert found["nobody"] == {"blobs": 0, "bytes": 0}
    assert found["directories"]["growing"]["files"] == 1
    assert found["directories"]["growing"]["bytes"] >= MIB // 2
    assert found["directories"]["redis"]["bytes"] > 0
    assert "acme " in command(proxy, "du").stdout


def test_a_purge_while_clients_pull(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    """A reader keeps what it has begun, and the next one fetches again."""
    manifest = registry.push("team/purged", images.sized(8 * MIB, "purged"), "1")
    stays = registry.push("team/stays", images.sized(MIB, "stays"), "1")
    pull(proxy, "team/purged", manifest)
    pull(proxy, "team/stays", stays)
    layer = manifest.layers[0]
    with wire.Download(f"{proxy.repository('team/purged')}/blobs/{layer.digest}") as download:
        assert download.exactly(1000) == layer.data[:1000]
        assert "is purged: 3 blobs that it held, of which 3 are removed, 8." in (
            command(proxy, "purge", "team/purged:1", "--yes").stdout
        )
        assert download.rest() == layer.data[1000:]
    assert [image["image"] for image in answer(proxy, "ls", "local")["images"]] == ["docker.io/team/stays:1"]
    hub.reset()
    assert pull(proxy, "team/purged", manifest) == {"miss"}
    assert pull(proxy, "team/stays", stays) == {"hit"}
    assert hub.cost()["GET blob"] == 2
    done = command(proxy, "purge", "--all", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "nobody can be asked here whether to purge that; if it is meant, add --yes\n",
    )
    assert answer(proxy, "purge", "--all", "-y")["removed"] == 6
    assert answer(proxy, "du")["total"] == {"blobs": 0, "bytes": 0}
    assert not [path for path in (proxy.data / "blobs").rglob("*") if path.is_file()]


def test_a_purge_under_a_crowd(proxy: Proxy, registry: Registry) -> None:
    """Again and again, while readers come and go: each gets every byte, and in the end the sums are right."""
    manifest = registry.push("team/crowd", images.sized(MIB, "crowd"), "1")
    base, layer = proxy.repository("team/crowd"), manifest.layers[0]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pulls = [pool.submit(pull, proxy, "team/crowd", manifest) for _ in range(4)]
            done = command(proxy, "purge", "team/crowd:1", "-y", check=False)
            assert done.returncode == 0 or "is not in the cache" in done.stderr
            for one in pulls:
                one.result()
    assert wire.blob(base, layer.digest).body == layer.data


def test_a_pinned_image_stays(start_proxy: Callable[..., Proxy], registry: Registry) -> None:
    """However many others are pulled after it; without its pin it goes first."""
    proxy = start_proxy()
    proxy.configure(f'max_size = "100 MiB"\n[upstreams."docker.io"]\nurl = "{registry.url}"\n')
    proxy.restart()
    pinned = registry.push("team/pinned", images.sized(30 * MIB, "pinned"), "1")
    pull(proxy, "team/pinned", pinned)
    assert command(proxy, "pin", "team/pinned:1").stdout == "docker.io/team/pinned:1 is kept for group local.\n"
    for number in range(4):
        pull(
            proxy, f"team/big{number}", registry.push(f"team/big{number}", images.sized(30 * MIB, f"big{number}"), "1")
        )
    wait_until(lambda: proxy.metric("depproxy_removed_blobs_total", why="evicted") > 0, "an eviction")
    assert pull(proxy, "team/pinned", pinned) == {"hit"}
    (pin,) = answer(proxy, "pins")["pins"]
    assert (pin["image"], pin["held"], pin["size"]) == ("docker.io/team/pinned:1", size_of(pinned), size_of(pinned))
    command(proxy, "unpin", "team/pinned:1")
    assert answer(proxy, "pins") == {"pins": []}


def test_garbage_while_clients_pull(proxy: Proxy, registry: Registry) -> None:
    """Nobody notices; what was said would go, goes."""
    old = registry.push("team/old", images.sized(20 * MIB, "old"), "1")
    new = registry.push("team/new", images.sized(90 * MIB, "new"), "1")
    pull(proxy, "team/old", old)
    proxy.configure(f'max_size = "100 MiB"\n[upstreams."docker.io"]\nurl = "{registry.url}"\n')
    said = answer(proxy, "gc", "--dry-run")
    assert (said["removed"], said["adopted"], said["forgotten"]) == ([], 0, 0)
    pull(proxy, "team/new", new)
    proxy.process.signal(signal.SIGHUP)
    with wire.Download(f"{proxy.repository('team/new')}/blobs/{new.layers[0].digest}") as download:
        assert download.exactly(1000) == new.layers[0].data[:1000]
        wait_until(lambda: "configuration reloaded" in proxy.log, "the new limit")
        answer(proxy, "gc")
        assert download.rest() == new.layers[0].data[1000:]
    assert proxy.metric("depproxy_removed_blobs_total", why="evicted") >= 1
    assert answer(proxy, "du")["total"]["bytes"] <= 100 * MIB
    assert command(proxy, "gc").stdout == "Nothing had to go.\n"
    lost = next(path for path in (proxy.data / "blobs").rglob("*") if path.is_file())
    lost.unlink()
    assert answer(proxy, "gc", "--dry-run")["forgotten"] == 1
    assert answer(proxy, "gc")["forgotten"] == 1
    assert answer(proxy, "gc")["forgotten"] == 0


def test_a_file_that_is_lost_and_one_that_is_damaged(proxy: Proxy, hub: Hub, registry: Registry) -> None:
    """Under the running service, as a restore from a backup or a failing disk leaves them: then the pull is right."""
    manifest = registry.push("team/broken", images.sized(4 * MIB, "broken"), "1")
    pull(proxy, "team/broken", manifest)
    assert command(proxy, "fsck", "--verify").stdout.splitlines()[-1] == "All is right."
    config, layer = manifest.blobs
    blobs = proxy.data / "blobs" / "sha256"
    paths = {blob.digest: blobs / blob.digest[7:9] / blob.digest[7:] for blob in manifest.blobs}
    paths[config.digest].unlink()
    data = bytearray(layer.data)
    data[2 * MIB] ^= 1
    paths[layer.digest].write_bytes(data)
    redis(proxy, "INCRBY", "depproxy:2:bytes", "12345")
    done = command(proxy, "fsck", check=False)
    assert done.returncode == 1
    assert f"{config.digest} has an entry in the index, and no file\n" in done.stdout
    assert layer.digest not in done.stdout
    assert done.stdout.endswith("2 things are wrong; --repair puts them right.\n")
    done = command(proxy, "fsck", "--verify", "--repair", check=False)
    assert done.returncode == 1
    assert f"{config.digest} has an entry in the index, and no file: repaired\n" in done.stdout
    assert f"{layer.digest} has other bytes than its digest says: repaired\n" in done.stdout
    assert "The sum of all sizes is " in done.stdout
    assert done.stdout.endswith("3 things were wrong, and are repaired.\n")
    assert command(proxy, "fsck", "--verify").returncode == 0
    assert answer(proxy, "du")["total"] == {"blobs": 1, "bytes": len(manifest.body)}
    hub.reset()
    assert pull(proxy, "team/broken", manifest) == {"miss"}
    assert hub.cost()["GET blob"] == 2
    assert pull(proxy, "team/broken", manifest) == {"hit"}


def test_a_check_while_clients_pull(proxy: Proxy, registry: Registry) -> None:
    """What comes while it looks is nothing wrong, and nobody waits for it."""
    manifests = [registry.push(f"team/check{n}", images.sized(4 * MIB, f"check{n}"), "1") for n in range(6)]
    with ThreadPoolExecutor(3) as pool:
        pulls = [pool.submit(pull, proxy, f"team/check{n}", manifest) for n, manifest in enumerate(manifests)]
        while not all(one.done() for one in pulls):
            command(proxy, "fsck", "--verify", "--repair")
        for one in pulls:
            assert one.result() == {"miss"}
    assert command(proxy, "fsck", "--verify").stdout.splitlines()[-1] == "All is right."


AGED = """\
local key = 'depproxy:2:held:acme'
for _, digest in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -172800, digest) end
"""


def test_clients_pull_while_all_of_it_runs(
    start_proxy: Callable[..., Proxy], registry: Registry, docker: Docker, place: Path
) -> None:
    """docker and skopeo, beside expiry, purge, eviction, check and warm: each pull is right."""
    proxy = start_proxy('[groups.acme]\nanonymous = ["127.0.0.0/8"]\nttl = "1d"\nquota = "100 MiB"\n')
    pushed = [registry.push("team/beside", images.busybox(f"beside all of it {n}"), str(n)) for n in range(4)]
    registry.push("team/idle", images.busybox("nobody pulls it"), "1")
    over = Event()

    def work(take: Callable[[str, images.Manifest], None]) -> int:
        count = 0
        while not over.is_set():
            number = count % len(pushed)
            take(f"{proxy.host}/acme/dependency_proxy/containers/team/beside:{number}", pushed[number])
            count += 1
        return count

    def by_docker(name: str, image: images.Manifest) -> None:
        docker.pull(name)
        assert docker.inspect(name)["Id"] == image.config.digest
        docker("image", "rm", name)

    skopeo = Skopeo(place / "skopeo")

    def by_skopeo(name: str, image: images.Manifest) -> None:
        assert skopeo.copy(name).is_exactly(image)

    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work, take) for take in (by_docker, by_skopeo)]
        try:
            for _ in range(5):
                command(proxy, "warm", "--group", "acme", "team/beside:0", "team/idle:1")
                # The first one has the reads written that are known so far.
                command(proxy, "gc")
                redis(proxy, "EVAL", AGED, "0")
                command(proxy, "gc")
                command(proxy, "purge", "--group", "acme", "--all", "--yes", check=False)
                command(proxy, "fsck", "--verify")
        finally:
            over.set()
        assert min(worker.result() for worker in workers) > 1
    removed = [proxy.metric("depproxy_removed_blobs_total", why=why) for why in ("expired", "purged")]
    assert min(removed) > 0
    assert proxy.metric("depproxy_errors_total") == 0
