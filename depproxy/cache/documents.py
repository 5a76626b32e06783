"""Tag lists and referrers: passed through, shared while they are fetched, remembered briefly, 404s too."""

import json
from collections.abc import Mapping

from cachetools import TTLCache
from twisted.internet.defer import TimeoutError as DeadlineError
from twisted.internet.interfaces import IReactorTime

from depproxy.cache.coalesce import Coalescer
from depproxy.cache.interface import Outcome
from depproxy.cache.questions import ANSWER_TIMEOUT
from depproxy.index.interface import Home
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX
from depproxy.upstream.errors import NotFound, Unavailable
from depproxy.upstream.interface import Document, IUpstream

# Of the bytes of all documents together.
REMEMBERED_SIZE = 32 << 20

# For an upstream without the referrers API (distribution-spec, "Listing Referrers"): a registry that has it must
# not answer 404, and clients then do not go on to ask for a tag made of the digest.
NO_REFERRERS = Document(
    json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode(), OCI_INDEX, {}
)

Key = tuple[Home, str, str]


def _size(document: Document | NotFound) -> int:
    return 512 + (len(document.body) if isinstance(document, Document) else 0)


class Documents:
    """What upstream lists, by repository."""

    def __init__(self, upstreams: Mapping[str, IUpstream], ttl: float, clock: IReactorTime) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._fetches: Coalescer[Key, Document] = Coalescer()
        self._recent: TTLCache[Key, Document | NotFound] = TTLCache(
            REMEMBERED_SIZE, ttl, timer=clock.seconds, getsizeof=_size
        )

    async def tags(self, home: Home, query: str) -> tuple[Document, Outcome]:
        """The tags of the repository; `query` holds the paging parameters. Raises UpstreamError."""
        return await self._get((home, "tags/list", query))

    async def referrers(self, home: Home, digest: Digest, query: str) -> tuple[Document, Outcome]:
        """The manifests that refer to `digest`; an empty index where upstream has no such API."""
        try:
            return await self._get((home, f"referrers/{digest}", query))
        except NotFound:
            return NO_REFERRERS, Outcome.HIT

    async def _get(self, key: Key) -> tuple[Document, Outcome]:
        known = self._recent.get(key)
        if isinstance(known, NotFound):
            raise known.with_traceback(None)
        if known is not None:
            return known, Outcome.HIT
        home, path, query = key
        upstream = self._upstreams[home.upstream]
        outcome = Outcome.JOINED if key in self._fetches else Outcome.MISS
        answer = self._fetches.join(key, lambda: upstream.get_document(home.repository, path, query))
        try:
            document = await answer.addTimeout(ANSWER_TIMEOUT, self._clock)
        except DeadlineError:
            raise Unavailable(home.upstream, f"no answer for {path} within {ANSWER_TIMEOUT:g} s") from None
        except NotFound as error:
            self._recent[key] = error
            raise
        if _size(document) < REMEMBERED_SIZE:
            self._recent[key] = document
        return document, outcome
