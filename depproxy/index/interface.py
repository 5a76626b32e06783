"""What the cache gets from the cache index, and the values that it holds."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from attrs import frozen
from zope.interface import Interface

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Tag


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
    known."""

    media_type: str
    size: int


@frozen
class Entry:
    """A stored blob of `size` bytes, last used at the Unix time `used` (whole seconds)."""

    digest: Digest
    size: int
    used: int


@frozen
class SettingsTable:
    """All that owners have set, by group and key, as it was at `version`."""

    version: str
    groups: Mapping[str, Mapping[str, bytes]]


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

    async def put_blob(digest: Digest, size: int) -> None:
        """A blob of `size` bytes is in the store, used just now. Called after the file is in place."""

    async def forget_blob(digest: Digest) -> None:
        """A blob is about to leave the store. Links to it stay: they say what upstream holds."""

    def touch(digest: Digest) -> None:
        """A blob was used now. Does no I/O: it is written with the next flush, if the blob is still known
        then."""

    async def flush() -> None:
        """Write what `touch` was told. What could not be written is kept for the next flush, within
        bounds."""

    def touched(digest: Digest) -> bool:
        """Whether a use of this blob waits to be written. No I/O."""

    async def totals() -> tuple[int, int]:
        """The number of blobs, and the sum of their sizes in bytes. O(1)."""

    async def coldest(count: int) -> Sequence[Entry]:
        """Up to `count` entries, those with the longest unused first, as of the last flush."""

    async def forget_unused(entry: Entry) -> bool:
        """Forget the blob, unless it was used since `entry` was read; whether it was forgotten."""

    async def known(digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """The sizes of those that have an entry."""

    async def adopt(entries: Sequence[Entry]) -> None:
        """These blobs were found in the store. What is known already keeps its last use, and gets its size."""

    async def scan(cursor: str) -> tuple[str, Sequence[Digest]]:
        """A few hundred entries, and the cursor to go on with. Begins with the cursor "0", and is over when that comes
        back.

        What has an entry all the while comes at least once; other entries may come or not.
        """


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
