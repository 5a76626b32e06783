"""The index entries of what is stored."""

from depproxy.oci.digest import Digest
from tests.cache_tools import HOME, CacheTestCase, Outcome

DIGESTS = [Digest.of(bytes([number])) for number in range(5)]


class Noting(CacheTestCase):
    def stored(self, *numbers: int) -> None:
        for number in numbers:
            assert Outcome(self.cache.entries.stored(DIGESTS[number], 10 + number, [HOME])).value is None

    def totals(self) -> tuple[int, int]:
        return Outcome(self.index.totals()).value

    def test_each_is_noted(self) -> None:
        self.stored(0, 1, 1)
        assert self.totals() == (2, 21)

    def test_what_was_missed_is_noted_later(self) -> None:
        self.index.available = False
        self.stored(0, 1, 2)
        assert self.errors("index") == 3
        self.index.available = True
        assert self.totals() == (0, 0)
        self.stored(3)
        assert self.totals() == (4, 46)

    def test_catching_up(self) -> None:
        self.index.available = False
        self.stored(0, 1)
        assert Outcome(self.cache.entries.catch_up()).value is None
        self.index.available = True
        assert Outcome(self.cache.entries.catch_up()).value is None
        assert self.totals() == (2, 21)
        assert Outcome(self.cache.entries.catch_up()).value is None
