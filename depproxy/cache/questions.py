"""What is asked upstream about manifests: each question once, however many ask it at the same moment."""

from collections.abc import Callable

from attrs import frozen
from cachetools import TLRUCache, TTLCache
from twisted.internet.interfaces import IReactorTime

from depproxy.cache.deadline import Deadline, Late
from depproxy.cache.shared import Shared
from depproxy.coalesce import Coalescer
from depproxy.index.interface import Home
from depproxy.oci.reference import Name, Reference
from depproxy.upstream.errors import NotFound, Throttled, Unavailable, UpstreamError
from depproxy.upstream.interface import IUpstream, IUpstreams, Manifest, ManifestHead

# The upstream stands for the credential in use, too: see `IUpstreams.of`.
Question = tuple[IUpstream, Name, Reference]

REMEMBERED_ABSENCES = 20_000
REMEMBERED_TROUBLE = 20_000
# How long what has just failed is left alone where a copy is at hand; a 429 may name its own time.
HOLD_OFF = 5.0
LONGEST_HOLD_OFF = 60.0


@frozen
class HeldOff:
    """For how many more seconds all of an upstream is left alone (0: it is not), and how many repositories are."""

    seconds: float
    repositories: int


class Questions:
    """
    Coalesced, bounded in time, and with a short memory for 404s and for trouble.

    All of that among those whose credential in use is the same one: what one may see says nothing about another.
    """

    def __init__(self, upstreams: IUpstreams, negative_ttl: float, clock: IReactorTime) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._heads: Shared[Question, ManifestHead] = Shared()
        self._fetches: Coalescer[Question, Manifest] = Coalescer()
        # How long (seconds) the next 404 is remembered.
        self.negative_ttl = negative_ttl
        self._absent: TLRUCache[Question, NotFound] = TLRUCache(
            REMEMBERED_ABSENCES, lambda _question, _error, now: now + self.negative_ttl, timer=clock.seconds
        )
        # Until when to leave alone: a repository (one that is broken says nothing about others), or all of an upstream.
        self._hold_off: TTLCache[tuple[IUpstream, Name | None], float] = TTLCache(
            REMEMBERED_TROUBLE, LONGEST_HOLD_OFF, timer=clock.seconds
        )

    def absent(self, home: Home, reference: Reference) -> NotFound | None:
        """The NotFound that upstream gave a moment ago, to raise once."""
        if not self._absent.currsize:
            return None
        error = self._absent.get((self._upstream(home), home.repository, reference))
        return None if error is None else error.anew()

    def held_off(self, home: Home) -> bool:
        """Whether upstream failed a moment ago, so that a copy should be served without asking."""
        if not self._hold_off.currsize:
            return False
        upstream = self._upstream(home)
        until = max(self._hold_off.get((upstream, name), 0.0) for name in (home.repository, None))
        return self._clock.seconds() < until

    def holding_off(self) -> dict[str, HeldOff]:
        """What is left alone at the moment, by the names of upstreams."""
        now, found = self._clock.seconds(), dict[str, HeldOff]()
        for (upstream, repository), until in self._hold_off.items():
            if until > now:
                before = found.get(upstream.name, HeldOff(0.0, 0))
                found[upstream.name] = HeldOff(
                    max(before.seconds, until - now if repository is None else 0.0),
                    before.repositories + (repository is not None),
                )
        return found

    async def head(self, home: Home, reference: Reference, deadline: Deadline) -> ManifestHead:
        """Upstream's HEAD. Raises UpstreamError."""
        upstream = self._upstream(home)
        question = upstream, home.repository, reference
        try:
            head = await self._heads.ask(
                question,
                lambda: upstream.head_manifest(home.repository, reference),
                deadline,
                home.upstream,
                f"HEAD {home.repository}:{reference}",
            )
        except UpstreamError as error:
            self._note(question, error)
            raise
        self._hold_off.pop((upstream, None), None)
        self._hold_off.pop((upstream, home.repository), None)
        return head

    async def fetch(
        self, home: Home, reference: Reference, deadline: Deadline, took: Callable[[Manifest], None]
    ) -> tuple[Manifest, bool]:
        """
        Upstream's GET, and whether it was shared with one under way. `took` is called once per GET, before anybody
        has the manifest. Raises UpstreamError.
        """
        upstream = self._upstream(home)
        question = upstream, home.repository, reference

        async def get() -> Manifest:
            manifest = await upstream.get_manifest(home.repository, reference)
            # It may have been pushed since somebody asked in vain.
            for known in (reference, manifest.digest):
                self._absent.pop((upstream, home.repository, known), None)
            took(manifest)
            return manifest

        joined = question in self._fetches
        answer = self._fetches.join(question, get)
        try:
            return await deadline.wait(answer, home.upstream, f"GET {home.repository}:{reference}"), joined
        except UpstreamError as error:
            self._note(question, error)
            raise

    def close(self) -> None:
        """Give up what is being asked."""
        self._heads.cancel()
        self._fetches.cancel()

    def _upstream(self, home: Home) -> IUpstream:
        upstream: IUpstream = self._upstreams.of(home.upstream, home.group)
        return upstream

    def _note(self, question: Question, error: UpstreamError) -> None:
        if isinstance(error, NotFound):
            self._absent[question] = error.anew()
            return
        if isinstance(error, Throttled):
            whole, wait = True, min(max(error.retry_after or HOLD_OFF, HOLD_OFF), LONGEST_HOLD_OFF)
        elif isinstance(error, Unavailable):
            # No answer at all is an upstream that is down; a 5xx, or slowness, may be one repository's own.
            whole, wait = error.status is None and not isinstance(error, Late), HOLD_OFF
        else:
            return
        upstream, repository, _ = question
        trouble = upstream, None if whole else repository
        self._hold_off[trouble] = max(self._hold_off.get(trouble, 0.0), self._clock.seconds() + wait)
