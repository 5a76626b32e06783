"""The cache index that the configuration asks for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from depproxy.config import IndexSettings
from depproxy.index.address import parse_address
from depproxy.index.redis import RedisIndex
from depproxy.index.server import EmbeddedRedis

EMBEDDED = "embedded"


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
    if settings.url == EMBEDDED:
        server = EmbeddedRedis(reactor, data, environ)
        name = "the private redis-server"
        return RedisIndex(reactor, now, server, name, server=server, flush_interval=flush_interval, limit=limit)
    address = parse_address(settings.url)
    return RedisIndex(
        reactor,
        now,
        address.endpoint(reactor, limit),
        str(address),
        credentials=address.credentials,
        database=address.database,
        flush_interval=flush_interval,
        limit=limit,
    )
