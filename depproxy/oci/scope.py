"""Scopes: what a client asks a token for (distribution's "Token Scope Documentation")."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

__all__ = ["InvalidScope", "Scope", "parse_scopes"]

MAX_SCOPES = 100
# The name may hold a host with its port, so it ends at the last colon.
_SCOPE = re.compile(r"([a-z0-9]+)(?:\([a-z0-9]+\))?:([A-Za-z0-9._~/:\[\]-]{1,512}):([A-Za-z0-9*,_-]{1,128})")


class InvalidScope(ValueError):
    """A scope that is none."""


@frozen
class Scope:
    """One scope: the kind of a resource (`repository`), its name, and what is to be done with it."""

    kind: str
    name: str
    actions: frozenset[str]

    @property
    def pulls(self) -> bool:
        """Whether it asks to pull from a repository, among other things maybe."""
        return self.kind == "repository" and not self.actions.isdisjoint(("pull", "*"))


def parse_scopes(values: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes of all `scope` parameters, each of which may hold several with spaces between.

    At most 100. Raises InvalidScope.
    """
    texts = [text for value in values for text in value.split(" ") if text]
    if len(texts) > MAX_SCOPES:
        raise InvalidScope(f"{len(texts)} scopes are asked for, and at most {MAX_SCOPES} are understood")
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Scope:
    found = _SCOPE.fullmatch(text)
    if found is None:
        raise InvalidScope(f"{text[:100]!r} is no scope such as repository:library/alpine:pull")
    return Scope(found[1], found[2], frozenset(action for action in found[3].split(",") if action))
