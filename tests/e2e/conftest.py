"""Fixtures: one registry, one Hub double and one of each engine per run; a fresh depproxy per test."""

from __future__ import annotations

import itertools
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import engines
from tests.e2e.processes import end_leftovers
from tests.e2e.servers import Hub, Proxy, Registry

ACCOUNT = "bob:s3cret"


@pytest.fixture(scope="session")
def area() -> Iterator[Path]:
    """The run's directory. Its name is short: a unix socket's path has 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(prefix="dpe2e-", dir="/tmp"))
    # A shell has what it starts in the background ignore it, and all that it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield directory
    finally:
        end_leftovers(directory)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def place(area: Path, numbers: Iterator[int]) -> Iterator[Path]:
    """A fresh directory, removed after the test."""
    directory = area / f"t{next(numbers)}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def registry(area: Path) -> Iterator[Registry]:
    registry = Registry(area / "registry")
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def one_hub(area: Path, registry: Registry) -> Iterator[Hub]:
    hub = Hub(area / "hub", registry, "--account", ACCOUNT)
    yield hub
    hub.stop()


@pytest.fixture
def hub(one_hub: Hub) -> Iterator[Hub]:
    """The double, well-behaved and with an empty memory at the start of each test."""
    one_hub.reset()
    yield one_hub
    one_hub.reset()


@pytest.fixture
def start_proxy(hub: Hub, place: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts depproxy before the double: ``start_proxy(config="...", upstream="...")``; ended with the test.

    ``upstream`` is TOML that goes into the table of docker.io, ``config`` is whatever else. For the others see
    ``Proxy``.
    """
    started: list[Proxy] = []

    def start(config: str = "", upstream: str = "", url: str = "", *, server: str = "", listen: str = "") -> Proxy:
        hub_table = f'[upstreams."docker.io"]\nurl = "{url or hub.url}"\n{upstream}\n'
        proxy = Proxy(place / f"p{len(started)}", hub_table + config, server=server, listen=listen)
        started.append(proxy)
        return proxy

    yield start
    hub.release()
    for proxy in started:
        proxy.stop()
        print(proxy.log)  # pytest shows it if the test failed
        assert "Traceback" not in proxy.log, "depproxy logged a failure"


@pytest.fixture
def proxy(start_proxy: Callable[..., Proxy]) -> Proxy:
    """depproxy on an empty store before the double, with nothing else configured."""
    return start_proxy()


@pytest.fixture(scope="session")
def containerd(area: Path) -> Iterator[engines.Containerd]:
    containerd = engines.Containerd(area / "containerd")
    yield containerd
    containerd.stop()


@pytest.fixture(scope="session")
def one_docker(area: Path, containerd: engines.Containerd) -> Iterator[engines.Docker]:
    docker = engines.Docker(area / "docker", containerd)
    yield docker
    docker.stop()


@pytest.fixture
def docker(one_docker: engines.Docker) -> Iterator[engines.Docker]:
    """The Docker engine without any image or mirror."""
    yield one_docker
    one_docker.clear()


@pytest.fixture
def ctr(containerd: engines.Containerd, place: Path) -> Iterator[engines.Ctr]:
    """containerd's own client, with an empty content store."""
    client = engines.Ctr(containerd, place / "hosts")
    yield client
    client.clear()
