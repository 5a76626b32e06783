"""Tag lists and referrers: passed through, shared while they are fetched, remembered briefly, 404s too."""

import json

from cachetools import TLRUCache
from twisted.internet.interfaces import IReactorTime

from depproxy.cache.deadline import Deadline
from depproxy.cache.interface import Outcome
from depproxy.cache.shared import Shared
from depproxy.index.interface import Home
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX
from depproxy.upstream.errors import NotFound
from depproxy.upstream.interface import Document, IUpstream, IUpstreams

# Of the bytes of all documents together.
REMEMBERED_SIZE = 32 << 20

# For an upstream without the referrers API (distribution-spec, "Listing Referrers"): a registry that has it must
# not answer 404, and clients then do not go on to ask for a tag made of the digest.
NO_REFERRERS = Document(
    json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode(), OCI_INDEX, {}
)

# Of a query that is remembered; those of clients have some dozen characters.
LONGEST_QUERY = 256

# The upstream stands for the credential in use: after a change of that, what was told before says nothing.
Key = tuple[IUpstream, Home, str, str]


def _size(document: Document | NotFound) -> int:
    return 1024 + (len(document.body) if isinstance(document, Document) else 0)


class Documents:
    """What upstream lists, by repository."""

    def __init__(self, upstreams: IUpstreams, ttl: float, clock: IReactorTime) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._fetches: Shared[Key, Document] = Shared()
        # How long (seconds) the next answer is remembered.
        self.ttl = ttl
        self._recent: TLRUCache[Key, Document | NotFound] = TLRUCache(
            REMEMBERED_SIZE, lambda _key, _answer, now: now + self.ttl, timer=clock.seconds, getsizeof=_size
        )

    async def tags(self, home: Home, query: str) -> tuple[Document, Outcome]:
        """The tags of the repository; `query` holds the paging parameters. Raises UpstreamError."""
        return await self._get(home, "tags/list", query)

    async def referrers(self, home: Home, digest: Digest, query: str) -> tuple[Document, Outcome]:
        """The manifests that refer to `digest`; an empty index where upstream has no such API."""
        try:
            return await self._get(home, f"referrers/{digest}", query)
        except NotFound:
            return NO_REFERRERS, Outcome.HIT

    def close(self) -> None:
        """Give up what is being asked."""
        self._fetches.cancel()

    async def _get(self, home: Home, path: str, query: str) -> tuple[Document, Outcome]:
        upstream: IUpstream = self._upstreams.of(home.upstream, home.group)
        key = upstream, home, path, query
        known = self._recent.get(key)
        if isinstance(known, NotFound):
            raise known.anew()
        if known is not None:
            return known, Outcome.HIT
        outcome = Outcome.JOINED if key in self._fetches else Outcome.MISS
        try:
            document = await self._fetches.ask(
                key,
                lambda: upstream.get_document(home.repository, path, query),
                Deadline.after(self._clock),
                home.upstream,
                f"{path} of {home.repository}",
            )
        except NotFound as error:
            self._remember(key, error.anew())
            raise
        self._remember(key, document)
        return document, outcome

    def _remember(self, key: Key, document: Document | NotFound) -> None:
        if len(key[3]) <= LONGEST_QUERY and _size(document) < REMEMBERED_SIZE:
            self._recent[key] = document
