"""``depproxy token list``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from depproxy.cli.command import Command, config_option, environ, example, parsed
from depproxy.cli.file import read
from depproxy.cli.output import aligned
from depproxy.cli.tables import group_table, user_table
from depproxy.config import Settings, TokenSettings
from depproxy.config.accounts import user_name
from depproxy.config.names import group_path


@frozen
class Listed:
    """A token, and of whom and what kind it is. The hash is left out."""

    where: str
    owner: dict[str, Any]
    token: TokenSettings

    def expired(self, now: float) -> bool:
        """Whether it is good for nothing any more."""
        return self.token.expires is not None and self.token.expires <= now

    def row(self, now: float) -> tuple[str, ...]:
        """Its line of the table."""
        expires = "never" if self.token.expires is None else f"{_utc(self.token.expires):%Y-%m-%d %H:%M}"
        if self.expired(now):
            expires += " expired"
        return self.where, self.token.name, " ".join(self.token.scopes), expires

    def document(self, now: float) -> dict[str, Any]:
        """The same for programs."""
        expires = self.token.expires
        return {
            **self.owner,
            "name": self.token.name,
            "scopes": list(self.token.scopes),
            "expires": None if expires is None else _utc(expires).isoformat().replace("+00:00", "Z"),
            "expired": self.expired(now),
        }


def _utc(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


def tokens(settings: Settings) -> Iterator[Listed]:
    """All tokens, in the order of the file: those of users, then those of groups."""
    for user in settings.users.values():
        for token in user.tokens.values():
            yield Listed(f"user {user.name}", {"user": user.name, "kind": "personal"}, token)
    for group in settings.groups.values():
        for deploy in group.deploy_tokens.values():
            owner = {"group": group.path, "kind": "deploy", "username": deploy.username}
            yield Listed(f"group {group.path}, deploy as {deploy.username}", owner, deploy)
        for access in group.access_tokens.values():
            role = access.role.name.lower()
            owner = {"group": group.path, "kind": "access", "role": role}
            yield Listed(f"group {group.path}, {role}", owner, access)


@click.command(
    "list",
    cls=Command,
    epilog=example("depproxy token list", "depproxy token list --group acme --json"),
)
@config_option
@click.option("--user", callback=parsed(user_name), metavar="NAME", help="Only this user's tokens.")
@click.option(
    "--group", callback=parsed(group_path), metavar="PATH", help="Only this group's tokens, without its subgroups'."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON array for programs, with times in UTC.")
def token_list(config: Path, user: str | None, group: str | None, as_json: bool) -> None:
    """List the tokens: of whom, name, scopes, and when they expire in UTC; never a secret or a hash."""
    settings = read(config, environ())
    if user is not None:
        user_table(config, settings, user)
    if group is not None:
        group_table(config, settings, "", group, "`depproxy check-config` shows the groups")
    wanted = {"user": user, "group": group}
    everything = user is None and group is None
    found = [
        listed
        for listed in tokens(settings)
        if everything or any(name == listed.owner.get(key) for key, name in wanted.items() if name is not None)
    ]
    now = time.time()
    if as_json:
        click.echo(json.dumps([listed.document(now) for listed in found], indent=2))
        return
    if not found:
        click.echo("There are no tokens.", err=True)
        return
    rows = [("WHERE", "NAME", "SCOPES", "EXPIRES"), *(listed.row(now) for listed in found)]
    for line in aligned(rows):
        click.echo(line)
