"""What is said to systemd, over real datagram sockets."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from depproxy import sdnotify


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A datagram socket, and its name as systemd writes it."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        if request.param == "path":
            name = str(tmp_path / "notify")
            sock.bind(name)
        else:
            sock.bind(f"\0{tmp_path}")
            name = f"@{tmp_path}"
        sock.settimeout(5)
        yield sock, name


def test_one_datagram_per_state(listener: tuple[socket.socket, str]) -> None:
    sock, name = listener
    for state in ("READY=1", "STOPPING=1", "RELOADING=1\nMONOTONIC_USEC=12"):
        assert sdnotify.notify(state, {"NOTIFY_SOCKET": name})
        assert sock.recv(4096) == state.encode()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_nobody_asked(environ: dict[str, str]) -> None:
    assert not sdnotify.notify("READY=1", environ)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        sdnotify.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_reloading_tells_when() -> None:
    """sd_notify(3): MONOTONIC_USEC, the CLOCK_MONOTONIC in microseconds at which the reload began."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=([0-9]+)", sdnotify.reloading())
    assert match
    assert before <= int(match[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
