"""One image, looked at in every part."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from attrs import frozen

from depproxy.cache.contents import Contents
from depproxy.cache.inventory import Found, image_name
from depproxy.index.interface import Holding, Home, ICacheIndex, IGroupIndex
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import Descriptor
from depproxy.oci.platform import Platform
from depproxy.oci.reference import Reference, Tag

BATCH = 500
# Image indexes may name others; nobody needs more than two of them in a row.
DEEPEST = 8


@frozen
class Part:
    """What an image names, and what that names; `platform` is that of a manifest in an image index."""

    descriptor: Descriptor
    platform: Platform | None
    parts: Sequence["Part"]

    def all(self) -> Iterator["Part"]:
        """This one and all below."""
        yield self
        for part in self.parts:
            yield from part.all()


@frozen
class Inspected:
    """
    An image in every part, each with its size here and the groups that hold it, if it is here. `checked` is the Unix
    time (seconds) when upstream last said that the tag means this; `linked` are the groups that may pull it.
    """

    image: Found
    root: Part
    here: Mapping[Digest, Holding]
    checked: float | None
    pinned: bool
    linked: Sequence[str]

    @property
    def named(self) -> int:
        """The sum of the sizes of all parts."""
        return sum({part.descriptor.digest: max(0, part.descriptor.size) for part in self.root.all()}.values())

    @property
    def stored(self) -> int:
        """How much of that is here."""
        return sum(holding.size for holding in self.here.values())


class NotKnown(Exception):
    """The group has no such image. The message says what to do."""


@frozen
class Inspector:
    """Every method raises IndexUnavailable."""

    index: ICacheIndex
    groups: IGroupIndex
    contents: Contents

    async def inspect(self, home: Home, reference: Reference) -> Inspected:
        """The image in every part. Raises NotKnown."""
        root = await self.contents.root(home, reference)
        if root is None:
            raise await self.not_known(home, reference)
        # Reads that wait to be written are the latest ones.
        await self.index.flush()
        record = await self.index.get_tag(home, reference) if isinstance(reference, Tag) else None
        whole = await self._part(root, None, DEEPEST)
        digests = list(dict.fromkeys(part.descriptor.digest for part in whole.all()))
        here: dict[Digest, Holding] = {}
        for start in range(0, len(digests), BATCH):
            here |= await self.groups.holdings(digests[start : start + BATCH])
        return Inspected(
            Found((await self.groups.held(home.group, [root.digest])).get(root.digest, 0), home, reference, root),
            whole,
            here,
            None if record is None else record.checked,
            (home, reference) in await self.groups.pins(),
            [group for group in await self._all_groups() if await self._links(group, home, root.digest)],
        )

    async def not_known(self, home: Home, reference: Reference) -> NotKnown:
        """The error for an image that the group does not have: it says which groups have it."""
        others = [
            group
            for group in await self._all_groups()
            if await self.contents.root(_of(group, home), reference) is not None
        ]
        hint = f"; it is in that of {', '.join(others)} (--group)" if others else ""
        return NotKnown(
            f"{image_name(home, reference)} is not in the cache of group {home.group}{hint}."
            f" `depproxy ls {home.group}` shows what is"
        )

    async def _part(self, descriptor: Descriptor, platform: Platform | None, deepest: int) -> Part:
        children = await self.contents.platforms(descriptor) if deepest else ()
        return Part(descriptor, platform, [await self._part(*child, deepest - 1) for child in children])

    async def _all_groups(self) -> Collection[str]:
        return sorted(await self.groups.groups())

    async def _links(self, group: str, home: Home, digest: Digest) -> bool:
        return bool(await self.groups.linked(_of(group, home), [digest]))


def _of(group: str, home: Home) -> Home:
    """The same repository for another group."""
    return Home(group, home.upstream, home.repository)
