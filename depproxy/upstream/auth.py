"""Authentication at an upstream: its challenge, answered with a token or with Basic credentials.

The first 401 teaches where tokens come from; from then on they are fetched before they are needed. A token is
kept for its life per repository and credential, and asked for once however many wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime

from depproxy.coalesce import Coalescer
from depproxy.config import UpstreamSettings
from depproxy.oci.challenge import Challenge, parse_challenges
from depproxy.oci.reference import Name
from depproxy.upstream.credentials import ICredentials
from depproxy.upstream.errors import Refused, UpstreamError
from depproxy.upstream.http import Http
from depproxy.upstream.interface import Credential
from depproxy.upstream.tokens import Bearer, Denied, TokenEndpoint

MAX_TOKENS = 4096
# Seconds: a token is renewed a little before its end.
MARGIN = 10.0

_Key = tuple[Name, Credential | None]


@frozen
class Token:
    """A bearer token; ``renew`` is when to ask for the next one, by the clock's seconds."""

    header: str = field(repr=False)
    key: _Key
    renew: float


@frozen
class Grant:
    """What a request is sent with: an Authorization header. ``cached``: it was not made for this request.
    ``key`` is that of the token; Basic has none."""

    header: str = field(repr=False)
    username: str | None
    cached: bool
    key: _Key | None = None

    @property
    def who(self) -> str:
        """On whose behalf, for a message."""
        return "anonymously" if self.username is None else f"as {self.username}"


class Authenticator:
    """
    Knows what to send to one upstream, on behalf of whom the `credentials` say. Everything that it raises is an
    UpstreamError; no failure is kept.
    """

    def __init__(self, settings: UpstreamSettings, http: Http, clock: IReactorTime) -> None:
        self._upstream = settings.name
        self._endpoint = TokenEndpoint(settings, http)
        self._clock = clock
        self._known: Bearer | None = None
        self._basic = False
        self._tokens: dict[_Key, Token] = {}
        self._fetches: Coalescer[_Key, Token] = Coalescer()

    async def authorize(self, repository: Name, credentials: ICredentials) -> Grant | None:
        """What to send for ``repository``, None as long as upstream has not asked for anything."""
        if self._known is not None:
            try:
                return await self._bearer(self._known, repository, credentials, None)
            except Denied:
                raise
            except UpstreamError:
                # Upstream may name another realm by now.
                self._known = None
                raise
        if self._basic:
            credential = credentials.current()
            return None if credential is None else _basic(credential, cached=True)
        return None

    async def reauthorize(
        self,
        repository: Name,
        credentials: ICredentials,
        refused: Grant | None,
        status: int,
        challenges: Iterable[str],
    ) -> Grant | None:
        """What to send after upstream answered ``status`` (401 or 403) to ``refused``, once; None where another
        try makes no sense. ``challenges`` are the WWW-Authenticate headers."""
        # One by one: a quote left open in one header must not hide the next.
        offered = tuple(found for header in challenges for found in parse_challenges(header))
        bearer = next((found for found in offered if found.scheme == "bearer"), None)
        self._drop(refused)
        if status == 401 and bearer is not None:
            known = Bearer.of(bearer)
            grant = await self._bearer(known, repository, credentials, bearer)
            self._known, self._basic = known, False
            return grant
        if any(found.scheme == "basic" for found in offered) or (refused is not None and refused.key is None):
            return self._basic_again(credentials, refused, status)
        if refused is not None:
            # Rights may have changed since it was made, or upstream has forgotten it.
            known_now = self._known if refused.cached else None
            return None if known_now is None else await self._bearer(known_now, repository, credentials, None)
        if offered:
            schemes = ", ".join(found.scheme for found in offered)[:100]
            raise Refused(self._upstream, f"it asks for authentication unknown here: {schemes}", status)
        return None

    def forget(self, credential: Credential) -> None:
        """Use the tokens that this credential was given no more."""
        self._tokens = {key: token for key, token in self._tokens.items() if key[1] != credential}

    def close(self) -> None:
        """Give up the token requests under way."""
        self._fetches.cancel()

    def _drop(self, grant: Grant | None) -> None:
        if grant is None or grant.key is None:
            return
        token = self._tokens.get(grant.key)
        # Another waiter may have renewed it already.
        if token is not None and token.header == grant.header:
            del self._tokens[grant.key]

    def _basic_again(self, credentials: ICredentials, refused: Grant | None, status: int) -> Grant | None:
        by_password = refused is not None and refused.key is None
        credential = credentials.again() if by_password else credentials.current()
        if credential is None:
            advice = "it asks for a user name and a password; set username and password_file of this upstream"
            raise Refused(self._upstream, advice, status)
        if refused is not None and refused.header == credential.basic:
            return None
        self._basic, self._known = True, None
        return _basic(credential, cached=False)

    async def _bearer(
        self, known: Bearer, repository: Name, credentials: ICredentials, challenge: Challenge | None
    ) -> Grant:
        key = (repository, credentials.current())
        token = self._tokens.get(key)
        if token is not None and self._clock.seconds() < token.renew:
            return _granted(token, cached=True)
        query = known.query(repository, challenge)
        token = await self._fetches.join(key, lambda: self._fetch(known, key, credentials, query))
        return _granted(token, cached=False)

    async def _fetch(self, known: Bearer, key: _Key, credentials: ICredentials, query: list[tuple[str, str]]) -> Token:
        repository, credential = key
        asked = self._clock.seconds()
        try:
            value, life = await self._endpoint.ask(known.realm, query, credential)
        except Denied:
            changed = None if credential is None else credentials.again()
            if changed is None or changed == credential:
                raise
            credential = changed
            value, life = await self._endpoint.ask(known.realm, query, credential)
        renew = asked + life - min(MARGIN, life / 4)
        token = Token(f"Bearer {value}", (repository, credential), renew)
        self._keep(token)
        return token

    def _keep(self, token: Token) -> None:
        now = self._clock.seconds()
        if len(self._tokens) >= MAX_TOKENS:
            self._tokens = {key: kept for key, kept in self._tokens.items() if now < kept.renew}
        while len(self._tokens) >= MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token.key] = token


def _basic(credential: Credential, *, cached: bool) -> Grant:
    return Grant(credential.basic, credential.username, cached)


def _granted(token: Token, *, cached: bool) -> Grant:
    credential = token.key[1]
    return Grant(token.header, None if credential is None else credential.username, cached, token.key)
