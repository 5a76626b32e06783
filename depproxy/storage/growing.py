"""A file that is being filled by one writer and followed by many readers."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from depproxy.oci.digest import Digest
from depproxy.storage.interface import IGrowingFile, ThreadRunner

# writev(2) takes at most IOV_MAX buffers.
MAX_VECTORS = os.sysconf("SC_IOV_MAX")


class Hasher(Protocol):
    """What this module needs of a hashlib object."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def write_and_hash(fd: int, hasher: Hasher, chunks: Sequence[bytes]) -> int:
    """Append all `chunks` to `fd`, feed them to `hasher`; returns how many bytes that were. Blocks."""
    total = 0
    for start in range(0, len(chunks), MAX_VECTORS):
        batch = chunks[start : start + MAX_VECTORS]
        length = sum(map(len, batch))
        done = os.writev(fd, batch)
        if done < length:
            rest = memoryview(b"".join(batch))
            while done < length:
                done += os.write(fd, rest[done:])
        for chunk in batch:
            hasher.update(chunk)
        total += length
    return total


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Blocks."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(fd: int, path: Path, target: Path) -> None:
    """fsync, then rename, then fsync the directory: the name never points at missing bytes. Blocks."""
    os.fsync(fd)
    # One by one: the mode counts for the last of several only.
    target.parent.parent.mkdir(mode=0o700, exist_ok=True)
    target.parent.mkdir(mode=0o700, exist_ok=True)
    os.rename(path, target)
    sync_directory(target.parent)


@implementer(IGrowingFile)
class GrowingFile:
    """
    Writes in a thread, one batch at a time: what arrives during a batch is the next one, so that small
    pieces reach followers at once and big streams cost few thread hops.
    """

    _log = Logger()

    def __init__(
        self,
        digest: Digest,
        fd: int,
        hasher: Hasher,
        written: int,
        path: Path,
        target: Path,
        run: ThreadRunner,
    ) -> None:
        self.digest = digest
        self.fd = fd
        self.written = written
        self.pending = 0
        self.error: OSError | None = None
        self._hasher = hasher
        self._path = path
        self._target = target
        self._run = run
        self._holds = 1
        self._queue: list[bytes] = []
        self._writing = False
        self._observer: Callable[[], None] | None = None
        self._idlers: list[Deferred[None]] = []

    def observe(self, observer: Callable[[], None]) -> None:
        self._observer = observer

    def append(self, data: bytes) -> None:
        if self.error is not None:
            return
        self._queue.append(data)
        self.pending += len(data)
        if not self._writing:
            self._write()

    def idle(self) -> "Deferred[None]":
        if not self._writing:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._idlers.append(waiter)
        return waiter

    def matches(self) -> bool:
        return self._hasher.hexdigest() == self.digest.encoded

    def hold(self) -> None:
        self._holds += 1

    def release(self) -> None:
        self._holds -= 1
        # A batch in its thread still needs the descriptor: it closes it when it is done.
        if self._holds == 0 and not self._writing:
            self._close()

    def commit(self) -> "Deferred[None]":
        return self._held(self._run(publish, self.fd, self._path, self._target))

    def discard(self) -> "Deferred[None]":
        return self._held(self._run(self._path.unlink, True))

    def _held(self, work: "Deferred[None]") -> "Deferred[None]":
        """The outcome of `work`; `fd` stays open until the thread is done, also when the waiter is cancelled."""
        self.hold()
        outcome: Deferred[None] = Deferred()

        def done(result: Failure | None) -> Failure | None:
            self.release()
            return result

        work.addBoth(done).addCallbacks(outcome.callback, outcome.errback)
        return outcome

    def _write(self) -> None:
        chunks, self._queue = self._queue, []
        self._writing = True
        work = self._run(write_and_hash, self.fd, self._hasher, chunks)
        work.addCallbacks(self._wrote, self._failed).addErrback(
            lambda failure: self._log.failure("observer of {digest} failed", failure, digest=self.digest)
        )

    def _wrote(self, length: int) -> None:
        self.written += length
        self.pending -= length
        if self._queue:
            self._write()
        else:
            self._rest()
        if self._observer is not None:
            self._observer()

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        self.error = error if isinstance(error, OSError) else OSError(str(error))
        self._queue.clear()
        self._rest()
        if self._observer is not None:
            self._observer()

    def _rest(self) -> None:
        self._writing = False
        if self._holds == 0:
            self._close()
        idlers, self._idlers = self._idlers, []
        for waiter in idlers:
            waiter.callback(None)

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
