"""Durations and sizes as the configuration file writes them."""

from __future__ import annotations

import math
import re
from typing import Final

from attrs import frozen

FOREVER: Final = math.inf
UNLIMITED: Final = math.inf

_DURATION: Final = re.compile(r"([0-9]{1,12}) ?(ms|s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PERCENT: Final = re.compile(r"([1-9][0-9]?|100)%")
_SIZE: Final = re.compile(r"([0-9]{1,9}) ?(MiB|GiB|TiB)")
_BYTES: Final = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_duration(text: str) -> float:
    """Seconds in ``"250ms"``, ``"30s"``, ``"5m"``, ``"2h"``, ``"7d"`` or ``"forever"``. Raises ValueError."""
    if text == "forever":
        return FOREVER
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError('must be a duration such as "30s", "5m", "2h" or "7d"')
    number, unit = int(found[1]), found[2]
    return number / 1000 if unit == "ms" else float(number * _SECONDS[unit])


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as ``seconds``, which are rounded to milliseconds."""
    if seconds == FOREVER:
        return "forever"
    whole = round(seconds)
    if whole != seconds:
        return f"{round(seconds * 1000)}ms"
    unit = next((unit for unit in ("d", "h", "m") if whole and whole % _SECONDS[unit] == 0), "s")
    return f"{whole // _SECONDS[unit]}{unit}"


def parse_size(text: str) -> float:
    """Bytes in ``"500 MiB"``, ``"50 GiB"``, ``"2 TiB"`` or ``"unlimited"``. Raises ValueError."""
    if text == "unlimited":
        return UNLIMITED
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError('must be a size such as "500 MiB", "50 GiB" or "2 TiB"')
    return int(found[1]) * _BYTES[found[2]]


@frozen
class Quota:
    """So many bytes, or such a part of the whole cache."""

    size: float
    part: float | None = None

    def of(self, max_size: float) -> float:
        """Its bytes, where the whole cache may have ``max_size``."""
        return self.size if self.part is None else self.part * max_size


def parse_quota(text: str) -> Quota:
    """What ``"20 GiB"`` or ``"25%"`` means. Raises ValueError."""
    found = _PERCENT.fullmatch(text)
    return Quota(parse_size(text)) if found is None else Quota(0, int(found[1]) / 100)


def format_size(size: float) -> str:
    """The shortest text that `parse_size` reads as ``size``, which is a multiple of a MiB."""
    if size == UNLIMITED:
        return "unlimited"
    unit = next((unit for unit in ("TiB", "GiB") if size and size % _BYTES[unit] == 0), "MiB")
    return f"{round(size / _BYTES[unit])} {unit}"
