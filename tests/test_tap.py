"""`twistd depproxy`: its options as plain objects, and what an operator sees of it, as real processes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from twisted.application.service import IService
from twisted.python.usage import UsageError

from depproxy import __version__
from depproxy.config import ConfigError, Settings
from depproxy.service import Depproxy
from depproxy.tap import Options, makeService, settle

ROOT = Path(__file__).parent.parent
TWISTD = str(Path(sys.executable).with_name("twistd"))


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))  # type: ignore[no-untyped-call]
    return options


def settings(*arguments: str) -> Settings:
    return parsed(*arguments).settings()


# Options


def test_nothing_is_needed() -> None:
    found = settings()
    assert found.server.listen == ("tcp:5000:interface=127.0.0.1",)
    assert list(found.upstreams) == ["docker.io"]


def test_what_may_be_repeated() -> None:
    found = settings(
        "--listen", "tcp:5001", "--listen=unix:/run/depproxy.sock",
        "--upstream", "ghcr.io=http://127.0.0.1:1", "--upstream=docker.io=http://127.0.0.1:2",
    )  # fmt: skip
    assert found.server.listen == ("tcp:5001", "unix:/run/depproxy.sock")
    assert {name: upstream.url for name, upstream in found.upstreams.items()} == {
        "docker.io": "http://127.0.0.1:2",
        "ghcr.io": "http://127.0.0.1:1",
    }


def test_of_the_same_upstream_the_last_one_counts() -> None:
    found = settings("--upstream", "ghcr.io=http://127.0.0.1:1", "--upstream", "ghcr.io=http://127.0.0.1:2")
    assert found.upstreams["ghcr.io"].url == "http://127.0.0.1:2"


def test_the_command_line_is_on_top_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "depproxy.toml"
    config.write_text(
        '[server]\nlisten = ["tcp:1"]\nstall_timeout = "7s"\n[storage]\npath = "/var/lib/one"\n'
        '[upstreams."ghcr.io"]\nurl = "http://127.0.0.1:1"\nretries = 7\n'
    )
    for option in ("--config", "-c"):
        found = settings(
            option, str(config), "-d", str(tmp_path), "--listen", "tcp:2", "--upstream", "ghcr.io=http://b"
        )
        assert found.server.listen == ("tcp:2",)
        assert found.server.stall_timeout == 7
        assert found.storage.path == tmp_path
        assert found.upstreams["ghcr.io"].url == "http://b"
        assert found.upstreams["ghcr.io"].retries == 7


def test_a_reload_reads_the_file_again(tmp_path: Path) -> None:
    config = tmp_path / "depproxy.toml"
    config.write_text('[mirror]\ngroup = "one"\n')
    options = parsed("--config", str(config))
    assert options.settings().mirror.group == "one"
    config.write_text('[mirror]\ngroup = "two"\n')
    assert options.settings().mirror.group == "two"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["argument"],
        ["--config"],
        ["--upstream", "ghcr.io"],
        ["--upstream", "ghcr=http://b"],
        ["--upstream", "ghcr.io=ftp://b"],
    ],
)
def test_wrong_options(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        parsed(*arguments)
    assert str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [["--listen", "5000"], ["--listen", "tcp:70000"], ["--data", "/dev/null/x\0"], ["--config", "/nonexistent.toml"]],
)
def test_wrong_values(arguments: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(*arguments)
    assert "\n" not in str(raised.value)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parsed("--version")
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"depproxy {__version__}\n"


def test_every_option_is_explained() -> None:
    text = Options().getUsage()
    for option in ("--config", "--data", "--listen", "--upstream", "--version"):
        assert option in text


# makeService


def test_the_service_is_made_and_touches_nothing(tmp_path: Path) -> None:
    """Whoever asks for the service may not be who runs it."""
    data = tmp_path / "data"
    service = makeService(parsed("--data", str(data), "--listen", "tcp:0"))
    assert isinstance(service, Depproxy)
    assert IService.providedBy(service)
    assert not data.exists()


def test_a_wrong_configuration_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text('[cache]\nserve_stale = "soon"\n')
    with pytest.raises(SystemExit) as raised:
        makeService(parsed("--config", str(config)))
    message = str(raised.value.code)
    assert message.startswith(f"depproxy: {config}: ")
    assert "\n" not in message
    assert "serve_stale" in message


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/99999",
        "redis://user:p%ZZ@h",
        "unix:///a?b=c",
        "redis://h/0?x",
        "redis://[::1]:1/0",
        "redis://:@h",
    ],
)
def test_every_index_url_is_taken_or_refused_in_one_line(tmp_path: Path, url: str) -> None:
    """Two places read it: none may let through what the other takes for a defect."""
    config = tmp_path / "index.toml"
    config.write_text(f'[index]\nurl = "{url}"\n')
    try:
        makeService(parsed("--config", str(config), "--data", str(tmp_path / "data")))
    except SystemExit as error:
        assert "\n" not in str(error.code)  # noqa: PT017
        assert str(error.code).startswith("depproxy: ")  # noqa: PT017


# Processes


def environment(**more: str) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::RuntimeWarning", **more}


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """twistd to its end."""
    return subprocess.run(
        [TWISTD, *arguments],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start_and_fail(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit code, and all that was said on standard error."""
    done = run("--nodaemon", "--pidfile=", "depproxy", *arguments, cwd=cwd)
    return done.returncode, done.stderr


# twistd ends by the signal that stopped it, which systemd takes for a clean end.
STOPPED = -signal.SIGTERM


class Running:
    """twistd with depproxy in it, its output in a file."""

    def __init__(
        self, directory: Path, *arguments: str, twistd: tuple[str, ...] = (), under: tuple[str, ...] = ()
    ) -> None:
        self._log = directory / "log"
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [*under, TWISTD, "--nodaemon", "--pidfile=", *twistd, "depproxy", *arguments],
                cwd=directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not true():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(*arguments: str, twistd: tuple[str, ...] = (), under: tuple[str, ...] = ()) -> Running:
        started.append(Running(tmp_path, "--data", str(tmp_path / "data"), *arguments, twistd=twistd, under=under))
        return started[-1]

    yield begin
    for running in started:
        running.stop()


def test_twistd_finds_the_plugin(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "A pull-through cache for container images." in done.stdout
    assert next(line for line in done.stdout.splitlines() if line.split()[:1] == ["depproxy"])


def test_the_plugin_file_is_small() -> None:
    """It is read by every twistd on the host."""
    text = (ROOT / "twisted" / "plugins" / "depproxy_plugin.py").read_text()
    assert len(text.splitlines()) <= 10


def test_no_reactor_is_chosen_by_looking(tmp_path: Path) -> None:
    """twistd reads the options before it installs the reactor that --reactor names."""
    code = "import sys, depproxy.tap; sys.exit('twisted.internet.reactor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), timeout=60, check=False)
    assert done.returncode == 0


def test_another_reactor(start: Callable[..., Running]) -> None:
    running = start("--listen", "tcp:0:interface=127.0.0.1", twistd=("--reactor=poll",))
    running.until(lambda: "is ready: http" in running.log)
    assert "PollReactor" in running.log
    assert running.stop() == STOPPED


def test_a_wrong_file_ends_twistd(tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text("[server]\nlisten = 5000\n")
    code, said = start_and_fail("--config", str(config), cwd=tmp_path)
    assert code == 1
    assert said.count("\n") == 1
    assert said.startswith(f"depproxy: {config}: server.listen")


def test_a_wrong_option_ends_twistd(tmp_path: Path) -> None:
    done = run("--nodaemon", "--pidfile=", "depproxy", "--upstream", "nonsense", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "--upstream" in done.stdout + done.stderr


def test_a_taken_port_ends_twistd(tmp_path: Path) -> None:
    """With an exit code that its supervisor sees, and a line that says which port."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        arguments = ["--data", str(tmp_path / "data"), "--listen", f"tcp:{port}:interface=127.0.0.1"]
        code, said = start_and_fail("--listen", "tcp:0:interface=127.0.0.1", *arguments, cwd=tmp_path)
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith("depproxy cannot start: ")
    assert str(port) in line
    assert "in use" in line


def test_a_storage_that_cannot_be_had_ends_twistd(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--listen", "tcp:0:interface=127.0.0.1"]
    code, said = start_and_fail("--data", str(tmp_path / "file" / "data"), *arguments, cwd=tmp_path)
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith("depproxy cannot start: ")
    assert str(tmp_path / "file") in line


def test_two_on_one_storage(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start("--listen", "tcp:0:interface=127.0.0.1")
    running.until(lambda: "is ready: http" in running.log)
    arguments = ["--listen", "tcp:0:interface=127.0.0.1"]
    code, said = start_and_fail("--data", str(tmp_path / "data"), *arguments, cwd=tmp_path)
    assert code == 1
    (line,) = said.splitlines()
    assert "in use by another depproxy" in line
    assert running.stop() == STOPPED


def test_sigterm_while_it_starts(tmp_path: Path, start: Callable[..., Running]) -> None:
    """An index that takes its time is no reason to end with an error."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        (tmp_path / "c.toml").write_text(f'[index]\nurl = "redis://127.0.0.1:{port}"\n')
        running = start("--config", str(tmp_path / "c.toml"), "--listen", "tcp:0:interface=127.0.0.1")
        running.until(lambda: "starting up" in running.log)
        assert running.stop() == STOPPED
    assert "Traceback" not in running.log
    assert "cannot start" not in running.log


@pytest.mark.parametrize(("hard", "warned"), [("1156", False), ("1155", True)])
def test_open_files(tmp_path: Path, start: Callable[..., Running], hard: str, warned: bool) -> None:
    """Many connections need more files than a shell gives; what cannot be had is said, and kept to."""
    (tmp_path / "c.toml").write_text("[server]\nmax_connections = 300\n")
    options = ("--config", str(tmp_path / "c.toml"), "--listen", "tcp:0:interface=127.0.0.1")
    running = start(*options, under=("prlimit", f"--nofile=256:{hard}"))
    running.until(lambda: "is ready" in running.log)
    lines = Path(f"/proc/{running.process.pid}/limits").read_text().splitlines()
    assert next(line.split()[3:5] for line in lines if line.startswith("Max open files")) == [hard, hard]
    # Three files for each connection, beside 256 for everything else.
    assert (f"only 299 clients can connect at a time, because only {hard} files may be open" in running.log) == warned


def test_what_is_there_at_the_start_is_no_garbage() -> None:
    before = gc.get_freeze_count()
    try:
        settle()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
