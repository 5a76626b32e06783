"""How an upstream has been lately: `Health`."""

from __future__ import annotations

from collections.abc import Callable

from depproxy.upstream.errors import NotFound, UpstreamError


class Health:
    """When one upstream last gave what it was asked for, and when it last did not. ``now`` is Unix time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.last_success: float | None = None
        self.last_failure: float | None = None
        self.failure = ""

    def succeeded(self) -> None:
        """It has answered."""
        self.last_success = self._now()

    def failed(self, error: UpstreamError) -> None:
        """It has not, for all that was tried; that it has no such thing is an answer like any other."""
        if isinstance(error, NotFound):
            self.succeeded()
        else:
            self.last_failure, self.failure = self._now(), error.message
