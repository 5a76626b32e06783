"""An issuer of ID tokens on a real loopback socket: discovery, keys, and tokens such as CI jobs get.

Its addresses are those of GitLab 18, and so are the claims of `gitlab_job`; those of `github_job` are GitHub's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
from attrs import define
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.upstream_fake import Call, Server

CONFIGURATION = "/.well-known/openid-configuration"
KEYS = "/oauth/discovery/keys"
GET_CONFIGURATION = f"GET {CONFIGURATION}"
GET_KEYS = f"GET {KEYS}"
AUDIENCE = "depproxy"


@cache
def private_key(algorithm: str, number: int) -> Any:
    """A key for this algorithm, the same for the same number: making one takes a while."""
    curves: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if algorithm in curves:
        return ec.generate_private_key(curves[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


@define
class SigningKey:
    """What an issuer signs with."""

    kid: str | None
    algorithm: str = "RS256"
    number: int = 0
    names_algorithm: bool = True

    @property
    def private(self) -> Any:
        return private_key(self.algorithm, self.number)

    def jwk(self) -> dict[str, Any]:
        """As it is published (RFC 7517)."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        found: dict[str, Any] = json.loads(algorithm.to_jwk(self.private.public_key()))
        # PyJWT says what a key can do; issuers say what it is for.
        found.pop("key_ops", None)
        found["use"] = "sig"
        if self.kid is not None:
            found["kid"] = self.kid
        if self.names_algorithm:
            found["alg"] = self.algorithm
        return found

    def sign(self, claims: dict[str, Any], **headers: object) -> str:
        """A token by this key."""
        named = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self.private, self.algorithm, headers={**named, **headers})


class Issuer(Server):
    """Signs by the first of `keys`, publishes all of them, and `junk` beside them. `now` is Unix time.

    `issuer` is what it calls itself in tokens, `configuration` what its discovery document has beside, or instead.
    """

    def __init__(self, reactor: Any, now: Callable[[], float], *, context: Any = None, path: str = "") -> None:
        super().__init__(reactor, context=context)
        self.issuer = self.url + path
        self.keys = [SigningKey("key-1")]
        self.junk: list[object] = []
        self.configuration: dict[str, object] = {}
        self._now = now
        self.up(path.rstrip("/"))

    def up(self, path: str = "") -> None:
        """Answer as it should."""
        self.paths[path + CONFIGURATION] = self._configuration
        self.paths[KEYS] = self._keys

    def down(self, responder: Callable[[Call], object] = lambda call: call.answer(503)) -> None:
        """Answer everything so instead."""
        for path in self.paths:
            self.paths[path] = responder

    def _configuration(self, call: Call) -> object:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.url}/oauth/authorize",
            "token_endpoint": f"{self.url}/oauth/token",
            "jwks_uri": self.url + KEYS,
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            **self.configuration,
        }
        return call.answer(200, json.dumps(document).encode(), Content_Type="application/json; charset=utf-8")

    def _keys(self, call: Call) -> object:
        document = {"keys": [*self.junk, *(key.jwk() for key in self.keys)]}
        return call.answer(
            200, json.dumps(document).encode(), Content_Type="application/json; charset=utf-8", Cache_Control="private"
        )

    def claims(self, **claims: object) -> dict[str, Any]:
        """Those of a token that was made now and lives for five minutes; one that is None is left out."""
        now = int(self._now())
        made = {"iss": self.issuer, "aud": AUDIENCE, "jti": f"jti-{now}", "iat": now, "nbf": now - 5, "exp": now + 300}
        return {name: value for name, value in {**made, **claims}.items() if value is not None}

    def gitlab_job(self, project: str = "acme/tools", **claims: object) -> str:
        """The token of a job of a protected branch, by `id_tokens` in `.gitlab-ci.yml`."""
        job = {
            "sub": f"project_path:{project}:ref_type:branch:ref:main",
            "namespace_id": "72",
            "namespace_path": project.rpartition("/")[0],
            "project_id": "20",
            "project_path": project,
            "user_id": "1",
            "user_login": "alice",
            "user_email": "alice@acme.example",
            "user_access_level": "developer",
            "groups_direct": ["acme", "acme/tools"],
            "pipeline_id": "574",
            "pipeline_source": "push",
            "job_id": "302",
            "ref": "main",
            "ref_type": "branch",
            "ref_path": "refs/heads/main",
            "ref_protected": "true",
            "runner_id": 1,
            "runner_environment": "self-hosted",
        }
        return self.keys[0].sign(self.claims(**{**job, **claims}))

    def github_job(self, repository: str = "Acme/Tools", **claims: object) -> str:
        """The token of a job, by `id-token: write` in a workflow."""
        job = {
            "sub": f"repo:{repository}:ref:refs/heads/main",
            "repository": repository,
            "repository_owner": repository.partition("/")[0],
            "repository_visibility": "private",
            "ref": "refs/heads/main",
            "ref_type": "branch",
            "ref_protected": "true",
            "actor": "alice",
            "event_name": "push",
            "runner_environment": "github-hosted",
        }
        return self.keys[0].sign(self.claims(**{**job, **claims}))
