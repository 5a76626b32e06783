"""Where the data of a service is, and with it the admin socket, as far as a part of the configuration tells."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from depproxy.config import values
from depproxy.config.document import Source, parse, read
from depproxy.config.errors import Wrong, refusal
from depproxy.config.keys import read_table
from depproxy.config.settings import ServerSettings, StorageSettings

_SOCKET: Final = "admin_socket"


def find_admin_socket(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The admin socket of a service with the configuration file at ``path`` (None: no file).

    Nothing else in the file need be right, or readable: what it names may be for the service's eyes alone. Raises
    ConfigError.
    """
    source, document = Source("no file", Path("/")), {}
    if path is not None:
        source, document = (
            Source(os.fspath(path), Path(os.path.abspath(path)).parent),
            parse(os.fspath(path), read(path)),
        )
    server, storage = source.subtable(document, "server"), source.subtable(document, "storage")
    if _SOCKET in server:
        return _only(source, ServerSettings, server, "server", _SOCKET)
    if "path" in storage:
        return default_socket(source, _only(source, StorageSettings, storage, "storage", "path"))
    return default_socket(source, state_directory(environ))


def find_data(path: Path, content: bytes, environ: Mapping[str, str]) -> Path:
    """Where the data of a service is whose configuration file at ``path`` would have this content.

    Nothing else in it need be right, and what it names need not be there. Raises ConfigError.
    """
    source = Source(os.fspath(path), Path(os.path.abspath(path)).parent)
    storage = source.subtable(parse(source.name, content), "storage")
    return _only(source, StorageSettings, storage, "storage", "path") if "path" in storage else state_directory(environ)


def _only(source: Source, settings: type, table: Mapping[str, Any], *at: str) -> Path:
    name = at[-1]
    found: dict[str, Path] = source.read(at[:-1], partial(read_table, settings), {name: table[name]})
    return found[name]


def default_socket(source: Source, data: Path) -> Path:
    """The admin socket beside the data. Raises ConfigError where its path would be too long."""
    try:
        return values.fit_for_socket(data / "admin.sock")
    except Wrong as wrong:
        raise source.refusal(("server", _SOCKET), wrong) from None


def state_directory(environ: Mapping[str, str]) -> Path:
    """systemd's StateDirectory= (systemd.exec(5)), else as the XDG Base Directory spec says."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        if not os.path.isabs(given):
            raise refusal("environment", "STATE_DIRECTORY", Wrong("must be an absolute path"), given)
        return Path(given)
    state = environ.get("XDG_STATE_HOME", "")
    # "If an implementation encounters a relative path ... it should consider the path invalid and ignore it."
    if os.path.isabs(state):
        return Path(state) / "depproxy"
    home = environ.get("HOME", "")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = ""
    if not os.path.isabs(home):
        raise refusal("environment", "HOME", Wrong("must be an absolute path, or storage.path be set"), home)
    return Path(home) / ".local" / "state" / "depproxy"
