"""What an upstream says about the pulls it still allows: RateLimit-Limit and RateLimit-Remaining.

Docker Hub sends ``100;w=21600``: 100 pulls in a window of 21,600 s, counted by the source that it names in
Docker-RateLimit-Source, an address or an account. Seen in
https://docs.docker.com/docker-hub/usage/pulls/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from twisted.web.http_headers import Headers

from depproxy.metrics import Metrics
from depproxy.upstream.interface import RateLimit

# Sources come from outside, and each costs two time series for as long as it is remembered.
MAX_SOURCES = 32

_match = re.compile(r"\s*([0-9]{1,15})\s*(?:;.*)?", re.DOTALL).fullmatch
_match_window = re.compile(r".*;\s*w=([0-9]{1,15})\s*(?:;.*)?", re.DOTALL).fullmatch


def parse_quota(header: str) -> tuple[int, int | None] | None:
    """Number and window in ``100;w=21600``, None for anything else. Of several values the first counts."""
    first = header.partition(",")[0]
    number = _match(first)
    if number is None:
        return None
    window = _match_window(first)
    return int(number[1]), int(window[1]) if window else None


def read_rate_limit(headers: Headers) -> tuple[str, RateLimit] | None:
    """The source that is named, "" for none, and its limit; None where the headers say nothing of limits."""

    def quota(name: str) -> tuple[int, int | None] | None:
        values = headers.getRawHeaders(name)
        return parse_quota(values[0]) if values else None

    limit, remaining = quota("RateLimit-Limit"), quota("RateLimit-Remaining")
    if limit is None and remaining is None:
        return None
    sources = headers.getRawHeaders("Docker-RateLimit-Source")
    window = (limit and limit[1]) or (remaining and remaining[1]) or None
    found = RateLimit(limit and limit[0], remaining and remaining[0], window)
    return _printable(sources[0].strip()[:64]) if sources else "", found


class RateLimits:
    """The last word of one upstream, per source; of more than 32 the one longest silent is forgotten."""

    def __init__(self, upstream: str, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._sources: dict[str, RateLimit] = {}

    @property
    def sources(self) -> Mapping[str, RateLimit]:
        """A copy of what is known; the key is ``""`` where upstream names no source."""
        return dict(self._sources)

    def note(self, headers: Headers) -> None:
        """Remember what these response headers say, if they say anything."""
        said = read_rate_limit(headers)
        if said is None:
            return
        source, known = said
        self._sources.pop(source, None)
        if len(self._sources) == MAX_SOURCES:
            self._forget(next(iter(self._sources)))
        self._sources[source] = known
        if known.limit is not None:
            self._metrics.ratelimit_limit.labels(self._upstream, source).set(known.limit)
        if known.remaining is not None:
            self._metrics.ratelimit_remaining.labels(self._upstream, source).set(known.remaining)

    def _forget(self, source: str) -> None:
        del self._sources[source]
        gauges: tuple[Callable[..., None], ...] = (
            self._metrics.ratelimit_limit.remove,
            self._metrics.ratelimit_remaining.remove,
        )
        for remove in gauges:
            remove(self._upstream, source)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
