"""The cache index that the configuration asks for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from depproxy.config import IndexSettings
from depproxy.index.address import parse_address
from depproxy.index.redis import RedisIndex
from depproxy.index.restoring import RestoringIndex
from depproxy.index.server import EmbeddedRedis

EMBEDDED = "embedded"
# Seconds for a command of a restore, for which nobody waits.
RESTORE_LIMIT = 30.0


def make_index(
    reactor: Any,
    settings: IndexSettings,
    data: Path,
    *,
    now: Callable[[], float],
    environ: Mapping[str, str],
    flush_interval: float = 5.0,
    limit: float = 2.0,
) -> RedisIndex:
    """The index of `settings.url`, not started; with "embedded" it brings its redis-server, which lives under
    `data`.

    `now` gives Unix time. `environ` names the PATH and the directories for runtime and temporary files.
    Raises `InvalidAddress` (a ValueError that is fit to be shown) for a URL of no known form.
    """
    server, place = _place(reactor, settings, data, environ, limit)
    return RedisIndex(reactor, now, **place, server=server, flush_interval=flush_interval, limit=limit)


def make_restoring(
    reactor: Any, settings: IndexSettings, data: Path, *, now: Callable[[], float], environ: Mapping[str, str]
) -> RestoringIndex:
    """The same index, to be replaced by what is in a backup; not started. Arguments and errors are the same."""
    server, place = _place(reactor, settings, data, environ, RESTORE_LIMIT)
    return RestoringIndex(reactor, now, **place, server=server, limit=RESTORE_LIMIT)


def _place(
    reactor: Any, settings: IndexSettings, data: Path, environ: Mapping[str, str], limit: float
) -> tuple[EmbeddedRedis | None, Any]:
    """Our own server, or None; and what an index is told of where it is, by name."""
    if settings.url == EMBEDDED:
        server = EmbeddedRedis(reactor, data, environ)
        return server, {"endpoint": server, "name": "the private redis-server"}
    address = parse_address(settings.url)
    return None, {
        "endpoint": address.endpoint(reactor, limit),
        "name": str(address),
        "credentials": address.credentials,
        "database": address.database,
    }
