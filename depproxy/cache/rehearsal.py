"""What eviction and expiry would do: they run on an index that only pretends to forget."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from depproxy.cache.removal import Removed, Remover, Why
from depproxy.index.interface import Entry, Home, ICacheIndex, IGroupIndex, Share
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Tag

PAGE = 1000
# What is as it is; a flush does now what is done every few seconds.
PASSED_ON = frozenset({"flush", "touched", "homes", "tags", "links", "pins"})


class _Order:
    """Entries in the order of their last use, without those that would be gone; read as far as they are asked for."""

    def __init__(self, read: Callable[[int, int], Awaitable[Sequence[Entry]]]) -> None:
        self._read = read
        self._entries: dict[Digest, Entry] = {}
        self._fetched = 0
        self._ended = False

    async def page(self, count: int, skip: int, gone: Callable[[Digest], bool]) -> Sequence[Entry]:
        """As `ICacheIndex.coldest`."""
        while len(self._entries) < skip + count and not self._ended:
            found = await self._read(PAGE, self._fetched)
            self._fetched += len(found)
            self._ended = len(found) < PAGE
            self._entries |= {entry.digest: entry for entry in found if not gone(entry.digest)}
        return list(islice(self._entries.values(), skip, skip + count))

    def drop(self, digest: Digest) -> None:
        """It would be gone."""
        self._entries.pop(digest, None)


class RehearsedIndex:
    """The index, as far as eviction and expiry ask it, as it would be after what it was told to forget."""

    def __init__(self, index: ICacheIndex, groups: IGroupIndex) -> None:
        self._index = index
        self._groups = groups
        self._everything = _Order(index.coldest)
        self._of: dict[str, _Order] = {}
        # Sizes of what would be forgotten, and of what groups would hold no more.
        self._gone: dict[Digest, int] = {}
        self._released: dict[str, dict[Digest, int]] = {}

    def __getattr__(self, name: str) -> Any:
        # Nothing but these: what is new there may change the index.
        if name not in PASSED_ON:
            raise AttributeError(name)
        return getattr(self._index, name)

    async def totals(self) -> tuple[int, int]:
        count, size = await self._index.totals()
        return count - len(self._gone), size - sum(self._gone.values())

    async def groups(self) -> Mapping[str, Share]:
        shares = await self._groups.groups()
        released = {group: self._released.get(group, {}) for group in shares}
        return {
            group: Share(share.blobs - len(released[group]), share.size - sum(released[group].values()))
            for group, share in shares.items()
        }

    async def sizes(self, groups: Sequence[str]) -> Mapping[str, int]:
        sizes = await self._groups.sizes(groups)
        return {group: size - sum(self._released.get(group, {}).values()) for group, size in sizes.items()}

    async def coldest(self, count: int, skip: int = 0) -> Sequence[Entry]:
        return await self._everything.page(count, skip, self._gone.__contains__)

    async def coldest_of(self, group: str, count: int, skip: int = 0) -> Sequence[Entry]:
        if group not in self._of:
            self._of[group] = _Order(lambda count, skip: self._groups.coldest_of(group, count, skip))
        return await self._of[group].page(count, skip, self._released.get(group, {}).__contains__)

    async def held(self, group: str, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        released = self._released.get(group, {})
        held = await self._groups.held(group, digests)
        return {digest: used for digest, used in held.items() if digest not in released}

    async def let_go(self, group: str, entries: Sequence[Entry]) -> Sequence[Digest]:
        released = self._released.setdefault(group, {})
        for entry in entries:
            released[entry.digest] = entry.size
            if group in self._of:
                self._of[group].drop(entry.digest)
        holdings = await self._groups.holdings([entry.digest for entry in entries])
        return [
            digest
            for digest, holding in holdings.items()
            if all(digest in self._released.get(holder, {}) for holder in holding.groups)
        ]

    async def forget_unheld(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        holdings = await self._groups.holdings(digests)
        return [self._forget(digest, holding.size) for digest, holding in holdings.items()]

    async def forget_unused(self, entries: Sequence[Entry]) -> Sequence[Digest]:
        return [self._forget(entry.digest, entry.size) for entry in entries]

    async def forget_home(self, home: Home, used: int | None = None) -> bool:
        """Nothing; it would be forgotten."""
        return True

    async def unlink(self, home: Home, digests: Sequence[Digest]) -> None:
        """Nothing."""

    async def forget_tag(self, home: Home, tag: Tag) -> None:
        """Nothing."""

    def _forget(self, digest: Digest, size: int) -> Digest:
        self._gone[digest] = size
        self._everything.drop(digest)
        return digest


class RehearsedRemover(Remover):
    """Removes nothing, and tells nobody."""

    def tell(self, removed: Removed) -> None:
        """Nothing."""

    async def _follow(self, forgotten: Sequence[Digest], sizes: Mapping[Digest, int], why: Why) -> Sequence[int]:
        return [sizes[digest] for digest in forgotten]
