"""A document in any of the forms that TOML has for it: tables by headers, inline or by dotted keys, with comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from attrs import define, field, frozen
from hypothesis import strategies as st

from tests.configurations import toml_key, toml_value

Keys = tuple[str, ...]


@frozen
class Form:
    """A TOML text. ``comments`` are all that it has, each with the table or key that it is about."""

    text: str
    comments: dict[str, Keys]
    dotted_inline: bool
    """Whether there are dotted keys within inline tables."""


@define
class _Writer:
    random: Random
    comments: dict[str, Keys] = field(factory=dict)
    sections: list[list[str]] = field(factory=list)
    dotted_inline: bool = False

    def chance(self, percent: int) -> bool:
        # The least draw is the plainest text.
        return self.random.randrange(100) >= 100 - percent

    def comment(self, about: Keys) -> str:
        number = len(self.comments)
        text = f"# {number}" + self.random.choice(("", "", " [users.alice]", ' """', " ''' ]", " = {}", " Grüße"))
        self.comments[text] = about
        return text

    def before(self, about: Keys) -> Iterator[str]:
        """Blank lines and comments above a statement."""
        while self.chance(20):
            yield "" if self.chance(60) else self.comment(about)

    def line(self, statement: str, about: Keys) -> str:
        indent = self.random.choice(("", "", "", "  ", "\t"))
        trail = "  " + self.comment(about) if self.chance(15) else self.random.choice(("", "", " "))
        return indent + statement + trail

    def section(self, at: Keys, table: Mapping[str, Any]) -> None:
        """The table and those in it: the lines below its header, if it has one, and further sections."""
        lines: list[str] = []
        inner: list[tuple[Keys, Mapping[str, Any]]] = []
        for name, value in table.items():
            form = self.random.choice(("header", "header", "inline", "dotted"))
            if isinstance(value, Mapping) and form == "header":
                inner.append(((*at, name), value))
            else:
                for statement, path in self.pairs(at, (name,), value, dotted=form == "dotted"):
                    lines += self.before(at)
                    lines.append(self.line(statement, path))
        if at and (lines or not inner or self.chance(30)):
            lines = [*self.before(at[:-1]), self.line(f"[{self.key(at)}]", at), *lines]
        self.sections.append(lines)
        for path, value in inner:
            self.section(path, value)

    def pairs(self, at: Keys, path: Keys, value: Any, *, dotted: bool) -> Iterator[tuple[str, Keys]]:
        """Statements in the table ``at``, each with the whole path of what it says."""
        if isinstance(value, Mapping) and value and dotted:
            for name, item in value.items():
                yield from self.pairs(at, (*path, name), item, dotted=self.chance(70))
        else:
            around = self.random.choice((" = ", "=", " =  "))
            yield self.key(path) + around + self.value(value, at + path, inline=False), at + path

    def value(self, value: Any, path: Keys, *, inline: bool) -> str:
        if isinstance(value, Mapping):
            pad = self.random.choice(("", " ")) if value else ""
            items = ", ".join(self.item(name, item, path) for name, item in value.items())
            return f"{{{pad}{items}{pad}}}"
        if isinstance(value, list) and not inline and self.chance(30):
            lines = [f"  {toml_value(item)},{' ' + self.comment(path) if self.chance(30) else ''}\n" for item in value]
            return "[\n" + "".join(lines) + "]"
        if isinstance(value, str) and not inline and "'" not in value and value.isprintable() and self.chance(10):
            return f"'''\n{value}'''"
        return toml_value(value)

    def item(self, name: str, value: Any, path: Keys) -> str:
        """An item of an inline table."""
        if isinstance(value, Mapping) and value and self.chance(20):
            self.dotted_inline = True
            items = ((self.key((name, inner)), self.value(item, path, inline=True)) for inner, item in value.items())
            return ", ".join(f"{key} = {item}" for key, item in items)
        return f"{self.key((name,))} = {self.value(value, path, inline=True)}"

    def key(self, path: Keys) -> str:
        """The path with dots; the names are bare where they can be, but not always."""
        bare = (bool(re.fullmatch(r"[A-Za-z0-9_-]+", name)) and not self.chance(20) for name in path)
        return ".".join(name if is_bare else toml_key(name) for name, is_bare in zip(path, bare, strict=True))


@st.composite
def forms(draw: st.DrawFn, document: Mapping[str, Any]) -> Form:
    """The document in any form; its sections may be in any order."""
    random = draw(st.randoms(use_true_random=False))
    writer = _Writer(random)
    writer.section((), document)
    root, *sections = writer.sections
    if writer.chance(50):
        random.shuffle(sections)
    lines = root + [line for section in sections for line in section] + list(writer.before(()))
    text = "\n".join(lines) + ("" if writer.chance(10) else "\n")
    if writer.chance(10):
        text = text.replace("\n", "\r\n")
    return Form(("\ufeff" if writer.chance(10) else "") + text, writer.comments, writer.dotted_inline)
