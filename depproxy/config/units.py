"""Durations as the configuration file writes them."""

from __future__ import annotations

import math
import re
from typing import Final

FOREVER: Final = math.inf

_DURATION: Final = re.compile(r"([0-9]{1,12}) ?(ms|s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
