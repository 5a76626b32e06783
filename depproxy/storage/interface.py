"""What a store of blobs offers, and how it may use threads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from attrs import define, frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from depproxy.oci.digest import Digest

T = TypeVar("T")

# Blobs lie in so many shards, by the first byte of their digest.
SHARDS = 256


class ThreadRunner(Protocol):
    """Runs a blocking function off the reactor thread; the Deferred fires with what it returned."""

    def __call__(self, function: Callable[..., T], *args: object) -> "Deferred[T]": ...


@define
class OpenBlob:
    """A stored blob, open for reading; whoever got it closes it."""

    fd: int
    size: int
    close: Callable[[], None]


@frozen
class StoredFile:
    """A stored blob of `size` bytes, in place since the Unix time `modified` (seconds)."""

    digest: Digest
    size: int
    modified: float


@frozen
class Measure:
    """So many files, of so many bytes in sum."""

    files: int
    size: int


@frozen
class Room:
    """What the store takes beside its whole blobs, by directory; and the file system's size and free room in bytes."""

    beside: Mapping[str, Measure]
    total: int
    free: int


class IGrowingFile(Interface):
    """A blob that is being filled. Its bytes may be read, up to `written`, while more arrive."""

    digest = Attribute("The `Digest` that the bytes are to have.")
    fd = Attribute("File descriptor for positioned reads (sendfile, pread); valid between hold() and release().")
    written = Attribute("Bytes that are in the file and hashed.")
    pending = Attribute("Bytes taken by append() that are not yet in the file.")
    error = Attribute("The OSError that ended writing, or None.")

    def observe(observer: Callable[[], None]) -> None:
        """Call `observer` on the reactor thread whenever `written` or `error` changed."""

    def append(data: bytes) -> None:
        """Take bytes to write after all that were taken before. Never blocks."""

    def idle() -> "Deferred[None]":
        """Fires when nothing is pending any more, or writing failed."""

    def matches() -> bool:
        """Whether the `written` bytes have the digest."""

    def hold() -> None:
        """Keep `fd` open until the matching release()."""

    def release() -> None:
        """Undo one hold(); the last one closes `fd`."""

    def commit() -> "Deferred[None]":
        """Make the bytes durable and give them their final name. Fails with OSError."""

    def discard() -> "Deferred[None]":
        """Remove the file: its bytes are wrong."""


class IBlobStore(Interface):
    """Content-addressed bytes on disk."""

    def open(digest: Digest) -> OpenBlob | None:
        """The stored blob, or None. One open(2), on the calling thread."""

    def contains(digest: Digest) -> int | None:
        """The size of the stored blob, or None. One stat(2), on the calling thread."""

    def read(digest: Digest) -> "Deferred[bytes | None]":
        """All bytes of a small blob, their digest checked; None when absent or damaged (and then removed)."""

    def write(digest: Digest, data: bytes) -> "Deferred[None]":
        """Keep a small blob durably. Fails with OSError."""

    def grow(digest: Digest) -> "Deferred[IGrowingFile]":
        """The growing file of `digest`, with the bytes of an interrupted fill if there are any. Held once."""

    def sweep(now: float) -> "Deferred[int]":
        """Remove leftovers older than a day; fires with how many files went."""

    def verify(digest: Digest) -> "Deferred[bool | None]":
        """Whether the stored bytes have their digest; None where there are none. Reads all of them, in a thread, which
        ends soon when this is cancelled. Fails with OSError."""

    def remove(digests: Sequence[Digest]) -> "Deferred[Mapping[Digest, OSError]]":
        """Take the names of stored blobs away, in this order; who has one open reads on. Those that stay, and why. One
        that is absent does not stay."""

    def shard(number: int) -> "Deferred[Sequence[StoredFile]]":
        """What is stored in one of the `SHARDS`, in no order. Fails with OSError."""

    def measure() -> "Deferred[Room]":
        """How much room there is, and what is taken beside the blobs. Fails with OSError."""

    def missing(digests: Sequence[Digest]) -> "Deferred[Sequence[Digest]]":
        """Those of `digests` that are not stored."""
