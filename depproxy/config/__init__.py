"""The configuration: TOML in, frozen settings out; the one place with defaults and limits."""

from depproxy.config.accounts import (
    AccessSettings,
    DeployTokenSettings,
    GroupSettings,
    GroupTokenSettings,
    TokenSettings,
    UserSettings,
)
from depproxy.config.endpoints import Listener, parse_listener
from depproxy.config.errors import ConfigError, mask
from depproxy.config.gitlab import GitLabSettings
from depproxy.config.load import load, upstream_option
from depproxy.config.oidc import OidcRule, OidcSettings
from depproxy.config.place import find_admin_socket, find_data
from depproxy.config.reload import taken_over
from depproxy.config.roles import Role
from depproxy.config.schedule import Schedule
from depproxy.config.secret import read_secret
from depproxy.config.settings import (
    CacheSettings,
    IndexSettings,
    MirrorSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    UpstreamSettings,
    image_names,
)
from depproxy.config.units import format_duration, format_size, parse_duration, parse_size
from depproxy.config.warm import HOST_PLATFORMS, WarmSettings

__all__ = [
    "HOST_PLATFORMS",
    "AccessSettings",
    "CacheSettings",
    "ConfigError",
    "DeployTokenSettings",
    "GitLabSettings",
    "GroupSettings",
    "GroupTokenSettings",
    "IndexSettings",
    "Listener",
    "MirrorSettings",
    "OidcRule",
    "OidcSettings",
    "Role",
    "Schedule",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "TokenSettings",
    "UpstreamSettings",
    "UserSettings",
    "WarmSettings",
    "find_admin_socket",
    "find_data",
    "format_duration",
    "format_size",
    "image_names",
    "load",
    "mask",
    "parse_duration",
    "parse_listener",
    "parse_size",
    "read_secret",
    "taken_over",
    "upstream_option",
]
