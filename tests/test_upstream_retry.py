"""When to ask once more: the rules on a clock of their own, then over real sockets."""

from __future__ import annotations

from email.utils import formatdate
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, Unavailable, UpstreamError
from depproxy.upstream.retry import LONGEST_DELAY, LONGEST_PATIENCE, Retry, parse_date, parse_retry_after
from tests.upstream_fake import Call, Ready, Registry, UpstreamCase, answers, reactor

REPOSITORY = Name("library/alpine")
TAG = Tag("3.20")
PATH = f"/v2/{REPOSITORY}/manifests/{TAG}"

gone = [NotFound, Refused, Invalid]
errors = st.one_of(
    st.builds(lambda kind: kind("fake", "no"), st.sampled_from(gone)),
    st.builds(
        lambda status, after: Unavailable("fake", "no", status, retry_after=after),
        st.sampled_from([None, 500, 501, 502, 503, 504]),
        st.one_of(st.none(), st.floats(0, 10)),
    ),
    st.builds(lambda after: Throttled("fake", "no", 429, retry_after=after), st.one_of(st.none(), st.floats(0, 10))),
)


def worth_another_try(error: UpstreamError) -> bool:
    """The rule in its own words."""
    if error.retry_after is not None and error.retry_after > 5:
        return False
    if isinstance(error, Throttled):
        return error.retry_after is not None
    return isinstance(error, Unavailable) and error.status in (None, 502, 503, 504)


@given(
    st.lists(errors, max_size=8),
    st.integers(0, 5),
    st.sampled_from([0.0, 3.0, 30.0]),
    st.floats(0, 1),
)
def test_any_run_of_failures(failures: list[UpstreamError], retries: int, budget: float, jitter: float) -> None:
    clock = Clock()
    times: list[float] = []

    async def attempt() -> str:
        times.append(clock.seconds())
        if len(times) <= len(failures):
            raise failures[len(times) - 1]
        return "done"

    running = Deferred.fromCoroutine(Retry(clock, lambda: jitter, retries, budget).run(attempt))
    while not running.called:
        (call,) = clock.getDelayedCalls()
        clock.advance(call.getTime() - clock.seconds())
    results: list[object] = []
    running.addCallbacks(results.append, lambda failure: results.append(failure.value))
    assert not clock.getDelayedCalls()
    assert len(times) <= retries + 1
    assert times[-1] <= budget
    waits = [later - earlier for earlier, later in pairwise(times)]
    for number, (wait, error) in enumerate(zip(waits, failures, strict=False)):
        assert worth_another_try(error)
        assert (error.retry_after or 0) - 1e-6 <= wait <= max(LONGEST_DELAY, LONGEST_PATIENCE + 0.25) + 1e-6
        if isinstance(error, Unavailable) and not error.retry_after:
            whole = min(LONGEST_DELAY, 0.25 * 2**number)
            assert whole / 2 - 1e-6 <= wait <= whole + 1e-6
    (result,) = results
    if result == "done":
        assert len(times) == len(failures) + 1
    else:
        last = failures[len(times) - 1]
        assert result is last
        # Nobody gave up early.
        assert not worth_another_try(last) or len(times) == retries + 1 or times[-1] + 5.25 > budget


def failure_of(waiting: Deferred[None]) -> BaseException:
    """Its failure, which is there already."""
    found: list[BaseException] = []

    def failed(failure: Failure) -> None:
        assert failure.value is not None
        found.append(failure.value)

    waiting.addErrback(failed)
    (failure,) = found
    return failure


def test_other_exceptions_are_not_its_business() -> None:
    for error in (ValueError(), CancelledError()):
        clock = Clock()

        async def attempt(error: Exception = error) -> None:
            raise error

        running = Deferred.fromCoroutine(Retry(clock, lambda: 0.5, 3, 30).run(attempt))
        assert failure_of(running) is error


@given(st.integers(0, 2**31), st.integers(-(10**6), 10**6))
def test_dates_are_compared_with_now(now: int, ahead: int) -> None:
    header = formatdate(max(0, now + ahead), usegmt=True)
    assert parse_date(header) == max(0, now + ahead)
    assert parse_retry_after(header, now) == max(0.0, max(0, now + ahead) - now)


@given(st.integers(0, 999_999_999))
def test_seconds_are_seconds(seconds: int) -> None:
    assert parse_retry_after(f" {seconds} ", 0) == seconds


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    found = parse_retry_after(text, 0)
    assert found is None or found >= 0


class OnTheWire(UpstreamCase):
    """The clock goes on by itself when somebody waits for the next attempt."""

    def trouble(self, *statuses: int, retry_after: str | None = None) -> Registry:
        """A registry that answers so first, and then as it should."""
        registry = self.registry()
        registry.put_manifest(TAG, b'{"layers": []}')
        left = list(statuses)

        def respond(call: Call) -> object:
            if not left:
                return registry.fallback(call)
            status = left.pop(0)
            headers = {} if retry_after is None else {"Retry_After": retry_after}
            return call.cut() if status == 0 else call.answer(status, b"", **headers)

        registry.paths[PATH] = respond
        return registry

    def patient(self, registry: Registry) -> tuple[Ready, Deferred[object]]:
        clock = Ready()

        def jitter() -> float:
            # Asked for just before the wait begins.
            reactor.callLater(0, clock.advance, LONGEST_PATIENCE + 1)
            return 0.5

        client = self.client(registry, clock=clock, jitter=jitter, retries=3)
        return clock, Deferred.fromCoroutine(client.get_manifest(REPOSITORY, TAG))

    async def test_what_passes(self) -> None:
        for statuses in ((502, 503, 504), (0,), (503, 0, 502)):
            registry = self.trouble(*statuses)
            _, asking = self.patient(registry)
            await asking
            assert len(registry.seen) == len(statuses) + 1

    async def test_what_does_not(self) -> None:
        for status, kind in {500: Unavailable, 404: NotFound, 403: Refused, 400: Invalid, 429: Throttled}.items():
            registry = self.trouble(status)
            await self.fails(kind, self.patient(registry)[1])
            assert len(registry.seen) == 1

    async def test_three_times_and_no_more(self) -> None:
        registry = self.trouble(503, 503, 503, 503)
        await self.fails(Unavailable, self.patient(registry)[1])
        assert len(registry.seen) == 4
        assert self.counted("GET", 503) == 4

    async def test_429_when_it_says_when_and_that_is_soon(self) -> None:
        registry = self.trouble(429, 429, retry_after="5")
        clock, asking = self.patient(registry)
        await asking
        assert clock.seconds() == 2 * (LONGEST_PATIENCE + 1)
        registry = self.trouble(429, retry_after="6")
        error = await self.fails(Throttled, self.patient(registry)[1])
        assert error.retry_after == 6

    async def test_503_that_wants_too_much_patience(self) -> None:
        registry = self.trouble(503, retry_after="3600")
        error = await self.fails(Unavailable, self.patient(registry)[1])
        assert (error.retry_after, len(registry.seen)) == (3600, 1)

    async def test_after_the_time_for_an_answer_it_is_too_late_for_another(self) -> None:
        clock = Ready()
        registry = self.registry()
        registry.paths[PATH] = lambda call: NOT_DONE_YET
        client = self.client(registry, clock=clock, retries=3)
        asking = Deferred.fromCoroutine(client.get_manifest(REPOSITORY, TAG))
        await registry.requests(1)
        clock.advance(30)
        await self.fails(Unavailable, asking)
        assert len(registry.seen) == 1

    async def test_a_token_endpoint_that_recovers(self) -> None:
        registry = self.trouble()
        registry.authentication = "bearer"
        left = [503, 0]

        def token(call: Call) -> object:
            if not left:
                return registry.token(call)
            status = left.pop()
            return call.answer(status) if status else call.cut()

        registry.paths["/token"] = token
        await self.patient(registry)[1]
        assert len(registry.token_requests) == 3

    async def test_opening_a_blob_is_retried_its_body_is_not(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(b"blob")
        left = [503]
        path = f"/v2/{REPOSITORY}/blobs/{digest}"
        registry.paths[path] = lambda call: call.answer(left.pop()) if left else registry.fallback(call)
        clock = Ready()
        again = clock.waits(0.125)
        client = self.client(registry, clock=clock, retries=1)
        opening = Deferred.fromCoroutine(client.open_blob(REPOSITORY, digest))
        await again
        clock.advance(0.125)
        (await opening).stop()
        assert len(registry.seen) == 2
        registry.paths[path] = answers(404)
        await self.fails(NotFound, client.open_blob(REPOSITORY, Digest.of(b"blob")))
