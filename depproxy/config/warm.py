"""The settings of lists of images that are brought into the cache on a schedule."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from attrs import field, frozen

from depproxy.config import names
from depproxy.config.errors import Wrong
from depproxy.config.keys import by, key, table_array
from depproxy.config.schedule import Schedule, schedule
from depproxy.config.values import each, text
from depproxy.oci.image import GroupInName, parse_image
from depproxy.oci.platform import ALL, MAX_PLATFORMS, InvalidPlatform, Platform

HOST_PLATFORMS: Final = frozenset({Platform.of("linux", os.uname().machine)})
"""What is warmed where no platforms are named: what runs on this host."""


def _image(value: str) -> str:
    try:
        parse_image(value)
    except GroupInName as wrong:
        raise Wrong(f'must be an image without host and group: "{wrong.image}", and group = "{wrong.group}"') from None
    except ValueError as wrong:
        raise Wrong(f'must be an image such as "alpine:3.20" or "ghcr.io/org/app"; {wrong}') from None
    return value


def _platform(value: str) -> Platform | None:
    try:
        return None if value == ALL else Platform.parse(value)
    except InvalidPlatform:
        raise Wrong(f'must be a platform such as "linux/amd64" or "linux/arm/v7", or "{ALL}"') from None


def _platforms(value: object, base: Path) -> frozenset[Platform] | None:
    found = each(text(_platform), least=1, most=MAX_PLATFORMS)(value, base)
    known = frozenset(platform for platform in found if platform is not None)
    return known if len(known) == len(found) else None


@frozen
class WarmSettings:
    """``[[warm]]``: images that are brought into the cache at the times of ``schedule``.

    An empty ``group`` is the mirror's; no ``platforms`` at all (None) are all that there are.
    """

    images: tuple[str, ...] = field(metadata=by(each(text(_image), least=1)))
    schedule: Schedule = field(metadata=by(text(schedule)))
    group: str = key("", text(names.group_path))
    platforms: frozenset[Platform] | None = field(default=HOST_PLATFORMS, metadata=by(_platforms))


warm: Final = table_array(WarmSettings, "warm")
"""Reads the array of tables ``warm``."""
