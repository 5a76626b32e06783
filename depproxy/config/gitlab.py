"""The settings of a GitLab that knows accounts and memberships."""

# ruff: noqa: RUF009 - key() makes an attrs field, which is what a class body may call.

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

from attrs import field, frozen

from depproxy.config import names, values
from depproxy.config.errors import Absent, Wrong
from depproxy.config.keys import by, key, read_table
from depproxy.config.units import format_duration, parse_duration
from depproxy.config.values import text

WhenDown = Literal["deny", "last_known"]

_URL: Final = re.compile(r"(https?)://([^/?#@\s]+)((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*)/?")


def gitlab_url(value: str) -> str:
    """Where a GitLab is: ``https``, no slash at its end; plain ``http`` goes to this host alone."""
    if "@" in value:
        raise Wrong("must have no user name or password in the URL")
    found = _URL.fullmatch(value)
    if found is None:
        raise Wrong("must be the https URL of a GitLab, such as https://gitlab.example")
    host, _ = names.host_port(found[2])
    if found[1] == "http" and not names.is_loopback(host):
        raise Wrong("must be an https URL; http, which shows every token to the network, is for loopback only")
    if found[3].endswith(("/api", "/api/v4")):
        raise Wrong("must be the URL of the GitLab itself; /api/v4 is added")
    return f"{found[1]}://{names.host_name(found[2])}{found[3]}"


def _seconds(default: str, low: str, high: str) -> float:
    return key(parse_duration(default), values.duration(low, high))


@frozen
class GitLabSettings:
    """``[access.gitlab]``: the GitLab to ask, and how long its answers count."""

    url: str = field(metadata=by(text(gitlab_url)))
    ca_file: Path | None = key(None, values.certificates)
    token_file: Path | None = key(None, values.readable_file)
    cache: float = _seconds("60s", "1s", "10m")
    when_down: WhenDown = key("deny", values.choice("deny", "last_known"))
    last_known_for: float = _seconds("10m", "1s", "1d")
    timeout: float = _seconds("10s", "1s", "1m")

    @property
    def host(self) -> str:
        """What messages call the instance."""
        return self.url.partition("://")[2]


def gitlab(value: object, base: Path) -> GitLabSettings:
    """Reads the table ``gitlab``."""
    if not isinstance(value, dict):
        raise Wrong("must be a table, written [access.gitlab]")
    content = read_table(GitLabSettings, value, base)
    if "url" not in content:
        raise Wrong("needs the key url", Absent.HIDDEN)
    settings = GitLabSettings(**content)
    if "last_known_for" in content:
        if settings.when_down != "last_known":
            raise Wrong('counts only with when_down = "last_known"', value["last_known_for"], ".last_known_for")
        if settings.last_known_for < settings.cache:
            least = format_duration(settings.cache)
            raise Wrong(f'must not be shorter than cache, "{least}"', value["last_known_for"], ".last_known_for")
    return settings
