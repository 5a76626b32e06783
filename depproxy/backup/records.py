"""The cache index in an archive: a JSON object per line, ``{"key": ..., "kind": "hash", "items": [...]}``.

Keys and items are any bytes, in base64. The admin socket tells the same objects.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from depproxy.index.interface import KINDS, Record


def document(record: Record) -> dict[str, object]:
    """The record as JSON holds it."""
    return {"key": _text(record.key), "kind": record.kind, "items": [_text(item) for item in record.items]}


def record(told: Mapping[str, Any]) -> Record:
    """The other way round. Raises ValueError for what `document` cannot have made."""
    try:
        key, kind, items = told["key"], told["kind"], told["items"]
        if kind not in KINDS or not isinstance(items, list):
            raise ValueError("a record of no known kind")
        return Record(_bytes(key), kind, tuple(map(_bytes, items)))
    except (LookupError, TypeError):
        raise ValueError("a record that is none") from None


def line(found: Record) -> bytes:
    """The record as a line of an archive."""
    return json.dumps(document(found), separators=(",", ":")).encode() + b"\n"


def records(lines: bytes) -> Iterator[Record]:
    """What such lines hold. Raises ValueError."""
    for text in lines.splitlines():
        try:
            told = json.loads(text)
        except RecursionError:
            raise ValueError("a record that is none") from None
        if not isinstance(told, dict):
            raise ValueError("a record that is none")
        yield record(told)


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return b64decode(text, validate=True)
