"""The archive: a tar file that other programs can read, of which each byte is what it has to be.

::

    depproxy-backup.json      what made it, and of which schema the index is
    configuration.toml        the configuration file, if there is one
    config/...                files beside it that it names
    keys/...                  what signs tokens, and seals what owners have set
    index/00000000.jsonl ...  the cache index (see ``records``)
    blobs/<algorithm>/<hex>   stored blobs, on request
    manifest.json             counts, and the SHA-256 of all bytes before it

It can be written to a pipe: nothing in front depends on what comes after. Headers, and all of the manifest, follow from
what they describe; a reader makes them itself and compares. So it knows that not one byte is missing or another one.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Final

from attrs import frozen

from depproxy.oci.digest import Digest, InvalidDigest

FORMAT: Final = 1
HEADING: Final = "depproxy-backup.json"
CONFIGURATION: Final = "configuration.toml"
BESIDE: Final = "config/"
KEYS: Final = "keys/"
INDEX: Final = "index/"
BLOBS: Final = "blobs/"
MANIFEST: Final = "manifest.json"
CHUNK: Final = 1 << 20
# What is read into memory whole: anything but blobs.
LARGEST_FILE: Final = 16 << 20

_BLOCK: Final = 512
_LONGEST_NAME: Final = 1024
_LARGEST_BLOB: Final = 1 << 50
# The end of a tar file (POSIX pax, "ustar Interchange Format").
_END: Final = bytes(2 * _BLOCK)
_SEGMENT: Final = re.compile(r"[^/\0]{1,255}")
_FLAT: Final = re.compile(r"keys/[a-z][a-z-]*(\.json)?|index/[0-9]{8}\.jsonl")


class NotWhole(ValueError):
    """This is no archive of ours, or not all of one. The text says so of "it"."""


@frozen
class Heading:
    """What made an archive: the version of depproxy, the schema of its index, and when (Unix time, whole seconds)."""

    version: str
    schema: int
    created: int

    def document(self) -> dict[str, object]:
        """As the archive tells it."""
        return {"format": FORMAT, "depproxy": self.version, "schema": self.schema, "created": self.created}


@frozen
class Counts:
    """How many members there are of each part, such as ``keys/``, and how many bytes."""

    members: Counter[str]
    size: Counter[str]


@frozen
class Member:
    """One file in the archive. `chunks` gives its bytes, once; what is not taken is passed over."""

    name: str
    size: int
    chunks: Iterator[bytes]

    def read(self) -> bytes:
        """All bytes; not of a blob."""
        return b"".join(self.chunks)


def blob_name(digest: Digest) -> str:
    """Under which name a blob is in the archive."""
    return f"{BLOBS}{digest.algorithm}/{digest.encoded}"


def blob_digest(name: str) -> Digest:
    """The other way round. Raises InvalidDigest."""
    return Digest(name.removeprefix(BLOBS).replace("/", ":", 1))


class _Tally:
    """Sum and counts of what was written, or read, so far."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self.counts = Counts(Counter(), Counter())

    def add(self, data: bytes) -> None:
        self._sum.update(data)

    def member(self, name: str, size: int) -> None:
        part = _part(name)
        self.counts.members[part] += 1
        self.counts.size[part] += size

    def manifest(self, heading: Heading) -> bytes:
        """The manifest that belongs behind it."""
        document = {
            **heading.document(),
            "members": dict(sorted(self.counts.members.items())),
            "bytes": dict(sorted(self.counts.size.items())),
            "sha256": self._sum.hexdigest(),
        }
        return _written(document)


class Writer:
    """Writes an archive, by a function that takes all bytes that it is given. `close` makes it whole."""

    def __init__(self, write: Callable[[bytes], object], heading: Heading) -> None:
        self._sink = write
        self._heading = heading
        self._tally = _Tally()
        self._names = 0
        self.add(HEADING, _written(heading.document()))

    def add(self, name: str, data: bytes) -> None:
        """One more member. Raises ValueError for what a reader would not take."""
        self.stream(name, len(data), (data,))

    def stream(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """One more member of this size. Raises ValueError where `chunks` have another, and the archive is lost then."""
        if wrong := _refusal(name, size):
            raise ValueError(wrong)
        self._write(_header(name, size, self._heading.created))
        left = size
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break
            self._write(chunk)
        if left:
            raise ValueError(f"{name} has not the {size} bytes that it had before")
        self._write(_padding(size))
        self._tally.member(name, size)

    def close(self) -> Counts:
        """The manifest, and the end."""
        manifest = self._tally.manifest(self._heading)
        counts = self._tally.counts
        self._sink(_tail(manifest, self._heading.created))
        return counts

    def _write(self, data: bytes) -> None:
        self._tally.add(data)
        self._sink(data)


class Reader:
    """Reads an archive from its beginning; every method raises NotWhole. Iterate it to its end: only then is it known
    to be whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._tally = _Tally()
        self._created = 0
        try:
            first = self._next(b"")
        except NotWhole:
            first = None
        if first is None or first.name != HEADING:
            raise NotWhole("is no backup of depproxy, or its beginning is damaged")
        self.heading = _heading(first.read())
        self._created = self.heading.created
        self._finish(first)

    @property
    def counts(self) -> Counts:
        """Of what was read so far."""
        return self._tally.counts

    def __iter__(self) -> Iterator[Member]:
        """What is in it between heading and manifest."""
        while True:
            manifest = self._tally.manifest(self.heading)
            member = self._next(manifest)
            if member is None:
                return
            yield member
            self._finish(member)

    def _next(self, manifest: bytes) -> Member | None:
        block = self._file.read(_BLOCK)
        if manifest and _called(block) == MANIFEST:
            tail = _tail(manifest, self._created)
            if block + self._file.read(len(tail) - _BLOCK + 1) != tail:
                raise _damaged("its end")
            return None
        name, size, created, header = self._header(block)
        if wrong := _refusal(name, size):
            raise NotWhole(f"is damaged, or no backup of depproxy: {wrong}")
        if header != _header(name, size, created if not manifest else self._created):
            raise _damaged(f"the header of {name}")
        self._tally.add(header)
        return Member(name, size, self._chunks(name, size))

    def _header(self, block: bytes) -> tuple[str, int, int, bytes]:
        """Name, size, time, and the bytes of a header, which a long name makes longer."""
        try:
            found = _parsed(block)
            if found.type != tarfile.GNUTYPE_LONGNAME:
                return found.name, found.size, int(found.mtime), block
            if not _BLOCK < found.size + _BLOCK <= _LONGEST_NAME + _BLOCK:
                raise _damaged("a header")
            long = self._file.read(found.size + -found.size % _BLOCK)
            block, before = self._file.read(_BLOCK), block + long
            found = _parsed(block)
            return long.rstrip(b"\0").decode(), found.size, int(found.mtime), before + block
        except (tarfile.HeaderError, UnicodeDecodeError):
            raise _damaged("a header") from None

    def _chunks(self, name: str, size: int) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._file.read(min(left, CHUNK))
            if not chunk:
                raise NotWhole(f"was cut off in {name}")
            left -= len(chunk)
            self._tally.add(chunk)
            yield chunk

    def _finish(self, member: Member) -> None:
        for _ in member.chunks:
            pass
        # The sum tells whether this is what it has to be, too.
        self._tally.add(self._file.read(-member.size % _BLOCK))
        self._tally.member(member.name, member.size)


def _damaged(what: str) -> NotWhole:
    return NotWhole(f"is damaged or was cut off: {what} is not as it was written")


def _parsed(block: bytes) -> tarfile.TarInfo:
    # Not strictly: what stands in the place of a long name may end within a character.
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _called(block: bytes) -> str:
    return block[:100].rstrip(b"\0").decode("utf-8", "replace")


def _part(name: str) -> str:
    head, slash, _ = name.partition("/")
    return head + slash


def _refusal(name: str, size: int) -> str:
    """Why there can be no such member, or nothing."""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        return "a name that cannot be"
    if not _belongs(name):
        return f"{name[:100]} is no name of a file that belongs there"
    most = _LARGEST_BLOB if name.startswith(BLOBS) else LARGEST_FILE
    return f"{name[:100]} is larger than {most} bytes" if size > most else ""


def _belongs(name: str) -> bool:
    if name.startswith(BLOBS):
        try:
            return blob_name(blob_digest(name)) == name
        except InvalidDigest:
            return False
    if name.startswith(BESIDE):
        segments = name.removeprefix(BESIDE).split("/")
        return all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in segments)
    return name in (HEADING, CONFIGURATION) or _FLAT.fullmatch(name) is not None


def _heading(text: bytes) -> Heading:
    try:
        found = json.loads(text)
        made = found["format"]
        if made != FORMAT:
            raise NotWhole(f"is a backup of format {made!r}, and this version of depproxy knows {FORMAT}")
        heading = Heading(str(found["depproxy"]), int(found["schema"]), int(found["created"]))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise error if isinstance(error, NotWhole) else _damaged(HEADING) from None
    if _written(heading.document()) != text:
        raise _damaged(HEADING)
    return heading


def _written(document: object) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def _header(name: str, size: int, created: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, created, 0o600
    # GNU's form holds sizes above 8 GiB.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _tail(manifest: bytes, created: int) -> bytes:
    return _header(MANIFEST, len(manifest), created) + manifest + _padding(len(manifest)) + _END
