"""What an index of a given number of blobs holds, and the commands that put it there at once.

Byte for byte it is what the service writes blob by blob, which takes very much longer.
"""

import random
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from depproxy.index import codec
from depproxy.index.interface import Entry, Home, Link, TagRecord
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import DOCKER_MANIFEST
from depproxy.oci.reference import Name, Tag

from .plan import MIB, BenchError
from .source import LAYER

# Of a thousand blobs, one repository has many, and eight have few: Redis keeps the links of the latter more compactly.
REPOSITORIES = (600, *[50] * 8)
BLOBS_PER_TAG = 5
BLOBS_PER_GROUP = 10_000
# The groups lie below it.
PARENT = "teams"
# The last reads are spread over so many seconds.
PAST = 100 * codec.DAY
SIZES = tuple(MIB * (number + 1) for number in range(32))
DIGEST_SIZE = 32
# By how many percent the file of Redis may grow before it is written anew, and how much of that it has.
GROWTH, NEARLY = "auto-aof-rewrite-percentage", 0.75
# Blobs that one command is about.
CHUNK = 500

Word = bytes | str | int


@frozen
class Repository:
    """A group's repository: what its group holds of it, and its tags. Every blob has a link."""

    home: Home
    blobs: tuple[Entry, ...]
    tags: Mapping[Tag, TagRecord]

    @property
    def links(self) -> dict[Digest, Link]:
        return {entry.digest: Link(LAYER, entry.size) for entry in self.blobs}


def contents(count: int, now: int) -> Iterator[Repository]:
    """Repositories with `count` blobs in all, and a tag for every fifth; the same in each run, but for the time."""
    chance = random.Random(count)
    number = done = 0
    while done < count:
        blobs = min(REPOSITORIES[number % len(REPOSITORIES)], count - done)
        home = Home(f"{PARENT}/{done // BLOBS_PER_GROUP:02}", "docker.io", Name(f"library/app-{number:05}"))
        entries = tuple(_entry(chance, chance.choice(SIZES), now - chance.randrange(PAST)) for _ in range(blobs))
        yield Repository(home, entries, _tags(entries, now))
        number += 1
        done += blobs


def coldest(count: int, size: int, now: int, seed: int) -> Repository:
    """`count` blobs of `size` bytes that were read longer ago than all of `contents`, the more so the higher the
    seed."""
    chance = random.Random(f"cold {seed}")
    home = Home(f"{PARENT}/cold", "docker.io", Name(f"library/cold-{seed + 1}"))
    used = now - PAST - codec.DAY * (seed + 1)
    return Repository(home, tuple(_entry(chance, size, used) for _ in range(count)), {})


def _entry(chance: random.Random, size: int, used: int) -> Entry:
    return Entry(Digest(f"sha256:{chance.randbytes(DIGEST_SIZE).hex()}"), size, used)


def _tags(entries: Sequence[Entry], now: int) -> dict[Tag, TagRecord]:
    tagged = enumerate(entries[::BLOBS_PER_TAG])
    return {Tag(f"1.{n}.0"): TagRecord(entry.digest, DOCKER_MANIFEST, 1234, now - n - 0.25) for n, entry in tagged}


def commands(repository: Repository) -> Iterator[Sequence[Word]]:
    """What makes Redis know a repository, which is new with all its blobs: see `depproxy.index.codec`."""
    home, blobs = repository.home, repository.blobs
    size, last = sum(entry.size for entry in blobs), max(entry.used for entry in blobs)
    yield "HINCRBY", codec.GROUPS, home.group, size
    yield "INCRBY", codec.BYTES, size
    yield "ZADD", codec.homes_key(home.group), last, codec.encode_place(home)
    for tag, record in repository.tags.items():
        yield "HSET", codec.tags_key(home), tag, codec.encode_tag(record)
    for start in range(0, len(blobs), CHUNK):
        links: list[Word] = ["HSET", codec.links_key(home)]
        known: list[Word] = ["HSET", codec.BLOBS]
        used: list[Word] = ["ZADD", codec.USED]
        held: list[Word] = ["ZADD", codec.held_key(home.group)]
        for entry in blobs[start : start + CHUNK]:
            digest = codec.encode_digest(entry.digest)
            links += digest, codec.encode_link(Link(LAYER, entry.size), entry.used)
            known += digest, f"{entry.size} {home.group}"
            used += entry.used, digest
            held += entry.used, digest
        yield from (links, known, used, held)


def encoded(words: Sequence[Word]) -> bytes:
    """A command as Redis reads it (RESP, an array of bulk strings)."""
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(texts) + b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])


class Filler:
    """Speaks to a Redis on a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def fill(self, repositories: Iterable[Repository]) -> None:
        """Put them in. Raises BenchError where Redis refuses."""
        for repository in repositories:
            self._told(*commands(repository))

    def grow(self, repositories: Iterator[Repository], blobs: int) -> None:
        """
        Put in `blobs` blobs as if they had come by and by: Redis has written its file anew when most of them were
        there, and is about to do so again. Raises BenchError where Redis refuses.
        """
        self._socket.sendall(encoded(["CONFIG", "GET", GROWTH]))
        percent = int([self._answers.readline() for _ in range(5)][-1])
        self._told(["CONFIG", "SET", GROWTH, 0])
        most, done = blobs / (1 + NEARLY * percent / 100), 0
        while done < most:
            repository = next(repositories)
            self.fill([repository])
            done += len(repository.blobs)
        self._told(["BGREWRITEAOF"])
        self.settle()
        self._told(["CONFIG", "SET", GROWTH, percent])
        self.fill(repositories)

    def _told(self, *batch: Sequence[Word]) -> None:
        self._socket.sendall(b"".join(map(encoded, batch)))
        for _ in batch:
            answer = self._answers.readline()
            if not answer.startswith((b":", b"+")):
                raise BenchError(f"Redis answered {answer!r}")

    def total(self) -> int:
        """The sum of all sizes."""
        return int(self._bulk("GET", codec.BYTES))

    def memory(self) -> int:
        """The bytes that Redis has allocated, without the buffers of its clients and its file."""
        info = self._info()
        return info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"]

    def settle(self) -> None:
        """Return when Redis does not write its file anew, nor is about to."""
        idle = 0
        # It looks ten times a second whether it has to.
        while idle < 5:
            info = self._info()
            idle = 0 if info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"] else idle + 1
            time.sleep(0.1)

    def _info(self) -> dict[str, int]:
        lines = (line.partition(":") for line in self._bulk("INFO").decode().splitlines())
        return {name: int(value) for name, _, value in lines if value.isdigit()}

    def _bulk(self, *words: Word) -> bytes:
        self._socket.sendall(encoded(words))
        length = int(self._answers.readline()[1:])
        return self._answers.read(length + 2)[:-2]


class Files:
    """The files of blobs below a store's root. All of them are sparse; those that are only looked at share inodes."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs" / "sha256"
        self._whole: dict[int, Path] = {}
        self._root = root
        for shard in range(256):
            (self._blobs / f"{shard:02x}").mkdir(mode=0o700, parents=True, exist_ok=True)

    def link(self, entries: Iterable[Entry]) -> None:
        """Quickly make files of few sizes."""
        for entry in entries:
            if entry.size not in self._whole:
                self._whole[entry.size] = self._root / f"whole-{entry.size}"
                _sparse(self._whole[entry.size], entry.size)
            self._path(entry).hardlink_to(self._whole[entry.size])

    def make(self, entries: Iterable[Entry]) -> None:
        """Make files each for itself."""
        for entry in entries:
            _sparse(self._path(entry), entry.size)

    def count(self, entries: Iterable[Entry]) -> int:
        """How many of them are there."""
        return sum(self._path(entry).exists() for entry in entries)

    def _path(self, entry: Entry) -> Path:
        return self._blobs / entry.digest.encoded[:2] / entry.digest.encoded


def _sparse(path: Path, size: int) -> None:
    with path.open("xb") as file:
        file.truncate(size)
