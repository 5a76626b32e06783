"""When a token shall expire, as an operator writes it."""

from __future__ import annotations

import math
import time
from datetime import UTC, date, datetime
from datetime import time as day_time

from attrs import frozen

from depproxy.config import parse_duration

_FORM = "must be a time from now such as 90d, a date such as 2027-01-31, or never"


@frozen
class Expiry:
    """``moment`` is what the file says: a date (its first moment in UTC), a date with time, or None for never."""

    moment: date | datetime | None

    def __str__(self) -> str:
        if isinstance(self.moment, datetime):
            return f"{self.moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return "never" if self.moment is None else f"{self.moment.isoformat()} 00:00:00 UTC"


def expiry(text: str) -> Expiry:
    """Raises ValueError for what is no such time, or is past."""
    if text == "never":
        return Expiry(None)
    found = _after(text) or _at(text)
    start = found if isinstance(found, datetime) else datetime.combine(found, day_time(), UTC)
    if start.timestamp() <= time.time():
        raise ValueError("is in the past; a token has to live")
    return Expiry(found)


def _after(text: str) -> datetime | None:
    try:
        seconds = parse_duration(text)
        # What is nothing is past as soon as it is written.
        return datetime.fromtimestamp(math.ceil(time.time() + seconds) if seconds else 0, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _at(text: str) -> date | datetime:
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(_FORM) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).replace(microsecond=0)
