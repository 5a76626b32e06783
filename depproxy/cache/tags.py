"""What tags mean, as upstream has said last: the index, with the recent answers kept in memory."""

from collections.abc import Callable

from cachetools import LRUCache
from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.index.interface import Home, ICacheIndex, IndexUnavailable, TagRecord
from depproxy.metrics import Metrics
from depproxy.oci.reference import Tag

REMEMBERED = 20_000
# How often (seconds) the confirmation of an unchanged tag is written to the index.
CONFIRM_INTERVAL = 60.0


class Tags:
    """Every pull asks for a tag; only the first one for each costs a round trip to the index."""

    _log = Logger()

    def __init__(self, index: ICacheIndex, background: Background, metrics: Metrics) -> None:
        self._index = index
        self._background = background
        self._metrics = metrics
        self._recent: LRUCache[tuple[Home, Tag], TagRecord] = LRUCache(REMEMBERED)
        self._written: LRUCache[tuple[Home, Tag], float] = LRUCache(REMEMBERED)
        # How often something was forgotten: what was asked for before is not remembered after.
        self._forgotten = 0

    def known(self, home: Home, tag: Tag) -> TagRecord | None:
        """The record if it is remembered here; no I/O."""
        return self._recent.get((home, tag))

    async def find(self, home: Home, tag: Tag) -> TagRecord | None:
        """The record, or None where there is none or the index is down."""
        record: TagRecord | None = self._recent.get((home, tag))
        if record is not None:
            return record
        forgotten = self._forgotten
        try:
            record = await self._index.get_tag(home, tag)
        except IndexUnavailable as error:
            self._log.warn("cache index: {error}", error=error)
            self._metrics.errors.labels("index").inc()
            return None
        if record is not None and forgotten == self._forgotten:
            self._recent[home, tag] = record
        return record

    def put(self, home: Home, tag: Tag, record: TagRecord) -> None:
        """Remember what a tag means: here at once, in the index soon."""
        self._recent[home, tag] = record
        self._written[home, tag] = record.checked
        self._background.spawn(self._index.put_tag(home, tag, record), f"{home}:{tag}")

    def confirm(self, home: Home, tag: Tag, record: TagRecord) -> None:
        """The same for one that means what it did, which the index hears of now and then."""
        self._recent[home, tag] = record
        if record.checked - self._written.get((home, tag), 0.0) >= CONFIRM_INTERVAL:
            self.put(home, tag, record)

    def forget(self, home: Home, tag: Tag) -> None:
        """Upstream has no such tag any more."""
        self._recent.pop((home, tag), None)
        self._background.spawn(self._index.forget_tag(home, tag), f"{home}:{tag}")

    def forget_homes(self, concerned: Callable[[Home], bool]) -> None:
        """The index has changed: forget here what is known of these homes."""
        self._forgotten += 1
        for table in self._recent, self._written:
            for key in [key for key in table if concerned(key[0])]:
                del table[key]
