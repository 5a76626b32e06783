"""
The TTL policy of groups: what a group has not read for longer than its `ttl` is no longer its own. The bytes go when no
group holds them any more.

Links are kept as long as the group holds what they name, and those of what was never read as long as they are young:
the layers of other platforms, say, which a manifest names. Tags likewise.
"""

import time
from collections.abc import Callable, Sequence, Set

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.cache.links import Links
from depproxy.cache.paging import pages
from depproxy.cache.pins import Pins
from depproxy.cache.removal import Removed, Remover, Why
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.index.interface import Home, ICacheIndex, IGroupIndex, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest

DAY = 24 * 60 * 60
# Entries that are looked at in one turn with whoever else removes blobs.
BATCH = 100


class Expirer:
    """
    Applies the policy when it is told to, in the background; one run at a time.

    `ttl` says how many seconds a group keeps what it does not read; None: for ever. It is asked anew with each run.
    """

    _log = Logger()

    def __init__(
        self,
        index: ICacheIndex,
        groups: IGroupIndex,
        tags: Tags,
        links: Links,
        uses: Uses,
        pins: Pins,
        remover: Remover,
        background: Background,
        ttl: Callable[[str], float | None],
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._groups = groups
        self._tags = tags
        self._links = links
        self._uses = uses
        self._pins = pins
        self._remover = remover
        self._background = background
        self._ttl = ttl
        self._metrics = metrics
        self._now = now
        self._turn = DeferredLock()
        self._running = self._stopped = False
        # Whether the last run that was begun by itself has not come to its end.
        self.late = False

    def expire(self) -> None:
        """Begin a run, unless one is under way."""
        if not self._running and not self._stopped:
            self._running = True
            self._background.spawn(self._run(), "expiry")

    def stop(self) -> None:
        """Begin nothing more; what is under way ends with its batch."""
        self._stopped = True

    async def run(self) -> Sequence[Removed]:
        """Apply the policy now; what was let go. Raises IndexUnavailable."""
        report: list[Removed] = []
        await self._turn.run(self._expire_all, report)
        return report

    async def _run(self) -> None:
        try:
            await self.run()
            self.late = False
        except IndexUnavailable as error:
            self.late = True
            self._metrics.errors.labels("index").inc()
            self._log.warn("what groups have not read is not expired to the end: {error}", error=error)
        finally:
            self._running = False

    async def _expire_all(self, report: list[Removed]) -> None:
        groups = [group for group in await self._groups.groups() if self._ttl(group) is not None]
        protected = await self._pins.protected() if groups else {}
        for group in groups:
            ttl = self._ttl(group)
            if ttl is not None and not self._stopped:
                report.append(await self._expire(group, self._now() - ttl, protected.get(group, frozenset())))
                self._remover.tell(report[-1])

    async def _expire(self, group: str, before: float, protected: Set[Digest]) -> Removed:
        # Reads that wait to be written are the latest ones.
        await self._index.flush()
        gone: list[int] = []
        let_go: list[int] = []
        passed, more = 0, True
        while more and not self._stopped:
            passed, more = await self._uses.removing.run(self._let_go, group, before, passed, protected, let_go, gone)
        forgotten = await self._forget(group, before)
        return Removed(Why.EXPIRED, group, len(let_go), len(gone), sum(gone), forgotten, sum(let_go))

    async def _let_go(
        self, group: str, before: float, passed: int, protected: Set[Digest], let_go: list[int], gone: list[int]
    ) -> tuple[int, bool]:
        """Let go of a batch. How many stay in front of the rest, and whether there may be more."""
        entries = await self._groups.coldest_of(group, BATCH, passed)
        old = [entry for entry in entries if entry.used < before]
        free = [entry for entry in old if entry.digest not in protected and not self._remover.busy(entry.digest)]
        gone += await self._remover.let_go(group, free, Why.EXPIRED)
        let_go += [entry.size for entry in free]
        return passed + len(old) - len(free), len(old) == BATCH

    async def _forget(self, group: str, before: float) -> int:
        """Forget homes that are not read any more, and what the others have no use for. How many homes went."""
        kept = {home for home, _ in await self._groups.pins()}
        changed: set[Home] = set()
        count = 0
        try:
            async for homes in pages(lambda cursor: self._groups.homes(group, cursor)):
                if self._stopped:
                    break
                for home in homes.keys() - kept:
                    if homes[home] >= before:
                        await self._prune(home, before, changed)
                    elif await self._unread(home, homes[home], changed):
                        count += 1
        finally:
            # Also where the index went down in the middle. Going through what is remembered takes a moment.
            if changed:
                self._tags.forget_homes(changed.__contains__)
                self._links.forget_homes(changed.__contains__)
        return count

    async def _unread(self, home: Home, used: int, changed: set[Home]) -> bool:
        """Forget a home, unless it was read since; whether it is forgotten."""
        await self._index.flush()
        # It may be done though the answer is lost.
        changed.add(home)
        return await self._groups.forget_home(home, used)

    async def _prune(self, home: Home, before: float, changed: set[Home]) -> None:
        """Forget old links and tags of what the group does not hold; then the home is among the `changed`."""
        for step in self._prune_links, self._prune_tags:
            cursor = "0"
            while not self._stopped:
                cursor = await self._uses.removing.run(step, home, before, changed, cursor)
                if cursor == "0":
                    break

    async def _prune_links(self, home: Home, before: float, changed: set[Home], cursor: str) -> str:
        after, links = await self._groups.links(home, cursor)
        # A link knows the day only.
        old = [digest for digest, link in links.items() if link.since + DAY < before]
        unheld = await self._unheld(home.group, old)
        if unheld:
            changed.add(home)
            await self._groups.unlink(home, unheld)
        return after

    async def _prune_tags(self, home: Home, before: float, changed: set[Home], cursor: str) -> str:
        after, tags = await self._groups.tags(home, cursor)
        past = {tag: record.digest for tag, record in tags.items() if record.checked < before}
        free = set(await self._unheld(home.group, list(past.values())))
        for tag, digest in past.items():
            if digest in free:
                changed.add(home)
                await self._index.forget_tag(home, tag)
        return after

    async def _unheld(self, group: str, digests: Sequence[Digest]) -> Sequence[Digest]:
        if not digests:
            return []
        held = await self._groups.held(group, digests)
        return [digest for digest in digests if digest not in held]
