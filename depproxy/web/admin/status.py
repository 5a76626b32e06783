"""How the service is: `depproxy status`."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from depproxy import __version__
from depproxy.cache.fill import Fill
from depproxy.cache.questions import HeldOff
from depproxy.index.interface import ICacheIndex, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.upstream.interface import IUpstreamStates, RateLimit, UpstreamState
from depproxy.web.admin.answers import Document, finite
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask


@frozen
class Running:
    """What of the running service changes by itself: each is asked for when it is told."""

    listeners: Sequence[str]
    draining: Callable[[], bool]
    max_size: Callable[[], float]
    fills: Callable[[], Sequence[Fill]]
    holding_off: Callable[[], Mapping[str, HeldOff]]


class StatusFace:
    """Answers without the index, too. Uptime counts from when this was made."""

    app = AdminApplication()

    def __init__(
        self,
        running: Running,
        index: ICacheIndex,
        upstreams: IUpstreamStates,
        metrics: Metrics,
        clock: IReactorTime,
    ) -> None:
        self._running = running
        self._index = index
        self._upstreams = upstreams
        self._metrics = metrics
        self._clock = clock
        self._began = clock.seconds()

    @app.answers("GET", "/v1/status")
    async def status(self, ask: Ask) -> Document:
        """Everything; no upstream is asked."""
        held = self._running.holding_off()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state": "stopping" if self._running.draining() else "serving",
            "uptime": round(self._clock.seconds() - self._began, 1),
            "listeners": list(self._running.listeners),
            "requests": {kind: _requests(counts) for kind, counts in self._metrics.answers().items()},
            **await self._cache(),
            "fills": [self._fill(fill) for fill in self._running.fills()],
            "upstreams": [
                _upstream(state, held.get(state.name, HeldOff(0.0, 0))) for state in self._upstreams.states()
            ],
        }

    async def _cache(self) -> Document:
        cache: dict[str, object] = {"max_bytes": finite(self._running.max_size()), "bytes": None, "blobs": None}
        try:
            cache["blobs"], cache["bytes"] = await self._index.totals()
        except IndexUnavailable as error:
            return {"index": {"reachable": False, "error": str(error)}, "cache": cache}
        return {"index": {"reachable": True, "error": None}, "cache": cache}

    def _fill(self, fill: Fill) -> Document:
        return {
            "digest": str(fill.digest),
            "upstream": fill.upstream.name,
            "repository": str(fill.repository),
            "bytes": 0 if fill.file is None else fill.file.written,
            "size": fill.size,
            "seconds": round(self._clock.seconds() - fill.began, 1),
            "waiters": fill.waiters,
        }


def _requests(counts: Mapping[str, int]) -> Document:
    """The counts, and which part of those that were answered needed no fetch of their own; None if there are none."""
    cheap = counts["hit"] + counts["joined"] + counts["stale"]
    answered = cheap + counts["miss"]
    return {**counts, "hit_ratio": round(cheap / answered, 4) if answered else None}


def _upstream(state: UpstreamState, held: HeldOff) -> Document:
    return {
        "name": state.name,
        "url": state.url,
        "username": state.username,
        "connections": state.connections,
        "max_connections": state.max_connections,
        "last_success": moment(state.last_success),
        "last_failure": moment(state.last_failure),
        "failure": state.failure or None,
        "held_off": round(held.seconds, 1),
        "held_off_repositories": held.repositories,
        "rate_limits": limits(state.rate_limits),
    }


def limits(known: Mapping[str, RateLimit]) -> list[Document]:
    """Rate limits, one for each source that the upstream named."""
    return [
        {"source": source or None, "limit": limit.limit, "remaining": limit.remaining, "window": limit.window}
        for source, limit in known.items()
    ]


def moment(seconds: float | None) -> str | None:
    """Unix time as ISO 8601 in UTC."""
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
