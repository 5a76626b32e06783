"""The ``depproxy`` command for operators."""

from __future__ import annotations

import click

from depproxy import __version__
from depproxy.cli.accounts import hash_password_command, user
from depproxy.cli.backup import backup
from depproxy.cli.check import check_config
from depproxy.cli.clients import configure
from depproxy.cli.command import example
from depproxy.cli.completion import completion
from depproxy.cli.du import du
from depproxy.cli.fsck import fsck
from depproxy.cli.gc import gc
from depproxy.cli.keys import keys
from depproxy.cli.ls import inspect, ls
from depproxy.cli.purge import pin, pins, purge, unpin
from depproxy.cli.ratelimit import ratelimit
from depproxy.cli.restore import restore
from depproxy.cli.status import status
from depproxy.cli.tokens import token
from depproxy.cli.variables import ci_variables
from depproxy.cli.warm import warm

_SERVER = "twistd --nodaemon --pidfile= depproxy --config /etc/depproxy/depproxy.toml"


@click.group(
    epilog=example(
        "depproxy status",
        "depproxy ls",
        "depproxy check-config /etc/depproxy/depproxy.toml",
        "depproxy configure docker",
        "depproxy user add alice --group acme=guest",
        "depproxy token create --user alice --name laptop --expires 90d",
        more=f"The server itself is started with:\n\n\b\n  {_SERVER}",
    ),
)
@click.version_option(__version__, message="depproxy %(version)s")
def main() -> None:
    """Looks after depproxy, a pull-through cache for container images."""


for command in (
    status,
    ls,
    du,
    inspect,
    purge,
    pin,
    unpin,
    pins,
    gc,
    fsck,
    warm,
    ratelimit,
    ci_variables,
    configure,
    check_config,
    hash_password_command,
    user,
    token,
    keys,
    backup,
    restore,
    completion,
):
    main.add_command(command)
