"""What the faces get from the cache."""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from depproxy.oci.digest import Digest


class Outcome(Enum):
    """How a request was answered; the value of the X-Cache header."""

    HIT = "hit"
    MISS = "miss"
    JOINED = "joined"
    STALE = "stale"


@frozen
class ServedManifest:
    """A manifest to serve. `body` is None where only the headers are known (a HEAD)."""

    digest: Digest | None
    media_type: str | None
    size: int | None
    body: bytes | None
    outcome: Outcome


class BlobSource(Protocol):
    """The bytes of a blob, whole or still arriving; read with positioned reads on `fd`."""

    @property
    def fd(self) -> int: ...

    @property
    def size(self) -> int | None:
        """Bytes in the whole blob; None where upstream does not say before the end."""

    @property
    def readable(self) -> int:
        """Bytes from the start that may be sent now. The last one is among them only when the digest is verified."""

    @property
    def failure(self) -> Exception | None:
        """Why no more bytes will come."""

    @property
    def outcome(self) -> Outcome: ...

    @property
    def fetched(self) -> int:
        """Bytes that came from upstream so far."""

    def stored(self) -> "Deferred[bool]":
        """Fires with whether the blob is in the store, once it is or never will be. May be cancelled."""

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever one of the above changed; at most one subscriber."""

    def close(self) -> None:
        """The reader is done. Idempotent."""


class StorageError(Exception):
    """The cache has no room, or its disk fails; the message says which."""
