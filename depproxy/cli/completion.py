"""``depproxy completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from depproxy.cli.command import Command, example


@click.command(
    cls=Command,
    short_help="Print a script that completes this command in a shell.",
    epilog=example(
        "depproxy completion bash > /etc/bash_completion.d/depproxy",
        'depproxy completion zsh > "${fpath[1]}/_depproxy"',
        "depproxy completion fish > ~/.config/fish/completions/depproxy.fish",
    ),
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which a shell completes commands and options of depproxy."""
    script = get_completion_class(shell)
    assert script is not None, "click has one for each of them"
    click.echo(script(context.find_root().command, {}, "depproxy", "_DEPPROXY_COMPLETE").source())
