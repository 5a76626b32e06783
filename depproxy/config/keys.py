"""How a settings class declares its keys: each field that is read from the file carries its reader."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from attrs import NOTHING, field, fields

from depproxy.config.errors import Absent, Wrong, dotted
from depproxy.config.values import Reader

T = TypeVar("T")

_READER: Final = "depproxy.config.reader"
_FIXED: Final = "depproxy.config.fixed"
_MOST_TABLES: Final = 100_000
_LONGEST_ARRAY: Final = 100
_MOST_SHOWN: Final = 20


def by(reader: Reader[Any], *, fixed: bool = False) -> Mapping[str, Any]:
    """The metadata of a field that ``reader`` reads from the file; a ``fixed`` one changes by a restart only."""
    return {_READER: reader, _FIXED: fixed}


def key(default: T, reader: Reader[T], *, fixed: bool = False) -> T:
    """A field with a default that the key of its name overrides."""
    return field(default=default, metadata=by(reader, fixed=fixed))


def readers(settings: type) -> dict[str, Reader[Any]]:
    """The keys of a table, each with its reader, in the order of the class."""
    return {found.name: found.metadata[_READER] for found in fields(settings) if _READER in found.metadata}


def fixed(settings: type) -> tuple[str, ...]:
    """The keys of a table that a reload does not change."""
    return tuple(found.name for found in fields(settings) if found.metadata.get(_FIXED))


def suggestion(name: str, known: Sequence[str]) -> str:
    """What to write instead of ``name``: the nearest of ``known``, or those of them that a line has room for."""
    near = difflib.get_close_matches(name.lower()[:100], known, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    more = ", ..." if len(known) > _MOST_SHOWN else ""
    return f"; known here: {', '.join(known[:_MOST_SHOWN])}{more}" if known else ""


def read_table(settings: type, table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The keys of ``table``, read as the class ``settings`` says. Raises Wrong, with the key as its ``at``."""
    known = readers(settings)
    for name in table:
        if name not in known:
            # Its value may be a misplaced password.
            raise Wrong("unknown key" + suggestion(name, tuple(known)), Absent.HIDDEN, "." + dotted(name))
    found = {}
    for name, value in table.items():
        try:
            found[name] = known[name](value, base)
        except Wrong as wrong:
            nearest = value if wrong.value is Absent.ABSENT else wrong.value
            raise Wrong(str(wrong), nearest, f".{dotted(name)}{wrong.at}") from None
    return found


def tables(settings: Any, name: Callable[[str], str]) -> Reader[Mapping[str, Any]]:
    """A reader of a table of tables, each read as the attrs class ``settings``, whose first field is its name."""

    def read(value: object, base: Path) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        # What stands in the place of a table may be a password.
        for text, table in _entries(value, "a table of tables", Absent.HIDDEN).items():
            try:
                called = name(text)
                if called in found:
                    raise Wrong("is there twice; upper and lower case are the same", Absent.HIDDEN)
                found[called] = settings(called, **_read_whole(settings, _entries(table, "a table"), base))
            except Wrong as wrong:
                shown = Absent.HIDDEN if wrong.value is Absent.ABSENT else wrong.value
                raise Wrong(str(wrong), shown, f".{dotted(text)}{wrong.at}") from None
        return MappingProxyType(found)

    return read


def table_array(settings: type[T], at: str) -> Reader[tuple[T, ...]]:
    """A reader of an array of tables, at least one, each read as the attrs class ``settings``."""

    def read(value: object, base: Path) -> tuple[T, ...]:
        if not isinstance(value, list) or not value or not all(isinstance(table, dict) for table in value):
            raise Wrong(f"must be an array of tables, each written [[{at}]]")
        if len(value) > _LONGEST_ARRAY:
            raise Wrong(f"must have at most {_LONGEST_ARRAY} tables, not {len(value)}")
        found: list[T] = []
        for index, table in enumerate(value):
            try:
                found.append(settings(**_read_whole(settings, table, base)))
            except Wrong as wrong:
                shown = Absent.HIDDEN if wrong.value is Absent.ABSENT else wrong.value
                raise Wrong(str(wrong), shown, f"[{index}]{wrong.at}") from None
        return tuple(found)

    return read


def _read_whole(settings: Any, table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """As `read_table`; keys without a default must be there."""
    content = read_table(settings, table, base)
    for needed in fields(settings):
        if needed.default is NOTHING and needed.name not in content and needed.metadata:
            raise Wrong(f"needs the key {needed.name}", Absent.HIDDEN)
    return content


def pairs(reader: Reader[T], name: Callable[[str], str]) -> Reader[Mapping[str, T]]:
    """A reader of a table whose keys are names and whose values ``reader`` reads."""

    def read(value: object, base: Path) -> Mapping[str, T]:
        found: dict[str, T] = {}
        for text, item in _entries(value, 'a table such as { alice = "guest" }').items():
            try:
                found[name(text)] = reader(item, base)
            except Wrong as wrong:
                nearest = item if wrong.value is Absent.ABSENT else wrong.value
                raise Wrong(str(wrong), nearest, f".{dotted(text)}{wrong.at}") from None
        return MappingProxyType(found)

    return read


def _entries(value: object, what: str, shown: Absent = Absent.ABSENT) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Wrong(f"must be {what}", shown)
    if len(value) > _MOST_TABLES:
        raise Wrong(f"must have at most {_MOST_TABLES} entries, not {len(value)}", Absent.HIDDEN)
    return value
