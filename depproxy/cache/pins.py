"""Pins: images that are kept, however cold they are."""

from depproxy.cache.contents import Contents
from depproxy.index.interface import IGroupIndex
from depproxy.oci.digest import Digest


class Pins:
    """A pin names an image as a pull does: one by tag follows the tag."""

    def __init__(self, groups: IGroupIndex, contents: Contents) -> None:
        self._groups = groups
        self._contents = contents

    async def protected(self) -> frozenset[Digest]:
        """All that pinned images consist of now, as far as it is known here. Raises IndexUnavailable."""
        found: set[Digest] = set()
        for home, reference in await self._groups.pins():
            root = await self._contents.root(home, reference)
            if root is not None and root.digest not in found:
                found |= (await self._contents.below(root)).keys()
        return frozenset(found)
