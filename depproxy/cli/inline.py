"""Changes inside of an inline table, by tomlkit, which keeps how the rest of it is written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit
from attrs import evolve
from tomlkit.items import InlineTable, Item, Whitespace

from depproxy.cli.statements import Keys, Statement
from depproxy.config.errors import dotted


class CannotEdit(Exception):
    """The file is written in a way that cannot be changed here. ``str()`` names the table, and says what to do."""

    def __init__(self, at: Keys) -> None:
        super().__init__(f"{dotted(*at[:-1])}: is written in a way that this command cannot change; edit it by hand")


def inline(value: Any) -> Item:
    """A TOML value; a mapping as an inline table."""
    if not isinstance(value, Mapping):
        item: Item = tomlkit.item(value)
        return item
    table = tomlkit.inline_table()
    for name, item in value.items():
        table.append(name, inline(item))
    return table


def changed(table: Mapping[str, Any], at: Keys, value: Any) -> dict[str, Any]:
    """``table`` with ``value`` at ``at``; None takes out what is there, and a table around it that held only that."""
    name, *rest = at
    result = dict(table)
    if value is not None:
        result[name] = changed(result.get(name, {}), tuple(rest), value) if rest else value
    elif not rest:
        result.pop(name, None)
    elif name in result:
        result[name] = changed(result[name], tuple(rest), None)
        if len(rest) == 1 and not result[name]:
            del result[name]
    return result


def with_change(statement: Statement, at: Keys, value: Any) -> Statement:
    """A pair whose value is an inline table, with ``value`` at ``at`` in it; None takes out what is there.

    Raises CannotEdit.
    """
    inside = at[len(statement.path) :]
    wanted = changed(statement.value, inside, value)
    keys = statement.path[len(statement.table) :]
    text = _rewritten(statement.text, keys, inside, value)
    if text is None or _value(text, keys) != wanted:
        # Dotted keys within: the table is written anew, as a whole. Over several lines it may have comments.
        if "\n" in statement.text.strip():
            raise CannotEdit(at)
        text = _replaced(statement.text, keys, wanted)
    return evolve(statement, text=text, value=wanted)


def _rewritten(text: str, keys: Keys, inside: Keys, value: Any) -> str | None:
    """The pair with the change; None where there are tables by dotted keys in the way."""
    document = tomlkit.parse(text)
    table: Any = document
    for key in keys:
        table = table[key]
    above: list[tuple[Any, str]] = []
    *holders, name = inside
    for depth, holder in enumerate(holders):
        if value is not None and holder not in table:
            name, value = holder, _nested(inside[depth + 1 :], value)
            break
        above.append((table, holder))
        table = table[holder]
    if not all(isinstance(found, InlineTable) for found in (table, *(found for found, _ in above))):
        return None
    if value is not None:
        _append(table, name, value)
    else:
        _take_out(table, name)
        if not table and above:
            _take_out(*above[-1])
    return document.as_string()


def _nested(path: Keys, value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def _append(table: InlineTable, name: str, value: Any) -> None:
    """Add a key behind the last one, before the blank that may stand at the brace."""
    body = table.value.body
    padding = body.pop() if table and isinstance(body[-1][1], Whitespace) else None
    table.append(name, inline(value))
    if padding is not None:
        body.append(padding)


def _take_out(table: InlineTable, name: str) -> None:
    """Remove a key, and what tomlkit keeps: the comma that parts it from its neighbour, and the blanks beside that."""
    body = table.value.body
    place = next(index for index, (key, _) in enumerate(body) if key is not None and key.key == name)
    del table[name]
    before, after = _gap(body, place, -1), _gap(body, place, 1)
    comma = any("," in body[index][1].as_string() for index in before)
    for index in before if comma else after:
        body[index] = (None, Whitespace(""))


def _gap(body: Sequence[tuple[Any, Item]], place: int, step: int) -> list[int]:
    """Where the blanks and commas stand between ``place`` and its neighbour on one side."""
    found = []
    index = place + step
    while 0 <= index < len(body) and isinstance(body[index][1], Whitespace):
        found.append(index)
        index += step
    return found


def _replaced(text: str, keys: Keys, value: Any) -> str:
    document = tomlkit.parse(text)
    table: Any = document
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = inline(value)
    return document.as_string()


def _value(text: str, keys: Keys) -> Any:
    try:
        found: Any = tomllib.loads(text)
        for key in keys:
            found = found[key]
    except (tomllib.TOMLDecodeError, LookupError, TypeError):
        return None
    return found
