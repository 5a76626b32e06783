"""``depproxy check-config``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from depproxy.access.htpasswd import read_htpasswd
from depproxy.cli.command import Command, Refused, environ, example
from depproxy.cli.file import read
from depproxy.cli.listing import tokens
from depproxy.config import ConfigError, Settings, UpstreamSettings, mask
from depproxy.config.endpoints import split_tls
from depproxy.web.tls import TLSContexts


@click.command(
    "check-config",
    cls=Command,
    epilog=example(
        "depproxy check-config /etc/depproxy/depproxy.toml",
        more="exit status: 0 if the file is correct, 1 if it is not, 2 if the command is wrong",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Say whether a configuration file is correct.

    Reads FILE as the server would and prints in short what it means. The first mistake is told in one line on standard
    error, with the file, the key, the value and what would be right.
    """
    settings = read(file, environ())
    try:
        _read_files(settings)
    except ConfigError as error:
        raise Refused(str(error)) from None
    click.echo(f"{file}: correct")
    for title, line in summary(settings):
        click.echo(f"  {title:<11} {line}")


def _read_files(settings: Settings) -> None:
    """Read the files that a start reads as well. Raises ConfigError."""
    if settings.access.htpasswd is not None:
        read_htpasswd(settings.access.htpasswd)
    contexts = TLSContexts(settings.server.client_ca, time.time)
    for listen in settings.server.listen:
        _, files = split_tls(listen)
        if files is not None:
            contexts.server(files)


def summary(settings: Settings) -> Iterator[tuple[str, str]]:
    """The settings that an operator looks for first, as titles and lines without passwords."""
    mirror = settings.mirror
    for listen in settings.server.listen:
        yield "listen", listen
    yield "public URL", settings.server.public_url
    yield "storage", os.fspath(settings.storage.path)
    yield "index", mask(settings.index.url)
    for upstream in settings.upstreams.values():
        yield "upstream", _upstream(upstream)
    admitted = [str(network) for network in mirror.anonymous]
    if mirror.unix_sockets:
        admitted.append("unix sockets")
    yield "mirror", f"{mirror.upstream}, group {mirror.group}, open to {', '.join(admitted) or 'nobody'}"
    for group in settings.groups.values():
        yield "group", group.path if group.enabled else f"{group.path} (disabled)"
    for warm in settings.warm:
        yield "warm", f"{_count(len(warm.images), 'image')} for group {warm.group} at {warm.schedule.text}"
    yield "accounts", _accounts(settings)


def _accounts(settings: Settings) -> str:
    parts = [_count(len(settings.users), "user"), _count(sum(1 for _ in tokens(settings)), "token")]
    if settings.access.htpasswd is not None:
        parts.append(f"those of {settings.access.htpasswd}")
    if settings.access.gitlab is not None:
        parts.append(f"those of {settings.access.gitlab.host}")
    parts += [f"those of {issuer.issuer}" for issuer in settings.access.oidc]
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _upstream(upstream: UpstreamSettings) -> str:
    parts = [f"{upstream.name} at {upstream.url}"]
    if upstream.username is not None:
        parts.append(f"as {upstream.username}")
    if upstream.proxy is not None:
        parts.append(f"through {upstream.proxy}")
    if upstream.prefixes:
        parts.append(f"also as {', '.join(upstream.prefixes)}")
    return ", ".join(parts)
