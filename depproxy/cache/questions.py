"""What is asked upstream about manifests: each question once, however many ask it at the same moment."""

from collections.abc import Callable, Mapping
from math import inf
from typing import TypeVar

from cachetools import TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeadlineError
from twisted.internet.interfaces import IReactorTime

from depproxy.cache.coalesce import Coalescer
from depproxy.index.interface import Home
from depproxy.oci.reference import Name, Reference
from depproxy.upstream.errors import NotFound, Throttled, Unavailable, UpstreamError
from depproxy.upstream.interface import IUpstream, Manifest, ManifestHead

T = TypeVar("T")
Question = tuple[str, Name, Reference]

REMEMBERED_ABSENCES = 20_000
# containerd 2.3 gives a server 30 s for the response header.
ANSWER_TIMEOUT = 25.0
# How long an upstream that has just failed is left alone where a copy is at hand; a 429 may name its own time.
HOLD_OFF = 5.0
LONGEST_HOLD_OFF = 60.0


class Questions:
    """Coalesced, bounded in time, and with a short memory for 404s and for upstreams in trouble."""

    def __init__(self, upstreams: Mapping[str, IUpstream], negative_ttl: float, clock: IReactorTime) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._heads: Coalescer[Question, ManifestHead] = Coalescer()
        self._fetches: Coalescer[Question, Manifest] = Coalescer()
        self._absent: TTLCache[Question, NotFound] = TTLCache(REMEMBERED_ABSENCES, negative_ttl, timer=clock.seconds)
        self._hold_off: dict[str, float] = {}

    def raise_if_absent(self, home: Home, reference: Reference) -> None:
        """Raise the NotFound that upstream gave a moment ago."""
        if self._absent.currsize:
            error = self._absent.get(_question(home, reference))
            if error is not None:
                raise error.with_traceback(None)

    def held_off(self, upstream: str) -> bool:
        """Whether this upstream failed a moment ago, so that a copy should be served without asking."""
        return self._clock.seconds() < self._hold_off.get(upstream, -inf)

    async def head(self, home: Home, reference: Reference, timeout: float = ANSWER_TIMEOUT) -> ManifestHead:
        """Upstream's HEAD. Raises UpstreamError; Unavailable after `timeout` seconds, while it is still asked."""
        upstream = self._upstreams[home.upstream]
        answer = self._heads.join(
            _question(home, reference), lambda: upstream.head_manifest(home.repository, reference)
        )
        head = await self._answered(home, reference, answer, timeout)
        self._hold_off.pop(home.upstream, None)
        return head

    async def fetch(self, home: Home, reference: Reference, took: Callable[[Manifest], None]) -> tuple[Manifest, bool]:
        """
        Upstream's GET, and whether it was shared with one under way. `took` is called once per GET, before anybody
        has the manifest. Raises UpstreamError.
        """
        question = _question(home, reference)
        upstream = self._upstreams[home.upstream]

        async def get() -> Manifest:
            manifest = await upstream.get_manifest(home.repository, reference)
            took(manifest)
            return manifest

        joined = question in self._fetches
        answer = self._fetches.join(question, get)
        return await self._answered(home, reference, answer, ANSWER_TIMEOUT), joined

    async def _answered(self, home: Home, reference: Reference, answer: "Deferred[T]", timeout: float) -> T:
        try:
            return await answer.addTimeout(timeout, self._clock)
        except DeadlineError:
            error: UpstreamError = Unavailable(home.upstream, f"no answer for {reference} within {timeout:g} s")
            self._note(home, error)
            raise error from None
        except NotFound as error:
            self._absent[_question(home, reference)] = error
            raise
        except UpstreamError as error:
            self._note(home, error)
            raise

    def _note(self, home: Home, error: UpstreamError) -> None:
        if isinstance(error, Unavailable):
            wait = HOLD_OFF
        elif isinstance(error, Throttled):
            wait = min(max(error.retry_after or HOLD_OFF, HOLD_OFF), LONGEST_HOLD_OFF)
        else:
            return
        self._hold_off[home.upstream] = self._clock.seconds() + wait


def _question(home: Home, reference: Reference) -> Question:
    return home.upstream, home.repository, reference
