"""Where users, groups and their tokens are in the text of a configuration file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from depproxy.cli.command import Refused, near
from depproxy.cli.statements import Keys
from depproxy.config import Settings
from depproxy.config.errors import dotted


def written(text: str, *at: str) -> dict[str, Any]:
    """What the file has in the table ``at``; empty where it has none."""
    found: dict[str, Any] = tomllib.loads(text.removeprefix("\ufeff"))
    for name in at:
        found = found.get(name, {})
    return found


def user_table(path: Path, settings: Settings, name: str) -> Keys:
    """The table of a user. Raises Refused where there is none."""
    if name not in settings.users:
        hint = near(name, settings.users) or f"; add it: depproxy user add {name}"
        raise Refused(f"{path}: {dotted('users', name)}: is not there{hint}")
    return "users", name


def group_table(path: Path, settings: Settings, text: str, group: str, otherwise: str) -> Keys:
    """The table of a group, as its path is written. Raises Refused where there is none, with what to do ``otherwise``.

    The group of the mirror is there even if no table of it is written.
    """
    if group not in settings.groups:
        hint = near(group, settings.groups) or f"; {otherwise}"
        raise Refused(f"{path}: {dotted('groups', group)}: is not there{hint}")
    return "groups", spelling(text, group)


def spelling(text: str, group: str) -> str:
    """How the file writes a group's path: upper and lower case are the same."""
    return next((name for name in written(text, "groups") if name.lower() == group), group)
