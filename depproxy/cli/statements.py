"""A TOML file as a sequence of statements, so that one can be put in or taken out and every other byte stays."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from attrs import frozen

Keys = tuple[str, ...]
"""Names of tables, and of a key in the last of them."""

# "basic", 'literal' and bare keys with dots between them, up to the equals sign (TOML 1.0, "Keys").
_KEYS: Final = re.compile(r"""[ \t]*((?:"(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_ \t.-])+)=""")
_CLOSES: Final = re.compile(r"""[\]}]|\"""|'''""")


class Kind(Enum):
    """What a statement is. Blank lines and comments are statements as well."""

    HEADER = "header"
    PAIR = "pair"
    COMMENT = "comment"
    BLANK = "blank"


@frozen
class Statement:
    """One or more whole lines. ``table`` is whose header stands above, ``path`` what a header or a pair names."""

    kind: Kind
    text: str
    table: Keys
    path: Keys
    value: Any = None

    @property
    def says(self) -> bool:
        """Whether it is more than a comment or a blank line."""
        return self.kind in (Kind.HEADER, Kind.PAIR)


def split(text: str) -> list[Statement]:
    """The statements of a TOML document that `tomllib` reads; their texts together are ``text``."""
    return list(_statements(text))


def _statements(text: str) -> Iterator[Statement]:
    table: Keys = ()
    lines = iter(re.findall(r"[^\n]*\n|[^\n]+", text))
    for line in lines:
        content = line.strip(" \t\r\n")
        if not content:
            yield Statement(Kind.BLANK, line, table, ())
        elif content.startswith("#"):
            yield Statement(Kind.COMMENT, line, table, ())
        elif content.startswith("["):
            table = _only_path(tomllib.loads(line))
            yield Statement(Kind.HEADER, line, table, table)
        else:
            yield _pair(line, lines, table)


def _pair(text: str, following: Iterator[str], table: Keys) -> Statement:
    """The pair that begins with the line ``text``, with as many of the lines ``following`` as are its own."""
    value = _parsed(text)
    while value is None:
        line = next(following)
        text += line
        # Arrays and strings of several lines end in a line with one of these.
        value = _parsed(text) if _CLOSES.search(line) else None
    keys = _keys(text)
    for key in keys:
        value = value[key]
    return Statement(Kind.PAIR, text, table, table + keys, value)


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _keys(pair: str) -> Keys:
    found = _KEYS.match(pair)
    assert found is not None, "tomllib has read it"
    return _only_path(tomllib.loads(f"{found[1]} = {{}}"))


def _only_path(document: dict[str, Any]) -> Keys:
    """The way to the innermost table of a document that has one only, or one array of one."""
    found: list[str] = []
    inner: Any = document
    while inner and isinstance(inner, dict):
        ((name, inner),) = inner.items()
        found.append(name)
    return tuple(found)
