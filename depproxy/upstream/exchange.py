"""One question to a registry and its answer: with a permit, authorization, and another try where that may help."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from typing import TypeVar

from attrs import field, frozen
from twisted.web.iweb import IResponse

from depproxy.oci.reference import Name
from depproxy.upstream.agent import redirected_to
from depproxy.upstream.auth import Authenticator, Grant
from depproxy.upstream.credentials import ICredentials
from depproxy.upstream.errors import Unavailable, UpstreamError
from depproxy.upstream.health import Health
from depproxy.upstream.http import Http, error_for
from depproxy.upstream.ratelimit import RateLimits
from depproxy.upstream.redirects import Url
from depproxy.upstream.retry import Retry
from depproxy.upstream.waiting import Permit, Permits

_T = TypeVar("_T")

# What a registry says to a request that it understands but does not grant.
_REFUSALS = frozenset({401, 402, 403, 405, 407, 451})


class Elsewhere(Unavailable):
    """The host that upstream redirects to refuses; upstream itself does not."""


class _Unauthorized(Exception):
    """A 401 or 403 that another authorization may change; ``error`` is what it is otherwise."""

    def __init__(self, error: UpstreamError, status: int, challenges: list[str]) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.challenges = challenges


@frozen
class Ask:
    """What is asked for: ``path`` stands behind the repository's name. ``long``: the answer's body is passed on
    as a stream, and the permit with it."""

    method: str
    repository: Name
    path: str
    headers: Mapping[str, str] = field(factory=dict)
    long: bool = False
    retry: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]} of {self.repository}"

    @property
    def heads_blob(self) -> bool:
        """Whether this is the one question that registries refuse for no reason but its method."""
        return self.method == "HEAD" and self.path.startswith("blobs/")


class Exchange:
    """Asks one upstream. Raises UpstreamError; cancelling leaves neither a connection nor a permit behind."""

    def __init__(
        self,
        url: str,
        *,
        http: Http,
        auth: Authenticator,
        credentials: ICredentials,
        permits: Permits,
        retry: Retry,
        ratelimits: RateLimits,
        health: Health,
    ) -> None:
        self._url = url
        self._http = http
        self._auth = auth
        self._credentials = credentials
        self._permits = permits
        self._retry = retry
        self._ratelimits = ratelimits
        self._health = health
        self._refuses_heads = False

    def acting_as(self, credentials: ICredentials) -> Exchange:
        """The same with other credentials; everything else is shared."""
        acting = copy(self)
        acting._credentials = credentials
        return acting

    async def ask(self, ask: Ask, take: Callable[[IResponse, Permit], Awaitable[_T]]) -> _T:
        """What ``take`` makes of the answer, which has status 200 or 206. It is part of each attempt, and must
        read or drop the body."""
        try:
            if ask.retry:
                taken = await self._retry.run(lambda: self._authorized(ask, take))
            else:
                taken = await self._authorized(ask, take)
        except UpstreamError as error:
            self._health.failed(error)
            raise
        self._health.succeeded()
        return taken

    async def _authorized(self, ask: Ask, take: Callable[[IResponse, Permit], Awaitable[_T]]) -> _T:
        grant = await self._auth.authorize(ask.repository, self._credentials)
        try:
            return await self._once(ask, grant, take)
        except _Unauthorized as refusal:
            first = refusal
        if ask.heads_blob and self._refuses_heads and grant is not None:
            # A token that is good for GET would be thrown away for each HEAD.
            raise first.error
        renewed = await self._auth.reauthorize(ask.repository, self._credentials, grant, first.status, first.challenges)
        if renewed is None:
            raise first.error
        try:
            return await self._once(ask, renewed, take)
        except _Unauthorized as second:
            # The token is kept: it costs nothing, for whoever is refused with it next has another one made.
            self._refuses_heads = self._refuses_heads or ask.heads_blob
            raise second.error from None

    async def _once(self, ask: Ask, grant: Grant | None, take: Callable[[IResponse, Permit], Awaitable[_T]]) -> _T:
        url = f"{self._url}/v2/{ask.repository}/{ask.path}"
        headers = dict(ask.headers)
        if grant is not None:
            headers["Authorization"] = grant.header
        permit = await self._permits.acquire(long=ask.long)
        try:
            response = await self._http.send(ask.method, url, headers)
            away = redirected_to(response, url)
            if away is None:
                self._ratelimits.note(response.headers)
            if response.code not in (200, 206):
                raise await self._trouble(ask, grant, response, away)
            if ask.heads_blob:
                self._refuses_heads = False
            taken = await take(response, permit)
        except BaseException:
            permit.release()
            raise
        if not ask.long:
            permit.release()
        return taken

    async def _trouble(self, ask: Ask, grant: Grant | None, response: IResponse, away: Url | None) -> Exception:
        status = response.code
        said = await self._http.complaint(response)
        upstream = self._http.upstream
        if away is not None and status in _REFUSALS:
            return Elsewhere(upstream, f"{ask}: it redirects to {away.netloc}, which answers {status}", status)
        what = f"{ask} {grant.who}" if grant is not None and status in (401, 403) else str(ask)
        error = error_for(upstream, what, status, said, self._http.retry_after(response.headers))
        if status in (401, 403) and away is None:
            challenges = response.headers.getRawHeaders("WWW-Authenticate") or []
            return _Unauthorized(error, status, challenges)
        return error
