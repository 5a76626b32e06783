"""The TOML file: reading, parsing, and its tables with known keys only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import frozen

from depproxy.config.errors import ConfigError, Wrong, dotted, refusal
from depproxy.config.keys import read_table, suggestion

T = TypeVar("T")

_LARGEST_FILE: Final = 1 << 20
# What tomllib says of the mistakes that are made most, and what to do about them.
_HINTS: Final = {
    "Invalid value": "; text must stand in quotes",
    "Expected ']' at the end of a table declaration": '; names such as "acme/tools" must stand in quotes',
    "Expected newline or end of document after a statement": "; is it a date that there is, and is all text in quotes?",
}
_TOML_POSITION: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


@frozen
class Source:
    """A file as error messages name it, and the directory that its relative paths start from."""

    name: str
    base: Path

    def refusal(self, key: tuple[str, ...], wrong: Wrong, *value: object) -> ConfigError:
        return refusal(self.name, dotted(*key), wrong, *value)

    def refuse_unknown(self, table: Mapping[str, object], known: Sequence[str], at: tuple[str, ...] = ()) -> None:
        """Raise for the first key that is not ``known``. Its value may be a misplaced password."""
        for name in table:
            if name not in known:
                raise self.refusal((*at, name), Wrong("unknown key" + suggestion(name, known)))

    def subtable(self, parent: Mapping[str, Any], *at: str) -> dict[str, Any]:
        """The table ``at[-1]`` of ``parent``, empty where it is not written."""
        found = parent.get(at[-1], {})
        if not isinstance(found, dict):
            raise self.refusal(at, Wrong(f"must be a table, written [{dotted(*at)}]"), found)
        return found

    def table(self, settings: type, parent: Mapping[str, Any], *at: str) -> dict[str, Any]:
        """The keys that the table ``at`` writes, read as the class ``settings`` says."""
        return self.read(at, partial(read_table, settings), self.subtable(parent, *at))

    def read(self, at: tuple[str, ...], reader: Callable[[Any, Path], T], value: object) -> T:
        """What ``reader`` makes of the value of the key ``at``."""
        try:
            return reader(value, self.base)
        except Wrong as wrong:
            raise self.refusal(at, wrong) from None


def read(path: Path) -> bytes:
    """The content of the configuration file. Raises ConfigError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read ({reason}); must be a readable TOML file") from None
    if len(content) > _LARGEST_FILE:
        raise ConfigError(f"{path}: must be a file of at most {_LARGEST_FILE} bytes")
    return content


def parse(name: str, content: bytes) -> dict[str, Any]:
    """The TOML document in ``content``. Raises ConfigError that names the line."""
    try:
        # Editors on Windows put a byte order mark first.
        return tomllib.loads(content.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: is not UTF-8; TOML files are") from None
    except tomllib.TOMLDecodeError as error:
        found = _TOML_POSITION.fullmatch(str(error))
        message = found[1] if found else str(error)
        line_number = found[2] if found and found[2] else content.rstrip().count(b"\n") + 1
        hint = _HINTS.get(message, "")
        raise ConfigError(f"{name}:{line_number}: is not TOML: {message}{hint}") from None
    except ValueError:
        raise ConfigError(f"{name}: is not TOML that can be read: a number has too many digits") from None
    except RecursionError:
        raise ConfigError(f"{name}: is not TOML that can be read: arrays or tables are nested too deep") from None
