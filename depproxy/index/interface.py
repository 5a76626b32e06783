"""What the cache gets from the cache index, and the values that it holds."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Final, Literal, get_args
from urllib.parse import quote

from attrs import field, frozen
from zope.interface import Attribute, Interface

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Reference, Tag

MAX_PINS: Final = 10_000
Kind = Literal["string", "hash", "set", "zset"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class IndexUnavailable(Exception):
    """The cache index did not answer: it is down, too slow, or refused. Nothing is known about what was
    asked."""


class IncompatibleSchema(Exception):
    """The data in Redis was written by a later version, or is not depproxy's. It is left as it is."""


@frozen
class Home:
    """One group's repository at one upstream: tags and links belong to a home, bytes to nobody."""

    group: str
    upstream: str
    repository: Name

    def __str__(self) -> str:
        """A stable text key. Two homes have the same one only if they are equal."""
        return "|".join(quote(part, safe="/:") for part in (self.group, self.upstream, self.repository))


@frozen
class TagRecord:
    """What a tag pointed at when upstream last confirmed it, at the Unix time `checked` (seconds)."""

    digest: Digest
    media_type: str
    size: int
    checked: float


@frozen
class Link:
    """The home is known to hold a digest, with this media type; `size` is in bytes, -1 where it is not
    known. `since`, of those that the index gives, is the Unix time of the day when it was written last."""

    media_type: str
    size: int
    since: int = field(default=0, eq=False)


@frozen
class Entry:
    """A stored blob of `size` bytes, last used at the Unix time `used` (whole seconds)."""

    digest: Digest
    size: int
    used: int


@frozen
class Share:
    """What one group holds: so many blobs, of so many bytes in sum. A blob that several groups hold counts in full for
    each."""

    blobs: int
    size: int


@frozen
class Holding:
    """A stored blob of `size` bytes, and the groups that hold it. `let_go` says that the last one that did holds it no
    more: it is about to be removed, or somebody was interrupted."""

    size: int
    groups: frozenset[str]
    let_go: bool = False


@frozen
class Sums:
    """What is counted beside the entries: how many there are, of how many bytes in sum, and of each group the same."""

    blobs: int
    size: int
    groups: Mapping[str, Share]


@frozen
class SettingsTable:
    """All that owners have set, by group and key, as it was at `version`."""

    version: str
    groups: Mapping[str, Mapping[str, bytes]]


def _fits(record: "Record", _attribute: object, items: tuple[bytes, ...]) -> None:
    if (
        (record.kind == "string" and len(items) != 1)
        or (record.kind in ("hash", "zset") and len(items) % 2)
        or not items
    ):
        raise ValueError(f"a {record.kind} of {len(items)} items")


@frozen
class Record:
    """Something of what is kept under a key, of a backup. A string has one item, a hash its fields each with its value,
    a set its members, a zset its members each with its score. Raises ValueError for what cannot be."""

    key: bytes
    kind: Kind
    items: tuple[bytes, ...] = field(validator=_fits)


class IIndexContents(Interface):
    """All that the index holds, for a backup, but for token buckets and what follows from the rest."""

    schema: int = Attribute("The version of the layout.")

    def records() -> AsyncIterator[Record]:
        """Everything, some hundred items at a time: the entries of blobs first. What is there all the while comes at
        least once, as it is at some moment of that; the keys do not show the same moment.

        Raises `IndexUnavailable`.
        """


class IIndexRestore(Interface):
    """Replaces all that an index holds. Nobody else may use it meanwhile. Methods raise `IndexUnavailable`.

    Until `end` has returned, no service takes the index for a whole one.
    """

    schema: int = Attribute("The version of the layout that records must be of.")

    async def vacant() -> bool:
        """Whether nothing is there that would be lost: it is empty, or was left by a restore without an end."""

    async def begin() -> None:
        """Remove everything."""

    async def put(record: Record) -> None:
        """One of the records of a backup, in their order."""

    async def end() -> None:
        """All are there: make them agree with each other, and the index whole."""


class ICacheIndex(Interface):
    """What is known about the bytes.

    Every `async` method may raise `IndexUnavailable`: within 2 seconds, and at once while the index is known
    to be down. A write that raised may have been done or not. All writes may be repeated without harm.
    """

    async def get_tag(home: Home, tag: Tag) -> TagRecord | None:
        """What `tag` pointed at, or None if that is not known."""

    async def put_tag(home: Home, tag: Tag, record: TagRecord) -> None:
        """Remember what `tag` points at, in place of what was known before."""

    async def forget_tag(home: Home, tag: Tag) -> None:
        """Upstream has no such tag any more. A tag that is not known is not an error."""

    async def get_link(home: Home, digest: Digest) -> Link | None:
        """The link, or None if this home is not known to hold `digest`."""

    async def put_links(home: Home, links: Mapping[Digest, Link]) -> None:
        """Remember that `home` holds these digests. When it raised, some may be remembered and others not."""

    async def put_blob(digest: Digest, size: int, homes: Iterable[Home]) -> None:
        """A blob of `size` bytes is in the store, read just now from these homes, whose groups hold it from now on.
        Called after the file is in place."""

    async def forget_blob(digest: Digest) -> None:
        """A blob is about to leave the store, and no group holds it any more. Links to it stay: they say what upstream
        holds."""

    def touch(home: Home, digest: Digest) -> None:
        """A blob was read now, from this home. Does no I/O: with the next flush its last use is written, and the home's
        group holds it; if the blob is still known then."""

    async def flush() -> None:
        """Write what `touch` was told. What could not be written is kept for the next flush, within
        bounds."""

    def touched(digest: Digest) -> bool:
        """Whether a use of this blob waits to be written. No I/O."""

    async def totals() -> tuple[int, int]:
        """The number of blobs, and the sum of their sizes in bytes. O(1)."""

    async def coldest(count: int, skip: int = 0) -> Sequence[Entry]:
        """Up to `count` entries, those with the longest unused first, but for the first `skip` of them; as of the last
        flush."""

    async def forget_unused(entries: Sequence[Entry]) -> Sequence[Digest]:
        """Forget these blobs, but for those that were used since their entries were read. Which ones were forgotten."""

    async def known(digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """The sizes of those that have an entry."""

    async def adopt(entries: Sequence[Entry]) -> None:
        """These blobs were found in the store. What is known already keeps its last use, and gets its size."""

    async def scan(cursor: str) -> tuple[str, Mapping[Digest, Holding]]:
        """A few hundred entries, and the cursor to go on with. Begins with the cursor "0", and is over when that comes
        back.

        What has an entry all the while comes at least once; other entries may come or not.
        """


class IGroupIndex(Interface):
    """What belongs to each group: the blobs that it holds, because they were read from one of its homes, each with the
    time of the group's own last read; and its homes with their tags and links.

    Raises `IndexUnavailable` as `ICacheIndex` does. A cursor begins as "0", and what it goes through is over when "0"
    comes back; what is there all the while comes at least once.
    """

    async def groups() -> Mapping[str, Share]:
        """All groups of which anything is known."""

    async def sizes(groups: Sequence[str]) -> Mapping[str, int]:
        """The sum of the sizes of what each of these groups holds. However many others there are, it costs no more."""

    async def coldest_of(group: str, count: int, skip: int = 0) -> Sequence[Entry]:
        """As `coldest`, of what the group holds, and as it was used by the group."""

    async def held(group: str, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """Those of `digests` that the group holds, with the Unix time of the group's last read."""

    async def holdings(digests: Sequence[Digest]) -> Mapping[Digest, Holding]:
        """Those of `digests` that have an entry."""

    async def sums() -> Sums:
        """All sums, as they are at one moment."""

    async def replace_sums(seen: Sums, right: Sums) -> bool:
        """Put `right` in the place of the sums of sizes, unless they are not as `seen` any more; whether it was done.
        Groups that `seen` does not have are left out."""

    async def let_go(group: str, entries: Sequence[Entry]) -> Sequence[Digest]:
        """The group holds these no more, but for those that it has read since they were asked for. Those that no group
        holds then; they are still known."""

    async def forget_unheld(digests: Sequence[Digest]) -> Sequence[Digest]:
        """Forget these blobs, but for those that a group holds. Which ones were forgotten."""

    async def count_homes(group: str) -> int:
        """How many homes the group has. O(1)."""

    async def homes(group: str, cursor: str) -> tuple[str, Mapping[Home, int]]:
        """Some of the group's homes, with the Unix time of the last read; and the cursor to go on with."""

    async def tags(home: Home, cursor: str) -> tuple[str, Mapping[Tag, TagRecord]]:
        """Some of the home's tags, and the cursor to go on with."""

    async def links(home: Home, cursor: str) -> tuple[str, Mapping[Digest, Link]]:
        """Some of the home's links, and the cursor to go on with."""

    async def linked(home: Home, digests: Sequence[Digest]) -> Mapping[Digest, Link]:
        """Those of `digests` that the home has links to."""

    async def unlink(home: Home, digests: Sequence[Digest]) -> None:
        """Forget links of the home."""

    async def forget_home(home: Home, used: int | None = None) -> bool:
        """Forget the home with its tags and links; where the time of its last read is given, unless it was read since.
        Whether it is forgotten. Blobs that its group holds are held on."""

    async def pin(home: Home, reference: Reference) -> bool:
        """Keep the image under `reference`; False where `MAX_PINS` images are kept already."""

    async def unpin(home: Home, reference: Reference) -> bool:
        """Undo `pin`; whether there was such a pin."""

    async def pins() -> Collection[tuple[Home, Reference]]:
        """All pins, in no order."""


class IBuckets(Interface):
    """Token buckets: each holds up to `capacity`, is full at first, and gains `per_second` as time goes by.

    All processes on one Redis share them. Raises `IndexUnavailable` as `ICacheIndex` does. `key` has no space in it; a
    bucket is as those numbers say which it is asked with.
    """

    async def take(key: str, capacity: float, per_second: float, cost: float = 1.0, debt: float = 0.0) -> float:
        """Take `cost` out: 0.0 where that was done, else the seconds until it can be, and nothing was taken.

        With a `debt` the bucket may be left with less than nothing, by so much.
        """

    async def peek(key: str, capacity: float, per_second: float, cost: float = 1.0) -> float:
        """The same without taking."""


class IGroupSettings(Interface):
    """What owners have set for their groups. Raises `IndexUnavailable` as `ICacheIndex` does."""

    async def read_settings(seen: str | None) -> SettingsTable | None:
        """All of it; None where that is still what it was at the version `seen`."""

    async def write_settings(group: str, values: Mapping[str, bytes | None]) -> None:
        """Set these keys of a group's, None: not set any more. All of them or, where it raised, perhaps none.

        Neither group nor key has a space in it, and no value is empty.
        """
