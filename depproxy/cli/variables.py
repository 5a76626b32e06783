"""``depproxy ci-variables``: what GitLab sets in its jobs, for this service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from depproxy.cli.command import Command, Refused, ask_password, config_option, example, near, parsed
from depproxy.cli.file import settings_of
from depproxy.config import Settings
from depproxy.config.errors import dotted
from depproxy.config.names import group_path, host_port
from depproxy.config.values import username

_PREFIX: Final = "CI_DEPENDENCY_PROXY_"
_USER: Final = f"{_PREFIX}USER"
_PASSWORD: Final = f"{_PREFIX}PASSWORD"
_PORTS: Final = {"http": 80, "https": 443}


@click.command(
    "ci-variables",
    cls=Command,
    short_help="Print the CI_DEPENDENCY_PROXY_ variables of a group.",
    epilog=example(
        "depproxy ci-variables --group acme/tools > depproxy.env",
        "depproxy ci-variables --group acme --user acme-ci --format gitlab-runner",
        "depproxy ci-variables --group acme --format github",
    ),
)
@click.pass_context
@config_option
@click.option(
    "--group",
    callback=parsed(group_path),
    metavar="PATH",
    required=True,
    help="The group of the project whose jobs pull.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("dotenv", "gitlab-runner", "github")),
    default="dotenv",
    show_default=True,
    help="NAME=VALUE lines, the line of GitLab Runner's config.toml, or env: of GitHub Actions.",
)
@click.option("--user", callback=parsed(username), metavar="NAME", help="Who logs in, such as a deploy token's user.")
@click.option("--password-stdin", is_flag=True, help="Write a password, too: the first line of standard input.")
def ci_variables(
    context: click.Context, config: Path, group: str, form: str, user: str | None, password_stdin: bool
) -> None:
    """Print the variables that GitLab sets in its jobs, for jobs that pull through this service.

    They follow from the configuration, which has no password to print: take it from a masked variable of the CI.
    """
    if password_stdin and form == "github":
        raise click.UsageError("A password does not belong into a workflow; make it a secret of the repository.")
    settings = settings_of(context, config)
    _check(settings, config, group)
    variables = addresses(settings.server.public_url, group)
    if user is not None:
        variables[_USER] = user
    if password_stdin:
        variables[_PASSWORD] = ask_password("Password")
    if form == "github":
        variables.setdefault(_USER, f"${{{{ vars.{_USER} }}}}")
        variables[_PASSWORD] = f"${{{{ secrets.{_PASSWORD} }}}}"
        click.echo(f"# the job's password is the secret {_PASSWORD} of the repository", err=True)
    elif missing := [name for name in (_USER, _PASSWORD) if name not in variables]:
        click.echo(f"# set {' and '.join(missing)} as variables of the CI, the password masked", err=True)
    for line in _WRITERS[form](variables):
        click.echo(line)


def addresses(public_url: str, group: str) -> dict[str, str]:
    """The variables that name host and group. The port is always written, because credentials count for it."""
    scheme, _, authority = public_url.partition("://")
    host, port = host_port(authority)
    server = f"{host}:{_PORTS[scheme] if port is None else port}"
    images = "dependency_proxy/containers"
    return {
        f"{_PREFIX}SERVER": server,
        f"{_PREFIX}GROUP_IMAGE_PREFIX": f"{server}/{group.partition('/')[0]}/{images}",
        f"{_PREFIX}DIRECT_GROUP_IMAGE_PREFIX": f"{server}/{group}/{images}",
    }


def _check(settings: Settings, config: Path, group: str) -> None:
    """Raise Refused for a group that is not here. Those of a GitLab are known there."""
    if settings.access.gitlab is not None:
        return
    if group not in settings.groups:
        header = dotted("groups", group)
        hint = near(group, settings.groups) or f"; name another group, or add [{header}] to the file"
        raise Refused(f"{config}: {header}: is not there{hint}")
    top = group.partition("/")[0]
    if top not in settings.groups:
        direct = f"{_PREFIX}DIRECT_GROUP_IMAGE_PREFIX"
        click.echo(f"# there is no group {top}: images are to be named by {direct}", err=True)


def _dotenv(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def _runner(variables: Mapping[str, str]) -> list[str]:
    # The runner expands variables in it, and $$ is what it takes for one $. What JSON writes of printable text is a
    # TOML string, too.
    items = [f"{name}={value.replace('$', '$$')}" for name, value in variables.items()]
    return [f"environment = [{', '.join(json.dumps(item, ensure_ascii=False) for item in items)}]"]


def _github(variables: Mapping[str, str]) -> list[str]:
    return ["env:", *(f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in variables.items())]


_WRITERS: Final = {"dotenv": _dotenv, "gitlab-runner": _runner, "github": _github}
