"""The archive of a backup: what was written is read, tar reads it too, and no byte of it may be another one."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.backup import archive
from depproxy.backup.archive import Heading, NotWhole, Reader, Writer, blob_digest, blob_name
from depproxy.oci.digest import Digest

HEADING = Heading("1.2.3", 2, 1_700_000_000)
SMALL = Digest.of(b"small")
LARGE = Digest.of(b"large", "sha512")

segments = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=60
).filter(lambda text: text not in (".", "..") and len(text.encode()) <= 255)
names = st.one_of(
    st.just("configuration.toml"),
    st.lists(segments, min_size=1, max_size=4).map(lambda parts: "config/" + "/".join(parts)),
    st.sampled_from(["keys/settings-key", "keys/signing-keys.json", "index/00000000.jsonl", "index/12345678.jsonl"]),
    st.sampled_from([blob_name(SMALL), blob_name(LARGE)]),
)
members = st.lists(st.tuples(names, st.binary(max_size=2000)), max_size=5)


def written(content: list[tuple[str, bytes]], heading: Heading = HEADING) -> bytes:
    file = io.BytesIO()
    writer = Writer(file.write, heading)
    for name, data in content:
        writer.add(name, data)
    writer.close()
    return file.getvalue()


def read(data: bytes) -> list[tuple[str, bytes]]:
    reader = Reader(io.BytesIO(data))
    assert reader.heading == HEADING
    return [(member.name, member.read()) for member in reader]


def refused(data: bytes) -> str:
    with pytest.raises(NotWhole) as raised:
        for _ in Reader(io.BytesIO(data)):
            pass
    return str(raised.value)


CONTENT = [("configuration.toml", b"x" * 600), (blob_name(LARGE), b"large"), ("keys/settings-key", b"")]
WHOLE = written(CONTENT)


@given(members)
def test_what_was_written_is_read(content: list[tuple[str, bytes]]) -> None:
    assert read(written(content)) == content


@given(members)
def test_tar_reads_it(content: list[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(written(content))) as tar:
        found = [(member.name, tar.extractfile(member).read(), member.mode, member.mtime) for member in tar]  # type: ignore[union-attr]  # All are files.
    assert found[0][0] == archive.HEADING
    assert found[-1][0] == archive.MANIFEST
    assert found[1:-1] == [(name, data, 0o600, HEADING.created) for name, data in content]


@given(members, st.data())
def test_what_is_passed_over_is_checked_all_the_same(content: list[tuple[str, bytes]], draw: st.DataObject) -> None:
    data = written(content)
    reader = Reader(io.BytesIO(data))
    for member, (name, _) in zip(reader, content, strict=True):
        assert member.name == name
        if draw.draw(st.booleans()):
            next(member.chunks, None)
    assert sum(reader.counts.members.values()) == len(content) + 1


def test_a_long_name_of_many_characters() -> None:
    """The short form beside it ends within one of them."""
    content = [("config/0" + "\u00e9" * 100, b"x")]
    assert read(written(content)) == content


def test_any_other_byte_is_refused() -> None:
    """Each one, in headers and between, in the manifest and behind it."""
    assert read(WHOLE) == CONTENT
    for at in range(len(WHOLE)):
        other = bytearray(WHOLE)
        other[at] ^= 1 << at % 8
        assert refused(bytes(other)), at


def test_any_part_is_refused() -> None:
    for size in range(len(WHOLE)):
        assert refused(WHOLE[:size]), size


@given(st.binary(min_size=1, max_size=2000))
def test_anything_behind_it_is_refused(more: bytes) -> None:
    assert "its end" in refused(WHOLE + more)


@given(st.binary(max_size=3000))
def test_anything_else_is_refused(data: bytes) -> None:
    refused(data)


def test_an_archive_that_is_none_of_ours() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("etc/passwd"))
    data = written(CONTENT)
    for other in (file.getvalue(), gzip.compress(data), data[1024:], b""):
        assert refused(other) == "is no backup of depproxy, or its beginning is damaged"


def test_members_that_were_swapped_are_refused() -> None:
    """Each is as it was written, and the sum is not."""
    data = written([("configuration.toml", b"a"), ("keys/settings-key", b"b")])
    start = len(written([])) - len(archive._tail(b"x" * 300, 0))
    one, other = data[start : start + 1024], data[start + 1024 : start + 2048]
    assert data[:start] + one + other + data[start + 2048 :] == data
    assert "its end" in refused(data[:start] + other + one + data[start + 2048 :])


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "config/../x",
        "config/a/../../x",
        "config/./x",
        "config//x",
        "config/",
        "config/a\nb",
        "config/" + "a" * 256,
        "config/" + "a/" * 600 + "a",
        "keys/x/y",
        "keys/../x",
        "keys/.x",
        "index/1.jsonl",
        "blobs/sha256/" + "a" * 63,
        "blobs/md5/" + "a" * 32,
        "blobs/sha256/" + "A" * 64,
        "blobs/sha256:" + "a" * 64,
        "blobs/sha256/../" + "a" * 61,
        "else",
        "manifest.json",
        "",
    ],
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Writer(io.BytesIO().write, HEADING).add(name, b"")
    assert name not in {member.name for member in _loosely(name, b"x")}


def _loosely(name: str, data: bytes) -> list[archive.Member]:
    """What a reader makes of an archive with such a member, by somebody who made it as ours are made, sums and all."""
    file = io.BytesIO()
    writer = Writer(file.write, HEADING)
    writer._write(archive._header(name, len(data), HEADING.created) + data + bytes(-len(data) % 512))
    writer._tally.member(name, len(data))
    writer.close()
    found: list[archive.Member] = []
    with pytest.raises(NotWhole):
        found.extend(Reader(io.BytesIO(file.getvalue())))
    return found


def test_the_same_by_hand_is_taken_for_a_good_name() -> None:
    """So that the test above refuses for the name alone."""
    with pytest.raises(pytest.fail.Exception):
        _loosely("keys/settings-key", b"x")


def test_what_is_too_large() -> None:
    too_large = archive.LARGEST_FILE + 1
    with pytest.raises(ValueError, match="is larger than"):
        Writer(io.BytesIO().write, HEADING).stream("configuration.toml", too_large, ())
    file = io.BytesIO()
    Writer(file.write, HEADING)
    file.write(archive._header("index/00000000.jsonl", too_large, HEADING.created))
    assert "is larger than" in refused(file.getvalue())


def test_blobs_may_be_larger_than_tar_once_allowed() -> None:
    size = 9 << 30
    assert tarfile.TarInfo.frombuf(archive._header(blob_name(SMALL), size, 1), "utf-8", "strict").size == size


@pytest.mark.parametrize("chunks", [[b"abc"], [b"abc", b"de"], []])
def test_a_file_that_changes_as_it_is_read(chunks: list[bytes]) -> None:
    writer = Writer(io.BytesIO().write, HEADING)
    with pytest.raises(ValueError, match="has not the 4 bytes"):
        writer.stream("configuration.toml", 4, chunks)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace('"format": 1', '"format": 2'), "is a backup of format 2"),
        (lambda text: text.replace('"schema": 2', '"schema": "x"'), "is damaged"),
        (lambda text: text.replace('"schema": 2, ', ""), "is damaged"),
        (lambda text: text.replace("{", "{ "), "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: "[" * 5000, "is damaged"),
    ],
)
def test_headings_of_others(change: Callable[[str], str], expected: str) -> None:
    text = change(archive._written(HEADING.document()).decode()).encode()
    data = archive._header(archive.HEADING, len(text), HEADING.created) + text + bytes(-len(text) % 512)
    assert expected in refused(data)


def test_counts() -> None:
    file = io.BytesIO()
    writer = Writer(file.write, HEADING)
    for number in range(3):
        writer.add(f"index/{number:08}.jsonl", b"12345")
    writer.add(blob_name(SMALL), b"1")
    counts = writer.close()
    assert counts.members == {archive.HEADING: 1, archive.INDEX: 3, archive.BLOBS: 1}
    assert (counts.size[archive.INDEX], counts.size[archive.BLOBS]) == (15, 1)


def test_names_of_blobs() -> None:
    for digest in (SMALL, LARGE):
        assert blob_digest(blob_name(digest)) == digest


def test_it_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(WHOLE)
    with (tmp_path / "a").open("rb") as file:
        assert [member.name for member in Reader(file)] == [name for name, _ in CONTENT]
