"""The configuration: TOML in, frozen settings out; the one place with defaults and limits."""

from depproxy.config.endpoints import Listener, parse_listener
from depproxy.config.errors import ConfigError, mask
from depproxy.config.load import load, upstream_option
from depproxy.config.secret import read_secret
from depproxy.config.settings import (
    CacheSettings,
    GroupSettings,
    IndexSettings,
    MirrorSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    UpstreamSettings,
)
from depproxy.config.units import format_duration, parse_duration

__all__ = [
    "CacheSettings",
    "ConfigError",
    "GroupSettings",
    "IndexSettings",
    "Listener",
    "MirrorSettings",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "UpstreamSettings",
    "format_duration",
    "load",
    "mask",
    "parse_duration",
    "parse_listener",
    "read_secret",
    "upstream_option",
]
