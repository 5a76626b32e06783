"""depproxy.oci.byterange"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.byterange import MAX_RANGES, ByteRange, RangeSpec, Unsatisfiable, parse_range, resolve
from tests.strategies import almost, range_headers, range_sets, range_specs, write_spec

DIGITS = "0123456789"
ALPHABET = "0123456789-,=bytesB \t\n\u0661."


def read_range(header: str) -> tuple[RangeSpec, ...] | None:
    """The oracle: RFC 9110 section 14.1.1, read by hand, with this module's two limits."""
    if header[:6].lower() != "bytes=":
        return None
    texts = [text.strip(" \t") for text in header[6:].split(",")]
    specs = [read_spec(text) for text in texts if text]
    good = [spec for spec in specs if spec is not None]
    return tuple(good) if 0 < len(good) == len(specs) <= 64 else None


def read_spec(text: str) -> RangeSpec | None:
    if text.count("-") != 1 or any(c not in DIGITS + "-" for c in text):
        return None
    before, after = text.split("-")
    if max(len(before), len(after)) > 20 or before == after == "":
        return None
    first, last = (int(number) if number else None for number in (before, after))
    if first is not None and last is not None and last < first:
        return None
    return RangeSpec(first, last)


def part(data: bytes, spec: RangeSpec) -> bytes:
    """The oracle: what a range means, in slices."""
    if spec.first is None:
        return data[-spec.last :] if spec.last else b""
    return data[spec.first :] if spec.last is None else data[spec.first : spec.last + 1]


@given(st.data(), range_sets())
def test_reads_what_was_written(data: st.DataObject, specs: tuple[RangeSpec, ...]) -> None:
    assert parse_range(data.draw(range_headers(specs))) == specs


@given(st.data(), range_sets())
def test_reads_what_the_grammar_allows(data: st.DataObject, specs: tuple[RangeSpec, ...]) -> None:
    header = data.draw(almost(range_headers(specs[:3]), ALPHABET))
    assert parse_range(header) == read_range(header)


@given(st.text() | st.text(ALPHABET).map("bytes=".__add__))
def test_no_text_is_an_error(header: str) -> None:
    assert parse_range(header) == read_range(header)


@given(st.binary(max_size=100), range_sets())
def test_resolved_ranges_are_slices(data: bytes, specs: tuple[RangeSpec, ...]) -> None:
    expected = [piece for piece in (part(data, spec) for spec in specs) if piece]
    try:
        ranges = resolve(specs, len(data))
    except Unsatisfiable:
        assert expected == []
        return
    assert [data[r.start : r.stop] for r in ranges] == expected
    assert all(0 <= r.start < r.stop <= len(data) for r in ranges)


@given(st.data(), st.integers(1, 10**15), range_specs())
def test_a_header_and_its_resolution_agree_at_any_size(data: st.DataObject, size: int, spec: RangeSpec) -> None:
    parsed = parse_range(data.draw(range_headers([spec])))
    assert parsed is not None
    whole = range(size)
    first, last = spec.first, spec.last
    start = max(0, size - (last or 0)) if first is None else first
    wanted = whole[start:] if first is None or last is None else whole[start : last + 1]
    try:
        (found,) = resolve(parsed, size)
    except Unsatisfiable:
        assert len(wanted) == 0
    else:
        assert range(found.start, found.stop) == wanted


@given(range_sets())
def test_an_empty_blob_satisfies_no_range(specs: tuple[RangeSpec, ...]) -> None:
    with pytest.raises(Unsatisfiable, match="blob of 0 bytes"):
        resolve(specs, 0)


@given(st.integers(1, 10**15), st.data())
def test_an_end_one_past_the_last_byte_is_clamped(size: int, data: st.DataObject) -> None:
    """regclient resumes with `bytes=N-<size>`."""
    start = data.draw(st.integers(0, size - 1))
    specs = parse_range(f"bytes={start}-{size}")
    assert specs is not None
    assert resolve(specs, size) == (ByteRange(start, size),)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", (ByteRange(0, 100),)),
        ("bytes=0-0", (ByteRange(0, 1),)),
        ("bytes=99-", (ByteRange(99, 100),)),
        ("bytes=-1", (ByteRange(99, 100),)),
        ("bytes=-1000", (ByteRange(0, 100),)),
        ("bytes=10-19,-5, 30-", (ByteRange(10, 20), ByteRange(95, 100), ByteRange(30, 100))),
        ("bytes=200-300, 0-1, -0", (ByteRange(0, 2),)),
        ("bytes=0-99999999999999999999", (ByteRange(0, 100),)),
        ("bytes=5-6,5-6", (ByteRange(5, 7), ByteRange(5, 7))),
    ],
)
def test_ranges_in_a_blob_of_100_bytes(header: str, expected: tuple[ByteRange, ...]) -> None:
    specs = parse_range(header)
    assert specs is not None
    assert resolve(specs, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"])
def test_ranges_past_the_end_are_unsatisfiable(header: str) -> None:
    specs = parse_range(header)
    assert specs is not None
    with pytest.raises(Unsatisfiable):
        resolve(specs, 100)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=2-1",
        "bytes=0-1,x",
        "bytes=1--2",
        "bytes=+1-2",
        "bytes=1_0-20",
        "bytes=\u0661-",
        "bytes=0-\u0661",
        "bytes=-\u0661",
        "bytes=0-\n",
        "bytes =0-1",
        "items=0-1",
        "bytes=0-" + "9" * 21,
        "bytes=-" + "9" * 21,
        "bytes=" + "9" * 21 + "-",
        "bytes=" + "9" * 1_000_000 + "-",
    ],
)
def test_headers_that_are_to_be_ignored(header: str) -> None:
    assert parse_range(header) is None


def test_at_most_64_ranges() -> None:
    spec = write_spec(RangeSpec(0, 0))
    assert parse_range("bytes=" + ",".join([spec] * MAX_RANGES)) == (RangeSpec(0, 0),) * 64
    assert parse_range("bytes=" + ",".join([spec] * (MAX_RANGES + 1))) is None
