"""Replaces a configuration file as a whole, or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from depproxy.cli.command import Refused, configured, service_environ
from depproxy.cli.inline import CannotEdit
from depproxy.config import ConfigError, Settings, load


def change(path: Path, edit: Callable[[str, Settings], str], environ: Mapping[str, str]) -> Settings:
    """Replace the configuration file by what ``edit`` makes of its text and settings; returns the new settings.

    The new file is written beside, with the mode, owner and attributes of the old one, is read as the server would read
    it, and takes the old one's place at once; where anything is wrong the old one stays. A symbolic link stays one.
    Only one such command changes a file at a time. Raises Refused.
    """
    try:
        with _locked(Path(os.path.realpath(path))) as (target, old):
            settings = read(path, environ)
            # newline="": line ends are kept.
            with open(old, encoding="utf-8", newline="", closefd=False) as stream:
                text = stream.read()
            return _replace(target, old, edit(text, settings), path, environ)
    except CannotEdit as error:
        raise Refused(f"{path}: {error}") from None
    except FileNotFoundError:
        raise Refused(f"{path}: is not there; name the configuration file by --config, or make it") from None
    except OSError as error:
        who = "run this as the user who may write the file and its directory"
        raise Refused(f"{path}: cannot be changed ({error.strerror}); {who}") from None


def read(path: Path, environ: Mapping[str, str], stands_for: Path | None = None) -> Settings:
    """The settings of the file, which may be read as if it were another, see `load`. Raises Refused."""
    try:
        return load(path, environ=environ, stands_for=stands_for)
    except ConfigError as error:
        raise Refused(str(error)) from None


def settings_of(context: click.Context, config: Path) -> Settings:
    """The settings of the service, which may have been started without a file. Raises Refused."""
    found = configured(context, config)
    try:
        return load(found, environ=service_environ(found))
    except ConfigError as error:
        raise Refused(str(error)) from None


@contextmanager
def _locked(path: Path) -> Iterator[tuple[Path, int]]:
    """The file, open and locked: the one that has this name once the lock is held."""
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise Refused(f"{path}: must be a regular file")
            if os.path.samestat(state, os.stat(path)):
                yield path, descriptor
                return
        finally:
            os.close(descriptor)


def _replace(target: Path, old: int, text: str, shown: Path, environ: Mapping[str, str]) -> Settings:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    beside = Path(name)
    try:
        with open(descriptor, "wb") as stream:
            _copy_rights(old, descriptor)
            stream.write(text.encode())
            stream.flush()
            os.fsync(descriptor)
        settings = read(beside, environ, shown)
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return settings


def _copy_rights(old: int, new: int) -> None:
    """Owner, mode, and the extended attributes, among which are access lists and security labels."""
    state, mine = os.fstat(old), os.fstat(new)
    if (state.st_uid, state.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(new, state.st_uid, state.st_gid)
    os.fchmod(new, stat.S_IMODE(state.st_mode))
    try:
        names = os.listxattr(old)
    except OSError:
        return
    for name in names:
        try:
            os.setxattr(new, name, os.getxattr(old, name))
        except OSError:
            # Labels are for the system to set; but without an access list the mode alone would admit others.
            if name.startswith("system."):
                raise
