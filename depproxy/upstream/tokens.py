"""The token endpoint (distribution's token specification): how it is asked, and what its answer holds."""

from __future__ import annotations

import json
import re
from urllib.parse import urlencode

from attrs import frozen
from twisted.web.iweb import IResponse

from depproxy.config import UpstreamSettings
from depproxy.oci.challenge import Challenge
from depproxy.oci.reference import Name
from depproxy.upstream.body import read
from depproxy.upstream.credentials import realm_trouble
from depproxy.upstream.errors import Invalid, Refused, Throttled, Unavailable, UpstreamError
from depproxy.upstream.http import Http
from depproxy.upstream.interface import Credential
from depproxy.upstream.redirects import BadUrl, Url
from depproxy.upstream.waiting import Permits

MAX_ANSWER = 64 * 1024

# Seconds; the default is that of the specification.
DEFAULT_LIFE = 60.0
LONGEST_LIFE = 24 * 3600.0

# What may stand in an Authorization header (RFC 6750 section 2.1), and what some registries put there.
_match_token = re.compile(r"[\x21-\x7e]+").fullmatch


class Denied(Refused):
    """The token endpoint refused the credential, or refused without one."""


@frozen
class Bearer:
    """A token realm as a challenge named it. ``scopes`` are those that go with every repository's own."""

    realm: str
    service: str | None
    scopes: tuple[str, ...]

    @classmethod
    def of(cls, challenge: Challenge) -> Bearer:
        """The challenge without what belongs to one repository."""
        general = tuple(scope for scope in _scopes(challenge) if not scope.startswith("repository:"))
        return cls(challenge.params.get("realm", ""), challenge.params.get("service"), general)

    def query(self, repository: Name, challenge: Challenge | None) -> list[tuple[str, str]]:
        """The token request's parameters for ``repository``; as the challenge wrote its scope, if it did."""
        own = [scope for scope in _scopes(challenge) if scope.startswith("repository:")]
        scopes = dict.fromkeys((*(own or [f"repository:{repository}:pull"]), *self.scopes))
        service = [] if self.service is None else [("service", self.service)]
        return [*service, *(("scope", scope) for scope in scopes)]


def _scopes(challenge: Challenge | None) -> list[str]:
    return [] if challenge is None else challenge.params.get("scope", "").split()


class TokenEndpoint:
    """Asks for tokens on behalf of one upstream. Raises UpstreamError, and Denied of it for 401 and 403."""

    def __init__(self, settings: UpstreamSettings, http: Http) -> None:
        self._upstream = settings.name
        self._url = Url.parse(settings.url.encode())
        self._token_hosts = settings.token_hosts
        self._within = settings.first_byte_timeout
        self._http = http
        # Their own: whoever waits for a token must not wait for those that wait for tokens.
        self._permits = Permits(settings.max_connections)

    async def ask(self, realm: str, query: list[tuple[str, str]], credential: Credential | None) -> tuple[str, float]:
        """A token and its life in seconds."""
        url = self._trusted(realm, password=credential is not None)
        parameters = ([("account", credential.username)] if credential is not None else []) + query
        asked = realm + ("&" if b"?" in url.target else "?") + urlencode(parameters)
        headers = {"Accept": "application/json"}
        if credential is not None:
            headers["Authorization"] = credential.basic
        permit = await self._permits.acquire(long=False)
        try:
            response = await self._http.send("GET", asked, headers)
            if response.code != 200:
                raise await self._trouble(response, url, credential)
            body = await read(response, self._upstream, self._http.clock, self._within, MAX_ANSWER)
        finally:
            permit.release()
        return self._parse(body, url)

    def _trusted(self, realm: str, *, password: bool) -> Url:
        try:
            url = Url.parse(realm.encode())
        except BadUrl as error:
            raise Refused(self._upstream, f"its token realm {realm[:100]!r} cannot be asked: {error}", 401) from None
        trouble = realm_trouble(url, self._url, self._token_hosts, password=password)
        if trouble is not None:
            raise Refused(self._upstream, trouble, 401)
        return url

    async def _trouble(self, response: IResponse, url: Url, credential: Credential | None) -> UpstreamError:
        said = await self._http.complaint(response)
        status = response.code
        who = "anonymously" if credential is None else f"as {credential.username}"
        message = f"no token from {url.netloc} {who}: {status}" + (f" {said}" if said else "")
        retry_after = self._http.retry_after(response.headers)
        if status == 429:
            return Throttled(self._upstream, message, status, retry_after=retry_after)
        if status >= 500 or status == 408:
            return Unavailable(self._upstream, message, status, retry_after=retry_after)
        # A 404, too: that the endpoint is not there says nothing about what was asked for.
        kind = Denied if status in (401, 403) else Refused
        return kind(self._upstream, message, status)

    def _parse(self, body: bytes, url: Url) -> tuple[str, float]:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise Invalid(self._upstream, f"the token answer of {url.netloc} is not a JSON object")
        # Some registries set access_token instead of token, a few leave the other one empty.
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not _match_token(token):
            raise Invalid(self._upstream, f"the token answer of {url.netloc} has no token")
        life = document.get("expires_in")
        if not isinstance(life, int | float) or isinstance(life, bool) or not life > 0:
            life = DEFAULT_LIFE
        # Compared before it is converted: an integer may be too large for a float.
        return token, float(min(life, LONGEST_LIFE))
