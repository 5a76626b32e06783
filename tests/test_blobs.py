"""Blobs: a hit, a join, or the start of a fill, for those who may have them."""

import errno
import os
from typing import Any

from twisted.python.failure import Failure

from depproxy.cache.blobs import Blobs
from depproxy.cache.deadline import ANSWER_TIMEOUT, Late
from depproxy.cache.interface import BlobSource, StorageError
from depproxy.cache.interface import Outcome as Answer
from depproxy.index.interface import Home, Link
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, Unavailable
from tests.cache_tools import ELSEWHERE, HOME, NAME, NEIGHBOUR, STRANGER, CacheTestCase, Outcome, some_bytes
from tests.fakes import MemoryStream

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BROKEN = Unavailable("docker.io", "the connection was lost")


class BlobsTestCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = some_bytes(5000)
        self.digest = self.upstream.put_blob(NAME, self.data)
        self.sources: list[BlobSource] = []

    @property
    def blobs(self) -> Blobs:
        return self.cache.blobs

    @property
    def stream(self) -> MemoryStream:
        return self.upstream.streams[-1]

    def link(self, home: Home = HOME, size: int = 5000) -> None:
        """As a manifest that was served does."""
        self.cache.links.add(home, {self.digest: Link(LAYER, size)})

    def store(self) -> None:
        """Have the blob in the store."""
        assert Outcome(self.place.store.write(self.digest, self.data)).value is None

    def open(self, home: Home = HOME) -> Outcome[BlobSource]:
        outcome: Outcome[BlobSource] = Outcome(self.blobs.open(home, self.digest))
        self.addCleanup(self.close, outcome)
        return outcome

    def close(self, outcome: Outcome[BlobSource]) -> None:
        if outcome.waits:
            outcome.cancel()
        elif not isinstance(outcome.results[0], Failure):
            outcome.value.close()

    def stat(self, home: Home = HOME) -> Outcome[tuple[int | None, Answer]]:
        return Outcome(self.blobs.stat(home, self.digest))

    def is_whole(self, opened: Outcome[BlobSource], answer: Answer) -> None:
        source = opened.value
        assert source.outcome is answer
        assert (source.size, source.readable, source.failure) == (5000, 5000, None)
        assert os.pread(source.fd, 6000, 0) == self.data

    @property
    def HEAD(self) -> str:
        return f"HEAD {NAME} blobs/{self.digest}"

    @property
    def GET(self) -> str:
        return f"GET {NAME} blobs/{self.digest}"


class Damaged(BlobsTestCase):
    """Files that have not the size that manifests tell."""

    def test_a_file_that_was_cut_is_fetched_again(self) -> None:
        self.link()
        self.store()
        for size in (1000, 0):
            self.place.blob(self.digest).write_bytes(self.data[:size])
            opened = self.open()
            self.stream.finish()
            self.is_whole(opened, Answer.MISS)
            self.close(opened)
            assert self.asked() == [self.GET]
            assert self.place.stored(self.digest) == self.data
        self.is_whole(self.open(), Answer.HIT)
        removed = self.cache.metrics.removed_bytes.labels("damaged")
        assert removed._value.get() == 1000

    def test_an_index_that_is_down(self) -> None:
        self.link()
        self.store()
        self.place.blob(self.digest).write_bytes(b"x")
        self.index.available = False
        opened = self.open()
        self.stream.finish()
        self.is_whole(opened, Answer.MISS)

    def test_a_manifest_that_lies(self) -> None:
        """The blob is read once to see that, and stays."""
        self.store()
        self.link(size=4999)
        for _ in range(2):
            self.is_whole(self.open(), Answer.HIT)
        assert [job.name for job in self.place.threads.jobs] == []
        assert self.asked() == []

    def test_one_that_cannot_be_removed(self) -> None:
        self.link()
        path = self.place.blob(self.digest)
        self.store()
        path.write_bytes(b"x")
        path.parent.chmod(0o500)
        self.addCleanup(path.parent.chmod, 0o700)
        self.place.threads.error = PermissionError(1, "no")
        error = self.open().error
        assert isinstance(error, StorageError)
        assert str(error) == f"the cache cannot read {self.digest}: no"


class Opening(BlobsTestCase):
    def test_hit(self) -> None:
        self.link()
        self.store()
        Outcome(self.index.put_blob(self.digest, 5000, [HOME]))
        self.clock.advance(100)
        opened = self.open()
        self.is_whole(opened, Answer.HIT)
        opened.value.subscribe(lambda: None)
        opened.value.close()
        opened.value.close()
        assert self.asked() == []
        assert self.place.open_files() == []
        Outcome(self.index.flush())
        assert self.index.used[self.digest] == 1_700_000_100

    def test_miss(self) -> None:
        self.link()
        opened = self.open()
        assert self.blobs.filling() == 1
        assert opened.value.outcome is Answer.MISS
        assert (opened.value.size, opened.value.readable) == (5000, 0)
        self.stream.send(2000)
        assert opened.value.readable == 1999
        self.stream.finish()
        self.is_whole(opened, Answer.MISS)
        assert self.blobs.filling() == 0
        assert Outcome(self.index.totals()).value == (1, 5000)
        self.is_whole(self.open(), Answer.HIT)
        assert self.asked() == [self.GET]

    def test_fifty_at_once(self) -> None:
        """One GET, whoever comes while it runs; another repository's clients are proved by a HEAD."""
        self.link()
        self.upstream.put_blob(ELSEWHERE, self.data)
        self.upstream.held = True
        early = [self.open() for _ in range(20)]
        assert all(opened.waits for opened in early)
        early.pop(7).leave()
        early.pop(0).leave()
        self.upstream.release()
        self.upstream.held = False
        self.stream.send(3000)
        late = [self.open(home) for home in (HOME, STRANGER) * 15]
        self.stream.finish()
        for opened in early + late:
            self.is_whole(opened, Answer.JOINED)
        assert self.asked() == [self.GET, f"HEAD {ELSEWHERE} blobs/{self.digest}"]

    def test_everybody_leaves(self) -> None:
        self.link()
        self.upstream.held = True
        self.open().leave()
        self.upstream.release()
        self.stream.finish()
        self.is_whole(self.open(), Answer.HIT)

    def test_readers_close_and_the_fill_goes_on(self) -> None:
        self.link()
        opened = self.open()
        opened.value.close()
        opened.value.close()
        self.stream.finish()
        assert self.place.stored(self.digest) == self.data
        assert self.place.open_files() == []

    def test_after_a_fill_that_failed(self) -> None:
        self.link()
        opened = self.open()
        self.upstream.put_blob(NAME, bytes(5000), self.digest)
        self.stream.break_off(BROKEN)
        self.clock.advance(15)
        self.stream.finish()
        assert isinstance(opened.value.failure, Invalid)
        assert self.blobs.filling() == 0
        self.upstream.put_blob(NAME, self.data)
        again = self.open()
        self.stream.finish()
        self.is_whole(again, Answer.MISS)

    def test_one_that_asks_again_in_the_moment_of_the_failure(self) -> None:
        """It does not join what has failed."""
        self.link()
        again: list[Outcome[BlobSource]] = []
        opened = self.open()
        opened.value.subscribe(lambda: again.append(self.open()))
        self.stream.break_off(BROKEN)
        self.upstream.errors["open_blob"] = NotFound("docker.io", "gone", 404)
        self.clock.advance(15)
        assert isinstance(again[0].error, NotFound)
        assert self.blobs.filling() == 0

    def test_the_file_goes_while_its_entry_is_written(self) -> None:
        """Removed by hand, or by an operator's script: that is a miss, not a source without a file."""
        self.link()
        opened = self.open()
        self.index.blocked = True
        self.stream.finish()
        self.is_whole(opened, Answer.MISS)
        opened.value.close()
        self.place.blob(self.digest).unlink()
        again = self.open()
        self.stream.finish()
        self.is_whole(again, Answer.MISS)
        self.index.release()

    def test_no_index(self) -> None:
        """The file is the truth: a HEAD proves what no link tells, once."""
        self.index.available = False
        opened = self.open()
        self.stream.finish()
        self.is_whole(opened, Answer.MISS)
        self.is_whole(self.open(), Answer.HIT)
        assert self.asked() == [self.HEAD, self.GET]

    def test_upstream_errors(self) -> None:
        self.link()
        for error in (
            BROKEN,
            NotFound("docker.io", "no", 404),
            Throttled("docker.io", "slow down", 429),
            Refused("", ""),
        ):
            self.upstream.errors["open_blob"] = error
            assert self.open().error is error
            assert self.blobs.filling() == 0

    def test_a_full_disk(self) -> None:
        self.link()
        self.place.threads.error = OSError(errno.ENOSPC, "No space left on device")
        error = self.open().error
        assert isinstance(error, StorageError)
        assert "No space left on device" in str(error)
        assert self.blobs.filling() == 0

    def test_descriptors(self) -> None:
        self.link()
        opened = [self.open() for _ in range(5)]
        self.stream.send(100)
        assert len(self.place.open_files()) == 1
        for source in opened[:-1]:
            source.value.close()
        self.stream.finish()
        assert len(self.place.open_files()) == 1
        opened[-1].value.close()
        assert self.place.open_files() == []


class Proof(BlobsTestCase):
    """Bytes are shared, permission never is."""

    def test_a_head_proves_it(self) -> None:
        opened = self.open()
        self.stream.finish()
        self.is_whole(opened, Answer.MISS)
        assert self.asked() == [self.HEAD, self.GET]
        assert Outcome(self.index.get_link(HOME, self.digest)).value == Link("", 5000)

    def test_what_is_there_for_somebody_else(self) -> None:
        self.link()
        self.store()
        for home in (NEIGHBOUR, STRANGER):
            question = f"HEAD {home.repository} blobs/{self.digest}"
            for error in (NotFound("docker.io", "no", 404), BROKEN, Throttled("docker.io", "", 429)):
                self.upstream.errors = {"head_blob": error}
                assert self.open(home).error is error
                assert self.asked() == [question]
        self.upstream.errors.clear()
        self.is_whole(self.open(NEIGHBOUR), Answer.HIT)
        assert isinstance(self.open(STRANGER).error, NotFound)
        assert self.asked() == [f"HEAD {home.repository} blobs/{self.digest}" for home in (NEIGHBOUR, STRANGER)]

    def test_what_is_there_for_somebody_else_where_heads_are_refused(self) -> None:
        """A refusal is no proof: it may be meant."""
        self.link()
        self.store()
        for status in (401, 403, 405):
            for error in (Refused("docker.io", "no", 403), NotFound("docker.io", "no", 404), BROKEN):
                self.upstream.errors = {"head_blob": Refused("docker.io", "no", status), "open_blob": error}
                assert self.open(STRANGER).error is error
                assert self.stat(STRANGER).error is error
        self.upstream.errors = {"head_blob": Refused("docker.io", "no", 405)}
        self.upstream.put_blob(ELSEWHERE, self.data)
        self.is_whole(self.open(STRANGER), Answer.HIT)
        assert self.stream.stopped
        assert self.blobs.filling() == 0

    def test_what_is_being_filled_for_somebody_else_where_heads_are_refused(self) -> None:
        self.link()
        self.open()
        self.upstream.errors["head_blob"] = Refused("docker.io", "no", 405)
        assert isinstance(self.open(STRANGER).error, NotFound)
        self.upstream.put_blob(ELSEWHERE, self.data)
        first = self.stream
        joined = self.open(STRANGER)
        assert self.stream.stopped
        first.finish()
        self.is_whole(joined, Answer.JOINED)

    def test_a_leftover_is_for_nobody_else(self) -> None:
        """Whole or not: those who have no proof get it when upstream gives them the blob."""
        for left in (5000, 2000):
            self.place.leave_behind(self.digest, self.data[:left])
            self.upstream.errors["head_blob"] = Refused("docker.io", "no", 405)
            assert isinstance(self.open(STRANGER).error, NotFound)
        self.link()
        opened = self.open()
        self.stream.finish()
        self.is_whole(opened, Answer.MISS)

    def test_upstream_knows_no_heads(self) -> None:
        """As ECR: the GET that fills is the proof, there is no other question."""
        for error in (Refused("docker.io", "no", 405), Unavailable("docker.io", "no", 501)):
            self.setUp()
            self.upstream.errors["head_blob"] = error
            opened = self.open()
            assert opened.value.size == 5000
            self.stream.finish()
            self.is_whole(opened, Answer.MISS)
            assert self.asked() == [self.HEAD, self.GET]
            self.is_whole(self.open(), Answer.HIT)
            assert self.asked() == []

    def test_upstream_knows_no_heads_and_tells_no_size(self) -> None:
        self.upstream.errors["head_blob"] = Refused("docker.io", "no", 405)
        self.upstream.sizes = False
        opened = self.open()
        self.stream.finish()
        self.is_whole(opened, Answer.MISS)

    def test_upstream_in_trouble_is_not_asked_twice(self) -> None:
        for error in (BROKEN, Unavailable("docker.io", "oops", 503), Throttled("docker.io", "", 429), Invalid("", "")):
            self.upstream.errors["head_blob"] = error
            assert self.open().error is error
            assert self.asked() == [self.HEAD]

    def test_proofs_are_shared(self) -> None:
        self.upstream.held = True
        asking = [self.open() for _ in range(10)]
        self.stat()
        asking.pop(0).leave()
        assert self.asked() == [self.HEAD]
        self.upstream.held = False
        self.upstream.release()
        self.stream.finish()
        assert [opened.value.outcome for opened in asking] == [Answer.MISS] + [Answer.JOINED] * 8

    def test_groups_prove_by_themselves(self) -> None:
        self.upstream.held = True
        self.open()
        self.open(NEIGHBOUR)
        assert self.asked() == [self.HEAD, self.HEAD]
        self.upstream.held = False
        self.upstream.release()
        self.stream.finish()

    def test_a_proof_does_not_take_the_type_away(self) -> None:
        """The link that the manifest made came while the question was under way."""
        self.upstream.held = True
        self.open()
        self.link()
        self.upstream.held = False
        self.upstream.release()
        self.stream.finish()
        assert Outcome(self.index.get_link(HOME, self.digest)).value == Link(LAYER, 5000)


class Joining(BlobsTestCase):
    """Joining what was started in another repository's name."""

    def setUp(self) -> None:
        super().setUp()
        self.link(HOME)
        self.link(STRANGER)
        self.link(NEIGHBOUR)
        self.upstream.put_blob(ELSEWHERE, self.data)

    def test_what_was_refused_to_somebody_else(self) -> None:
        """The joiner starts its own; those who come after it join that."""
        self.upstream.held = True
        first = self.open(HOME)
        others = [self.open(STRANGER) for _ in range(3)]
        neighbour = self.open(NEIGHBOUR)
        assert self.upstream.count() == 1
        del self.upstream.blobs[NAME, self.digest]
        self.upstream.held = False
        self.upstream.release()
        assert isinstance(first.error, NotFound)
        # The same question in the same repository's name would get the same answer.
        assert isinstance(neighbour.error, NotFound)
        assert self.upstream.count() == 2
        self.stream.finish()
        self.is_whole(others[0], Answer.MISS)
        for opened in others[1:]:
            self.is_whole(opened, Answer.JOINED)

    def test_a_stop_is_no_refusal(self) -> None:
        """Nobody starts anew while the service stops."""
        self.upstream.held = True
        asking = [self.open(home) for home in (HOME, STRANGER, NEIGHBOUR)]
        stopped = Outcome(self.blobs.stop())
        assert stopped.value is None
        assert [type(opened.error) for opened in asking] == [Unavailable] * 3
        assert self.upstream.count() == 1
        assert self.blobs.filling() == 0
        self.upstream.held = False
        assert isinstance(self.open().error, Unavailable)
        assert self.upstream.count() == 1


class Slowness(BlobsTestCase):
    """An upstream that takes its time."""

    def test_the_fill_goes_on(self) -> None:
        """containerd waits 30 s for the header: it is told before that, and finds more when it comes again."""
        self.link()
        self.upstream.held = True
        first = self.open()
        self.clock.advance(10)
        second = self.open()
        self.clock.advance(ANSWER_TIMEOUT - 10)
        assert isinstance(first.error, Late)
        assert second.waits
        self.upstream.release()
        self.stream.send(1000)
        assert second.value.readable == 999
        again = self.open()
        self.stream.finish()
        for opened in (second, again):
            self.is_whole(opened, Answer.JOINED)
        assert self.asked() == [self.GET]

    def test_one_who_is_late_does_not_start_another(self) -> None:
        """Also if it may be that its own repository would be quicker: upstream is slow, not unwilling."""
        self.link(HOME)
        self.link(STRANGER)
        self.upstream.held = True
        opened = [self.open(HOME), self.open(STRANGER)]
        self.clock.advance(ANSWER_TIMEOUT)
        assert [type(outcome.error) for outcome in opened] == [Late, Late]
        assert self.upstream.count() == 1

    def test_proof_and_fill_together(self) -> None:
        self.upstream.held = True
        opened = self.open()
        self.clock.advance(ANSWER_TIMEOUT - 5)
        self.upstream.release()
        assert self.upstream.count() == 2
        self.clock.advance(5)
        assert isinstance(opened.error, Late)

    def test_a_proof_that_never_comes(self) -> None:
        self.upstream.held = True
        outcomes: list[Outcome[Any]] = [self.open(), self.stat()]
        self.clock.advance(ANSWER_TIMEOUT)
        assert [type(outcome.error) for outcome in outcomes] == [Late, Late]
        self.open()
        assert self.asked() == [self.HEAD, self.HEAD]


class Stat(BlobsTestCase):
    def test_hit(self) -> None:
        self.link()
        self.store()
        assert self.stat().value == (5000, Answer.HIT)
        assert self.asked() == []

    def test_only_upstream_knows_whether_it_is_still_there(self) -> None:
        self.link()
        assert self.stat().value == (5000, Answer.MISS)
        assert self.asked() == [self.HEAD]
        del self.upstream.blobs[NAME, self.digest]
        assert isinstance(self.stat().error, NotFound)

    def test_it_is_being_filled(self) -> None:
        self.link()
        self.open()
        self.asked()
        assert self.stat().value == (5000, Answer.MISS)
        assert self.asked() == []
        self.stream.finish()

    def test_it_is_being_filled_and_only_the_fill_knows_the_size(self) -> None:
        self.link(size=-1)
        self.open()
        assert self.stat().value == (5000, Answer.MISS)
        self.stream.finish()

    def test_nobody_tells_the_size(self) -> None:
        self.upstream.sizes = False
        assert self.stat().value == (None, Answer.MISS)

    def test_another_group(self) -> None:
        self.store()
        self.link()
        assert isinstance(self.stat(STRANGER).error, NotFound)
        assert self.stat(NEIGHBOUR).value == (5000, Answer.HIT)
        assert self.asked() == [f"HEAD {home.repository} blobs/{self.digest}" for home in (STRANGER, NEIGHBOUR)]

    def test_upstream_knows_no_heads(self) -> None:
        """The headers of a GET say the same; its body is not read."""
        self.upstream.errors["head_blob"] = Refused("docker.io", "no", 405)
        assert self.stat().value == (5000, Answer.MISS)
        assert self.stream.stopped
        assert not self.stream.started
        assert self.blobs.filling() == 0

    def test_nothing_is_downloaded(self) -> None:
        self.stat()
        assert self.upstream.streams == []


class Stopping(BlobsTestCase):
    def stop(self) -> Outcome[None]:
        return Outcome(self.blobs.stop())

    def test_nothing_runs(self) -> None:
        assert self.stop().value is None

    def test_downloads_are_kept_for_the_next_process(self) -> None:
        self.link()
        opened = self.open()
        self.stream.send(2000)
        assert self.stop().value is None
        assert self.stream.stopped
        assert isinstance(opened.value.failure, Unavailable)
        opened.value.close()
        assert self.place.open_files() == []
        self.cache.start()
        again = self.open()
        self.stream.finish()
        self.is_whole(again, Answer.MISS)
        assert self.asked() == [self.GET, f"{self.GET} from 2000"]

    def test_what_is_complete_is_stored_first(self) -> None:
        self.link()
        opened = self.open()
        self.place.threads.held = True
        self.stream.finish()
        self.place.threads.finish(1)
        stopped = self.stop()
        assert stopped.waits
        self.place.threads.finish()
        assert stopped.value is None
        self.is_whole(opened, Answer.MISS)
        assert self.place.stored(self.digest) == self.data
        assert Outcome(self.index.totals()).value == (1, 5000)

    def test_proofs_are_given_up(self) -> None:
        self.upstream.held = True
        asking: list[Outcome[Any]] = [self.open(), self.stat()]
        assert self.stop().value is None
        assert not any(outcome.waits for outcome in asking)
