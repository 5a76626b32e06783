"""Public keys as issuers of ID tokens publish them (JWK, RFC 7517), and what each may be used for."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

import jwt
from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# Bits. RFC 7518 section 3.3 wants 2048 or more; verifying by very large keys takes too long.
_RSA_BITS: Final = range(2048, 8193)
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@frozen
class PublicKey:
    """A key that verifies, with the algorithms that it may be used with. ``thumbprint`` is its own, whatever its
    issuer calls it."""

    kid: str | None
    algorithms: frozenset[str]
    thumbprint: str
    key: Any = field(repr=False, eq=False)


@frozen
class Keys:
    """What an issuer signs with."""

    keys: tuple[PublicKey, ...]

    def __contains__(self, thumbprint: str) -> bool:
        return any(key.thumbprint == thumbprint for key in self.keys)

    def knows(self, kid: str | None) -> bool:
        """Whether there may be a key of that name, whatever it is good for."""
        return kid is None or any(key.kid == kid for key in self.keys)

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key of that name for that algorithm. A token that names none means the only one there is."""
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        if kid is None:
            return fitting[0] if len(self.keys) == len(fitting) == 1 else None
        return next((key for key in fitting if key.kid == kid), None)


def public_key(jwk: object) -> PublicKey | None:
    """The key in a JWK (RFC 7517 section 4); None for one that is not for signatures, not public, too weak, or not
    known here."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    operations, kid = jwk.get("key_ops", ["verify"]), jwk.get("kid")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(kid, str | None):
        return None
    try:
        key: Any = jwt.PyJWK(jwk).key
    except Exception:
        # What can be in there is without limit, and so are the errors that it makes.
        return None
    algorithms = frozenset(name for name in _algorithms(key) if jwk.get("alg", name) == name)
    if not algorithms:
        return None
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(kid, algorithms, _thumbprint(der), key)


def _algorithms(key: object) -> frozenset[str]:
    if isinstance(key, RSAPublicKey):
        return _RSA if key.key_size in _RSA_BITS else frozenset()
    if isinstance(key, EllipticCurvePublicKey):
        return frozenset({_CURVES[key.curve.name]} if key.curve.name in _CURVES else ())
    return frozenset({"EdDSA"} if isinstance(key, Ed25519PublicKey) else ())


def _thumbprint(der: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()[:16]).decode().rstrip("=")
