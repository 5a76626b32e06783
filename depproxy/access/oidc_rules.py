"""Rules that map the claims of an ID token to roles in groups, and what of that a token of ours carries."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from attrs import frozen

from depproxy.access.interface import Withdrawn
from depproxy.config import OidcRule, OidcSettings, Role
from depproxy.config.errors import Wrong
from depproxy.config.names import group_path
from depproxy.config.oidc import CLAIM_SEGMENT

# Characters: our token with all that is in it must fit into a request's headers.
MAX_CREDENTIAL: Final = 4096
_LONGEST_VALUE: Final = 4096


def matches(pattern: str, value: object) -> bool:
    """Whether a claim is as the pattern says: ``*`` stands for any characters, ``?`` for one. true, false and whole
    numbers are as they are written; of an array one item must match."""
    if isinstance(value, list):
        return any(_matches(pattern, item) for item in value)
    return _matches(pattern, value)


def _matches(pattern: str, value: object) -> bool:
    if isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        value = str(value).lower()
    if not isinstance(value, str) or len(value) > _LONGEST_VALUE:
        return False
    # fnmatch has a third special character, which patterns here have not.
    return fnmatchcase(value, pattern.replace("[", "[[]"))


def group_of(rule: OidcRule, claims: Mapping[str, Any]) -> str | None:
    """The group's path with the claims put into it; None where one of them is no path by itself.

    What comes from one is parted by a slash from what comes from another, so that it is enough to look at the whole.
    """
    segments = []
    for segment in rule.group.split("/"):
        claim = CLAIM_SEGMENT.fullmatch(segment)
        value = segment if claim is None else claims.get(claim[1])
        if not isinstance(value, str):
            return None
        segments.append(value)
    try:
        return group_path("/".join(segments))
    except Wrong:
        return None


def roles_of(settings: OidcSettings, claims: Mapping[str, Any]) -> dict[str, Role]:
    """The roles that the rules give to whoever has these claims, by groups; the highest for each."""
    found: dict[str, Role] = {}
    for rule in settings.rules:
        if all(name in claims and matches(pattern, claims[name]) for name, pattern in rule.claims.items()):
            group = group_of(rule, claims)
            if group is not None:
                found[group] = max(rule.role, found.get(group, rule.role))
    return found


def fingerprint(settings: OidcSettings) -> str:
    """Stands for all that decides what a token is good for. It changes when any of that does."""
    rules = [[sorted(rule.claims.items()), rule.group, rule.role] for rule in settings.rules]
    said = [settings.issuer, settings.audience, settings.algorithms, rules]
    return base64.urlsafe_b64encode(hashlib.sha256(json.dumps(said).encode()).digest()[:16]).decode().rstrip("=")


@frozen
class Credential:
    """What stands for an ID token afterwards: the rules that were asked, the key that signed it, and the roles that it
    was given. ``str()`` is what an `Identity` carries; there is no secret in it."""

    fingerprint: str
    thumbprint: str
    roles: Mapping[str, Role]

    def __str__(self) -> str:
        return " ".join((self.fingerprint, self.thumbprint, *self._words()))

    def _words(self) -> Iterator[str]:
        for group, role in sorted(self.roles.items()):
            yield f"{group}={role.name.lower()}"

    @classmethod
    def read(cls, text: str) -> Credential:
        """The other way round. Raises `Withdrawn` for what is none, as that of another version may be."""
        try:
            rules, thumbprint, *words = text.split(" ")
            pairs = [word.split("=") for word in words]
            return cls(rules, thumbprint, {group: Role[role.upper()] for group, role in pairs})
        except (ValueError, KeyError):
            raise Withdrawn("the login is of another version of depproxy: log in again") from None
