"""When to ask once more, and how long to wait before that."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from depproxy.upstream.errors import Throttled, Unavailable, UpstreamError

_T = TypeVar("_T")

# Seconds. An upstream that wants more patience than this is not waited for: a client is waiting, too.
LONGEST_PATIENCE = 5.0
FIRST_DELAY = 0.25
LONGEST_DELAY = 4.0

# What a gateway says when it is the one behind it that fails (RFC 9110 sections 15.6.3 to 15.6.5).
TRANSIENT = frozenset({502, 503, 504})

_match_seconds = re.compile(r"[0-9]{1,9}").fullmatch


def parse_retry_after(header: str, now: float) -> float | None:
    """Seconds to wait: a number, or a date compared with ``now`` in Unix time (RFC 9110 section 10.2.3).

    A date that has passed is 0; what cannot be understood is None.
    """
    text = header.strip()
    if _match_seconds(text):
        return float(text)
    date = parse_date(text)
    return None if date is None else max(0.0, date - now)


def parse_date(header: str) -> float | None:
    """An HTTP-date in Unix time; None for anything else."""
    try:
        return parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


@frozen
class Retry:
    """At most ``retries`` more attempts, none of which begins later than ``budget`` seconds after the first.

    ``jitter`` gives numbers from 0 to 1; whoever failed together shall not come back together.
    """

    clock: IReactorTime
    jitter: Callable[[], float]
    retries: int
    budget: float

    async def run(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """The first success, or the error of the last attempt. Cancelling ends the wait, too."""
        began = self.clock.seconds()
        for number in range(self.retries):
            try:
                return await attempt()
            except UpstreamError as error:
                delay = self._delay(error, number)
                if delay is None or self.clock.seconds() + delay - began > self.budget:
                    raise
            await deferLater(self.clock, delay)
        return await attempt()

    def _delay(self, error: UpstreamError, number: int) -> float | None:
        """Seconds until attempt ``number`` + 1, None where another one makes no sense."""
        asked = error.retry_after
        if asked is not None and asked > LONGEST_PATIENCE:
            return None
        if isinstance(error, Throttled):
            # Never before it said, and without a word from it not at all.
            return None if asked is None else asked + self.jitter() * FIRST_DELAY
        if not isinstance(error, Unavailable) or (error.status is not None and error.status not in TRANSIENT):
            return None
        backoff: float = min(LONGEST_DELAY, FIRST_DELAY * 2**number)
        return max(asked or 0.0, backoff * (0.5 + self.jitter() / 2))
