"""``depproxy token``: makes, lists and revokes the tokens of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from depproxy.access.passwords import DEPLOY, GROUP, PERSONAL, hash_token, new_secret
from depproxy.access.scopes import enough, in_words
from depproxy.cli.command import RELOAD, Command, Refused, config_option, environ, example, parsed
from depproxy.cli.edit import add_table, remove
from depproxy.cli.expiry import Expiry, expiry
from depproxy.cli.file import change
from depproxy.cli.listing import token_list
from depproxy.cli.statements import Keys
from depproxy.cli.tables import group_table, user_table, written
from depproxy.config import Role, Settings
from depproxy.config.accounts import SCOPES, token_name, user_name
from depproxy.config.errors import dotted
from depproxy.config.names import group_path

_ROLES: Final = tuple(role.name.lower() for role in Role)
# What pulling needs: GitLab's clients have both, and `access.require_write_registry` asks for both.
_PULL: Final = ("read_registry",)
_PULL_STRICTLY: Final = ("read_registry", "write_registry")

user_option = click.option("--user", callback=parsed(user_name), metavar="NAME", help="Whose personal access token.")
group_option = click.option("--group", callback=parsed(group_path), metavar="PATH", help="Which group's token.")
name_option = click.option(
    "--name", callback=parsed(token_name), metavar="NAME", required=True, help="What the token is called."
)


@frozen
class Owner:
    """Whose token it is: exactly one of ``user`` and ``group``."""

    user: str | None
    group: str | None

    @classmethod
    def of(cls, user: str | None, group: str | None) -> Owner:
        """Raises UsageError if it is not one."""
        if (user is None) == (group is None):
            raise click.UsageError("Give either --user or --group.")
        return cls(user, group)

    def table(self, path: Path, settings: Settings, text: str) -> Keys:
        """Where it is in the file. Raises Refused."""
        if self.user is not None:
            return user_table(path, settings, self.user)
        assert self.group is not None
        header = f"[{dotted('groups', self.group)}]"
        return group_table(path, settings, text, self.group, f"add {header} to the file")


@click.group(
    "token",
    epilog=example(
        "depproxy token create --user alice --name laptop --expires 90d",
        "depproxy token list",
        "depproxy token revoke --user alice --name laptop",
    ),
)
def token() -> None:
    """Make, list and revoke tokens."""


@token.command(
    cls=Command,
    epilog=example(
        "depproxy token create --user alice --name laptop --expires 90d",
        "depproxy token create --group acme --deploy --username acme-ci --name ci --expires 2027-01-31",
        "depproxy token create --group acme --role guest --name scanner",
    ),
)
@config_option
@user_option
@group_option
@name_option
@click.option("--deploy", is_flag=True, help="A deploy token of the group, which also covers its subgroups.")
@click.option("--username", callback=parsed(user_name), metavar="NAME", help="The deploy token's own user name.")
@click.option("--role", type=click.Choice(_ROLES), help="An access token of the group, a member with this role.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    help="What it is good for; may be given several times.  [default: what pulling needs]",
)
@click.option(
    "--expires",
    callback=parsed(expiry),
    metavar="WHEN",
    default="never",
    show_default=True,
    help="90d, 2027-01-31 or never.",
)
def create(
    config: Path,
    user: str | None,
    group: str | None,
    name: str,
    deploy: bool,
    username: str | None,
    role: str | None,
    scopes: tuple[str, ...],
    expires: Expiry,
) -> None:
    """Make a token and print its secret, this once.

    The configuration file gets a hash of the secret, not the secret. The token is a user's, or a group's: with --group
    and --deploy, or with --group and --role.
    """
    owner = Owner.of(user, group)
    prefix, kind, own = _kind(owner, deploy, username, role)
    secret = new_secret(prefix)

    def edit(text: str, settings: Settings) -> str:
        strict = settings.access.require_write_registry
        table = (*owner.table(config, settings, text), kind)
        if name in written(text, *table):
            raise Refused(
                f"{config}: {dotted(*table, name)}: is there already; choose another name, or revoke it first"
            )
        content = {
            "hash": hash_token(secret),
            **own,
            "scopes": list(scopes or (_PULL_STRICTLY if strict else _PULL)),
            **({} if expires.moment is None else {"expires": expires.moment}),
        }
        return add_table(text, (*table, name), content)

    settings = change(config, edit, environ())
    click.echo(secret)
    host = settings.server.public_url.partition("://")[2]
    click.echo(f"This secret is shown once: {config} has a hash of it only. It expires: {expires}.", err=True)
    strict = settings.access.require_write_registry
    if scopes and not enough(scopes, strict=strict):
        click.echo(f"It cannot pull, nor log in: that needs the scopes {in_words(strict=strict)}.", err=True)
    click.echo(RELOAD, err=True)
    click.echo(f"Log in: docker login {host} -u {username or user or name} --password-stdin", err=True)


def _kind(owner: Owner, deploy: bool, username: str | None, role: str | None) -> tuple[str, str, dict[str, Any]]:
    """Prefix of the secret, table, and keys of its own, of the kind of token that the options mean."""
    if owner.user is not None:
        if deploy or username or role:
            raise click.UsageError("--deploy, --username and --role are for a group's tokens.")
        return PERSONAL, "tokens", {}
    if deploy == (role is not None):
        raise click.UsageError("Give with --group either --deploy and --username, or --role.")
    if deploy != (username is not None):
        raise click.UsageError("A deploy token needs --username, and no other token has one.")
    if deploy:
        return DEPLOY, "deploy_tokens", {"username": username}
    return GROUP, "access_tokens", {"role": role}


@token.command(
    cls=Command,
    epilog=example(
        "depproxy token revoke --user alice --name laptop",
        "depproxy token revoke --group acme --deploy --name ci",
    ),
)
@config_option
@user_option
@group_option
@name_option
@click.option("--deploy", is_flag=True, help="A deploy token of the group; else it is an access token.")
def revoke(config: Path, user: str | None, group: str | None, name: str, deploy: bool) -> None:
    """Take a token out of the configuration file."""
    owner = Owner.of(user, group)
    if deploy and user is not None:
        raise click.UsageError("--deploy is for a group's tokens.")
    kind, other = ("deploy_tokens", "access_tokens") if deploy else ("access_tokens", "deploy_tokens")

    def edit(text: str, settings: Settings) -> str:
        owned = owner.table(config, settings, text)
        at = (*owned, "tokens" if user is not None else kind, name)
        if name not in written(text, *at[:-1]):
            hint = "; `depproxy token list` shows those that are"
            if user is None and name in written(text, *owned, other):
                hint = f"; there is one among the {other}: {'leave out' if deploy else 'add'} --deploy"
            raise Refused(f"{config}: {dotted(*at)}: is not there{hint}")
        return remove(text, at)

    change(config, edit, environ())
    click.echo(f"{name} is revoked. {RELOAD}", err=True)


token.add_command(token_list)
