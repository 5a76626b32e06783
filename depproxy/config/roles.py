"""Roles, and how they are written."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from depproxy.config.errors import Wrong


class Role(IntEnum):
    """What somebody is in a group, with GitLab's numbers. Each includes all below it."""

    GUEST = 10
    REPORTER = 20
    DEVELOPER = 30
    MAINTAINER = 40
    OWNER = 50


def role(value: object, _base: Path) -> Role:
    """Reads a role by its name."""
    if isinstance(value, str) and value.upper() in Role.__members__ and value == value.lower():
        return Role[value.upper()]
    raise Wrong("must be " + ", ".join(f'"{known.name.lower()}"' for known in Role))
