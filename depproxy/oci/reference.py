"""Repository names, tags and references (OCI distribution-spec, section "Pulling manifests")."""

from __future__ import annotations

import re
from typing import Self

from depproxy.oci.digest import Digest

__all__ = ["MAX_NAME", "InvalidName", "InvalidTag", "Name", "Reference", "Tag", "library", "parse_reference"]

# Characters. The specification speaks of clients that stop here; distribution refuses more.
MAX_NAME = 255

# Possessive repetitions: one character tells where in the grammar it stands, so nothing is ever tried twice. Those of
# groups are not: before Python 3.11.5 they may count what has only begun to match (python/cpython#106052).
_COMPONENT = r"[a-z0-9]++(?:(?:\.|_{1,2}+|-++)[a-z0-9]++)*"
_match_name = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*").fullmatch
_match_tag = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}+").fullmatch


class InvalidName(ValueError):
    """The text is no repository name."""


class InvalidTag(ValueError):
    """The text is no tag."""


class Name(str):
    """A verified repository name of at most 255 characters, such as `library/alpine`; raises InvalidName.

    No component is empty, `.` or `..`.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if len(text) > MAX_NAME:
            raise InvalidName(f"a repository name has at most {MAX_NAME} characters, this one has {len(text)}")
        if _match_name(text) is None:
            raise InvalidName(f"repository name {text!r} is not lower-case letters and digits, parted by . _ __ - or /")
        return str.__new__(cls, text)


class Tag(str):
    """A verified tag of at most 128 characters, such as `3.20`; raises InvalidTag."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if _match_tag(text) is None:
            raise InvalidTag(f"tag {text[:128]!r} is not 1 to 128 letters, digits, . _ or -, not starting with . or -")
        return str.__new__(cls, text)


Reference = Tag | Digest


def parse_reference(text: str) -> Reference:
    """The digest or tag that this text is: only a digest has a colon. Raises InvalidDigest or InvalidTag."""
    return Digest(text) if ":" in text else Tag(text)


def library(name: Name) -> Name:
    """The repository that Docker Hub means by this name: `alpine` is `library/alpine`.

    Raises InvalidName where the longer name is too long.
    """
    return name if "/" in name else Name(f"library/{name}")
