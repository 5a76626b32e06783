"""Groups with a credential of their own: what upstream shows one of them, no other gets without its own proof."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from depproxy.cache.deadline import Deadline
from depproxy.cache.documents import Documents
from depproxy.cache.interface import Outcome as Answer
from depproxy.index.interface import Home, Link
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_MANIFEST
from depproxy.oci.reference import Tag
from depproxy.upstream.errors import NotFound, Refused, Throttled, Unavailable
from depproxy.upstream.interface import Document
from tests.cache_tools import HOME, NAME, NEIGHBOUR, Cache, CacheTestCase, Outcome, some_bytes
from tests.fakes import MemoryUpstream

TAG = Tag("3.20")
LAYER = some_bytes(3000)
MANIFEST = json.dumps(
    {
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "c", "digest": Digest.of(b"c"), "size": 1},
        "layers": [{"mediaType": "l", "digest": Digest.of(LAYER), "size": len(LAYER)}],
    }
).encode()
MANIFEST_DIGEST, LAYER_DIGEST = Digest.of(MANIFEST), Digest.of(LAYER)
# A group below that of HOME, which has what that has.
BELOW = Home("acme/tools", "docker.io", NAME)
REFUSED = Refused("docker.io", "not for you", 401)


def private(upstream: MemoryUpstream) -> None:
    """Have this upstream show the image."""
    upstream.put_manifest(NAME, MANIFEST, TAG)
    upstream.put_blob(NAME, LAYER)


class OwnCase(CacheTestCase):
    """HOME's group asks with a credential of its own, and that one alone sees the image."""

    def setUp(self) -> None:
        super().setUp()
        self.own = MemoryUpstream()
        private(self.own)
        self.cache.upstreams.own["docker.io", HOME.group] = self.own

    def asked_with_own(self) -> list[str]:
        """What was asked with the group's own credential since the last time."""
        asked = list(self.own.asked)
        self.own.asked.clear()
        return asked

    def refuse(self) -> None:
        """Upstream says 401 to all others from now on."""
        methods = ("head_manifest", "get_manifest", "head_blob", "open_blob", "get_document")
        self.upstream.errors = dict.fromkeys(methods, REFUSED)

    def get(self, reference: Any, home: Home = HOME, *, body: bool = True) -> Outcome[Any]:
        return Outcome(self.cache.manifests.get(home, reference, body=body))

    def open(self, home: Home = HOME) -> Outcome[Any]:
        return Outcome(self.cache.blobs.open(home, LAYER_DIGEST))

    def store_layer(self) -> None:
        """Have the layer here, for HOME's group."""
        opened = self.open()
        self.own.streams[-1].finish()
        opened.value.close()
        self.asked_with_own()


class Questions(OwnCase):
    def test_heads_are_apart(self) -> None:
        self.upstream.held = self.own.held = True
        asking = [self.get(TAG, home, body=False) for home in (HOME, NEIGHBOUR) * 10]
        head = f"HEAD {NAME} manifests/{TAG}"
        assert (self.asked_with_own(), self.asked()) == ([head], [head])
        self.own.release()
        self.upstream.release()
        assert all(outcome.value.digest == MANIFEST_DIGEST for outcome in asking[::2])
        assert all(isinstance(outcome.error, NotFound) for outcome in asking[1::2])

    def test_fetches_are_apart(self) -> None:
        """A GET under way for one group is joined by nobody whose credential is another one."""
        for reference in (TAG, MANIFEST_DIGEST):
            self.use(Cache())
            self.setUp_again()
            self.own.held = True
            with_own = [self.get(reference) for _ in range(3)]
            self.refuse()
            others = [self.get(reference, NEIGHBOUR) for _ in range(3)]
            assert [outcome.error for outcome in others] == [REFUSED] * 3
            while self.own._waiting:
                self.own.release()
            assert [outcome.value.body for outcome in with_own] == [MANIFEST] * 3
            assert self.own.count("GET") == 1
            # It is here now. That is no proof.
            assert self.get(reference, NEIGHBOUR).error is REFUSED
            assert self.cache.links.known(NEIGHBOUR, MANIFEST_DIGEST) is None

    def setUp_again(self) -> None:
        self.own = MemoryUpstream()
        private(self.own)
        self.cache.upstreams.own["docker.io", HOME.group] = self.own

    def test_a_group_below_shares(self) -> None:
        self.cache.upstreams.own["docker.io", BELOW.group] = self.own
        self.own.held = True
        asking = [self.get(TAG, home, body=False) for home in (HOME, BELOW)]
        self.own.release()
        assert [outcome.value.digest for outcome in asking] == [MANIFEST_DIGEST] * 2
        assert self.asked_with_own() == [f"HEAD {NAME} manifests/{TAG}"]

    def test_absence(self) -> None:
        assert isinstance(self.get(TAG, NEIGHBOUR).error, NotFound)
        assert self.cache.questions.absent(NEIGHBOUR, TAG) is not None
        assert self.cache.questions.absent(HOME, TAG) is None
        assert self.get(TAG).value.body == MANIFEST
        missing = Tag("missing")
        self.upstream.put_manifest(NAME, b"{}", missing)
        assert isinstance(self.get(missing).error, NotFound)
        assert self.get(missing, NEIGHBOUR).value.body == b"{}"

    def test_trouble(self) -> None:
        questions = self.cache.questions
        for error in (Throttled("docker.io", "429", 429), Unavailable("docker.io", "nobody there")):
            self.use(Cache())
            self.setUp_again()
            questions = self.cache.questions
            self.own.errors["head_manifest"] = error
            assert Outcome(questions.head(HOME, TAG, Deadline.after(self.clock))).error is error
            assert (questions.held_off(HOME), questions.held_off(NEIGHBOUR)) == (True, False)

    def test_another_credential_asks_anew(self) -> None:
        """An owner sets another secret while a question waits, and after a 404."""
        missing = Tag("missing")
        assert isinstance(self.get(missing).error, NotFound)
        self.own.held = True
        before = self.get(TAG)
        self.cache.upstreams.own["docker.io", HOME.group] = new = MemoryUpstream()
        private(new)
        new.put_manifest(NAME, b"{}", missing)
        assert self.get(missing).value.body == b"{}"
        assert self.get(TAG).value.body == MANIFEST
        assert before.waits
        while self.own._waiting:
            self.own.release()
        assert before.value.body == MANIFEST

    def test_lists(self) -> None:
        documents = Documents(self.cache.upstreams, 30.0, self.clock)
        ours = Document(b'{"tags": ["secret"]}', "application/json", {})
        self.own.documents[NAME, "tags/list", ""] = ours
        assert isinstance(Outcome(documents.tags(NEIGHBOUR, "")).error, NotFound)
        assert Outcome(documents.tags(HOME, "")).value == (ours, Answer.MISS)
        assert Outcome(documents.tags(HOME, "")).value == (ours, Answer.HIT)
        assert isinstance(Outcome(documents.tags(NEIGHBOUR, "")).error, NotFound)
        # The credential is taken back: what was told to it is told no more.
        del self.cache.upstreams.own["docker.io", HOME.group]
        assert isinstance(Outcome(documents.tags(HOME, "")).error, NotFound)
        asked = [f"GET {NAME} tags/list?"]
        assert (self.asked_with_own(), self.asked()) == (asked, asked * 2)


class Manifests(OwnCase):
    def test_one_that_is_here(self) -> None:
        """By tag and by digest, with body and without, before and after a restart."""
        assert self.get(TAG).value.body == MANIFEST
        self.asked_with_own()
        for _ in range(2):
            for reference in (TAG, MANIFEST_DIGEST):
                for body in (True, False):
                    assert isinstance(self.get(reference, NEIGHBOUR, body=body).error, NotFound)
            self.cache.start()
            self.cache.upstreams.own["docker.io", HOME.group] = self.own
        assert self.asked_with_own() == []
        assert self.cache.links.known(NEIGHBOUR, LAYER_DIGEST) is None
        self.clock.advance(60)
        private(self.upstream)
        self.asked()
        value = self.get(MANIFEST_DIGEST, NEIGHBOUR).value
        assert (value.body, value.outcome) == (MANIFEST, Answer.HIT)
        assert self.asked() == [f"HEAD {NAME} manifests/{MANIFEST_DIGEST}"]


class Blobs(OwnCase):
    def test_a_fill_under_way_is_not_joined_without_proof(self) -> None:
        opened = self.open()
        (stream,) = self.own.streams
        stream.send(1000)
        assert isinstance(self.open(NEIGHBOUR).error, NotFound)
        assert self.asked() == [f"HEAD {NAME} blobs/{LAYER_DIGEST}"]
        # Where HEAD is not known, a refused one proves nothing, and neither does the GET of somebody else.
        self.refuse()
        assert self.open(NEIGHBOUR).error is REFUSED
        assert self.asked() == [f"HEAD {NAME} blobs/{LAYER_DIGEST}", f"GET {NAME} blobs/{LAYER_DIGEST}"]
        assert isinstance(Outcome(self.cache.blobs.stat(NEIGHBOUR, LAYER_DIGEST)).error, Refused)
        stream.finish()
        opened.value.close()
        assert self.asked_with_own() == [f"HEAD {NAME} blobs/{LAYER_DIGEST}", f"GET {NAME} blobs/{LAYER_DIGEST}"]
        assert self.cache.links.known(NEIGHBOUR, LAYER_DIGEST) is None

    def test_a_fill_under_way_is_joined_with_proof(self) -> None:
        self.upstream.put_blob(NAME, LAYER)
        first, second = self.open(), self.open(NEIGHBOUR)
        assert [first.value.outcome, second.value.outcome] == [Answer.MISS, Answer.JOINED]
        assert self.asked() == [f"HEAD {NAME} blobs/{LAYER_DIGEST}"]
        assert self.own.count("GET") == 1
        self.own.streams[0].finish()
        first.value.close()
        second.value.close()

    def test_one_that_is_here(self) -> None:
        self.store_layer()
        assert isinstance(self.open(NEIGHBOUR).error, NotFound)
        self.refuse()
        assert self.open(NEIGHBOUR).error is REFUSED
        self.upstream.errors.clear()
        self.upstream.put_blob(NAME, LAYER)
        self.asked()
        opened = self.open(NEIGHBOUR).value
        assert opened.outcome is Answer.HIT
        opened.close()
        assert self.asked() == [f"HEAD {NAME} blobs/{LAYER_DIGEST}"]
        assert self.asked_with_own() == []

    def test_what_one_credential_is_refused_another_one_tries(self) -> None:
        """Two groups with links; the fill that the one began is refused to its credential alone."""
        for home in (HOME, NEIGHBOUR):
            self.cache.links.add(home, {LAYER_DIGEST: Link("l", len(LAYER))})
        self.upstream.errors["open_blob"] = REFUSED
        self.upstream.held = True
        began, joined = self.open(NEIGHBOUR), self.open()
        assert self.own.asked == []
        self.upstream.release()
        assert began.error is REFUSED
        assert joined.value.outcome is Answer.MISS
        self.own.streams[0].finish()
        joined.value.close()
        get = f"GET {NAME} blobs/{LAYER_DIGEST}"
        assert (self.asked(), self.asked_with_own()) == ([get], [get])

    def test_a_proof_for_another_credential_is_not_waited_for(self) -> None:
        self.own.held = True
        before = self.open()
        del self.cache.upstreams.own["docker.io", HOME.group]
        assert isinstance(self.open().error, NotFound)
        assert self.asked() == [f"HEAD {NAME} blobs/{LAYER_DIGEST}"]
        self.own.release()
        # What is asked from now on is asked with the credential of now.
        assert isinstance(before.error, NotFound)
        assert self.asked() == [f"GET {NAME} blobs/{LAYER_DIGEST}"]
        assert self.asked_with_own() == [f"HEAD {NAME} blobs/{LAYER_DIGEST}"]


class Anything(OwnCase):
    """Whoever asks for whatever in whatever order: he gets it exactly if his own credential may see it."""

    GROUPS = ("one", "two", "three")
    steps = st.lists(
        st.one_of(
            st.tuples(st.sampled_from(GROUPS), st.sampled_from(("tag", "digest", "head", "blob"))),
            st.sampled_from(("answer", "hold")),
        ),
        max_size=25,
    )

    @given(st.dictionaries(st.sampled_from(GROUPS), st.booleans()), steps)
    def test_nobody_gets_what_he_may_not(self, sees: dict[str, bool], steps: list[Any]) -> None:
        with_cache = Cache()
        upstreams = {group: MemoryUpstream() for group in self.GROUPS}
        for group, upstream in upstreams.items():
            with_cache.upstreams.own["docker.io", group] = upstream
            if sees.get(group):
                private(upstream)
        outcomes: list[tuple[str, Outcome[Any]]] = []

        def flow() -> None:
            while any(upstream._waiting for upstream in upstreams.values()):
                for upstream in upstreams.values():
                    upstream.release()
            for upstream in upstreams.values():
                for stream in upstream.streams:
                    if stream.flows:
                        stream.finish()

        for step in [*steps, "answer"]:
            if isinstance(step, str):
                for upstream in upstreams.values():
                    upstream.held = step == "hold"
                if step == "answer":
                    flow()
                continue
            group, what = step
            home = Home(group, "docker.io", NAME)
            if what == "blob":
                outcomes.append((group, Outcome(with_cache.blobs.open(home, LAYER_DIGEST))))
            else:
                reference = MANIFEST_DIGEST if what == "digest" else TAG
                asking = with_cache.manifests.get(home, reference, body=what != "head")
                outcomes.append((group, Outcome(asking)))
        flow()
        for group, outcome in outcomes:
            if sees.get(group):
                value = outcome.value
                if hasattr(value, "close"):
                    value.close()
            else:
                assert isinstance(outcome.error, NotFound), group
        with_cache.close()
