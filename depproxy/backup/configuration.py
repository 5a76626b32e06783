"""The files that a configuration names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from depproxy.config.endpoints import split_tls


def named_files(settings: Any) -> tuple[Path, ...]:
    """The regular files that settings name, wherever they stand in them, each once; what is a directory or a socket is
    no file."""
    found = [*_paths(settings), *_tls(settings.server.listen)]
    return tuple(path for path in dict.fromkeys(found) if path.is_file())


def beside(configuration: Path, file: Path) -> str | None:
    """The path of a file from the directory that the configuration is in; None if it is not below that."""
    below = os.path.relpath(os.path.abspath(file), os.path.abspath(configuration.parent))
    return None if below.split("/")[0] == ".." else below


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
        return
    inner: Iterable[object] = ()
    if attrs.has(type(value)):
        inner = (getattr(value, field.name) for field in attrs.fields(type(value)))  # type: ignore[arg-type]  # It is one.
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, tuple):
        inner = value
    for part in inner:
        yield from _paths(part)


def _tls(listen: Iterable[str]) -> Iterator[Path]:
    for description in listen:
        _, files = split_tls(description)
        if files is not None:
            yield from _paths(files)
