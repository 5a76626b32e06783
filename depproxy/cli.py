"""The ``depproxy`` command for operators."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from depproxy import __version__
from depproxy.config import ConfigError, Settings, UpstreamSettings, load, mask

_DESCRIPTION = "Looks after depproxy, a pull-through cache for container images."
_EPILOG = """\
examples:
  depproxy check-config /etc/depproxy/depproxy.toml
  depproxy --version

The server itself is started with: twistd --nodaemon --pidfile= depproxy --config /etc/depproxy/depproxy.toml
"""
_CHECK_CONFIG = """\
Reads a configuration file as the server would and prints in short what it means. The first mistake
is told in one line on standard error, with the file, the key, the value and what would be right.
"""
_CHECK_CONFIG_EPILOG = """\
example:
  depproxy check-config /etc/depproxy/depproxy.toml

exit status: 0 if the file is correct, 1 if it is not, 2 if the command is wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of ``arguments`` (default: the process's own) and return its exit status."""
    options = _parser().parse_args(arguments)
    return _check_config(options.file, os.environ)


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="depproxy", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=style, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"depproxy {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    check = commands.add_parser(
        "check-config",
        help="say whether a configuration file is correct",
        description=_CHECK_CONFIG,
        epilog=_CHECK_CONFIG_EPILOG,
        formatter_class=style,
        allow_abbrev=False,
    )
    check.add_argument("file", metavar="FILE", type=Path, help="the configuration file, in TOML")
    return parser


def _check_config(path: Path, environ: Mapping[str, str]) -> int:
    try:
        settings = load(path, environ=environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: correct")
    for title, line in summary(settings):
        print(f"  {title:<11} {line}")
    return 0


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


def _upstream(upstream: UpstreamSettings) -> str:
    parts = [f"{upstream.name} at {upstream.url}"]
    if upstream.username is not None:
        parts.append(f"as {upstream.username}")
    if upstream.proxy is not None:
        parts.append(f"through {upstream.proxy}")
    if upstream.prefixes:
        parts.append(f"also as {', '.join(upstream.prefixes)}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
