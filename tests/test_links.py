"""Which digests a home is known to hold."""

from depproxy.index.interface import Link
from depproxy.oci.digest import Digest
from tests.cache_tools import HOME, NEIGHBOUR, STRANGER, CacheTestCase, Outcome

A, B = Digest.of(b"a"), Digest.of(b"b")


class Finding(CacheTestCase):
    def find(self, digest: Digest = A) -> Link | None:
        return Outcome(self.cache.links.find(HOME, digest)).value

    def test_what_is_added_is_known_at_once(self) -> None:
        self.cache.links.add(HOME, {A: Link("x", 1)})
        assert self.cache.links.known(HOME, A) == Link("x", 1)
        assert self.find() == Link("x", 1)
        assert self.find(B) is None

    def test_homes_are_apart(self) -> None:
        """Another group's, and another repository's."""
        self.cache.links.add(HOME, {A: Link("x", 1)})
        for home in (NEIGHBOUR, STRANGER):
            assert self.cache.links.known(home, A) is None
            assert Outcome(self.cache.links.find(home, A)).value is None

    def test_the_next_process_finds_it(self) -> None:
        self.cache.links.add(HOME, {A: Link("x", 1), B: Link("", -1)})
        self.cache.start()
        assert self.cache.links.known(HOME, A) is None
        assert self.find() == Link("x", 1)
        assert self.find(B) == Link("", -1)

    def test_the_index_is_asked_once(self) -> None:
        self.cache.links.add(HOME, {A: Link("x", 1)})
        self.cache.start()
        self.find()
        self.index.available = False
        assert self.find() == Link("x", 1)
        assert self.errors("index") == 0

    def test_no_index(self) -> None:
        """Nothing is known from before; what is learnt now is."""
        self.cache.links.add(HOME, {A: Link("x", 1)})
        self.cache.start()
        self.index.available = False
        assert self.find() is None
        assert self.errors("index") == 1
        self.cache.links.add(HOME, {B: Link("y", 2)})
        assert self.find(B) == Link("y", 2)
        assert self.errors("index") == 2
        self.index.available = True
        assert self.find() == Link("x", 1)
