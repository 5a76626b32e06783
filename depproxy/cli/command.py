"""What all commands have in common: how they are declared, refuse, ask for a secret, and find the configuration."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Final

import click
from click.core import ParameterSource

_LONGEST_LINE: Final = 64 << 10


class Refused(click.ClickException):
    """The command cannot be carried out. One line on standard error says why, and what to do; the status is 1."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.format_message(), file=file, err=file is None)


class Command(click.Command):
    """A command that does not repeat surplus arguments: they may be a password that somebody wrote there."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        surplus = super().parse_args(ctx, args)
        if surplus and not ctx.resilient_parsing:
            raise click.UsageError(
                "Too many arguments. Passwords and secrets are none: others could read them there.", ctx
            )
        return surplus


def example(*lines: str, more: str = "") -> str:
    """The end of a command's help. The mark keeps click from filling its lines."""
    shown = "".join(f"  {line}\n" for line in lines)
    return f"\b\n{'examples' if len(lines) > 1 else 'example'}:\n{shown}" + (f"\n{more}" if more else "")


# Where the unit reads its configuration, and what its StateDirectory= makes.
UNIT_CONFIG: Final = Path("/etc/depproxy/depproxy.toml")
UNIT_STATE: Final = "/var/lib/depproxy"

config_option = click.option(
    "--config",
    "-c",
    # Whoever opens it says what to do where that is not possible.
    type=click.Path(path_type=Path, readable=False),
    envvar="DEPPROXY_CONFIG",
    default=UNIT_CONFIG,
    show_default=True,
    show_envvar=True,
    metavar="FILE",
    help="The configuration file.",
)


def parsed(parse: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that reads what is given as ``parse`` does, which raises ValueError with what would be right."""

    def read(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
        try:
            if isinstance(given, tuple):
                return tuple(map(parse, given))
            return None if given is None else parse(given)
        except ValueError as wrong:
            # Without what was given: it may be a secret in the wrong place.
            raise click.BadParameter(str(wrong)) from None

    return read


def near(name: str, known: Iterable[str]) -> str:
    """A hint at what ``name`` may be misspelt for, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f'; did you mean "{found[0]}"?' if found else ""


RELOAD: Final = "It counts after a reload: systemctl reload depproxy"


def ask_password(what: str) -> str:
    """A password: asked for twice on a terminal, without echo, else the first line of standard input.

    Raises Refused for what cannot be read, which is never shown.
    """
    if sys.stdin.isatty():
        password: str = click.prompt(what, hide_input=True, confirmation_prompt="Once more", err=True)
        return _checked(password)
    line = sys.stdin.buffer.readline(_LONGEST_LINE)
    try:
        return _checked(line.removesuffix(b"\n").removesuffix(b"\r").decode())
    except UnicodeDecodeError:
        raise Refused("standard input: is not UTF-8; give the password on one line") from None


def _checked(password: str) -> str:
    if not password:
        raise Refused("standard input: has no password; give it on one line")
    # Such characters cannot be sent in Basic authentication (RFC 7617 section 2).
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in password):
        raise Refused("a password must have no control characters")
    if not password.isprintable() and any(0xD800 <= ord(character) < 0xE000 for character in password):
        raise Refused("the password is not in the terminal's character set; set LANG to a UTF-8 one")
    return password


def configured(context: click.Context, config: Path) -> Path | None:
    """The configuration file of the service; None if nobody has named one, and there is none where it is looked for."""
    given = context.get_parameter_source("config") is not ParameterSource.DEFAULT
    return config if given or config.exists() else None


def service_environ(config: Path | None) -> dict[str, str]:
    """The environment of the service: the unit's configuration leaves storage.path to systemd."""
    found = environ()
    if config == UNIT_CONFIG:
        found.setdefault("STATE_DIRECTORY", UNIT_STATE)
    return found


def environ() -> dict[str, str]:
    """The environment, which says where data goes if the configuration does not."""
    return dict(os.environ)
