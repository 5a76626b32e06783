"""Configuration errors, and how a value is shown in one without giving a secret away."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_USERINFO: Final = re.compile(r"\A((?:[^=/]*=)?[a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE | re.DOTALL)
_LONGEST_SHOWN: Final = 80
_LARGEST_SHOWN: Final = 10**20


class Absent(Enum):
    """Stands for "no value to show"; None would not do, because callers may want to show it one day.

    HIDDEN says more: whoever knows the value shall not show it either.
    """

    ABSENT = 0
    HIDDEN = 1


ABSENT: Final = Absent.ABSENT


class ConfigError(Exception):
    """A configuration that cannot be used. ``str()`` is one line: where, what, and what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Wrong(ValueError):
    """A value that is not right. ``str()`` says what would be; who knows file and key makes the ConfigError.

    ``at`` is the part of the value that is meant, in key notation (``[1]``), ``value`` what stands there.
    """

    def __init__(self, expected: str, value: object = ABSENT, at: str = "") -> None:
        super().__init__(expected)
        self.value = value
        self.at = at


def refusal(where: str, key: str, wrong: Wrong, value: object = ABSENT) -> ConfigError:
    """The error for ``key`` in ``where``; ``value`` is shown unless ``wrong`` carries a nearer one."""
    shown = value if wrong.value is ABSENT else wrong.value
    assignment = "" if isinstance(shown, Absent) else f" = {show(shown)}"
    return ConfigError(f"{where}: {key}{wrong.at}{assignment}: {wrong}")


def one_line(text: str) -> str:
    """``text`` with everything that is not printable (line ends, controls, lone surrogates) as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def mask(text: str) -> str:
    """``text`` without what may be a password: what stands before the last ``@``, and a URL's query."""
    masked = _USERINFO.sub(lambda found: (found[1] or "") + "***@", text)
    if "://" in masked and "?" in masked:
        masked = masked[: masked.index("?")] + "?***"
    return masked


def show(value: object) -> str:
    """A TOML value for an error message: masked, shortened, arrays and tables without their content."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int) and abs(value) >= _LARGEST_SHOWN:
        # Python refuses to print numbers of more than 4,300 digits, and nobody wants to read them.
        return f"(a number of {value.bit_length()} bits)"
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, list):
        return "[...]" if value else "[]"
    return str(value)


def dotted(*parts: str) -> str:
    """The TOML key made of ``parts``: ``upstreams."ghcr.io".max_connections``."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else _quoted(part) for part in parts)


def _quoted(text: str) -> str:
    text = mask(text)
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 3] + "..."
    return json.dumps(text, ensure_ascii=False)
