"""The two things that a reader of a blob may get: a file that is whole, or a fill to follow."""

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

from depproxy.cache.fill import Fill, Follower
from depproxy.cache.interface import Outcome
from depproxy.storage.interface import OpenBlob


class StoredBlob:
    """A hit: all bytes are there from the start. `closed` is called when the reader is done."""

    outcome = Outcome.HIT
    failure = None
    fetched = 0

    def __init__(self, opened: OpenBlob, closed: Callable[[], None]) -> None:
        self.fd = opened.fd
        self.size = self.readable = opened.size
        self._opened: OpenBlob | None = opened
        self._closed = closed

    def subscribe(self, changed: object) -> None:
        """Nothing will change."""

    def stored(self) -> "Deferred[bool]":
        return succeed(True)

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
            self._closed()


class FollowedBlob:
    """One reader's view of a fill. `closed` is called when the reader is done."""

    def __init__(self, fill: Fill, outcome: Outcome, closed: Callable[[], None]) -> None:
        self._fill = fill
        self.outcome = outcome
        self._changed: Follower | None = None
        self._closed: Callable[[], None] | None = closed
        fill.follow(self._told)

    @property
    def fd(self) -> int:
        assert self._fill.file is not None
        fd: int = self._fill.file.fd
        return fd

    @property
    def size(self) -> int | None:
        return self._fill.size

    @property
    def readable(self) -> int:
        return self._fill.readable

    @property
    def failure(self) -> Exception | None:
        return self._fill.failure

    @property
    def fetched(self) -> int:
        return self._fill.fetched

    def stored(self) -> "Deferred[bool]":
        return self._fill.ended()

    def subscribe(self, changed: Follower) -> None:
        self._changed = changed

    def close(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            self._fill.unfollow(self._told)
            closed()

    def _told(self) -> None:
        if self._changed is not None:
            self._changed()
