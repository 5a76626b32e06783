"""Times at which something is done, as cron writes them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from attrs import frozen
from cronsim import CronSim, CronSimError

from depproxy.config.errors import Wrong

_FIELDS: Final = 5
_LONGEST: Final = 200


@frozen
class Schedule:
    """A cron expression, by the local time of the host."""

    text: str

    def after(self, moment: float) -> float:
        """The first of its times after ``moment``, both in Unix time; infinity if there is none.

        An hour that the clock skips is made up for right after it, and one that comes twice counts once.
        """
        for found in CronSim(self.text, datetime.fromtimestamp(moment)):
            # Local time without an offset is its first occurrence, which may be over.
            if (at := found.timestamp()) > moment:
                return at
        return math.inf


def schedule(value: str) -> Schedule:
    """Reads a schedule."""
    try:
        if len(value) > _LONGEST or len(value.split()) != _FIELDS:
            raise CronSimError
        found = Schedule(value)
        if found.after(0.0) == math.inf:
            raise Wrong("must have days that the calendar has")
    except CronSimError:
        raise Wrong(
            'must be minute, hour, day of the month, month and day of the week as cron has them, such as "0 4 * * *"'
        ) from None
    return found
