"""``depproxy hash-password`` and ``depproxy user``: the accounts of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from depproxy.access.passwords import hash_password
from depproxy.cli.command import RELOAD, Command, Refused, ask_password, config_option, environ, example, near, parsed
from depproxy.cli.edit import add_table, add_value
from depproxy.cli.file import change, read
from depproxy.cli.tables import spelling, written
from depproxy.config import Role, Settings
from depproxy.config.accounts import user_name
from depproxy.config.errors import Wrong, dotted
from depproxy.config.names import group_path
from depproxy.config.roles import role as read_role

_ON_STANDARD_INPUT = "Without a terminal the first line of standard input is the password."


@click.command(
    "hash-password",
    cls=Command,
    short_help="Print the hash of a password.",
    epilog=example("depproxy hash-password", "pass show depproxy/alice | depproxy hash-password"),
)
def hash_password_command() -> None:
    """Ask for a password twice and print the hash that ``password`` of a user wants.

    Without a terminal the first line of standard input is the password.
    """
    click.echo(_hashed(ask_password("Password")))


def _hashed(password: str) -> str:
    try:
        return hash_password(password)
    except ValueError as wrong:
        raise Refused(str(wrong)) from None


@click.group("user", epilog=example("depproxy user add alice --group acme=guest"))
def user() -> None:
    """Add users."""


def _membership(text: str) -> tuple[str, Role]:
    path, equals, role = text.rpartition("=")
    if not equals:
        raise Wrong("must be PATH=ROLE, such as acme=guest")
    return group_path(path), read_role(role, Path())


@user.command(
    cls=Command,
    epilog=example(
        "depproxy user add alice --group acme=guest --group acme/tools=maintainer",
        "depproxy user add ci --no-password-login --group acme=guest --create-groups",
        more=_ON_STANDARD_INPUT,
    ),
)
@click.argument("name", callback=parsed(user_name), metavar="NAME")
@config_option
@click.option("--admin", is_flag=True, help="Owns every group.")
@click.option("--no-password-login", is_flag=True, help="Logs in by tokens only; no password is asked for.")
@click.option(
    "--group",
    "groups",
    callback=parsed(_membership),
    metavar="PATH=ROLE",
    multiple=True,
    help="Makes the user a member; may be given several times.",
)
@click.option("--create-groups", is_flag=True, help="Makes the groups of --group that are not in the file yet.")
def add(
    name: str,
    config: Path,
    admin: bool,
    no_password_login: bool,
    groups: tuple[tuple[str, Role], ...],
    create_groups: bool,
) -> None:
    """Add the user NAME to the configuration file, and to groups in it."""
    if len(dict(groups)) < len(groups):
        raise click.UsageError("--group names a group twice.")
    # Before the password is asked for; what happens to the file meanwhile is looked at again.
    _refuse(config, read(config, environ()), name, groups, create_groups)
    content: dict[str, Any] = {}
    if not no_password_login:
        content["password"] = _hashed(ask_password(f"Password of {name}"))
    else:
        content["password_login"] = False
    if admin:
        content["admin"] = True

    def edit(text: str, settings: Settings) -> str:
        _refuse(config, settings, name, groups, create_groups)
        text = add_table(text, ("users", name), content)
        for path, role in groups:
            text = _with_member(config, text, path, name, role.name.lower())
        return text

    change(config, edit, environ())
    click.echo(f"{name} is added. {RELOAD}", err=True)


def _refuse(config: Path, settings: Settings, name: str, groups: tuple[tuple[str, Role], ...], create: bool) -> None:
    if name in settings.users:
        to_change = "for a new password, replace its hash by what `depproxy hash-password` prints"
        raise Refused(f"{config}: {dotted('users', name)}: is there already; {to_change}")
    for path, _ in groups:
        if path not in settings.groups and not create:
            hint = near(path, settings.groups)
            raise Refused(f"{config}: {dotted('groups', path)}: is not there{hint or '; --create-groups makes it'}")


def _with_member(config: Path, text: str, path: str, name: str, role: str) -> str:
    table = ("groups", spelling(text, path))
    if table[1] not in written(text, "groups"):
        return add_table(text, table, {"members": {name: role}})
    group = written(text, *table)
    if "members" not in group:
        return add_value(text, (*table, "members"), {name: role})
    if name in group["members"]:
        at = dotted(*table, "members", name)
        raise Refused(f"{config}: {at}: is there already; take it out, or leave out --group")
    return add_value(text, (*table, "members", name), role)
