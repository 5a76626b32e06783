"""The configuration of a backup, put where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from depproxy.backup.archive import BESIDE, CONFIGURATION, NotWhole, Reader
from depproxy.backup.restore import replace
from depproxy.cli.command import Refused
from depproxy.cli.owner import Owner
from depproxy.config import ConfigError, find_data

_MODE: Final = 0o640
_MOST: Final = 64 << 20


def unpack(
    archive: Reader, config: Path, owner_of: Callable[[Path], Owner], environ: Mapping[str, str]
) -> Owner | None:
    """Put the configuration file, and those that it names, to where they are not yet, readable for the owner of the
    data. None where there is a configuration file already, or none in the archive: nothing is changed then.

    Raises Refused, NotWhole, OSError.
    """
    found = _members(archive)
    content = found.pop(CONFIGURATION, None)
    if content is None:
        return None
    if config.exists():
        if config.read_bytes() != content:
            click.echo(f"{config} stays as it is; the backup has another one", err=True)
        return None
    try:
        owner = owner_of(find_data(config, content, environ))
    except ConfigError as error:
        raise Refused(str(error)) from None
    for name, data in found.items():
        _put(config.parent / name.removeprefix(BESIDE), data, owner)
    # The last: what was interrupted is done again.
    _put(config, content, owner)
    return owner


def _members(archive: Reader) -> dict[str, bytes]:
    """What is in front, before the keys."""
    found: dict[str, bytes] = {}
    size = 0
    for member in archive:
        if member.name != CONFIGURATION and not member.name.startswith(BESIDE):
            break
        size += member.size
        if size > _MOST:
            raise NotWhole(f"has more than {_MOST} bytes of configuration")
        found[member.name] = member.read()
    return found


def _put(path: Path, data: bytes, owner: Owner) -> None:
    if path.exists():
        if path.read_bytes() != data:
            click.echo(f"{path} stays as it is; the backup has another one", err=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    group = owner.gid if os.geteuid() == 0 else None
    replace(path, data, _MODE if group is not None else 0o600, group=group)
    click.echo(f"{path} was put there", err=True)
