"""A fill to test, and readers that follow it."""

import os
from random import Random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from depproxy.cache.fill import LONGEST_PAUSE, Fill
from depproxy.cache.interface import Outcome as Answer
from depproxy.cache.sources import FollowedBlob
from depproxy.upstream.errors import Unavailable
from tests.cache_tools import NAME, Outcome, Place, some_bytes
from tests.fakes import MemoryStream, MemoryUpstream

BROKEN = Unavailable("docker.io", "the connection was lost")


class Reader:
    """A client's sender, as far as the fill sees it."""

    def __init__(self, fill: Fill, data: bytes) -> None:
        self.fill = fill
        self.source = FollowedBlob(fill, Answer.JOINED, closed=lambda: None)
        self.source.subscribe(self.changed)
        self.told = 0
        self.seen = self.now
        self.left = False
        self._data = data
        self._at = 0

    @property
    def now(self) -> tuple[int, object]:
        return self.source.readable, self.source.failure

    def changed(self) -> None:
        assert not self.left, "told after it had left"
        self.told += 1
        self.seen = self.now

    def read(self, count: int | None = None) -> bytes:
        """The next bytes, by the descriptor; at most what is readable."""
        readable = self.source.readable
        stop = readable if count is None else min(readable, self._at + count)
        piece = os.pread(self.source.fd, stop - self._at, self._at)
        assert len(piece) == stop - self._at, "what is readable is not there"
        self._at = stop
        return piece

    def check(self, count: int | None = None) -> None:
        at = self._at
        assert self.read(count) == self._data[at : self._at]

    @property
    def done(self) -> bool:
        return self._at == self.source.size and self.source.readable == self._at

    def leave(self) -> None:
        if not self.left:
            self.left = True
            self.source.close()
            self.source.close()


class FillTestCase(SynchronousTestCase):
    """With a store, an upstream that holds a blob, and a clock."""

    held = False

    def setUp(self) -> None:
        self.place = Place(held=self.held)
        self.addCleanup(self.place.close)
        self.addCleanup(self.nothing_is_open)
        self.clock = Clock()
        self.upstream = MemoryUpstream()
        self.data = some_bytes(5000)
        self.digest = self.upstream.put_blob(NAME, self.data)
        self.readers: list[Reader] = []

    def nothing_is_open(self) -> None:
        assert self.place.open_files() == []

    def start(self, size: int | None = None, *, proven: bool = True) -> Fill:
        self.fill = Fill(
            self.digest,
            self.upstream,
            NAME,
            size,
            self.place.store,
            self.clock,
            Random(0),
            self.place.metrics,
        )
        self.ready: Outcome[None] = Outcome(self.fill.ready())
        self.outcome = Outcome(self.fill.start(proven=proven))
        return self.fill

    def reader(self) -> Reader:
        reader = Reader(self.fill, self.data)
        self.readers.append(reader)
        self.addCleanup(reader.leave)
        return reader

    @property
    def stream(self) -> MemoryStream:
        """The newest body."""
        return self.upstream.streams[-1]

    def blob(self, data: bytes) -> None:
        """Let the blob be another one, rightly named."""
        self.data = data
        self.digest = self.upstream.put_blob(NAME, data)

    def asked_from(self) -> list[int]:
        """At which byte each question began."""
        prefix = f"GET {NAME} blobs/{self.digest}"
        assert all(question.startswith(prefix) for question in self.upstream.asked)
        return [
            int(question.rpartition(" from ")[2]) if " from " in question else 0 for question in self.upstream.asked
        ]

    def pause(self) -> None:
        """Let so much time pass that the next attempt begins."""
        self.clock.advance(LONGEST_PAUSE)

    def counted(self, outcome: str) -> float:
        value: float = self.place.metrics.fills.labels(outcome)._value.get()
        return value

    def served(self) -> None:
        """The fill ended well, and every reader has every byte."""
        assert self.outcome.value is True
        for reader in self.readers:
            reader.check()
            assert reader.done
        assert self.place.stored(self.digest) == self.data
        assert not self.place.growing(self.digest).exists()
        assert self.counted("stored") == 1
