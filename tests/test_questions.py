"""What is asked upstream about manifests, and how often."""

from typing import Any

from depproxy.cache.deadline import ANSWER_TIMEOUT, Deadline, Late
from depproxy.cache.questions import HOLD_OFF, LONGEST_HOLD_OFF, HeldOff, Questions
from depproxy.index.interface import Home
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Reference, Tag
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, Unavailable, UpstreamError
from depproxy.upstream.interface import Manifest, ManifestHead
from tests.cache_tools import HOME, NAME, NEIGHBOUR, STRANGER, CacheTestCase, Outcome

TAG = Tag("3.20")
BODY = b'{"schemaVersion": 2}'
NEGATIVE_TTL = 30.0
DOWN = Unavailable("docker.io", "nobody there")


def throttled(retry_after: float | None) -> Throttled:
    return Throttled("docker.io", "slow down", 429, retry_after=retry_after)


class QuestionsTestCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.questions = Questions(self.cache.upstreams, NEGATIVE_TTL, self.clock)
        self.digest = self.upstream.put_manifest(NAME, BODY, TAG)
        self.taken: list[Manifest] = []

    def head(
        self, home: Home = HOME, reference: Reference = TAG, seconds: float = ANSWER_TIMEOUT
    ) -> Outcome[ManifestHead]:
        return Outcome(self.questions.head(home, reference, Deadline.after(self.clock, seconds)))

    def fetch(
        self, home: Home = HOME, reference: Reference = TAG, seconds: float = ANSWER_TIMEOUT
    ) -> Outcome[tuple[Manifest, bool]]:
        deadline = Deadline.after(self.clock, seconds)
        return Outcome(self.questions.fetch(home, reference, deadline, self.taken.append))

    def fails(self, error: UpstreamError, home: Home = HOME) -> None:
        """A HEAD that ends with this error."""
        self.upstream.errors["head_manifest"] = error
        assert self.head(home).error is error
        del self.upstream.errors["head_manifest"]


class Coalescing(QuestionsTestCase):
    def test_heads_of_all_groups_of_a_repository(self) -> None:
        """The credential in use is the upstream's: what it is told, it is told for all."""
        self.upstream.held = True
        asking = [self.head(home) for home in (HOME, NEIGHBOUR, HOME)]
        other = self.head(STRANGER)
        assert self.upstream.count() == 2
        self.upstream.release()
        assert [outcome.value.digest for outcome in asking] == [self.digest] * 3
        assert isinstance(other.error, NotFound)

    def test_fetches(self) -> None:
        """Whoever caused the GET has the bytes taken in, once, before anybody has them."""
        self.upstream.held = True
        asking = [self.fetch(home) for home in (HOME, NEIGHBOUR, HOME)]
        assert self.upstream.count() == 1
        self.upstream.release()
        assert [outcome.value[1] for outcome in asking] == [False, True, True]
        assert [manifest.body for manifest in self.taken] == [BODY]

    def test_references_are_apart(self) -> None:
        self.upstream.held = True
        self.head(reference=TAG)
        self.head(reference=self.digest)
        self.fetch(reference=TAG)
        assert self.upstream.count() == 3
        self.upstream.release()

    def test_leaving(self) -> None:
        self.upstream.held = True
        first, second = self.fetch(), self.fetch()
        first.leave()
        self.upstream.release()
        assert second.value[0].body == BODY
        assert len(self.taken) == 1

    def test_everybody_leaves(self) -> None:
        """The bytes are taken in all the same."""
        self.upstream.held = True
        self.fetch().leave()
        self.upstream.release()
        assert len(self.taken) == 1

    def test_giving_up(self) -> None:
        self.upstream.held = True
        asking: list[Outcome[Any]] = [self.head(), self.fetch()]
        self.questions.close()
        assert not any(outcome.waits for outcome in asking)


class Slowness(QuestionsTestCase):
    """Upstream is slow."""

    def test_who_is_late_and_who_is_not(self) -> None:
        self.upstream.held = True
        hasty, patient = self.head(seconds=3), self.head()
        self.clock.advance(3)
        assert isinstance(hasty.error, Late)
        assert patient.waits
        self.upstream.release()
        assert patient.value.digest == self.digest

    def test_the_next_one_asks_anew(self) -> None:
        self.upstream.held = True
        self.head(seconds=3)
        self.clock.advance(3)
        self.head()
        assert self.upstream.count() == 2

    def test_a_hundred_who_come_one_after_the_other(self) -> None:
        """Upstream hangs: there is one HEAD for each time of patience, not one for each client."""
        self.upstream.held = True
        for _ in range(100):
            self.head()
            self.clock.advance(1)
        assert self.upstream.count() <= 1 + 100 / ANSWER_TIMEOUT

    def test_a_get_goes_on(self) -> None:
        self.upstream.held = True
        assert isinstance(self.late(), Late)
        again = self.fetch()
        self.upstream.release()
        assert again.value[0].body == BODY
        assert self.upstream.count() == 1

    def late(self) -> BaseException:
        outcome = self.fetch()
        self.clock.advance(ANSWER_TIMEOUT)
        return outcome.error


class Absence(QuestionsTestCase):
    def test_it_is_remembered_for_a_while(self) -> None:
        self.fails(NotFound("docker.io", "no such tag", 404))
        first, second = (self.questions.absent(HOME, TAG) for _ in range(2))
        assert first is not None
        assert str(first) == "docker.io: no such tag"
        assert first.status == 404
        assert first is not second
        self.clock.advance(NEGATIVE_TTL - 0.1)
        assert self.questions.absent(HOME, TAG) is not None
        self.clock.advance(0.1)
        assert self.questions.absent(HOME, TAG) is None

    def test_of_this_alone(self) -> None:
        self.fails(NotFound("docker.io", "no such tag", 404))
        assert self.questions.absent(NEIGHBOUR, TAG) is not None
        assert self.questions.absent(STRANGER, TAG) is None
        assert self.questions.absent(HOME, Tag("3.21")) is None
        assert self.questions.absent(HOME, self.digest) is None

    def test_a_get_tells_too(self) -> None:
        gone = Digest.of(b"gone")
        assert isinstance(self.fetch(reference=gone).error, NotFound)
        assert self.questions.absent(HOME, gone) is not None

    def test_until_it_is_there(self) -> None:
        self.fails(NotFound("docker.io", "no such tag", 404))
        self.upstream.errors["head_manifest"] = NotFound("docker.io", "no such digest", 404)
        self.head(reference=self.digest)
        assert self.fetch().value[0].digest == self.digest
        assert self.questions.absent(HOME, TAG) is None
        assert self.questions.absent(HOME, self.digest) is None

    def test_other_errors_are_no_absence(self) -> None:
        for error in (DOWN, throttled(1), Refused("docker.io", "no", 403), Invalid("docker.io", "nonsense")):
            self.fails(error)
            assert self.questions.absent(HOME, TAG) is None

    def test_no_memory_at_all(self) -> None:
        self.questions = Questions(self.cache.upstreams, 0, self.clock)
        self.fails(NotFound("docker.io", "no such tag", 404))
        assert self.questions.absent(HOME, TAG) is None


class HoldOff(QuestionsTestCase):
    """Upstream is left alone a little where a copy is at hand."""

    def held_off(self, home: Home = HOME) -> bool:
        return self.questions.held_off(home)

    def test_one_that_is_down(self) -> None:
        assert not self.held_off()
        self.fails(DOWN)
        assert self.held_off()
        assert self.held_off(STRANGER)
        self.clock.advance(HOLD_OFF)
        assert not self.held_off()

    def test_one_repository_that_is_broken(self) -> None:
        """A 5xx, or slowness, says nothing about other repositories."""
        self.fails(Unavailable("docker.io", "oops", 500))
        assert self.held_off()
        assert self.held_off(NEIGHBOUR)
        assert not self.held_off(STRANGER)

    def test_one_that_is_slow(self) -> None:
        self.upstream.held = True
        self.head(seconds=3)
        self.clock.advance(3)
        assert self.held_off()
        assert not self.held_off(STRANGER)

    def test_one_that_names_its_time(self) -> None:
        for asked, time in ((None, HOLD_OFF), (1.0, HOLD_OFF), (20.0, 20.0), (1e6, LONGEST_HOLD_OFF)):
            self.fails(throttled(asked))
            self.clock.advance(time - 0.1)
            assert self.held_off()
            assert self.held_off(STRANGER)
            self.clock.advance(0.1)
            assert not self.held_off()

    def test_the_longest_time_counts(self) -> None:
        """What somebody without a copy is told meanwhile does not shorten it."""
        self.fails(throttled(40))
        self.fails(throttled(None), STRANGER)
        self.clock.advance(40 - 0.1)
        assert self.held_off()
        self.clock.advance(0.1)
        assert not self.held_off()

    def test_an_answer_ends_it(self) -> None:
        self.fails(DOWN)
        self.fails(Unavailable("docker.io", "oops", 500))
        assert self.head().value.digest == self.digest
        assert not self.held_off()

    def test_what_is_no_trouble(self) -> None:
        for error in (NotFound("docker.io", "no", 404), Refused("docker.io", "no", 403), Invalid("docker.io", "?")):
            self.fails(error)
            assert not self.held_off()

    def test_a_get_that_fails(self) -> None:
        self.upstream.errors["get_manifest"] = DOWN
        assert self.fetch().error is DOWN
        assert self.held_off()


class HoldingOff(QuestionsTestCase):
    def test_nothing(self) -> None:
        assert self.questions.holding_off() == {}
        self.head()
        assert self.questions.holding_off() == {}

    def test_a_whole_upstream(self) -> None:
        self.upstream.errors["head_manifest"] = throttled(20)
        self.head()
        self.clock.advance(5)
        assert self.questions.holding_off() == {"docker.io": HeldOff(15, 0)}
        self.clock.advance(15)
        assert self.questions.holding_off() == {}

    def test_repositories(self) -> None:
        self.upstream.errors["head_manifest"] = Unavailable("docker.io", "broken", 500)
        self.head()
        self.head(Home(HOME.group, HOME.upstream, Name("team/other")))
        assert self.questions.holding_off() == {"docker.io": HeldOff(0, 2)}
        self.upstream.errors["head_manifest"] = DOWN
        self.head()
        assert self.questions.holding_off() == {"docker.io": HeldOff(HOLD_OFF, 2)}
