"""The shipped unit, socket, user and configuration on a machine that boots with them, by systemd itself."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import images, wire
from tests.e2e.apart import Network
from tests.e2e.installed import PREFIX, SERVICE, SOCKET, UNITS
from tests.e2e.machine import Machine, Upstream
from tests.e2e.processes import wait_until
from tests.e2e.pulls import pull
from tests.e2e.servers import Registry

URL = "http://127.0.0.1:5000"
CLIENTS = 50
SHIPPED = (UNITS / "depproxy.toml").read_text()
TURNED_OFF = SHIPPED + "\n[groups.local]\nenabled = false\n"
WRONG = SHIPPED + "\n[groups.local]\nenabled = 7\n"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@pytest.fixture(scope="module")
def fresh(registry: Registry) -> images.Manifest:
    """At docker.io/team/fresh:1. One test alone pulls it."""
    return registry.push("team/fresh", images.sized(4 * images.MIB, "fresh"), "1")


@pytest.fixture(scope="module")
def image(registry: Registry) -> images.Manifest:
    """At docker.io/team/boot:1."""
    return registry.push("team/boot", images.sized(images.MIB, "boot"), "1")


@pytest.fixture(scope="module")
def large(registry: Registry) -> images.Manifest:
    """At docker.io/team/large:1. More than the kernel takes off a sender's hands."""
    return registry.push("team/large", images.sized(32 * images.MIB, "large"), "1")


@pytest.fixture(scope="module")
def upstream(area: Path, registry: Registry, network: Network) -> Iterator[Upstream]:
    with network.entered():
        upstream = Upstream(area / "upstream", registry)
    yield upstream
    upstream.stop()


@pytest.fixture(scope="module")
def booted(area: Path, network: Network, upstream: Upstream) -> Iterator[Machine]:
    directory = area / "machine"
    directory.mkdir()
    machine = Machine(directory, network, upstream.authority)
    yield machine
    machine.stop()


@pytest.fixture
def machine(
    booted: Machine, network: Network, fresh: images.Manifest, image: images.Manifest, large: images.Manifest
) -> Iterator[Machine]:
    """The machine with the shipped configuration. The test is in the machine's network."""
    before = len(booted.journal())
    with network.entered():
        yield booted
    journal = booted.journal()[before:]
    print(journal)  # pytest shows it if the test failed
    booted.settle(SHIPPED)
    assert "Traceback" not in journal, "depproxy logged a failure"


def metrics() -> str:
    return wire.fetch(f"{URL}/metrics").body.decode()


def cached(image: images.Manifest, repository: str) -> str:
    """The base URL of the repository, whose image is in the cache from now on."""
    base = f"{URL}/v2/{repository}"
    assert pull(base, "1").is_exactly(image)
    wait_until(lambda: "\ndepproxy_fills_active 0.0\n" in metrics(), "no fill under way")
    return base


def test_it_is_up_when_the_machine_is(machine: Machine) -> None:
    assert machine.show("Type", "ActiveState", "SubState", "Result", "NRestarts") == {
        "Type": "notify",
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
        "NRestarts": "0",
    }
    answer = wire.fetch(f"{URL}/readyz")
    assert (answer.status, answer.document["status"], answer.document["index"]) == (200, "ok", "ok")


def test_the_socket_is_systemds(machine: Machine) -> None:
    assert machine.show("ActiveState", "SubState", unit=SOCKET) == {"ActiveState": "active", "SubState": "running"}
    assert machine.listener(5000).holders == {machine.pid, machine.main_pid()}


def test_it_runs_as_its_own_user_without_rights(machine: Machine) -> None:
    """What the sysusers snippet made, and what the unit takes away."""
    name, _, uid, gid, *rest = machine.user("depproxy")
    assert (name, rest) == ("depproxy", ["depproxy", "/var/lib/depproxy", "/usr/sbin/nologin"])
    assert uid != "0"
    service = machine.service()
    assert sorted(status["Name"] for status in service) == ["redis-server", "twistd"]
    for status in service:
        assert status["Uid"].split() == [uid] * 4
        assert status["Gid"].split() == [gid] * 4
        assert {status[key] for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_its_state_is_its_own(machine: Machine) -> None:
    uid, gid = map(int, machine.user("depproxy")[2:4])
    state = machine.root / "var/lib/depproxy"
    found = state.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (uid, gid, 0o700)
    assert {"blobs", "growing", "incoming", "lock", "redis"} <= set(os.listdir(state))


def test_operators_ask_it_as_root(machine: Machine) -> None:
    """With nothing but the command: the shipped configuration leaves it to systemd where the socket is."""
    found = json.loads(machine.run(f"{PREFIX}/bin/depproxy", "status", "--json").stdout)
    assert (found["state"], found["index"]["reachable"]) == ("serving", True)
    assert found["upstreams"][0]["name"] == "docker.io"
    admin = (machine.root / "var/lib/depproxy/admin.sock").stat()
    assert (admin.st_uid, stat.S_IMODE(admin.st_mode)) == (int(machine.user("depproxy")[2]), 0o600)


def test_nobody_else_may_ask_it(machine: Machine) -> None:
    ask = ["setpriv", "--reuid=65534", "--clear-groups", f"{PREFIX}/bin/depproxy", "status"]
    done = machine.run(*ask, "--socket", "/var/lib/depproxy/admin.sock", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "permission denied; run this as root, or as the user that depproxy runs as" in done.stderr


def test_an_image_comes_through_https(machine: Machine, fresh: images.Manifest) -> None:
    """Byte for byte, under the restrictions of the unit, by the machine's own trust in the upstream."""
    pulled = pull(f"{URL}/v2/team/fresh", "1")
    assert pulled.is_exactly(fresh)
    assert set(pulled.outcomes) == {"miss"}
    again = pull(cached(fresh, "team/fresh"), "1")
    assert again.is_exactly(fresh)
    assert set(again.outcomes) == {"hit"}


def test_a_reload_takes_over_the_groups(machine: Machine, image: images.Manifest) -> None:
    base = cached(image, "team/boot")
    before = machine.show("MainPID", "NRestarts")
    machine.configuration = TURNED_OFF
    machine.systemctl("reload", SERVICE)
    refused = wait_until(lambda: _unless_ok(wire.manifest(base, "1")), "the group is turned off")
    assert (refused.status, refused.code) == (403, "DENIED")
    machine.configuration = SHIPPED
    machine.systemctl("reload", SERVICE)
    wait_until(lambda: wire.manifest(base, "1").status == 200, "the group is turned on")
    assert pull(base, "1").is_exactly(image)
    assert machine.show("MainPID", "NRestarts") == before


def _unless_ok(answer: wire.Answer) -> wire.Answer | None:
    return None if answer.status == 200 else answer


def test_a_reload_of_a_wrong_file_fails_and_changes_nothing(machine: Machine, image: images.Manifest) -> None:
    base = f"{URL}/v2/team/boot"
    before = machine.show("MainPID", "ActiveState", "NRestarts")
    read = len(machine.journal())
    machine.configuration = WRONG
    assert machine.systemctl("reload", SERVICE, check=False).returncode == 1
    assert machine.show("ReloadResult") == {"ReloadResult": "exit-code"}
    log = machine.journal()[read:]
    assert "/etc/depproxy/depproxy.toml: groups.local.enabled = 7: must be true or false" in log, log
    # The check came first, and nothing after it.
    assert "configuration not reloaded" not in log
    assert machine.show("MainPID", "ActiveState", "NRestarts") == before
    assert pull(base, "1").is_exactly(image)
    machine.configuration = SHIPPED


def test_the_socket_holds_requests_during_a_restart(
    machine: Machine, image: images.Manifest, large: images.Manifest
) -> None:
    """What was begun ends, then the old process, and all who came meanwhile are answered by the new one."""
    base, config = cached(image, "team/boot"), image.config
    slow, layer = cached(large, "team/large"), large.layers[0]
    before = machine.main_pid()
    with (
        ThreadPoolExecutor(CLIENTS) as pool,
        wire.Download(f"{slow}/blobs/{layer.digest}", receive_buffer=1 << 16) as download,
    ):
        machine.systemctl("restart", "--no-block", SERVICE)
        wait_until(lambda: machine.listener(5000).holders == {machine.pid}, "the old process listens no more")
        asking = [pool.submit(wire.blob, base, config.digest) for _ in range(CLIENTS)]
        wait_until(lambda: machine.listener(5000).waiting == CLIENTS, "all wait in the socket")
        assert machine.main_pid() == before
        assert download.equals(layer.data)
        answers = [client.result() for client in asking]
    assert [(answer.status, answer.outcome, answer.body) for answer in answers] == [(200, "hit", config.data)] * CLIENTS
    assert machine.main_pid() not in (0, before)


def test_a_killed_service_comes_back_with_its_cache(
    machine: Machine, upstream: Upstream, image: images.Manifest
) -> None:
    base = cached(image, "team/boot")
    restarts, before = int(machine.show("NRestarts")["NRestarts"]), machine.main_pid()
    with upstream.gone():
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: machine.main_pid() not in (0, before), "systemd starts it again")
        pulled = pull(base, image.digest)
        measured = metrics()
    assert pulled.is_exactly(image)
    assert set(pulled.outcomes) == {"hit"}
    assert "depproxy_upstream_requests_total{" not in measured
    assert machine.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": str(restarts + 1)}


def test_a_stop_ends_well_and_leaves_nothing(machine: Machine) -> None:
    before = machine.names()
    assert {"twistd", "redis-server"} <= before
    machine.systemctl("stop", SERVICE)
    assert machine.show("ActiveState", "SubState", "Result") == {
        "ActiveState": "inactive",
        "SubState": "dead",
        "Result": "success",
    }
    assert machine.names() == before - {"twistd", "redis-server"}


def test_a_request_starts_what_was_stopped(machine: Machine) -> None:
    """Its socket is still there. Who wants it to stay down stops the socket, too."""
    machine.systemctl("stop", SERVICE)
    assert wire.fetch(f"{URL}/readyz").status == 200
    assert machine.show("ActiveState") == {"ActiveState": "active"}
    machine.systemctl("stop", SOCKET, SERVICE)
    with pytest.raises(ConnectionRefusedError):
        wire.fetch(f"{URL}/readyz")
