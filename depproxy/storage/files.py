"""The store on a local file system.

Layout, below the root::

    blobs/sha256/ab/abcd...     whole and verified; the file is the truth
    growing/sha256/abcd...      being filled, or left by a fill that was interrupted
    incoming/                   small blobs on their way to blobs/
    lock                        held by the process that uses this store
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from stat import S_ISREG
from threading import Event

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from depproxy.oci.digest import Digest, InvalidDigest
from depproxy.storage.growing import GrowingFile, publish
from depproxy.storage.interface import IBlobStore, IGrowingFile, Measure, OpenBlob, Room, StoredFile, ThreadRunner

ALGORITHMS = ("sha256", "sha512")
LEFTOVER_AGE = 24 * 60 * 60.0
READ_SIZE = 1 << 20


class StoreInUse(Exception):
    """Another process uses this store."""


@implementer(IBlobStore)
class FileStore:
    """Content-addressed files below `root`; blocking work that may be long goes through `run`."""

    _log = Logger()

    def __init__(self, root: Path, run: ThreadRunner) -> None:
        self._run = run
        self._root = root
        self._blobs = root / "blobs"
        self._growing = root / "growing"
        self._incoming = root / "incoming"
        self._prefix = str(self._blobs)
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the directories and take the lock. Raises OSError, or StoreInUse."""
        try:
            for path in (self._root, self._blobs, self._growing, self._incoming):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"storage.path cannot be used: {error.strerror}", str(self._root)) from error
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StoreInUse(
                f"{self._root} is in use by another depproxy: stop it, or give this one its own storage.path"
            ) from None
        self._lock = lock

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def open(self, digest: Digest) -> OpenBlob | None:
        try:
            fd = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return OpenBlob(fd, os.fstat(fd).st_size, partial(os.close, fd))

    def contains(self, digest: Digest) -> int | None:
        try:
            return os.stat(self._path(digest)).st_size
        except FileNotFoundError:
            return None

    def read(self, digest: Digest) -> "Deferred[bytes | None]":
        return self._run(self._read, digest)

    def write(self, digest: Digest, data: bytes) -> "Deferred[None]":
        return self._run(self._write, digest, data)

    def grow(self, digest: Digest) -> "Deferred[IGrowingFile]":
        outcome: Deferred[IGrowingFile] = Deferred()

        def grown(file: GrowingFile) -> None:
            # A thread cannot be cancelled: what it opens for nobody is closed.
            if outcome.called:
                file.release()
            else:
                outcome.callback(file)

        self._run(self._grow, digest).addCallbacks(grown, outcome.errback)
        return outcome

    def sweep(self, now: float) -> "Deferred[int]":
        return self._run(self._sweep, now)

    def remove(self, digests: Sequence[Digest]) -> "Deferred[Mapping[Digest, OSError]]":
        return self._run(self._remove, digests)

    def verify(self, digest: Digest) -> "Deferred[bool | None]":
        cancelled = Event()
        outcome: Deferred[bool | None] = Deferred(lambda _: cancelled.set())
        work = self._run(self._verify, digest, cancelled)
        # Who has left is told nothing: what comes then is from a thread that was asked to stop.
        work.addBoth(lambda result: None if outcome.called else outcome.callback(result))
        return outcome

    def shard(self, number: int) -> "Deferred[Sequence[StoredFile]]":
        return self._run(self._shard, number)

    def measure(self) -> "Deferred[Room]":
        return self._run(self._measure)

    def missing(self, digests: Sequence[Digest]) -> "Deferred[Sequence[Digest]]":
        return self._run(self._missing, digests)

    def _path(self, digest: Digest) -> str:
        encoded = digest.encoded
        return f"{self._prefix}/{digest.algorithm}/{encoded[:2]}/{encoded}"

    def _read(self, digest: Digest) -> bytes | None:
        path = Path(self._path(digest))
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if Digest.of(data, digest.algorithm) != digest:
            # Disks lie too; the next request fetches it again.
            self._log.error("{path} does not match its digest: removed", path=str(path))
            path.unlink(missing_ok=True)
            return None
        return data

    def _verify(self, digest: Digest, cancelled: Event) -> bool | None:
        hasher = digest.hasher()
        try:
            with open(self._path(digest), "rb", buffering=0) as file:
                while not cancelled.is_set() and (chunk := file.read(READ_SIZE)):
                    hasher.update(chunk)
        except FileNotFoundError:
            return None
        return hasher.hexdigest() == digest.encoded

    def _write(self, digest: Digest, data: bytes) -> None:
        fd, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with open(fd, "wb", closefd=True) as file:
                file.write(data)
                file.flush()
                publish(fd, Path(name), Path(self._path(digest)))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _grow(self, digest: Digest) -> GrowingFile:
        path = self._growing / digest.algorithm / digest.encoded
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
        try:
            # It is young again, whatever its age: the sweep leaves it alone.
            os.utime(fd)
            hasher = digest.hasher()
            written = 0
            while chunk := os.pread(fd, READ_SIZE, written):
                hasher.update(chunk)
                written += len(chunk)
        except BaseException:
            os.close(fd)
            raise
        return GrowingFile(digest, fd, hasher, written, path, Path(self._path(digest)), self._run)

    def _sweep(self, now: float) -> int:
        removed = 0
        for path in self._leftovers():
            # Fills and writes end meanwhile, and take their files away.
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime >= LEFTOVER_AGE:
                    path.unlink()
                    removed += 1
        return removed

    def _shard(self, number: int) -> Sequence[StoredFile]:
        found = []
        for algorithm in ALGORITHMS:
            # There is no directory before the first blob; and files go while this looks.
            with suppress(FileNotFoundError), os.scandir(self._blobs / algorithm / f"{number:02x}") as names:
                for name in names:
                    with suppress(FileNotFoundError, InvalidDigest):
                        digest, status = Digest(f"{algorithm}:{name.name}"), name.stat(follow_symlinks=False)
                        found.append(StoredFile(digest, status.st_size, status.st_mtime))
        return found

    def _measure(self) -> Room:
        beside = {
            path.name: _measure(path) for path in sorted(self._root.iterdir()) if path.is_dir() and path != self._blobs
        }
        system = os.statvfs(self._root)
        return Room(beside, system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize)

    def _remove(self, digests: Sequence[Digest]) -> Mapping[Digest, OSError]:
        stay: dict[Digest, OSError] = {}
        for digest in digests:
            try:
                os.unlink(self._path(digest))
            except FileNotFoundError:
                pass
            except OSError as error:
                stay[digest] = error
        return stay

    def _missing(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        return [digest for digest in digests if self.contains(digest) is None]

    def _leftovers(self) -> Iterator[Path]:
        for directory in (self._growing, self._incoming):
            yield from (path for path in directory.rglob("*") if path.is_file())


def _measure(directory: Path) -> Measure:
    sizes = []
    for path in directory.rglob("*"):
        # Files come and go.
        with suppress(FileNotFoundError):
            status = path.lstat()
            if S_ISREG(status.st_mode):
                sizes.append(status.st_size)
    return Measure(len(sizes), sum(sizes))
