"""Puts tables and keys into the text of a configuration file and takes them out; comments and order stay.

tomlkit writes what is new, and changes inline tables. Its tree of a whole file is not used: there a comment above a
header belongs to the table before it, so a table that is put in or taken out moves or loses it, and a table added below
dotted keys swallows those that follow.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import tomlkit

from depproxy.cli.inline import CannotEdit, changed, inline, with_change
from depproxy.cli.statements import Keys, Kind, Statement, split

_BYTE_ORDER_MARK: Final = "\ufeff"

Edit = Callable[[list[Statement], str], None]
"""Changes the statements of a file; what it adds has the line end that is given."""


def add_table(text: str, at: Keys, content: Mapping[str, Any]) -> str:
    """``text`` with a table ``at``, which is not there yet: below a header, or inline if what it is in is inline.

    Raises CannotEdit, as do the others.
    """

    def add(statements: list[Statement], end: str) -> None:
        pairs = "".join(_pair((name,), value) for name, value in content.items())
        _insert_block(statements, _place_of_table(statements, at), at, pairs, end)

    return _edited(text, at, content, add)


def add_value(text: str, at: Keys, value: Any) -> str:
    """``text`` with a key ``at`` in a table that is there, if perhaps not by a header; a table is written inline."""

    def add(statements: list[Statement], end: str) -> None:
        place = _place_of_pair(statements, at)
        if place is None:
            table = at[:-1]
            pair = _pair(at[-1:], value)
            _insert_block(statements, _place_of_table(statements, table), table, pair, end)
        else:
            table = statements[place].table
            pair = _pair(at[len(table) :], value).replace("\n", end)
            statements.insert(place + 1, Statement(Kind.PAIR, pair, table, at, value))

    return _edited(text, at, value, add)


def remove(text: str, at: Keys) -> str:
    """``text`` without the table ``at``, however it is written.

    An inline table within another goes, too, if it held nothing else.
    """
    return _edited(text, at, None, lambda statements, end: _take_out(statements, at, end))


def _edited(text: str, at: Keys, value: Any, edit: Edit) -> str:
    """``text`` after ``edit``, or after the change of the inline table that has or shall have ``at`` in it."""
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    body = text.removeprefix(mark)
    statements = split(body)
    end = "\r\n" if body[: body.find("\n") + 1].endswith("\r\n") else "\n"
    above = next((index for index, found in enumerate(statements) if _is_inline_above(found, at)), None)
    if above is None:
        edit(statements, end)
    else:
        statements[above] = with_change(statements[above], at, value)
    edited = _joined(statements, end)
    if not _is_right(body, edited, at, value):
        raise CannotEdit(at)
    return mark + edited


def _joined(statements: Sequence[Statement], end: str) -> str:
    whole = ""
    for statement in statements:
        if whole and not whole.endswith("\n"):
            whole += end
        whole += statement.text
    return whole


def _is_right(before: str, after: str, at: Keys, value: Any) -> bool:
    """Whether ``at`` changed and nothing else. The last resort of an operator's file against mistakes here."""
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    wanted = changed(tomllib.loads(before), at, value)
    return wanted == (found if value is not None else changed(found, at, None))


def _take_out(statements: list[Statement], at: Keys, end: str) -> None:
    """Remove what names ``at``, each header with all down to the last pair below it, and a blank line above it."""
    kept: list[Statement] = []
    gone: list[tuple[int, Statement]] = []
    index = 0
    while index < len(statements):
        statement = statements[index]
        index += 1
        if statement.path[: len(at)] != at:
            kept.append(statement)
            continue
        if statement.kind is Kind.HEADER:
            index = _content_end(statements, index)
            if kept and kept[-1].kind is Kind.BLANK:
                kept.pop()
        gone.append((len(kept), statement))
    statements[:] = kept
    if gone:
        _keep_owner(statements, *gone[0], at[:-2], end)


def _keep_owner(statements: list[Statement], place: int, gone: Statement, owner: Keys, end: str) -> None:
    """Name ``owner`` at ``place`` if nothing does any more: it was there by what is gone, but shall stay."""
    if any(found.path[: len(owner)] == owner for found in statements):
        return
    if gone.kind is Kind.HEADER:
        _insert_block(statements, place, owner, "", end)
    else:
        pair = _pair(owner[len(gone.table) :], {}).replace("\n", end)
        statements.insert(place, Statement(Kind.PAIR, pair, gone.table, owner, {}))


def _is_inline_above(statement: Statement, at: Keys) -> bool:
    depth = len(statement.path)
    return isinstance(statement.value, dict) and depth < len(at) and statement.path == at[:depth]


def _insert_block(statements: list[Statement], place: int, at: Keys, content: str, end: str) -> None:
    block = "\n" * bool(place) + f"[{_written(at)}]\n{content}"
    statements.insert(place, Statement(Kind.HEADER, block.replace("\n", end), at, at))


def _place_of_table(statements: Sequence[Statement], at: Keys) -> int:
    """Where a table is put: after the last of those that are nearest to it, else at the end."""
    nearest, last = 1, None
    for index, statement in enumerate(statements):
        shared = _shared(statement.path, at)
        if shared >= nearest:
            nearest, last = shared, index
    if last is not None:
        return _section_end(statements, last + 1)
    place = len(statements)
    while place and statements[place - 1].kind is Kind.BLANK:
        place -= 1
    return place


def _place_of_pair(statements: Sequence[Statement], at: Keys) -> int | None:
    """After what a pair is put: the last of its table, or of the one above it; None if neither has any place for it."""
    for depth in (len(at) - 1, len(at) - 2):
        for index in range(len(statements) - 1, -1, -1):
            statement = statements[index]
            if statement.path[:depth] == at[:depth] and len(statement.table) <= depth > 1:
                return index
    return None


def _shared(one: Keys, other: Keys) -> int:
    """How many names the two have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


def _content_end(statements: Sequence[Statement], start: int) -> int:
    """The end of the last pair from ``start`` on that stands before the next header."""
    end = start
    for index in range(start, len(statements)):
        if statements[index].kind is Kind.HEADER:
            break
        if statements[index].kind is Kind.PAIR:
            end = index + 1
    return end


def _section_end(statements: Sequence[Statement], start: int) -> int:
    """`_content_end`, or that of the comments right below it, which belong to it unless a header follows them."""
    end = _content_end(statements, start)
    for index in range(end, len(statements)):
        if statements[index].kind is Kind.HEADER:
            return end
        if statements[index].kind is Kind.BLANK:
            return index
    return len(statements)


def _pair(keys: Keys, value: Any) -> str:
    return f"{_written(keys)} = {inline(value).as_string()}\n"


def _written(path: Keys) -> str:
    return tomlkit.key(list(path)).as_string()
