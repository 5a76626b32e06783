"""Pins: images that are kept, however cold they are."""

from collections.abc import Mapping, Sequence, Set

from depproxy.cache.contents import Contents
from depproxy.index.interface import MAX_PINS, Home, IGroupIndex
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Reference


class TooManyPins(Exception):
    """No more images can be pinned. The message says what to do."""


class Pins:
    """A pin names an image as a pull does: one by tag follows the tag. Every method raises IndexUnavailable."""

    def __init__(self, groups: IGroupIndex, contents: Contents) -> None:
        self._groups = groups
        self._contents = contents

    async def add(self, home: Home, reference: Reference) -> bool:
        """Keep an image from now on; whether it is in the cache already. Raises TooManyPins."""
        if not await self._groups.pin(home, reference):
            raise TooManyPins(f"{MAX_PINS} images are pinned, and more cannot be; `depproxy unpin` some of them")
        return await self._contents.root(home, reference) is not None

    async def remove(self, home: Home, reference: Reference) -> bool:
        """Keep an image no longer than others; whether it was pinned."""
        return await self._groups.unpin(home, reference)

    async def all(self) -> Sequence[tuple[Home, Reference]]:
        """All pinned images, in the order of their names."""
        return sorted(await self._groups.pins(), key=lambda pin: (str(pin[0]), str(pin[1])))

    async def protected(self) -> Mapping[str, Set[Digest]]:
        """All that the pinned images of each group consist of now, as far as it is known here."""
        found: dict[str, set[Digest]] = {}
        for home, reference in await self._groups.pins():
            own = found.setdefault(home.group, set())
            root = await self._contents.root(home, reference)
            if root is not None and root.digest not in own:
                own.update(await self._contents.below(root))
        return found
