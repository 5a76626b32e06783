"""Byte ranges: what a Range header asks for (RFC 9110 section 14)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

__all__ = ["MAX_RANGES", "ByteRange", "RangeSpec", "Unsatisfiable", "parse_range", "resolve"]

MAX_RANGES = 64

# 20 digits hold any 64-bit size; longer numbers are not read at all.
_match_spec = re.compile(r"([0-9]{1,20}+)-([0-9]{1,20}+)?|-([0-9]{1,20}+)").fullmatch


class Unsatisfiable(ValueError):
    """None of the ranges has a byte in this blob."""


@frozen
class ByteRange:
    """The bytes from `start` up to, but not including, `stop`; never empty."""

    start: int
    stop: int


@frozen
class RangeSpec:
    """A range as written: `first-last` with the last byte included, `first-` (last is None), or `-last`.

    The third (first is None) means the last `last` bytes of the blob.
    """

    first: int | None
    last: int | None


def parse_range(header: str) -> tuple[RangeSpec, ...] | None:
    """The ranges that a Range header's value asks for, in its order.

    None means that the header is to be ignored (section 14.2): another unit, malformed, more than 64 ranges.
    """
    unit, _, ranges = header.partition("=")
    if unit != "bytes" and unit.lower() != "bytes":
        return None
    specs: list[RangeSpec] = []
    for text in ranges.split(","):
        stripped = text.strip(" \t")
        if not stripped:
            continue
        spec = _spec(stripped)
        if spec is None or len(specs) == MAX_RANGES:
            return None
        specs.append(spec)
    return tuple(specs) or None


def _spec(text: str) -> RangeSpec | None:
    match = _match_spec(text)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return RangeSpec(None, int(suffix))
    if last is None:
        return RangeSpec(int(first), None)
    spec = RangeSpec(int(first), int(last))
    return spec if int(first) <= int(last) else None


def resolve(specs: Iterable[RangeSpec], size: int) -> tuple[ByteRange, ...]:
    """The ranges that have bytes in a blob of `size` bytes, in the order asked for; raises Unsatisfiable.

    An end past the last byte is clamped: regclient asks for `bytes=N-<size>`. An empty blob satisfies none.
    Ranges may overlap, so that together they can be longer than the blob.
    """
    resolved = []
    for spec in specs:
        start, stop = _bounds(spec, size)
        if start < stop:
            resolved.append(ByteRange(start, stop))
    if not resolved:
        raise Unsatisfiable(f"no range has a byte in a blob of {size} bytes")
    return tuple(resolved)


def _bounds(spec: RangeSpec, size: int) -> tuple[int, int]:
    if spec.first is None:
        return max(0, size - (spec.last or 0)), size
    if spec.last is None:
        return spec.first, size
    return spec.first, min(spec.last + 1, size)
