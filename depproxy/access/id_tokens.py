"""ID tokens (OpenID Connect Core 1.0, section 2): what one says unproved, and what it proves."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import jwt
from attrs import field, frozen
from twisted.cred.error import UnauthorizedLogin

from depproxy.access.interface import Withdrawn
from depproxy.access.public_keys import PublicKey
from depproxy.config import OidcSettings

MAX_TOKEN: Final = 16 << 10

LEEWAY: Final = 30.0
"""Seconds by which the issuer's clock may be ahead. None is added to the end of a token."""

_LONGEST_NAME: Final = 255
_REQUIRED: Final = ("iss", "sub", "aud", "iat", "exp")
# RFC 7515 section 7.1. PyJWT takes base64url with its padding, too.
_match_token = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
# Beyond this a number of seconds is none.
_LATEST: Final = 2.0**53


@frozen
class IdToken:
    """What a token says of itself. Nothing of it is proved."""

    text: str = field(repr=False)
    issuer: str
    algorithm: str
    kid: str | None

    @classmethod
    def parse(cls, text: str) -> IdToken | None:
        """None for what is no such token, an ordinary password for one."""
        if len(text) > MAX_TOKEN or not _match_token(text):
            return None
        try:
            token = jwt.decode_complete(text, options={"verify_signature": False})
        except jwt.PyJWTError:
            return None
        said = token["payload"].get("iss"), token["header"].get("alg")
        kid = token["header"].get("kid")
        if not all(isinstance(part, str) for part in said) or not isinstance(kid, str | None):
            return None
        return cls(text, *said, kid)

    def verified(self, key: PublicKey, settings: OidcSettings, now: float) -> dict[str, Any]:
        """The claims, proved. Raises UnauthorizedLogin; Withdrawn where the signature is right and the rest is not."""
        try:
            claims: dict[str, Any] = jwt.decode(
                self.text,
                key.key,
                # Both the configuration's and the key's, whatever the token says (RFC 8725 section 3.1).
                algorithms=sorted(key.algorithms.intersection(settings.algorithms)),
                issuer=settings.issuer,
                audience=settings.audience,
                # PyJWT knows the time by the system's clock alone: `_check_times` does it by ours.
                options={
                    "require": list(_REQUIRED),
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_exp": False,
                },
            )
        except jwt.InvalidAudienceError:
            wanted = " or ".join(settings.audience)
            raise Withdrawn(f"the ID token is for somebody else: its audience (aud) must be {wanted}") from None
        except jwt.MissingRequiredClaimError as error:
            raise Withdrawn(f"the ID token has no {error.claim}") from None
        except jwt.PyJWTError:
            raise UnauthorizedLogin from None
        _check_times(claims, now)
        return claims


def _check_times(claims: dict[str, Any], now: float) -> None:
    times = {name: claims[name] for name in ("iat", "nbf", "exp") if name in claims}
    for name, value in times.items():
        if type(value) not in (int, float) or not -_LATEST < value < _LATEST:
            raise Withdrawn(f"the ID token has an {name} that is no time")
    if times["exp"] <= now:
        raise Withdrawn("the ID token has expired: the job has to get a new one")
    if max(times["iat"], times.get("nbf", -math.inf)) > now + LEEWAY:
        raise Withdrawn("the ID token is not valid yet: the issuer's clock is ahead of depproxy's")


def bearer_of(claims: dict[str, Any], claim: str) -> str:
    """What messages call its bearer: by ``claim``, or the subject where there is no such text; one printable line."""
    found = claims.get(claim)
    name: str = found if isinstance(found, str) and found else claims["sub"]
    return "".join(character if character.isprintable() else "?" for character in name[:_LONGEST_NAME])
