"""What a reload takes over from a changed configuration, and what has to wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, TypeVar

from attrs import evolve

from depproxy.config.errors import ConfigError, dotted
from depproxy.config.keys import fixed
from depproxy.config.settings import IndexSettings, ServerSettings, Settings, StorageSettings, UpstreamSettings

Table = TypeVar("Table", ServerSettings, StorageSettings, IndexSettings, UpstreamSettings)


def taken_over(running: Settings, wanted: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings to go on with, and the keys whose change needs a restart: those are as they were.

    Raises ConfigError where the mirror's upstream would be one that is not there before a restart.
    """
    if wanted.mirror.upstream not in running.upstreams:
        raise ConfigError(f'mirror.upstream: "{wanted.mirror.upstream}" is new, which needs a restart')
    kept: list[str] = []
    settings = evolve(
        wanted,
        server=_keep_fixed(running.server, wanted.server, kept, "server"),
        storage=_keep_fixed(running.storage, wanted.storage, kept, "storage"),
        index=_keep_fixed(running.index, wanted.index, kept, "index"),
        upstreams=MappingProxyType(dict(_upstreams(running, wanted, kept))),
    )
    return settings, tuple(kept)


def _upstreams(running: Settings, wanted: Settings, kept: list[str]) -> Iterator[tuple[str, UpstreamSettings]]:
    for name, upstream in running.upstreams.items():
        if name in wanted.upstreams:
            yield name, _keep_fixed(upstream, wanted.upstreams[name], kept, "upstreams", name)
        else:
            kept.append(dotted("upstreams", name))
            yield name, upstream
    kept += [dotted("upstreams", name) for name in wanted.upstreams if name not in running.upstreams]


def _keep_fixed(running: Table, wanted: Table, kept: list[str], *at: str) -> Table:
    """``wanted`` with the fixed keys of ``running``; those that differ are added to ``kept``."""
    before: dict[str, Any] = {name: getattr(running, name) for name in fixed(type(running))}
    kept += [dotted(*at, name) for name, value in before.items() if getattr(wanted, name) != value]
    return evolve(wanted, **before)
