"""Our tokens (JWT, RFC 7519): issued for a login, checked on each request, remembered while they are good."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt
from attrs import field, frozen
from cachetools import TLRUCache

from depproxy.access.interface import Identity, Withdrawn
from depproxy.access.keys import KeyRing

AUDIENCE: Final = "dependency_proxy"
"""The service that the challenge names."""

MAX_TOKEN: Final = 16 << 10
"""Bytes of a token: more do not fit into a request's headers."""

LEEWAY: Final = 5
"""Seconds by which the clock of another host that shares our keys may be ahead."""

REMEMBERED: Final = 4096

NOT_OURS: Final = (
    "the token was not issued by this depproxy, or its key is gone: log in again, or let the client ask for a new token"
)
EXPIRED: Final = "the token has expired: log in again, or let the client ask for a new token"
TOO_EARLY: Final = (
    "the token is not valid yet, so the clock of the host that issued it is ahead: wait a few seconds, and tell the"
    " operator of this depproxy"
)

_CLAIMS: Final = ["iss", "aud", "sub", "jti", "iat", "nbf", "exp", "identity", "grants"]

# RFC 7515 section 7.1. PyJWT takes base64url with its padding, too, so that one token could be written in many ways.
_match_token = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch


class InvalidToken(Exception):
    """A token that is not good. `str()` may be shown to its bearer: it says what he can do, and not what failed."""


class TokenTooLarge(ValueError):
    """The grants are too many for one token."""


@frozen
class Issued:
    """A token for a client. `expires_in` counts in seconds from `issued_at`, which is Unix time."""

    token: str = field(repr=False)
    expires_in: int
    issued_at: float


@frozen
class Bearer:
    """What a good token says, and until when (Unix time) it is good, if its key is not taken away before.

    A grant is the path of a group, or "*" for all.
    """

    identity: Identity
    grants: frozenset[str]
    expires: float


class Tokens:
    """Issues tokens, and verifies them. `lifetime` is in seconds, and may be changed; so may the keys."""

    def __init__(
        self,
        keys: KeyRing,
        issuer: str,
        lifetime: float,
        now: Callable[[], float],
        *,
        remembered: int = REMEMBERED,
    ) -> None:
        self.lifetime = lifetime
        self._keys = keys
        self._issuer = issuer
        self._now = now
        self._generation = keys.generation
        self._known: TLRUCache[bytes, Bearer] = TLRUCache(
            remembered, ttu=lambda _token, bearer, _now: bearer.expires, timer=now
        )

    def issue(self, identity: Identity, grants: Sequence[str]) -> Issued:
        """A token that lives for `lifetime`, but not longer than what proved the identity; to the whole second.

        Raises `Withdrawn` where that has expired already, `TokenTooLarge` where the token could not be sent.
        """
        now = self._now()
        ends = now + self.lifetime
        expires = math.floor(ends if identity.expires is None else min(ends, identity.expires))
        if expires <= now:
            raise Withdrawn(f"the credential of {identity.name} has expired")
        issued = math.floor(now)
        granted = sorted(set(grants))
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": identity.name,
            "jti": secrets.token_urlsafe(16),
            "iat": issued,
            "nbf": issued - LEEWAY,
            "exp": expires,
            "identity": {
                "source": identity.source,
                "credential": identity.credential,
                "expires": identity.expires,
            },
            "grants": granted,
        }
        key = self._keys.current
        token = jwt.encode(claims, key.private, key.algorithm, headers={"kid": key.kid})
        if len(token) > MAX_TOKEN:
            raise TokenTooLarge(f"a token for {len(granted)} groups has {len(token)} bytes, more than {MAX_TOKEN}")
        return Issued(token, expires - issued, float(issued))

    def verify(self, token: bytes) -> Bearer:
        """Whose token it is, and for what. Raises `InvalidToken`. The second time it is a matter of microseconds."""
        if self._keys.generation != self._generation:
            self.forget()
        try:
            return self._known[token]
        except KeyError:
            pass
        bearer = self._known[token] = self._check(token)
        return bearer

    def forget(self) -> None:
        """Verify each token anew. It happens by itself where the keys were read again."""
        self._known.clear()
        self._generation = self._keys.generation

    def _check(self, token: bytes) -> Bearer:
        if len(token) > MAX_TOKEN or not _match_token(token):
            raise InvalidToken(NOT_OURS)
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = None if kid is None else self._keys.by_id(kid)
            if key is None:
                raise InvalidToken(NOT_OURS)
            claims = jwt.decode(
                token,
                key.public,
                # The key's, whatever the token says (RFC 8725 section 3.1).
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=AUDIENCE,
                # PyJWT knows the time by the system's clock alone: `_check_times` does it by ours.
                options={
                    "require": _CLAIMS,
                    "strict_aud": True,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_exp": False,
                },
            )
        except jwt.PyJWTError:
            raise InvalidToken(NOT_OURS) from None
        self._check_times(claims)
        # A lifetime that was shortened counts for what was issued before.
        expires = min(claims["exp"], key.ends, claims["iat"] + self.lifetime)
        if expires <= self._now():
            raise InvalidToken(EXPIRED)
        return Bearer(_identity(claims), _grants(claims), expires)

    def _check_times(self, claims: dict[str, Any]) -> None:
        if any(type(claims[name]) is not int for name in ("iat", "nbf", "exp")):
            raise InvalidToken(NOT_OURS)
        now = self._now()
        if claims["exp"] <= now:
            raise InvalidToken(EXPIRED)
        if claims["nbf"] > now or claims["iat"] > now + LEEWAY:
            raise InvalidToken(TOO_EARLY)


def _identity(claims: dict[str, Any]) -> Identity:
    ours = claims["identity"]
    if not isinstance(ours, dict):
        raise InvalidToken(NOT_OURS)
    source, credential, expires = (ours.get(name) for name in ("source", "credential", "expires"))
    if not isinstance(source, str) or not isinstance(credential, str):
        raise InvalidToken(NOT_OURS)
    if expires is not None and type(expires) not in (int, float):
        raise InvalidToken(NOT_OURS)
    return Identity(source, claims["sub"], credential, expires)


def _grants(claims: dict[str, Any]) -> frozenset[str]:
    grants = claims["grants"]
    if not isinstance(grants, list) or not all(isinstance(grant, str) for grant in grants):
        raise InvalidToken(NOT_OURS)
    return frozenset(grants)
