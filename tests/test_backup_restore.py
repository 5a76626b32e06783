"""From an archive back to a store, an index and keys, each of them real."""

from __future__ import annotations

import io
import os
import stat
from functools import partial
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThreadPool

from depproxy.backup.archive import Heading, NotWhole, Reader, Writer, blob_name
from depproxy.backup.records import line
from depproxy.backup.restore import CannotRestore, HalfRestored, Restored, Restorer, check, replace
from depproxy.index import codec
from depproxy.index.interface import IncompatibleSchema, Record
from depproxy.oci.digest import Digest
from depproxy.oci.reference import Tag
from depproxy.storage.files import FileStore
from tests.index_tools import HOME, REACTOR
from tests.test_backup_index import BackupTestCase

HEADING = Heading("1.2.3", codec.SCHEMA, 1_700_000_000)
PREFIX = codec.PREFIX.encode()
# More than one piece.
BLOBS = [os.urandom(size) for size in (0, 10, 3 << 20)]
DIGESTS = [Digest.of(data) for data in BLOBS]
PINS = Record(codec.PINS.encode(), "set", (codec.encode_pin(HOME, Tag("1")).encode(),))


def archive(content: list[tuple[str, bytes]], heading: Heading = HEADING) -> Reader:
    file = io.BytesIO()
    writer = Writer(file.write, heading)
    for name, data in content:
        writer.add(name, data)
    writer.close()
    file.seek(0)
    return Reader(file)


CONTENT = [
    ("configuration.toml", b""),
    ("keys/settings-key", b"secret"),
    ("keys/signing-keys.json", b"{}"),
    ("index/00000000.jsonl", line(PINS)),
    *((blob_name(digest), data) for digest, data in zip(DIGESTS, BLOBS, strict=True)),
]


class Restores(BackupTestCase):
    async def prepare(self) -> None:
        self.root = self.data / "store"
        self.keys = self.root / "keys"
        self.store = FileStore(self.root, partial(deferToThreadPool, REACTOR, REACTOR.getThreadPool()))
        self.store.prepare()
        self.addCleanup(self.store.close)
        self.told: list[int] = []
        self.target = await self.restoring()

    async def put_back(self, content: list[tuple[str, bytes]] = CONTENT, *, force: bool = False) -> Restored:
        return await Restorer(self.store, self.target, self.keys).restore(
            archive(content), self.told.append, force=force
        )

    def path(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded

    async def test_everything(self) -> None:
        assert await self.put_back() == Restored(items=1, keys=2, blobs=3)
        assert sum(self.told) == sum(len(data) for _, data in CONTENT)
        for digest, data in zip(DIGESTS, BLOBS, strict=True):
            assert self.path(digest).read_bytes() == data
        assert (self.keys / "settings-key").read_bytes() == b"secret"
        assert {path.name for path in self.keys.iterdir()} == {"settings-key", "signing-keys.json"}
        for path in self.root.rglob("*"):
            assert not path.stat().st_mode & 0o077
        assert list((self.root / "growing").rglob("*.*")) == []
        assert list(await (await self.started()).pins()) == [(HOME, Tag("1"))]

    async def test_keys_take_the_place_of_others(self) -> None:
        self.keys.mkdir(mode=0o755)
        (self.keys / "settings-key").write_bytes(b"another")
        await self.put_back()
        assert (self.keys / "settings-key").read_bytes() == b"secret"
        assert stat.S_IMODE(self.keys.stat().st_mode) == 0o700

    async def test_a_blob_that_was_damaged_before(self) -> None:
        """The archive is as it was written, and the blob was not what its name says."""
        name = blob_name(DIGESTS[1])
        assert await self.put_back([(name, b"x" * 10)]) == Restored(damaged=1)
        assert not self.path(DIGESTS[1]).exists()
        assert [path for path in (self.root / "growing").rglob("*") if path.is_file()] == []

    async def test_blobs_that_are_there(self) -> None:
        await self.put_back()
        before = self.path(DIGESTS[2]).stat().st_mtime_ns
        assert (await self.put_back(force=True)).blobs == 3
        assert self.path(DIGESTS[2]).stat().st_mtime_ns == before

    async def test_the_rest_of_a_download(self) -> None:
        """Which may be of other bytes."""
        file = await self.store.grow(DIGESTS[2])
        file.append(b"other bytes")
        await file.idle()
        file.release()
        assert (await self.put_back()).blobs == 3
        assert self.path(DIGESTS[2]).read_bytes() == BLOBS[2]

    async def test_an_index_that_is_not_empty(self) -> None:
        index = await self.started()
        await index.pin(HOME, Tag("2"))
        with pytest.raises(CannotRestore, match="is not empty: give --force"):
            await self.put_back()
        assert list(await index.pins()) == [(HOME, Tag("2"))]
        assert not self.keys.exists()
        await self.put_back(force=True)
        assert list(await index.pins()) == [(HOME, Tag("1"))]

    async def test_a_disk_that_fails(self) -> None:
        """No service takes the half of it, and the next restore, after that, needs no force."""
        in_the_way = self.root / "blobs" / "sha256"
        in_the_way.write_text("")
        with pytest.raises(HalfRestored, match="restore again; depproxy does not start before"):
            await self.put_back()
        with pytest.raises(IncompatibleSchema):
            await self.started()
        in_the_way.unlink()
        assert await self.put_back() == Restored(items=1, keys=2, blobs=3)
        await self.started()


def test_a_check_reads_all_of_it() -> None:
    told: list[int] = []
    check(archive(CONTENT), codec.SCHEMA, PREFIX, told.append)
    assert sum(told) == sum(len(data) for _, data in CONTENT)


def test_another_schema() -> None:
    with pytest.raises(CannotRestore, match=r"has schema 7, .* knows 2: restore it by depproxy 9\.9, and upgrade then"):
        check(archive(CONTENT, Heading("9.9", 7, 0)), codec.SCHEMA, PREFIX, lambda _: None)


@pytest.mark.parametrize("lines", [b"x", b"{}", b"\n", line(Record(b"theirs", "string", (b"",)))])
def test_lines_that_are_no_records_of_ours(lines: bytes) -> None:
    with pytest.raises(NotWhole, match=r"index/00000000\.jsonl has "):
        check(archive([("index/00000000.jsonl", lines)]), codec.SCHEMA, PREFIX, lambda _: None)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")
    replace(path, b"after", 0o640, group=os.getegid())
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (tmp_path / "d" / "x").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        replace(tmp_path / "d" / "x", b"after")
    assert [entry.name for entry in (tmp_path / "d").iterdir()] == ["x"]
