"""What is asked upstream about manifests: each question once, however many ask it at the same moment."""

from collections.abc import Callable, Mapping

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from depproxy.cache.deadline import Deadline, Late
from depproxy.cache.shared import Shared
from depproxy.coalesce import Coalescer
from depproxy.index.interface import Home
from depproxy.oci.reference import Name, Reference
from depproxy.upstream.errors import NotFound, Throttled, Unavailable, UpstreamError
from depproxy.upstream.interface import IUpstream, Manifest, ManifestHead

Question = tuple[str, Name, Reference]

REMEMBERED_ABSENCES = 20_000
REMEMBERED_TROUBLE = 20_000
# How long what has just failed is left alone where a copy is at hand; a 429 may name its own time.
HOLD_OFF = 5.0
LONGEST_HOLD_OFF = 60.0


class Questions:
    """Coalesced, bounded in time, and with a short memory for 404s and for trouble."""

    def __init__(self, upstreams: Mapping[str, IUpstream], negative_ttl: float, clock: IReactorTime) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._heads: Shared[Question, ManifestHead] = Shared()
        self._fetches: Coalescer[Question, Manifest] = Coalescer()
        self._absent: TTLCache[Question, NotFound] = TTLCache(REMEMBERED_ABSENCES, negative_ttl, timer=clock.seconds)
        # Until when to leave alone: a repository (one that is broken says nothing about others), or all of an upstream.
        self._hold_off: TTLCache[tuple[str, Name | None], float] = TTLCache(
            REMEMBERED_TROUBLE, LONGEST_HOLD_OFF, timer=clock.seconds
        )

    def absent(self, home: Home, reference: Reference) -> NotFound | None:
        """The NotFound that upstream gave a moment ago, to raise once."""
        if not self._absent.currsize:
            return None
        error = self._absent.get(_question(home, reference))
        return None if error is None else error.anew()

    def held_off(self, home: Home) -> bool:
        """Whether upstream failed a moment ago, so that a copy should be served without asking."""
        if not self._hold_off.currsize:
            return False
        until = max(self._hold_off.get((home.upstream, name), 0.0) for name in (home.repository, None))
        return self._clock.seconds() < until

    async def head(self, home: Home, reference: Reference, deadline: Deadline) -> ManifestHead:
        """Upstream's HEAD. Raises UpstreamError."""
        upstream = self._upstreams[home.upstream]
        question = _question(home, reference)
        try:
            head = await self._heads.ask(
                question,
                lambda: upstream.head_manifest(home.repository, reference),
                deadline,
                home.upstream,
                f"HEAD {home.repository}:{reference}",
            )
        except UpstreamError as error:
            self._note(home, reference, error)
            raise
        self._hold_off.pop((home.upstream, None), None)
        self._hold_off.pop((home.upstream, home.repository), None)
        return head

    async def fetch(
        self, home: Home, reference: Reference, deadline: Deadline, took: Callable[[Manifest], None]
    ) -> tuple[Manifest, bool]:
        """
        Upstream's GET, and whether it was shared with one under way. `took` is called once per GET, before anybody
        has the manifest. Raises UpstreamError.
        """
        upstream = self._upstreams[home.upstream]
        question = _question(home, reference)

        async def get() -> Manifest:
            manifest = await upstream.get_manifest(home.repository, reference)
            # It may have been pushed since somebody asked in vain.
            for known in (reference, manifest.digest):
                self._absent.pop(_question(home, known), None)
            took(manifest)
            return manifest

        joined = question in self._fetches
        answer = self._fetches.join(question, get)
        try:
            return await deadline.wait(answer, home.upstream, f"GET {home.repository}:{reference}"), joined
        except UpstreamError as error:
            self._note(home, reference, error)
            raise

    def close(self) -> None:
        """Give up what is being asked."""
        self._heads.cancel()
        self._fetches.cancel()

    def _note(self, home: Home, reference: Reference, error: UpstreamError) -> None:
        if isinstance(error, NotFound):
            self._absent[_question(home, reference)] = error.anew()
            return
        if isinstance(error, Throttled):
            whole, wait = True, min(max(error.retry_after or HOLD_OFF, HOLD_OFF), LONGEST_HOLD_OFF)
        elif isinstance(error, Unavailable):
            # No answer at all is an upstream that is down; a 5xx, or slowness, may be one repository's own.
            whole, wait = error.status is None and not isinstance(error, Late), HOLD_OFF
        else:
            return
        trouble = home.upstream, None if whole else home.repository
        self._hold_off[trouble] = max(self._hold_off.get(trouble, 0.0), self._clock.seconds() + wait)


def _question(home: Home, reference: Reference) -> Question:
    return home.upstream, home.repository, reference
