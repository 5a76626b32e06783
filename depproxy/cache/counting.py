"""What all entries sum up to, counted one by one."""

from collections import Counter

from attrs import frozen

from depproxy.cache.paging import pages
from depproxy.index.interface import ICacheIndex, Share, Sums


@frozen
class Counted:
    """The sums, with what each group holds alone, and what no group holds."""

    sums: Sums
    alone: dict[str, Share]
    nobody: Share


class Tally:
    """Adds up blobs."""

    def __init__(self) -> None:
        self._blobs: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()

    def add(self, key: str, size: int) -> None:
        """One more."""
        self._blobs[key] += 1
        self._sizes[key] += size

    def share(self, key: str) -> Share:
        """What was added to `key`."""
        return Share(self._blobs[key], self._sizes[key])

    def shares(self) -> dict[str, Share]:
        """All of them."""
        return {key: self.share(key) for key in self._blobs}


async def count(index: ICacheIndex) -> Counted:
    """
    Go through all entries. What comes or goes meanwhile may be counted or not, and where many go, some of the others
    may be counted twice. Raises IndexUnavailable.
    """
    every, alone, held = Tally(), Tally(), Tally()
    async for entries in pages(index.scan):
        for holding in entries.values():
            every.add("", holding.size)
            for group in holding.groups:
                held.add(group, holding.size)
            if len(holding.groups) <= 1:
                # No group has an empty name.
                alone.add("".join(holding.groups), holding.size)
    total, nobody = every.share(""), alone.share("")
    return Counted(
        Sums(total.blobs, total.size, held.shares()),
        {group: share for group, share in alone.shares().items() if group},
        nobody,
    )
