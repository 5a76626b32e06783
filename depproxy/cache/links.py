"""Which digests a group's repository is known to hold: the index, with the recent answers kept in memory."""

from collections.abc import Callable, Mapping

from cachetools import LRUCache
from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.index.interface import Home, ICacheIndex, IndexUnavailable, Link
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest

# About 300 bytes each.
REMEMBERED = 50_000


class Links:
    """Every request asks for a link; only the first one for each costs a round trip to the index."""

    _log = Logger()

    def __init__(self, index: ICacheIndex, background: Background, metrics: Metrics) -> None:
        self._index = index
        self._background = background
        self._metrics = metrics
        self._recent: LRUCache[tuple[Home, Digest], Link] = LRUCache(REMEMBERED)
        # How often something was forgotten: what was asked for before is not remembered after.
        self._forgotten = 0

    def known(self, home: Home, digest: Digest) -> Link | None:
        """The link if it is remembered here; no I/O."""
        return self._recent.get((home, digest))

    async def find(self, home: Home, digest: Digest) -> Link | None:
        """The link, or None where there is none or the index is down: then upstream has to prove it."""
        link: Link | None = self._recent.get((home, digest))
        if link is not None:
            return link
        forgotten = self._forgotten
        try:
            link = await self._index.get_link(home, digest)
        except IndexUnavailable as error:
            self._log.warn("cache index: {error}", error=error)
            self._metrics.errors.labels("index").inc()
            return None
        if link is not None and forgotten == self._forgotten:
            self._recent[home, digest] = link
        return link

    def add(self, home: Home, links: Mapping[Digest, Link]) -> None:
        """Remember `links`: here at once, in the index soon."""
        for digest, link in links.items():
            self._recent[home, digest] = link
        self._background.spawn(self._index.put_links(home, links), f"links of {home}")

    def forget_homes(self, concerned: Callable[[Home], bool]) -> None:
        """The index has changed: forget here what is known of these homes."""
        self._forgotten += 1
        for key in [key for key in self._recent if concerned(key[0])]:
            del self._recent[key]
