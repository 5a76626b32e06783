"""The check of the whole store: files and entries, bytes and digests, entries and sums."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import define, frozen
from twisted.logger import Logger

from depproxy.cache.counting import count
from depproxy.cache.entries import Entries
from depproxy.cache.reconcile import Difference, Kind, Reconciler, Swept
from depproxy.cache.removal import Remover
from depproxy.cache.uses import Uses
from depproxy.index.interface import ICacheIndex, IGroupIndex, Share, Sums
from depproxy.storage.interface import SHARDS, IBlobStore, StoredFile

# How often all entries are counted, where others change them meanwhile.
ATTEMPTS = 3


@frozen
class Found:
    """Something is wrong with a blob; and whether it was put right."""

    difference: Difference
    repaired: bool


@define
class Verified:
    """So many files, of so many bytes, were read, so many of them wrong; of all shards so many are done."""

    files: int = 0
    size: int = 0
    wrong: int = 0
    shards: int = 0


@frozen
class WrongSum:
    """What the index keeps as a group's sum of sizes (None: that of all), and what its entries add up to; in bytes."""

    group: str | None
    kept: int
    counted: int


@frozen
class Checked:
    """
    What was found. `sums` is None where they could not be compared, because the cache changed all the while; and
    `repaired` says whether they were put right.
    """

    swept: Swept
    verified: Verified | None
    sums: Sequence[WrongSum] | None
    repaired: bool

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        wrong = self.swept.adopted or self.swept.forgotten or self.sums or (self.verified and self.verified.wrong)
        return not wrong


Tell = Callable[[Found | Verified], Awaitable[None]]


class Checker:
    """Checks while others are served. `tell` hears of each finding, and of each shard that is verified."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        groups: IGroupIndex,
        entries: Entries,
        uses: Uses,
        reconciler: Reconciler,
        remover: Remover,
    ) -> None:
        self._store = store
        self._index = index
        self._groups = groups
        self._entries = entries
        self._uses = uses
        self._reconciler = reconciler
        self._remover = remover

    async def check(self, tell: Tell, *, verify: bool, repair: bool) -> Checked:
        """
        Files against entries, both ways; with `verify` bytes against digests; and sums. With `repair` all of it is put
        right. May be cancelled. Raises IndexUnavailable, and OSError.
        """
        # What waits to be noted is nothing that is wrong.
        await self._entries.catch_up()

        async def differ(difference: Difference) -> None:
            await tell(Found(difference, repair))

        swept = await self._reconciler.compare(differ, repair=repair)
        verified = await self._verify(tell, repair) if verify else None
        sums, repaired = await self._sums(repair)
        if repaired:
            self._log.warn("sums of sizes in the cache index were wrong, and are put right: {sums}", sums=sums)
            self._entries.tell()
        return Checked(swept, verified, sums, repaired)

    async def _verify(self, tell: Tell, repair: bool) -> Verified:
        """One file at a time."""
        verified = Verified()
        for number in range(SHARDS):
            for file in await self._store.shard(number):
                kind = await self._wrong(file)
                verified.files += 1
                verified.size += file.size
                if kind is not None:
                    verified.wrong += 1
                    difference = Difference(kind, file.digest, file.size)
                    await tell(Found(difference, repair and await self._discard(difference)))
            verified.shards += 1
            await tell(verified)
        return verified

    async def _wrong(self, file: StoredFile) -> Kind | None:
        """What is wrong with a file; one that is gone by now is right."""
        try:
            return Kind.DAMAGED if await self._store.verify(file.digest) is False else None
        except OSError as error:
            self._log.error("{digest} cannot be read: {error}", digest=file.digest, error=error)
            return Kind.UNREADABLE

    async def _discard(self, found: Difference) -> bool:
        self._log.error("{digest} is {kind}, and is removed", digest=found.digest, kind=found.kind)
        return await self._uses.removing.run(self._remover.discard, found.digest, found.size)

    async def _sums(self, repair: bool) -> tuple[Sequence[WrongSum] | None, bool]:
        """What is wrong with the sums, None where that cannot be told; and whether it was put right."""
        for _ in range(ATTEMPTS):
            await self._index.flush()
            kept = await self._groups.sums()
            counted = (await count(self._index)).sums
            if counted.blobs != kept.blobs or await self._groups.sums() != kept:
                # It has changed, or an entry came twice.
                continue
            wrong = _wrong(kept, counted)
            if not wrong or not repair:
                return wrong, False
            if await self._groups.replace_sums(kept, counted):
                return wrong, True
        return None, False


def _wrong(kept: Sums, counted: Sums) -> Sequence[WrongSum]:
    groups: Mapping[str, Share] = counted.groups
    found = [WrongSum(None, kept.size, counted.size)]
    found += [
        WrongSum(group, share.size, groups.get(group, Share(0, 0)).size) for group, share in sorted(kept.groups.items())
    ]
    return [one for one in found if one.kept != one.counted]
