"""What can go wrong at an upstream, as one family: nothing else (but cancellation) leaves this package.

The classes say what the caller may do about it, not which library noticed:

``NotFound``
    Upstream itself says that it has no such thing. The only error that may become a 404.
``Refused``
    Upstream, or its token endpoint, does not let us: asking again will not help until somebody changes
    something.
``Throttled``
    Upstream asks us to slow down (429).
``Unavailable``
    Nobody there, or nobody able: connection, DNS, TLS, timeout, 5xx, or a token endpoint that is down.
``Invalid``
    An answer that cannot be right: too large, another digest than asked for, a wrong Content-Range.
"""

from __future__ import annotations


class UpstreamError(Exception):
    """An upstream did not give what it was asked for. Never raised itself.

    ``upstream`` is its configured name, ``message`` a sentence for whoever reads the log or the client's output,
    ``status`` the HTTP status that said so, None where there was no answer; ``retry_after`` the number of
    seconds after which upstream wants to be asked again, None where it did not say.
    """

    def __init__(
        self, upstream: str, message: str, status: int | None = None, *, retry_after: float | None = None
    ) -> None:
        super().__init__(upstream, message, status)
        self.upstream = upstream
        self.message = message
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.upstream}: {self.message}"


class NotFound(UpstreamError):
    """Upstream answered 404 (or 410)."""

    def anew(self) -> NotFound:
        """The same without a traceback, which would keep the whole request: to remember it, or to raise it again."""
        return NotFound(self.upstream, self.message, self.status)


class Refused(UpstreamError):
    """Upstream or its token endpoint refused us, or we refused to send it a credential."""


class Throttled(UpstreamError):
    """Upstream or its token endpoint answered 429."""


class Unavailable(UpstreamError):
    """Upstream could not be reached, did not answer in time, or answered 5xx."""


class Invalid(UpstreamError):
    """Upstream answered with something that cannot be right and must not be stored."""
