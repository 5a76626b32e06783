"""Durations, sizes, listen strings and password files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.internet import endpoints, testing

from depproxy.config import (
    ConfigError,
    format_duration,
    format_size,
    parse_duration,
    parse_listener,
    parse_size,
    read_secret,
)
from depproxy.config.endpoints import _split
from depproxy.config.errors import Wrong
from depproxy.config.names import index_url
from depproxy.config.units import parse_quota
from depproxy.index.address import parse_address
from tests import configurations

TWISTED_ENDPOINTS: Any = endpoints
TWISTED_TESTING: Any = testing


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.sampled_from(("", "\n", "\r\n")))
def test_secret_loses_one_line_end(secret: str, end: str) -> None:
    assume(end or not secret.endswith("\n"))
    assume(not (end == "\n" and secret.endswith("\r")))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "token")
        path.write_bytes((secret + end).encode())
        assert read_secret(path) == secret


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"x" * 65537])
def test_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{path}: must "):
        read_secret(path)


def test_no_secret_from_a_pipe_or_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing"):
        with pytest.raises(ConfigError, match=rf"/{name}: must be a "):
            read_secret(tmp_path / name)


@given(st.integers(0, 10**11) | st.integers(0, 10**6).map(lambda ms: ms / 1000))
def test_durations_round_trip(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(configurations.durations(0, 10**8, forever=True))
def test_durations_are_read(pair: tuple[Any, float]) -> None:
    text, seconds = pair
    assert parse_duration(text or "0s") == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1.5h", "1h30m", "30 seconds", "30S", "٣s", "1s\n", "infinity"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@given(configurations.sizes())
def test_sizes_are_read(pair: tuple[Any, float]) -> None:
    text, size = pair
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    "text", ["", "50", "GiB", "-1 GiB", "1.5 GiB", "50 GB", "50 gib", "50  GiB", "٣ GiB", "1 GiB\n", "infinity"]
)
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


@given(configurations.sizes(), st.integers(1, 100), st.floats(0, 1e15))
def test_quotas_are_read(size: tuple[Any, float], percent: int, cache: float) -> None:
    assert parse_quota(size[0]).of(cache) == size[1]
    assert parse_quota(f"{percent}%").of(cache) == percent / 100 * cache


@pytest.mark.parametrize("text", ["", "0%", "101%", "050%", "5 %", "%", "50", "٣%", "50%\n"])
def test_no_quota(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_quota(text)


@given(
    st.sampled_from(("redis://", "rediss://", "unix://", "")),
    st.text(":@/?#%0", max_size=12) | st.from_regex(r"(u?:p?@)?(h(:1)?)?/[0-9a]{0,3}(\?db=[0-9]*)?", fullmatch=True),
)
def test_index_urls_that_are_accepted_are_understood(scheme: str, rest: str) -> None:
    with contextlib.suppress(Wrong):
        parse_address(index_url(scheme + rest))


@given(st.text(":=\\ab/", max_size=20))
def test_listeners_are_split_as_twisted_does(text: str) -> None:
    try:
        expected: object = TWISTED_ENDPOINTS._parse(text)
    except RuntimeError:  # Twisted's answer to a backslash at the end
        expected = None
    try:
        found: object = _split(text)
    except Wrong:
        found = None
    assert found == expected


@given(configurations.LISTENERS.filter(lambda text: not text.startswith("systemd")))
def test_twisted_listens_on_what_is_accepted(text: str) -> None:
    reactor = TWISTED_TESTING.MemoryReactorClock()
    TWISTED_ENDPOINTS.serverFromString(reactor, text).listen(object())
    listener = parse_listener(text)
    if listener.kind == "unix":
        assert len(reactor.unixServers) == 1
    else:
        ((port, _factory, _backlog, interface),) = reactor.tcpServers
        assert (port, interface) == (listener.port, listener.interface or interface)
