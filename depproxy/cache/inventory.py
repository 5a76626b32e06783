"""What is in the cache, for those who look after it: groups, their images, and what one image consists of."""

import heapq
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence

from attrs import field, frozen

from depproxy.cache.contents import Contents
from depproxy.cache.paging import pages
from depproxy.index.interface import Home, ICacheIndex, IGroupIndex, Share, TagRecord
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import Descriptor, is_index, is_manifest
from depproxy.oci.platform import UNKNOWN
from depproxy.oci.reference import Reference, Tag

# Digests that the index is asked about at a time.
BATCH = 500


@frozen
class GroupSummary:
    """A group: how many repositories it has, what it holds, and its limits; quota in bytes, `ttl` in seconds, None: no
    such limit."""

    group: str
    repositories: int
    share: Share
    quota: float | None
    ttl: float | None


@frozen
class Found:
    """An image that a group has, and the Unix time (seconds) when the group read it last; 0: not, or it holds it no
    more."""

    read: int
    home: Home
    reference: Reference
    root: Descriptor


@frozen
class ImageSummary:
    """
    An image, with the sum of sizes (bytes) of all that it names, as far as its manifests are here, and how much of that
    its group holds. `platforms` is empty for what is no image index.
    """

    image: Found
    named: int
    held: int
    platforms: Sequence[str]
    pinned: bool


@frozen
class Images:
    """What was found, the latest read first; and whether there are more."""

    found: Sequence[Found]
    more: bool


def image_name(home: Home, reference: Reference) -> str:
    """The image's full name, as it can be pulled and as commands take it."""
    sign = ":" if isinstance(reference, Tag) else "@"
    return f"{home.upstream}/{home.repository}{sign}{reference}"


@frozen
class Inventory:
    """
    Every method raises IndexUnavailable. `limits` gives the quotas that are in force, in bytes, `ttl` the seconds that
    a group keeps what it does not read, `configured` the groups that there are whether they hold something or not.
    """

    index: ICacheIndex
    groups: IGroupIndex
    contents: Contents
    limits: Callable[[], Mapping[str, float]]
    ttl: Callable[[str], float | None]
    configured: Callable[[], Collection[str]] = field(default=tuple)

    async def all_groups(self) -> Sequence[GroupSummary]:
        """All groups by their names: those of which something is known, and the configured ones."""
        await self.index.flush()
        shares, quotas = await self.groups.groups(), self.limits()
        names = sorted({*shares, *self.configured()})
        return [
            GroupSummary(
                name,
                await self.groups.count_homes(name),
                shares.get(name, Share(0, 0)),
                quotas.get(name),
                self.ttl(name),
            )
            for name in names
        ]

    async def images(self, group: str, limit: int) -> Images:
        """The `limit` images that the group has read last: tags, and what it has pulled by digest alone."""
        # Reads that wait to be written are the latest ones.
        await self.index.flush()
        homes = dict[Home, int]()
        async for page in pages(lambda cursor: self.groups.homes(group, cursor)):
            homes |= page
        best: dict[tuple[Home, Reference], Found] = {}
        more = False
        for home in sorted(homes, key=lambda home: (-homes[home], str(home))):
            if len(best) >= limit and min(found.read for found in best.values()) >= homes[home]:
                # Nothing of this home was read later than the home itself, nor of those that follow.
                more = True
                break
            async for some in self._of_home(home, homes[home]):
                best |= {(found.home, found.reference): found for found in some}
                if len(best) > limit:
                    more = True
                    best = {(found.home, found.reference): found for found in _latest(limit, best.values())}
        return Images(_latest(limit, best.values()), more)

    async def summary(self, image: Found, pins: Collection[tuple[Home, Reference]]) -> ImageSummary:
        """What there is to say of an image in a list; `pins` are all there are."""
        parts = await self.contents.below(image.root)
        held = await self._held(image.home.group, list(parts))
        return ImageSummary(
            image,
            sum(max(0, part.size) for part in parts.values()),
            sum(held.values()),
            await self._platforms(image.root),
            (image.home, image.reference) in pins,
        )

    async def find(self, home: Home, reference: Reference) -> Found | None:
        """The image, or None where nothing is known of it."""
        root = await self.contents.root(home, reference)
        if root is None:
            return None
        await self.index.flush()
        return Found((await self.groups.held(home.group, [root.digest])).get(root.digest, 0), home, reference, root)

    async def _platforms(self, root: Descriptor) -> Sequence[str]:
        found = [platform for _, platform in await self.contents.platforms(root)]
        return [str(platform) for platform in dict.fromkeys(found) if platform not in (None, UNKNOWN)]

    async def _held(self, group: str, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """The sizes of those that the group holds."""
        found: dict[Digest, int] = {}
        for start in range(0, len(digests), BATCH):
            holdings = await self.groups.holdings(digests[start : start + BATCH])
            found |= {digest: holding.size for digest, holding in holdings.items() if group in holding.groups}
        return found

    async def _of_home(self, home: Home, read: int) -> AsyncIterator[Sequence[Found]]:
        """All images of a home, in parts."""
        # What is an image of its own only if nothing else names it.
        named: set[Digest] = set()
        async for tags in pages(lambda cursor: self.groups.tags(home, cursor)):
            roots: dict[Reference, Descriptor] = {tag: _root(record) for tag, record in tags.items()}
            yield await self._found(home, read, roots)
            for root in roots.values():
                named |= {root.digest, *await self._manifests_of(root)}
        by_digest: dict[Digest, Descriptor] = {}
        async for links in pages(lambda cursor: self.groups.links(home, cursor)):
            for digest, link in links.items():
                if is_manifest(link.media_type) and digest not in named:
                    by_digest[digest] = Descriptor(link.media_type, digest, link.size)
        for root in by_digest.values():
            named |= await self._manifests_of(root)
        some = await self._found(home, read, {digest: by_digest[digest] for digest in by_digest.keys() - named})
        # A link says what upstream has, and not that somebody has pulled it.
        yield [found for found in some if found.read]

    async def _found(self, home: Home, read: int, roots: Mapping[Reference, Descriptor]) -> Sequence[Found]:
        digests = [root.digest for root in roots.values()]
        held: dict[Digest, int] = {}
        for start in range(0, len(digests), BATCH):
            held |= await self.groups.held(home.group, digests[start : start + BATCH])
        # Another home of the group may have read the same manifest since.
        return [Found(min(read, held.get(root.digest, 0)), home, reference, root) for reference, root in roots.items()]

    async def _manifests_of(self, root: Descriptor) -> set[Digest]:
        """The manifests that an image index names."""
        children = await self.contents.children(root) if is_index(root.media_type) else ()
        return {child.digest for child in children}


def _root(record: TagRecord) -> Descriptor:
    return Descriptor(record.media_type, record.digest, record.size)


def _latest(count: int, found: Iterable[Found]) -> Sequence[Found]:
    return heapq.nsmallest(count, found, key=lambda one: (-one.read, str(one.home), str(one.reference)))
