"""Purge: what a group's owner, or the operator, wants gone now, whoever reads it or has pinned it.

What another group holds stays for that group. A purge of an image takes what no other image of the group needs.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence

from attrs import frozen
from twisted.logger import Logger

from depproxy.cache.background import Background
from depproxy.cache.contents import Contents
from depproxy.cache.links import Links
from depproxy.cache.paging import pages
from depproxy.cache.removal import Remover, Why
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.index.interface import Entry, Home, ICacheIndex, IGroupIndex, IndexUnavailable
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Reference, Tag
from depproxy.plural import counted, plural

BATCH = 500


@frozen
class Purged:
    """What a group does not hold any more, and how much of that was removed because no other group holds it."""

    blobs: int
    removed: int
    removed_bytes: int

    def __str__(self) -> str:
        are = plural(self.removed, "is", "are")
        return f"{counted(self.blobs, 'blob')}, of which {self.removed} {are} removed, {self.removed_bytes} bytes"


class Stopped(Exception):
    """A purge ends before its end, because the service does."""

    def __init__(self) -> None:
        super().__init__("depproxy is stopping")


class Purges:
    """Purges that were ordered. Each goes on to its end by itself; of two alike at a time the second is the first."""

    _log = Logger()

    def __init__(self, purger: "Purger", background: Background) -> None:
        self._purger = purger
        self._background = background
        self._running: set[tuple[str, Home | None, Reference | None]] = set()

    async def order(self, who: str, group: str, home: Home | None = None, reference: Reference | None = None) -> bool:
        """
        Begin a purge of a group, of its repository `home`, or of one image in that; False where nothing is known of
        it. `who` is for the log. Raises IndexUnavailable.
        """
        if not await self.knows(group, home, reference):
            return False
        what = group, home, reference
        if what not in self._running:
            self._running.add(what)
            self._background.spawn(self._run(who, *what), f"purge of {_named(*what)}")
        return True

    async def knows(self, group: str, home: Home | None = None, reference: Reference | None = None) -> bool:
        """Whether there is anything to purge. Raises IndexUnavailable."""
        return await self._purger.knows(group, home, reference)

    def stop(self) -> None:
        """What is under way ends with its batch."""
        self._purger.stopped = True

    async def carry_out(
        self, who: str, group: str, home: Home | None = None, reference: Reference | None = None
    ) -> Purged | None:
        """
        The same, and wait for its end; None where nothing is known of it. Who leaves by cancelling leaves it going on.
        Raises IndexUnavailable, or Stopped: then a part may be gone already, and it can be done again.
        """
        if not await self.knows(group, home, reference):
            return None
        named = _named(group, home, reference)
        return await self._background.carry(self._purge(who, group, home, reference), f"purge of {named}")

    async def _run(self, who: str, group: str, home: Home | None, reference: Reference | None) -> None:
        try:
            await self._purge(who, group, home, reference)
        except (IndexUnavailable, Stopped) as error:
            named = _named(group, home, reference)
            self._log.error("the purge of {what} is not complete, order it again: {error}", what=named, error=error)
        finally:
            self._running.discard((group, home, reference))

    async def _purge(self, who: str, group: str, home: Home | None, reference: Reference | None) -> Purged | None:
        named = _named(group, home, reference)
        self._log.info("{who} has ordered a purge of {what}", who=who, what=named)
        if home is None:
            purged: Purged | None = await self._purger.group(group)
        elif reference is None:
            purged = await self._purger.repository(home)
        else:
            purged = await self._purger.image(home, reference)
        self._log.info("purged {what}: {purged}", what=named, purged=purged or "it was gone already")
        return purged


def _named(group: str, home: Home | None, reference: Reference | None) -> str:
    if home is None:
        return f"group {group}"
    separator = "@" if isinstance(reference, Digest) else ":"
    image = f"{home.upstream}/{home.repository}"
    return f"{image if reference is None else f'{image}{separator}{reference}'} of group {group}"


class Purger:
    """
    Every method raises IndexUnavailable, or Stopped once `stopped` is set: then a part may be gone already, and it can
    be done again.
    """

    def __init__(
        self,
        index: ICacheIndex,
        groups: IGroupIndex,
        contents: Contents,
        tags: Tags,
        links: Links,
        uses: Uses,
        remover: Remover,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._groups = groups
        self._contents = contents
        self._tags = tags
        self._links = links
        self._uses = uses
        self._remover = remover
        self._now = now
        self.stopped = False

    async def group(self, group: str) -> Purged:
        """Purge all that a group has when this is called. What is pulled meanwhile may stay."""
        begun = int(self._now())
        # Reads that wait to be written would be held only after this.
        await self._index.flush()
        async for home in self._homes(group):
            await self._groups.forget_home(home)
        self._forget(lambda home: home.group == group)
        blobs, gone = 0, list[int]()
        while True:
            self._go_on()
            entries = [entry for entry in await self._groups.coldest_of(group, BATCH) if entry.used <= begun]
            if not entries:
                return Purged(blobs, len(gone), sum(gone))
            gone += await self._uses.removing.run(self._remover.let_go, group, entries, Why.PURGED)
            blobs += len(entries)

    async def repository(self, home: Home) -> Purged:
        """Purge one repository of a group, with all its tags."""
        await self._index.flush()
        digests: list[Digest] = []
        async for links in pages(lambda cursor: self._groups.links(home, cursor)):
            digests += links
        purged = await self._let_go(home, digests)
        # Last, so that an order that is given again finds it.
        await self._groups.forget_home(home)
        self._forget(lambda other: other == home)
        return purged

    async def image(self, home: Home, reference: Reference) -> Purged | None:
        """Purge one image: its tag, and what no other tag of the repository needs. None where it is not known."""
        root = await self._contents.root(home, reference)
        if root is None:
            return None
        await self._index.flush()
        parts = list(await self._contents.below(root))
        needed: set[Digest] = set()
        others: list[Tag] = []
        async for tags in pages(lambda cursor: self._groups.tags(home, cursor)):
            for tag, record in tags.items():
                if tag == reference:
                    continue
                if record.digest == root.digest and not isinstance(reference, Tag):
                    others.append(tag)
                elif (other := await self._contents.root(home, tag)) is not None:
                    needed |= (await self._contents.below(other)).keys()
        # Manifests after what they name, and what names the image last: an order that is given again finds all of it.
        own = [digest for digest in reversed(parts) if digest not in needed]
        purged = await self._let_go(home, own)
        for tag in others:
            await self._index.forget_tag(home, tag)
        await self._groups.unlink(home, own)
        if isinstance(reference, Tag):
            await self._index.forget_tag(home, reference)
        self._forget(lambda other: other == home)
        return purged

    async def knows(self, group: str, home: Home | None, reference: Reference | None) -> bool:
        """Whether there is anything to purge: of a group, of its repository `home`, or of an image in that."""
        if home is None:
            return group in await self._groups.groups()
        if reference is not None:
            return await self._contents.root(home, reference) is not None
        return any([home == known async for known in self._homes(group)])

    async def _let_go(self, home: Home, digests: Sequence[Digest]) -> Purged:
        """The home is to have no links to these any more; its group lets go of what it needs in no other repository."""
        blobs, gone = 0, list[int]()
        for start in range(0, len(digests), BATCH):
            self._go_on()
            own = set(digests[start : start + BATCH])
            async for other in self._homes(home.group):
                if other != home and own:
                    own -= (await self._groups.linked(other, list(own))).keys()
            held = await self._groups.held(home.group, list(own)) if own else {}
            sizes = await self._index.known(list(held)) if held else {}
            entries = [Entry(digest, size, held[digest]) for digest, size in sizes.items()]
            gone += await self._uses.removing.run(self._remover.let_go, home.group, entries, Why.PURGED)
            blobs += len(entries)
        return Purged(blobs, len(gone), sum(gone))

    def _go_on(self) -> None:
        if self.stopped:
            raise Stopped

    async def _homes(self, group: str) -> AsyncIterator[Home]:
        async for homes in pages(lambda cursor: self._groups.homes(group, cursor)):
            for home in homes:
                self._go_on()
                yield home

    def _forget(self, concerned: Callable[[Home], bool]) -> None:
        """What this process remembers."""
        self._tags.forget_homes(concerned)
        self._links.forget_homes(concerned)
