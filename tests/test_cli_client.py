"""The command's client, before services that answer, misbehave, or are not there: each on a real Unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from depproxy import __version__
from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import UNIT_CONFIG, UNIT_STATE, Refused

OURS = f"Server: depproxy/{__version__}\r\n"


def whole(body: str, status: str = "200 OK", headers: str = OURS) -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def chunked(*chunks: str, last: bool = True) -> bytes:
    body = "".join(f"{len(chunk):x}\r\n{chunk}\r\n" for chunk in chunks) + ("0\r\n\r\n" if last else "")
    return f"HTTP/1.1 200 OK\r\n{OURS}Transfer-Encoding: chunked\r\n\r\n{body}".encode()


class Double:
    """Takes one request, answers with these bytes, and closes; or keeps the connection until the test ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer = b""
        self.keep = False
        self.request = b""
        self._kept: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            request = b""
            while b"\r\n\r\n" not in request and (data := connection.recv(65536)):
                request += data
            head, _, body = request.partition(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
            while len(body) < length:
                body += connection.recv(65536)
            self.request = head + b"\r\n\r\n" + body
            connection.sendall(self.answer)
            self._kept.append(connection)
            if not self.keep:
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._kept:
            connection.close()


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    double = Double(tmp_path / "s")
    yield double
    double.close()


def refused(ask: Callable[[], object]) -> str:
    with pytest.raises(Refused) as raised:
        ask()
    assert "\n" not in raised.value.message
    return raised.value.message


def test_get(double: Double) -> None:
    double.answer = whole('{"a": [1, null]}')
    assert Service(double.path).get("status") == {"a": [1, None]}
    assert double.request.startswith(b"GET /v1/status HTTP/1.1\r\n")
    Service(double.path).get("ratelimit", upstream="localhost:5001", other=None)
    assert double.request.startswith(b"GET /v1/ratelimit?upstream=localhost%3A5001 HTTP/1.1\r\n")


def test_post(double: Double) -> None:
    double.answer = whole('{"removed": 3}')
    assert Service(double.path).post("purge", group="acme", image=None, dry_run=True) == {"removed": 3}
    head, _, body = double.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/purge HTTP/1.1\r\n")
    assert json.loads(body) == {"group": "acme", "dry_run": True}


def test_follow(double: Double) -> None:
    double.answer = chunked('{"at"', ': 1}\n\n{"at": 2}\n', "\n", '{"done": true, "removed": 3}\n')
    told = list(Service(double.path).follow("gc", dry_run=True))
    assert told == [{"at": 1}, {"at": 2}, {"done": True, "removed": 3}]


def test_follow_ends_in_an_error(double: Double) -> None:
    double.answer = chunked('{"at": 1}\n', '{"error": "the disk is full"}\n')
    told = Service(double.path).follow("gc")
    assert next(told) == {"at": 1}
    assert refused(lambda: next(told)) == "the disk is full"


@pytest.mark.parametrize("answer", [chunked('{"at": 1}\n'), chunked('{"at": 1}\n', last=False), chunked('{"at": 1}')])
def test_follow_is_cut_off(double: Double, answer: bytes) -> None:
    double.answer = answer
    message = refused(lambda: list(Service(double.path).follow("gc")))
    assert (
        message == f"{double.path}: the service ended its answer too early; it may be stopping, and its log says more"
    )


def test_follow_given_up(double: Double) -> None:
    """The connection is closed at once: that is how the service learns of it."""
    double.keep = True
    double.answer = chunked('{"at": 1}\n', last=False)
    told = cast(Generator[Answer], Service(double.path).follow("gc"))
    next(told)
    told.close()
    (connection,) = double._kept
    connection.settimeout(30)
    assert connection.recv(1) == b""


def test_errors_are_told_as_they_are(double: Double) -> None:
    double.answer = whole('{"error": "no such group\\u001b[2J"}', "404 Not Found")
    assert refused(lambda: Service(double.path).get("ls")) == "no such group\\x1b[2J"


def test_another_version(double: Double) -> None:
    double.answer = whole('{"error": "unknown"}', "404 Not Found", "Server: depproxy/0.0.9\r\n")
    message = refused(lambda: Service(double.path).get("ls"))
    assert message == f"unknown; it is depproxy 0.0.9, this is {__version__}: restart the service after an upgrade"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "ended its answer too early"),
        (b"HTTP/1.1 200 OK\r\n" + OURS.encode() + b"Content-Length: 9\r\n\r\n{}", "ended its answer too early"),
        (b"SSH-2.0-x\r\n", "ended its answer too early"),
        (whole("{}", headers="Server: nginx\r\n"), "is no depproxy; name its admin socket by --socket"),
        (whole("{}", headers=""), "is no depproxy"),
        (whole("[]"), "the answer is not one that depproxy"),
        (whole("{"), "the answer is not one that depproxy"),
        (whole("[" * 100_000), "the answer is not one that depproxy"),
        (whole("{}", "500 Internal Server Error"), "the answer is not one that depproxy"),
    ],
)
def test_wrong_answers(double: Double, answer: bytes, words: str) -> None:
    double.answer = answer
    message = refused(lambda: Service(double.path).get("status"))
    assert message.startswith(f"{double.path}: ")
    assert words in message


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_line(line: bytes) -> None:
    """It is an object, or it is refused."""
    with contextlib.suppress(Refused):
        assert isinstance(Service(Path("/s"))._understood(line), dict)


def test_no_answer(double: Double) -> None:
    double.keep = True
    message = refused(lambda: Service(double.path, patience=0.05).get("status"))
    assert message == f"{double.path}: no answer within 0.05 s; the service's log may say why"


def test_not_running(tmp_path: Path) -> None:
    path = tmp_path / "s"
    expected = (
        f"{path}: no depproxy is running there; start it (systemctl start depproxy), or name its admin socket by"
        " --socket"
    )
    assert refused(lambda: Service(path).get("status")) == expected
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    assert refused(lambda: Service(path).get("status")) == expected
    beside = path / "s"
    assert "no depproxy is running there" in refused(lambda: Service(beside).get("status"))


def test_too_long_a_path(tmp_path: Path) -> None:
    assert "AF_UNIX path too long" in refused(lambda: Service(tmp_path / ("x" * 200)).get("status"))


def test_permission_denied(double: Double) -> None:
    """Another user, in a process of its own: root may open everything."""
    os.chmod(double.path, 0o600)
    for directory in (double.path.parent, *double.path.parents):
        if directory.is_dir() and str(directory) != "/tmp" and not os.stat(directory).st_mode & 0o001:
            os.chmod(directory, 0o711)
    script = "import sys; from depproxy.cli import main; main(['status', '--socket', sys.argv[1]])"
    done = subprocess.run(
        [sys.executable, "-c", f"import os; import depproxy.cli; os.setuid(65534); {script}", str(double.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{double.path}: permission denied; run this as root, or as the user that depproxy runs as\n"


# Where the socket is


def where(*arguments: str, environ: dict[str, str | None] | None = None) -> Any:
    @click.command
    @service_options
    def command(service: Service) -> None:
        click.echo(service.socket)

    found = CliRunner().invoke(command, arguments, env=environ or {})
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def test_the_socket_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "depproxy.toml"
    for text, expected in (
        ('[server]\nadmin_socket = "/run/x.sock"', "/run/x.sock"),
        ('[server]\nadmin_socket = "x.sock"', f"{tmp_path}/x.sock"),
        ('[storage]\npath = "/srv/cache"', "/srv/cache/admin.sock"),
        # Of files that only the service may read it does not matter what is in them.
        ('[storage]\npath = "data"\n[upstreams."x.y"]\npassword_file = "/nonexistent"', f"{tmp_path}/data/admin.sock"),
        ("", "/var/lib/elsewhere/admin.sock"),
    ):
        config.write_text(text)
        found = where("--config", str(config), environ={"STATE_DIRECTORY": "/var/lib/elsewhere"})
        assert found.stdout == f"{expected}\n"


def test_the_socket_that_is_named(tmp_path: Path) -> None:
    assert where("--config", "/nonexistent", "--socket", "/run/x").stdout == "/run/x\n"
    assert where(environ={"DEPPROXY_SOCKET": "/run/y"}).stdout == "/run/y\n"


def test_the_socket_without_a_file(tmp_path: Path) -> None:
    """As the service is found that was started without one; a file that is named must be there."""
    environ: dict[str, str | None] = {"STATE_DIRECTORY": None, "XDG_STATE_HOME": str(tmp_path), "DEPPROXY_CONFIG": None}
    assert where(environ=environ).stdout == f"{tmp_path}/depproxy/admin.sock\n"
    found = where("--config", str(tmp_path / "nothing"), environ=environ)
    assert (found.exit_code, found.stdout) == (1, "")
    assert (
        found.stderr
        == f"{tmp_path}/nothing: cannot be read (No such file or directory); must be a readable TOML file\n"
    )


def test_the_socket_of_the_unit() -> None:
    """systemd alone knows where the unit's state is; so its configuration file stands for it."""
    assert Path("/etc/depproxy/depproxy.toml") == UNIT_CONFIG
    unit = (Path(__file__).parent.parent / "systemd/depproxy.service").read_text()
    assert f"--config {UNIT_CONFIG}" in unit
    assert f"StateDirectory={Path(UNIT_STATE).name}\n" in unit


def test_a_wrong_configuration(tmp_path: Path) -> None:
    config = tmp_path / "depproxy.toml"
    for text, words in (
        ("[server", "is not TOML"),
        ("server = 1", "server = 1: must be a table"),
        ("[server]\nadmin_socket = 1", "server.admin_socket = 1: must be a path in quotes"),
        (f'[storage]\npath = "/{"x" * 100}"', "must be a path of at most 107 bytes, as Unix sockets have, not 112"),
    ):
        config.write_text(text)
        found = where("--config", str(config))
        assert (found.exit_code, found.stdout) == (1, "")
        assert words in found.stderr
