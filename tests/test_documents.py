"""Tag lists and referrers."""

import json

from depproxy.cache.deadline import ANSWER_TIMEOUT
from depproxy.cache.documents import LONGEST_QUERY, REMEMBERED_SIZE, Documents
from depproxy.cache.interface import Outcome as Answer
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX
from depproxy.upstream.errors import NotFound, Refused, Throttled, Unavailable
from depproxy.upstream.interface import Document
from tests.cache_tools import HOME, NAME, NEIGHBOUR, STRANGER, CacheTestCase, Outcome

TTL = 30.0
LIST = Document(b'{"name": "library/alpine", "tags": ["3"]}', "application/json", {"Link": "</x>"})
SUBJECT = Digest.of(b"subject")
BROKEN = Unavailable("docker.io", "the connection was lost")


class DocumentsTestCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.documents = Documents(self.cache.upstreams, TTL, self.clock)
        self.put("tags/list", "", LIST)

    def put(self, path: str, query: str, document: Document) -> None:
        self.upstream.documents[NAME, path, query] = document

    def tags(self, query: str = "") -> "Outcome[tuple[Document, Answer]]":
        return Outcome(self.documents.tags(HOME, query))


class Listing(DocumentsTestCase):
    def test_it_is_remembered_for_a_while(self) -> None:
        assert self.tags().value == (LIST, Answer.MISS)
        self.clock.advance(TTL - 0.1)
        assert self.tags().value == (LIST, Answer.HIT)
        assert self.asked() == [f"GET {NAME} tags/list?"]
        self.clock.advance(0.1)
        assert self.tags().value == (LIST, Answer.MISS)
        assert len(self.asked()) == 1

    def test_queries_are_apart(self) -> None:
        page = Document(b"{}", "application/json", {})
        self.put("tags/list", "n=1", page)
        assert self.tags("n=1").value[0] is page
        assert self.tags().value[0] is LIST

    def test_homes_are_apart(self) -> None:
        """What one group may list says nothing about what another one may."""
        self.tags()
        self.upstream.errors["get_document"] = error = Refused("docker.io", "no", 403)
        for home in (NEIGHBOUR, STRANGER):
            assert Outcome(self.documents.tags(home, "")).error is error

    def test_many_at_once(self) -> None:
        self.upstream.held = True
        waiting = [self.tags() for _ in range(100)]
        waiting.pop(50).leave()
        self.upstream.release()
        assert [outcome.value for outcome in waiting] == [(LIST, Answer.MISS)] + [(LIST, Answer.JOINED)] * 98
        assert len(self.asked()) == 1

    def test_nobody_waits_any_more(self) -> None:
        self.upstream.held = True
        self.tags().leave()
        self.upstream.held = False
        again = self.tags()
        assert again.waits
        self.upstream.release()
        assert again.value == (LIST, Answer.JOINED)
        assert len(self.asked()) == 1

    def test_nothing_there_is_remembered_too(self) -> None:
        del self.upstream.documents[NAME, "tags/list", ""]
        first = self.tags().error
        second = self.tags().error
        assert isinstance(first, NotFound)
        assert isinstance(second, NotFound)
        assert (second.upstream, second.status) == (first.upstream, 404)
        assert len(self.asked()) == 1
        self.put("tags/list", "", LIST)
        self.clock.advance(TTL)
        assert self.tags().value == (LIST, Answer.MISS)

    def test_trouble_is_not_remembered(self) -> None:
        for error in (BROKEN, Throttled("docker.io", "slow down", 429), Refused("docker.io", "no", 401)):
            self.upstream.errors["get_document"] = error
            assert self.tags().error is error
        self.upstream.errors.clear()
        assert self.tags().value == (LIST, Answer.MISS)

    def test_too_slow(self) -> None:
        self.upstream.held = True
        late = self.tags()
        self.clock.advance(ANSWER_TIMEOUT)
        assert isinstance(late.error, Unavailable)
        # Who comes then asks anew: that connection may be dead.
        again = self.tags()
        assert len(self.asked()) == 2
        self.upstream.release()
        assert again.value == (LIST, Answer.MISS)

    def test_one_who_is_late_leaves_the_others_together(self) -> None:
        """They came at different moments, and each is late in turn; nobody's lateness parts those who came later."""
        self.upstream.held = True
        for _ in range(10):
            self.tags()
            self.clock.advance(1)
        self.clock.advance(ANSWER_TIMEOUT - 10)
        late = [self.tags()]
        for _ in range(9):
            self.clock.advance(1)
            late.append(self.tags())
        assert len(self.asked()) == 2
        self.upstream.release()
        assert [outcome.value[0] for outcome in late] == [LIST] * 10

    def test_memory_is_bounded(self) -> None:
        large = Document(bytes(REMEMBERED_SIZE // 4), "application/json", {})
        for number in range(20):
            self.put("tags/list", f"n={number}", large)
            self.tags(f"n={number}")
        assert len(self.asked()) == 20
        assert self.tags("n=19").value[1] is Answer.HIT
        assert self.tags("n=0").value[1] is Answer.MISS

    def test_what_is_too_large_is_served(self) -> None:
        query = "x" * (LONGEST_QUERY + 1)
        self.put("tags/list", query, LIST)
        self.put("tags/list", "large", Document(bytes(REMEMBERED_SIZE), "application/json", {}))
        for asked in (query, "large"):
            assert self.tags(asked).value[1] is Answer.MISS
            assert self.tags(asked).value[1] is Answer.MISS

    def test_giving_up(self) -> None:
        self.upstream.held = True
        waiting = self.tags()
        self.documents.close()
        assert not waiting.waits


class Referrers(DocumentsTestCase):
    def referrers(self, query: str = "") -> tuple[Document, Answer]:
        return Outcome(self.documents.referrers(HOME, SUBJECT, query)).value

    def test_upstream_has_some(self) -> None:
        document = Document(b"{}", OCI_INDEX, {"OCI-Filters-Applied": "artifactType"})
        self.put(f"referrers/{SUBJECT}", "", document)
        assert self.referrers() == (document, Answer.MISS)
        assert self.referrers() == (document, Answer.HIT)

    def test_upstream_knows_no_such_thing(self) -> None:
        """An empty index, which keeps clients from asking for a tag made of the digest; docker 29 asks each time."""
        for _ in range(3):
            document, answer = self.referrers()
            assert answer is Answer.HIT
            assert document.media_type == OCI_INDEX
            assert json.loads(document.body) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        assert len(self.asked()) == 1

    def test_trouble_is_no_empty_index(self) -> None:
        self.upstream.errors["get_document"] = BROKEN
        assert Outcome(self.documents.referrers(HOME, SUBJECT, "")).error is BROKEN
