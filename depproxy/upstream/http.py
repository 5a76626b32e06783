"""treq, tamed: requests through an agent of ours, and what an answer that is no success means."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from http.cookiejar import Cookie, DefaultCookiePolicy
from typing import Any
from urllib.request import Request

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from depproxy import __version__
from depproxy.upstream.body import drain
from depproxy.upstream.errors import (
    Invalid,
    NotFound,
    Refused,
    Throttled,
    Unavailable,
    UpstreamError,
)
from depproxy.upstream.failures import explain
from depproxy.upstream.retry import parse_date, parse_retry_after

_AGENT = f"depproxy/{__version__}"
_LONGEST_COMPLAINT = 300


class _NoCookies(DefaultCookiePolicy):
    """Takes none and sends none: a cookie would carry one user's session into another one's request."""

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        return False

    def return_ok(self, cookie: Cookie, request: Request) -> bool:
        return False


class Http:
    """Sends requests for one upstream. ``now`` gives Unix time, for the dates in Retry-After."""

    def __init__(
        self, upstream: str, reactor: Any, clock: IReactorTime, agent: IAgent, now: Callable[[], float] = time.time
    ) -> None:
        self.upstream = upstream
        self.clock = clock
        self._reactor = reactor
        self._now = now
        self._client = HTTPClient(agent, IndexableCookieJar(_NoCookies()))

    async def send(self, method: str, url: str, headers: Mapping[str, str]) -> IResponse:
        """The answer, its body still unread, whatever its status. Raises UpstreamError alone."""
        all_headers = Headers({"User-Agent": [_AGENT]})
        for name, value in headers.items():
            all_headers.setRawHeaders(name, [value])
        try:
            return await self._client.request(
                method, url, headers=all_headers, allow_redirects=False, unbuffered=True, reactor=self._reactor
            )
        except (UpstreamError, CancelledError):
            raise
        except Exception as error:
            raise Unavailable(self.upstream, f"{method} could not be sent: {explain(error)}") from error

    async def complaint(self, response: IResponse) -> str:
        """What the answer's body says about its status, and the body is read."""
        return complaint(await drain(response, self.upstream, self.clock))

    def retry_after(self, headers: Headers) -> float | None:
        """Seconds until upstream wants to be asked again, by its own clock where it shows that."""
        found = header(headers, "Retry-After")
        if found is None:
            return None
        date = parse_date(header(headers, "Date") or "")
        return parse_retry_after(found, self._now() if date is None else date)


def header(headers: Headers, name: str) -> str | None:
    """The first value of that name, None if there is none."""
    values = headers.getRawHeaders(name)
    return values[0].strip() if values else None


def complaint(body: bytes) -> str:
    """Code and message of the first error in an OCI error document (distribution-spec, "Error Codes"), or of a
    token server's ``details`` or ``error``; empty if it is something else. One printable line."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else document
    if not isinstance(first, dict):
        return ""
    names = ("code", "message") if first is not document else ("error", "details", "message")
    found = [first[name] for name in names if isinstance(first.get(name), str) and first[name]]
    text = ": ".join(dict.fromkeys(found))[:_LONGEST_COMPLAINT]
    return "".join(character if character.isprintable() else " " for character in text)


def error_for(upstream: str, what: str, status: int, said: str, retry_after: float | None = None) -> UpstreamError:
    """The error that an answer with this status is; ``what`` was asked for, ``said`` is its complaint."""
    if status == 404 and not said:
        # A HEAD has no words for it.
        said = "not found: check the name, and the tag or digest"
    message = f"{what}: {status}" + (f" {said}" if said else "")
    if status in (404, 410):
        return NotFound(upstream, message, status)
    if status == 429:
        return Throttled(upstream, message, status, retry_after=retry_after)
    if status >= 500 or status == 408:
        return Unavailable(upstream, message, status, retry_after=retry_after)
    if status in (401, 402, 403, 405, 407, 451):
        return Refused(upstream, message, status)
    return Invalid(upstream, message, status)
