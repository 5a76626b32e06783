"""Manifests: what upstream is asked for each of them, and what is served when it does not answer."""

import json
from math import inf

from depproxy.cache.deadline import ANSWER_TIMEOUT
from depproxy.cache.interface import Outcome as Answer
from depproxy.cache.interface import ServedManifest
from depproxy.cache.tags import CONFIRM_INTERVAL
from depproxy.config import CacheSettings, UpstreamSettings
from depproxy.index.interface import Home, Link, TagRecord
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import DOCKER_MANIFEST, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST
from depproxy.oci.reference import Reference, Tag
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, Unavailable, UpstreamError
from tests.cache_tools import ELSEWHERE, HOME, NAME, NEIGHBOUR, STRANGER, Cache, CacheTestCase, Outcome

TAG = Tag("3.20")
LATEST = Tag("latest")
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"

DOWN = Unavailable("docker.io", "nobody there")
OOPS = Unavailable("docker.io", "oops", 503)
SLOW_DOWN = Throttled("docker.io", "slow down", 429, retry_after=10.0)
NONSENSE = Invalid("docker.io", "the digest header is wrong")
REFUSED = Refused("docker.io", "no", 401)
GONE = NotFound("docker.io", "no such tag", 404)
TROUBLE = (DOWN, OOPS, SLOW_DOWN, NONSENSE)


def image(seed: str) -> tuple[bytes, dict[Digest, Link]]:
    """A manifest, and the links that its children get."""
    children = {Digest.of(f"{seed} {kind}".encode()): Link(kind, len(seed)) for kind in (CONFIG, LAYER)}
    described = [
        {"mediaType": link.media_type, "digest": digest, "size": link.size} for digest, link in children.items()
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    return json.dumps(document).encode(), children


class ManifestsTestCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.push()

    def configure(self, *, on_404: str = "follow", freshness: float = 0.0, **settings: float) -> None:
        """Another cache, with this policy, and the same manifest upstream."""
        upstream = UpstreamSettings(
            "docker.io",
            "https://registry-1.docker.io",
            on_404="keep" if on_404 == "keep" else "follow",
            freshness=(("3.*", freshness),),
        )
        self.use(Cache(settings=CacheSettings(**settings), upstream=upstream))
        self.push()

    def push(self, seed: str = "first", tag: Tag | None = TAG) -> Digest:
        body, children = image(seed)
        digest = self.upstream.put_manifest(NAME, body, tag)
        if seed == "first":
            self.body, self.children, self.digest = body, children, digest
        return digest

    def delete(self, reference: Reference = TAG) -> None:
        del self.upstream.manifests[NAME, reference]

    def get(self, reference: Reference = TAG, home: Home = HOME, *, body: bool = True) -> Outcome[ServedManifest]:
        return Outcome(self.cache.manifests.get(home, reference, body=body))

    def served(
        self, answer: Answer, reference: Reference = TAG, home: Home = HOME, *, body: bytes | None = None
    ) -> list[str]:
        """Have the first manifest served, or the one with this `body`; what upstream was asked for it."""
        body = self.body if body is None else body
        expected = ServedManifest(Digest.of(body), OCI_MANIFEST, len(body), body, answer)
        assert self.get(reference, home).value == expected
        return self.asked()

    def break_upstream(self, error: UpstreamError, *methods: str) -> None:
        self.upstream.errors = dict.fromkeys(methods or ("head_manifest", "get_manifest"), error)

    def head_of(self, reference: Reference = TAG, repository: str = NAME) -> str:
        return f"HEAD {repository} manifests/{reference}"

    def get_of(self, reference: Reference, repository: str = NAME) -> str:
        return f"GET {repository} manifests/{reference}"

    def recorded(self, tag: Tag = TAG) -> TagRecord | None:
        """What the index has."""
        return Outcome(self.index.get_tag(HOME, tag)).value


class ByTag(ManifestsTestCase):
    """One HEAD tells what the tag means now; the body is fetched when it is not here."""

    def test_first_second_and_moved(self) -> None:
        assert self.served(Answer.MISS) == [self.head_of(), self.get_of(self.digest)]
        assert self.served(Answer.HIT) == [self.head_of()]
        second = self.push("second")
        body, _ = image("second")
        assert self.served(Answer.MISS, body=body) == [self.head_of(), self.get_of(second)]
        assert self.served(Answer.HIT, body=body) == [self.head_of()]
        # And back again: those bytes are here.
        self.push("first")
        assert self.served(Answer.HIT) == [self.head_of()]

    def test_the_next_process(self) -> None:
        self.served(Answer.MISS)
        self.cache.start()
        assert self.served(Answer.HIT) == [self.head_of()]

    def test_a_hundred_at_once(self) -> None:
        """Of several groups: the credential in use is the same."""
        self.upstream.held = True
        asking = [self.get(home=(HOME, NEIGHBOUR)[number % 2]) for number in range(100)]
        asking.pop(50).leave()
        asking.pop(0).leave()
        assert self.asked() == [self.head_of()]
        self.upstream.release()
        assert self.asked() == [self.get_of(self.digest)]
        self.upstream.release()
        assert self.asked() == []
        assert {outcome.value.body for outcome in asking} == {self.body}
        assert sorted(outcome.value.outcome.value for outcome in asking) == ["joined"] * 97 + ["miss"]

    def test_the_bytes_are_kept(self) -> None:
        self.served(Answer.MISS)
        assert self.place.stored(self.digest) == self.body
        assert Outcome(self.index.totals()).value == (1, len(self.body))
        assert self.recorded() == TagRecord(self.digest, OCI_MANIFEST, len(self.body), 1_700_000_000.0)

    def test_a_hit_is_a_use(self) -> None:
        self.served(Answer.MISS)
        self.clock.advance(100)
        self.served(Answer.HIT)
        Outcome(self.index.flush())
        assert self.index.used[self.digest] == 1_700_000_100

    def test_confirmations_are_written_now_and_then(self) -> None:
        self.served(Answer.MISS)
        for seconds, written in ((CONFIRM_INTERVAL - 1, 0.0), (1, CONFIRM_INTERVAL), (1, CONFIRM_INTERVAL)):
            self.clock.advance(seconds)
            self.served(Answer.HIT)
            record = self.recorded()
            assert record is not None
            assert record.checked == 1_700_000_000 + written

    def test_upstream_tells_no_digest(self) -> None:
        """Only the bytes tell it then: each client costs a GET, as it does without a cache."""
        self.upstream.head_digest = False
        for _ in range(2):
            assert self.served(Answer.MISS) == [self.head_of(), self.get_of(TAG)]
        assert self.served(Answer.HIT, self.digest) == []

    def test_upstream_tells_no_digest_and_fails(self) -> None:
        self.upstream.head_digest = False
        self.served(Answer.MISS)
        self.break_upstream(OOPS, "get_manifest")
        assert self.served(Answer.STALE) == [self.head_of(), self.get_of(TAG)]

    def test_upstream_tells_no_type(self) -> None:
        """The type is that which came with the bytes."""
        self.upstream.head_type = False
        assert self.served(Answer.MISS) == [self.head_of(), self.get_of(self.digest)]
        for _ in range(2):
            assert self.served(Answer.HIT) == [self.head_of()]
        self.break_upstream(DOWN)
        self.served(Answer.STALE)

    def test_upstream_tells_no_size(self) -> None:
        self.upstream.sizes = False
        assert self.served(Answer.MISS) == [self.head_of(), self.get_of(self.digest)]
        assert self.served(Answer.HIT) == [self.head_of()]

    def test_the_old_one_is_deleted_between_the_two_questions(self) -> None:
        """The tag moved on: it is asked for itself."""
        self.upstream.held = True
        asking = self.get()
        self.upstream.release()
        second = self.push("second")
        self.delete(self.digest)
        self.upstream.release()
        self.upstream.release()
        assert asking.value.digest == second
        assert self.asked() == [self.head_of(), self.get_of(self.digest), self.get_of(TAG)]
        self.upstream.held = False
        assert self.served(Answer.HIT, body=image("second")[0]) == [self.head_of()]

    def test_other_types(self) -> None:
        """As received, with the type it came with."""
        for media_type in (OCI_INDEX, DOCKER_MANIFEST, "application/vnd.docker.distribution.manifest.v1+prettyjws"):
            self.upstream.put_manifest(NAME, b" {}\n", LATEST, media_type)
            self.setUp_again()
            for answer in (Answer.MISS, Answer.HIT):
                value = self.get(LATEST).value
                assert (value.media_type, value.body, value.outcome) == (media_type, b" {}\n", answer)

    def setUp_again(self) -> None:
        upstream = self.upstream
        self.use(Cache())
        self.cache.upstream = self.upstream = upstream
        self.cache.start()

    def test_what_is_no_json_is_served_too(self) -> None:
        digest = self.upstream.put_manifest(NAME, b"\xff not JSON", LATEST)
        for _ in range(2):
            assert self.get(LATEST).value.digest == digest


class ByDigest(ManifestsTestCase):
    def test_from_the_cache_without_a_word_to_upstream(self) -> None:
        assert self.served(Answer.MISS, self.digest) == [self.get_of(self.digest)]
        self.break_upstream(DOWN)
        assert self.served(Answer.HIT, self.digest) == []
        self.cache.start()
        assert self.served(Answer.HIT, self.digest) == []

    def test_after_its_tag(self) -> None:
        self.served(Answer.MISS)
        assert self.served(Answer.HIT, self.digest) == []

    def test_a_hundred_at_once(self) -> None:
        self.upstream.held = True
        asking = [self.get(self.digest) for _ in range(100)]
        assert self.asked() == [self.get_of(self.digest)]
        self.upstream.release()
        assert {outcome.value.body for outcome in asking} == {self.body}

    def test_a_child_of_an_index(self) -> None:
        """It is linked, but not here: one GET."""
        child = {"mediaType": OCI_MANIFEST, "digest": self.digest, "size": len(self.body)}
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}).encode()
        self.upstream.put_manifest(NAME, index, LATEST, OCI_INDEX)
        assert self.get(LATEST).value.body == index
        self.asked()
        assert self.served(Answer.MISS, self.digest) == [self.get_of(self.digest)]
        assert self.served(Answer.HIT, self.digest) == []

    def test_upstream_fails(self) -> None:
        for error in (*TROUBLE, REFUSED):
            self.break_upstream(error)
            assert self.get(self.digest).error is error
            assert self.get(self.digest, body=False).error is error

    def test_absence_is_remembered(self) -> None:
        gone = Digest.of(b"gone")
        for _ in range(3):
            assert isinstance(self.get(gone).error, NotFound)
        assert self.asked() == [self.get_of(gone)]
        self.clock.advance(self.cache.settings.negative_ttl)
        assert isinstance(self.get(gone).error, NotFound)
        assert self.asked() == [self.get_of(gone)]

    def test_what_is_here_is_never_absent(self) -> None:
        """Deleted upstream, as another group has just found: those who have it keep it."""
        self.served(Answer.MISS)
        self.delete(self.digest)
        assert isinstance(self.get(self.digest, NEIGHBOUR).error, NotFound)
        assert self.served(Answer.HIT, self.digest) == [self.head_of(self.digest)]

    def test_a_damaged_file_is_fetched_again(self) -> None:
        self.served(Answer.MISS)
        self.cache.start()
        self.place.blob(self.digest).write_bytes(b"damaged")
        assert self.served(Answer.MISS, self.digest) == [self.get_of(self.digest)]
        assert self.place.stored(self.digest) == self.body
        self.cache.start()
        self.place.blob(self.digest).unlink()
        assert self.served(Answer.MISS) == [self.head_of(), self.get_of(self.digest)]

    def test_a_full_disk(self) -> None:
        """What was fetched is served, from memory while that holds it."""
        self.place.threads.error = OSError("No space left on device")
        self.served(Answer.MISS)
        assert self.errors("storage") == 1
        assert self.served(Answer.HIT) == [self.head_of()]

    def test_a_layer_is_no_manifest(self) -> None:
        """A client that asks for a layer as a manifest gets upstream's answer, and nothing is read into memory."""
        for size in (100, MAX_MANIFEST + 1):
            layer = bytes(size)
            digest = Digest.of(layer)
            Outcome(self.place.store.write(digest, layer))
            for link in (Link(LAYER, size), Link("", size)):
                self.cache.links.add(HOME, {digest: link})
                assert isinstance(self.get(digest).error, NotFound)
                self.clock.advance(self.cache.settings.negative_ttl)

    def test_what_is_too_large_for_a_manifest_is_not_read(self) -> None:
        """Whatever upstream calls it: it is for upstream's client to refuse."""
        for size, question in ((MAX_MANIFEST, self.head_of), (MAX_MANIFEST + 1, self.get_of)):
            digest = self.upstream.put_manifest(NAME, bytes(size))
            Outcome(self.place.store.write(digest, bytes(size)))
            self.get(digest)
            assert self.asked() == [question(digest)]

    def test_a_manifest_that_was_asked_for_as_a_blob(self) -> None:
        """That proof knew no type: one more question, once."""
        self.upstream.put_blob(NAME, self.body)
        assert Outcome(self.cache.blobs.stat(HOME, self.digest)).value[0] == len(self.body)
        Outcome(self.place.store.write(self.digest, self.body))
        self.asked()
        self.get(self.digest)
        assert len(self.asked()) == 1
        assert self.served(Answer.HIT, self.digest) == []


class Isolation(ManifestsTestCase):
    """Bytes are shared, permission never is."""

    def test_another_group_proves_itself(self) -> None:
        """By a HEAD, and then it is linked with all that the manifest names."""
        self.served(Answer.MISS)
        assert self.served(Answer.HIT, self.digest, NEIGHBOUR) == [self.head_of(self.digest)]
        assert self.served(Answer.HIT, self.digest, NEIGHBOUR) == []
        for child, link in self.children.items():
            assert self.cache.links.known(NEIGHBOUR, child) == link

    def test_another_group_by_tag(self) -> None:
        self.served(Answer.MISS)
        assert self.served(Answer.HIT, TAG, NEIGHBOUR) == [self.head_of()]
        assert self.served(Answer.HIT, self.digest, NEIGHBOUR) == []

    def test_another_repository_that_has_it_too(self) -> None:
        self.upstream.put_manifest(ELSEWHERE, self.body, TAG)
        self.served(Answer.MISS)
        assert self.served(Answer.HIT, self.digest, STRANGER) == [self.head_of(self.digest, ELSEWHERE)]
        assert self.served(Answer.HIT, TAG, STRANGER) == [self.head_of(TAG, ELSEWHERE)]

    def test_another_repository_that_has_it_not(self) -> None:
        self.served(Answer.MISS)
        for reference in (self.digest, TAG):
            for body in (True, False):
                assert isinstance(self.get(reference, STRANGER, body=body).error, NotFound)
        assert not any(self.cache.links.known(STRANGER, digest) for digest in (self.digest, *self.children))

    def test_no_proof_no_bytes(self) -> None:
        """When upstream fails there is nothing for those who never had it, neither fresh nor stale."""
        self.served(Answer.MISS)
        for error in (*TROUBLE, REFUSED):
            self.break_upstream(error)
            for reference in (self.digest, TAG):
                for body in (True, False):
                    assert self.get(reference, NEIGHBOUR, body=body).error is error
        assert self.cache.links.known(NEIGHBOUR, self.digest) is None

    def test_one_who_joins_is_linked_too(self) -> None:
        """Another group of the same repository shares the GET, and has its own links afterwards."""
        self.upstream.held = True
        asking = [self.get(self.digest, home) for home in (HOME, NEIGHBOUR)]
        self.upstream.release()
        self.upstream.held = False
        assert [outcome.value.outcome for outcome in asking] == [Answer.MISS, Answer.JOINED]
        self.asked()
        for home in (HOME, NEIGHBOUR):
            assert self.served(Answer.HIT, self.digest, home) == []
            assert all(self.cache.links.known(home, child) for child in self.children)

    def test_one_who_joins_knowing_no_type(self) -> None:
        """Its link came from a blob's proof, and said nothing about a manifest."""
        self.cache.links.add(NEIGHBOUR, {self.digest: Link("", -1)})
        self.upstream.held = True
        self.get(self.digest, HOME)
        self.get(self.digest, NEIGHBOUR)
        self.upstream.release()
        self.upstream.held = False
        self.asked()
        assert self.served(Answer.HIT, self.digest, NEIGHBOUR) == []


class Children(ManifestsTestCase):
    """A manifest is never served before what it names is linked."""

    def test_linked_before_it_is_served(self) -> None:
        self.upstream.held = True
        asking = self.get()
        self.upstream.release()
        found: list[Link | None] = []
        asking.then(lambda _: found.extend(self.cache.links.known(HOME, child) for child in self.children))
        self.upstream.release()
        assert found == list(self.children.values())
        for child, link in self.children.items():
            assert Outcome(self.index.get_link(HOME, child)).value == link

    def test_their_blobs_need_no_proof(self) -> None:
        self.served(Answer.MISS)
        for child in self.children:
            self.upstream.put_blob(NAME, b"x", child)
            assert isinstance(Outcome(self.cache.blobs.open(HOME, child)).error, Invalid)
        assert self.asked() == [f"GET {NAME} blobs/{child}" for child in self.children]

    def test_when_the_bytes_were_here_already(self) -> None:
        self.served(Answer.MISS)
        self.get(TAG, NEIGHBOUR)
        assert all(self.cache.links.known(NEIGHBOUR, child) == link for child, link in self.children.items())

    def test_when_the_index_lost_them(self) -> None:
        """A tag that is known, and its links are not: the index was down when they were to be written."""
        self.served(Answer.MISS)
        record = self.recorded()
        assert record is not None
        for error, answer in ((None, Answer.HIT), (DOWN, Answer.STALE)):
            self.use(Cache())
            self.push()
            Outcome(self.place.store.write(self.digest, self.body))
            Outcome(self.index.put_tag(HOME, TAG, record))
            if error is not None:
                # No blob could be proved now.
                self.break_upstream(error)
            self.served(answer)
            assert all(self.cache.links.known(HOME, child) == link for child, link in self.children.items())


class Heads(ManifestsTestCase):
    """A client's HEAD: at most one upstream HEAD, and never a GET."""

    def head(self, reference: Reference = TAG, home: Home = HOME) -> ServedManifest:
        value = self.get(reference, home, body=False).value
        assert value.body is None
        return value

    def expected(self, answer: Answer) -> ServedManifest:
        return ServedManifest(self.digest, OCI_MANIFEST, len(self.body), None, answer)

    def test_by_tag(self) -> None:
        assert self.head() == self.expected(Answer.MISS)
        assert self.asked() == [self.head_of()]
        self.served(Answer.MISS)
        self.asked()
        assert self.head() == self.expected(Answer.HIT)
        assert self.asked() == [self.head_of()]

    def test_by_digest(self) -> None:
        assert self.head(self.digest) == self.expected(Answer.MISS)
        assert self.asked() == [self.head_of(self.digest)]
        self.served(Answer.MISS)
        self.asked()
        assert self.head(self.digest) == self.expected(Answer.HIT)
        assert self.asked() == []
        assert self.head(self.digest, NEIGHBOUR) == self.expected(Answer.MISS)
        assert self.asked() == [self.head_of(self.digest)]
        # That was a proof, as well.
        assert self.served(Answer.HIT, self.digest, NEIGHBOUR) == []

    def test_containerd(self) -> None:
        """HEAD of the tag, then GET of the digest."""
        self.head()
        assert self.served(Answer.MISS, self.digest) == [self.head_of(), self.get_of(self.digest)]
        self.head()
        assert self.served(Answer.HIT, self.digest) == [self.head_of()]

    def test_upstream_tells_little(self) -> None:
        for attribute in ("head_digest", "head_type", "sizes"):
            setattr(self.upstream, attribute, False)
            for reference in (TAG, self.digest):
                value = self.head(reference)
                assert value.digest in (self.digest, None)
        assert self.upstream.count("GET") == 0
        assert self.head() == ServedManifest(None, None, None, None, Answer.MISS)

    def test_moved(self) -> None:
        self.served(Answer.MISS)
        second = self.push("second")
        assert self.head().digest == second
        assert self.head().digest == second
        assert self.asked()[-2:] == [self.head_of()] * 2

    def test_upstream_fails(self) -> None:
        self.break_upstream(DOWN)
        assert self.get(body=False).error is DOWN
        self.upstream.errors.clear()
        self.served(Answer.MISS)
        self.break_upstream(DOWN)
        assert self.head() == self.expected(Answer.STALE)
        assert self.asked() == [self.head_of()]

    def test_gone(self) -> None:
        self.delete()
        for _ in range(3):
            assert isinstance(self.get(body=False).error, NotFound)
            assert isinstance(self.get().error, NotFound)
        assert self.asked() == [self.head_of()]


class Freshness(ManifestsTestCase):
    def test_a_window(self) -> None:
        self.configure(freshness=60.0)
        assert self.served(Answer.MISS) == [self.head_of(), self.get_of(self.digest)]
        self.clock.advance(59)
        self.break_upstream(DOWN)
        assert self.served(Answer.HIT) == []
        assert self.get(body=False).value.digest == self.digest
        assert self.asked() == []
        self.upstream.errors.clear()
        self.clock.advance(1)
        assert self.served(Answer.HIT) == [self.head_of()]
        self.clock.advance(59)
        assert self.served(Answer.HIT) == []

    def test_for_ever(self) -> None:
        self.configure(freshness=inf)
        self.served(Answer.MISS)
        self.clock.advance(1e9)
        self.cache.start()
        self.break_upstream(DOWN)
        assert self.served(Answer.HIT) == []

    def test_other_tags(self) -> None:
        self.configure(freshness=inf)
        self.push(tag=LATEST)
        self.get(LATEST)
        self.asked()
        assert self.served(Answer.HIT, LATEST) == [self.head_of(LATEST)]

    def test_another_group_asks_for_itself(self) -> None:
        self.configure(freshness=inf)
        self.served(Answer.MISS)
        assert self.served(Answer.HIT, TAG, NEIGHBOUR) == [self.head_of()]

    def test_fresh_but_its_bytes_are_lost(self) -> None:
        self.configure(freshness=inf)
        self.served(Answer.MISS)
        self.cache.start()
        self.place.blob(self.digest).unlink()
        assert self.served(Answer.MISS) == [self.get_of(self.digest)]

    def test_fresh_but_its_bytes_are_lost_and_deleted_upstream(self) -> None:
        """What is fresh is of no use then: the tag is asked for."""
        self.configure(freshness=inf)
        self.served(Answer.MISS)
        self.cache.start()
        self.place.blob(self.digest).unlink()
        self.push("second")
        self.delete(self.digest)
        self.asked()
        body = image("second")[0]
        second = Digest.of(body)
        asked = self.served(Answer.MISS, body=body)
        assert asked == [self.get_of(self.digest), self.head_of(), self.get_of(second)]
        assert self.served(Answer.HIT, body=body) == []


class Stale(ManifestsTestCase):
    """Upstream fails, and a copy is known."""

    def test_each_kind_of_trouble(self) -> None:
        for error in TROUBLE:
            self.configure()
            self.served(Answer.MISS)
            self.break_upstream(error)
            assert self.served(Answer.STALE) == [self.head_of()]

    def test_a_refusal_is_a_refusal(self) -> None:
        """Somebody may have taken the right away; a copy must not go on being handed out."""
        self.served(Answer.MISS)
        self.break_upstream(REFUSED)
        assert self.get().error is REFUSED
        self.upstream.errors.clear()
        assert self.served(Answer.HIT)[-1] == self.head_of()

    def test_nothing_known(self) -> None:
        for error in TROUBLE:
            self.break_upstream(error)
            assert self.get().error is error

    def test_slow(self) -> None:
        """It is waited for the short time alone when there is a copy."""
        self.served(Answer.MISS)
        self.asked()
        self.upstream.held = True
        asking = self.get()
        self.clock.advance(self.cache.settings.revalidate_timeout - 0.1)
        assert asking.waits
        self.clock.advance(0.1)
        assert asking.value.outcome is Answer.STALE
        assert self.asked() == [self.head_of()]

    def test_slow_and_nothing_known(self) -> None:
        self.upstream.held = True
        asking = self.get()
        self.clock.advance(ANSWER_TIMEOUT - 0.1)
        assert asking.waits
        self.clock.advance(0.1)
        assert isinstance(asking.error, Unavailable)

    def test_slow_and_the_copy_is_gone(self) -> None:
        """A tag is known but its bytes are not here: there is nothing to be quick for."""
        self.served(Answer.MISS)
        self.cache.start()
        self.place.blob(self.digest).unlink()
        self.upstream.held = True
        asking = self.get()
        self.clock.advance(self.cache.settings.revalidate_timeout)
        assert asking.waits
        self.upstream.release()
        self.upstream.release()
        assert asking.value.body == self.body

    def test_two_questions_are_one_wait(self) -> None:
        self.upstream.held = True
        asking = self.get()
        self.clock.advance(ANSWER_TIMEOUT - 5)
        self.upstream.release()
        assert self.upstream.count() == 2
        self.clock.advance(5)
        assert isinstance(asking.error, Unavailable)

    def test_hold_off(self) -> None:
        """After a failure it is left alone for a little, where there is a copy."""
        self.served(Answer.MISS)
        self.break_upstream(DOWN)
        self.served(Answer.STALE)
        self.upstream.errors.clear()
        self.clock.advance(4.9)
        assert self.served(Answer.STALE) == []
        self.push(tag=LATEST)
        assert self.get(LATEST).value.body == self.body
        self.asked()
        # That was an answer: it is back.
        assert self.served(Answer.HIT) == [self.head_of()]
        self.break_upstream(DOWN)
        self.served(Answer.STALE)
        self.upstream.errors.clear()
        self.clock.advance(5)
        assert self.served(Answer.HIT) == [self.head_of()]

    def test_throttled(self) -> None:
        self.served(Answer.MISS)
        self.break_upstream(SLOW_DOWN)
        self.served(Answer.STALE)
        self.upstream.errors.clear()
        self.clock.advance(9.9)
        assert self.served(Answer.STALE) == []
        self.clock.advance(0.1)
        assert self.served(Answer.HIT) == [self.head_of()]

    def test_too_old(self) -> None:
        self.configure(serve_stale=3600.0)
        self.served(Answer.MISS)
        self.break_upstream(OOPS)
        self.clock.advance(3600)
        assert self.served(Answer.STALE) == [self.head_of()]
        self.clock.advance(1)
        assert self.get().error is OOPS

    def test_confirmations_keep_it_young(self) -> None:
        self.configure(serve_stale=3600.0)
        self.served(Answer.MISS)
        for _ in range(3):
            self.clock.advance(3000)
            self.served(Answer.HIT)
        self.break_upstream(OOPS)
        self.served(Answer.STALE)

    def test_the_next_process(self) -> None:
        self.served(Answer.MISS)
        self.cache.start()
        self.break_upstream(DOWN)
        assert self.served(Answer.STALE) == [self.head_of()]

    def test_never(self) -> None:
        self.configure(serve_stale=0.0)
        self.served(Answer.MISS)
        self.clock.advance(1)
        self.break_upstream(OOPS)
        assert self.get().error is OOPS


class Moved(ManifestsTestCase):
    """The tag points at something whose bytes are not here yet."""

    def setUp(self) -> None:
        super().setUp()
        self.served(Answer.MISS)
        self.second = self.push("second")
        self.body_of_second, _ = image("second")

    def test_the_get_fails(self) -> None:
        """The old copy stands in, as often as it fails."""
        self.break_upstream(OOPS, "get_manifest")
        for _ in range(2):
            self.served(Answer.STALE)
            self.clock.advance(10)
        self.upstream.errors.clear()
        assert self.served(Answer.MISS, body=self.body_of_second) == [self.head_of(), self.get_of(self.second)]

    def test_the_get_fails_and_the_process_ends(self) -> None:
        self.break_upstream(OOPS, "get_manifest")
        self.served(Answer.STALE)
        self.cache.start()
        self.break_upstream(DOWN)
        self.served(Answer.STALE)

    def test_a_head_tells_and_a_get_by_digest_brings_it(self) -> None:
        """containerd's way: then the tag is known to be there."""
        assert self.get(body=False).value.digest == self.second
        record = self.recorded()
        assert record is not None
        assert record.digest == self.digest
        self.served(Answer.MISS, self.second, body=self.body_of_second)
        record = self.recorded()
        assert record is not None
        assert record.digest == self.second
        self.break_upstream(DOWN)
        self.served(Answer.STALE, body=self.body_of_second)

    def test_two_tags_that_moved_together(self) -> None:
        self.push(tag=LATEST)
        self.get(LATEST)
        self.push("second", LATEST)
        for tag in (TAG, LATEST):
            self.get(tag, body=False)
        self.get(self.second)
        self.break_upstream(DOWN)
        for tag in (TAG, LATEST):
            self.served(Answer.STALE, tag, body=self.body_of_second)

    def test_it_moved_on_before_the_bytes_came(self) -> None:
        """What comes late must not turn the tag back."""
        self.break_upstream(OOPS, "get_manifest")
        self.served(Answer.STALE)
        self.upstream.errors.clear()
        self.clock.advance(10)
        third = self.push("third")
        assert self.get().value.digest == third
        self.served(Answer.MISS, self.second, body=self.body_of_second)
        self.break_upstream(DOWN)
        assert self.get().value.digest == third

    def test_it_moved_back_before_the_bytes_came(self) -> None:
        self.get(body=False)
        self.push("first")
        self.clock.advance(1)
        self.served(Answer.HIT)
        self.get(self.second)
        self.break_upstream(DOWN)
        self.served(Answer.STALE)

    def test_it_was_deleted_before_the_bytes_came(self) -> None:
        self.get(body=False)
        self.delete()
        assert isinstance(self.get().error, NotFound)
        self.get(self.second)
        assert self.recorded() is None


class Gone(ManifestsTestCase):
    """Upstream says 404."""

    def test_follow(self) -> None:
        self.served(Answer.MISS)
        self.delete()
        assert isinstance(self.get().error, NotFound)
        assert self.recorded() is None
        self.break_upstream(DOWN)
        self.clock.advance(self.cache.settings.negative_ttl)
        assert self.get().error is DOWN

    def test_follow_is_remembered_for_a_while(self) -> None:
        self.served(Answer.MISS)
        self.delete()
        for _ in range(3):
            assert isinstance(self.get().error, NotFound)
        assert self.asked() == [self.head_of()]
        self.push()
        self.clock.advance(self.cache.settings.negative_ttl)
        assert self.served(Answer.HIT) == [self.head_of()]

    def test_no_memory(self) -> None:
        self.configure(negative_ttl=0.0)
        self.delete()
        assert isinstance(self.get().error, NotFound)
        self.push()
        self.served(Answer.MISS)

    def test_keep(self) -> None:
        """As long as a copy may be stale; also within the time for which the absence is remembered."""
        self.configure(on_404="keep", serve_stale=3600.0)
        self.served(Answer.MISS)
        self.delete()
        assert self.served(Answer.STALE) == [self.head_of()]
        assert self.served(Answer.STALE) == []
        assert self.get(body=False).value.outcome is Answer.STALE
        self.clock.advance(3601)
        assert isinstance(self.get().error, NotFound)
        assert self.recorded() is None

    def test_keep_and_nothing_known(self) -> None:
        self.configure(on_404="keep")
        self.delete()
        assert isinstance(self.get().error, NotFound)

    def test_docker_29(self) -> None:
        """It asks for a tag made of the digest on every pull, in vain."""
        tag = Tag(self.digest.replace(":", "-"))
        for _ in range(5):
            assert isinstance(self.get(tag).error, NotFound)
            assert isinstance(self.get(tag, NEIGHBOUR).error, NotFound)
        assert self.asked() == [self.head_of(tag)]


class NoIndex(ManifestsTestCase):
    """The cache index is down."""

    def test_it_is_served_all_the_same(self) -> None:
        self.index.available = False
        assert self.served(Answer.MISS) == [self.head_of(), self.get_of(self.digest)]
        assert self.served(Answer.HIT) == [self.head_of()]
        assert self.served(Answer.HIT, self.digest) == []
        assert self.get(body=False).value.digest == self.digest
        self.asked()
        self.break_upstream(DOWN)
        self.served(Answer.STALE)
        assert self.errors("index") > 0

    def test_another_process_has_to_ask_again(self) -> None:
        self.index.available = False
        self.served(Answer.MISS)
        self.cache.start()
        assert self.served(Answer.HIT) == [self.head_of()]
        self.cache.start()
        assert self.served(Answer.HIT, self.digest) == [self.head_of(self.digest)]
        self.cache.start()
        self.break_upstream(DOWN)
        assert self.get().error is DOWN

    def test_deleted(self) -> None:
        self.index.available = False
        self.served(Answer.MISS)
        self.delete()
        assert isinstance(self.get().error, NotFound)

    def test_it_comes_back(self) -> None:
        self.index.available = False
        self.served(Answer.MISS)
        self.index.available = True
        self.clock.advance(CONFIRM_INTERVAL)
        self.served(Answer.HIT)
        record = self.recorded()
        assert record is not None
        assert record.digest == self.digest

    def test_a_slow_one(self) -> None:
        """What it knows is waited for, what it is told is not."""
        self.index.blocked = True
        asking = self.get()
        assert asking.waits
        self.index.release()
        assert asking.value.body == self.body
        self.index.blocked = True
        self.clock.advance(CONFIRM_INTERVAL)
        self.asked()
        assert self.served(Answer.HIT) == [self.head_of()]
        self.index.release()
        record = self.recorded()
        assert record is not None
        assert record.checked == 1_700_000_000 + CONFIRM_INTERVAL
