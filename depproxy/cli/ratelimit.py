"""``depproxy ratelimit``."""

from __future__ import annotations

import click

from depproxy.cli.client import Service, service_options
from depproxy.cli.command import Command, example
from depproxy.cli.output import count, json_option, print_json, print_table, span


@click.command(
    cls=Command,
    epilog=example("depproxy ratelimit", "depproxy ratelimit docker.io --json", "depproxy ratelimit ghcr.io"),
)
@click.argument("upstream", required=False, metavar="[UPSTREAM]")
@service_options
@json_option
def ratelimit(service: Service, upstream: str | None, as_json: bool) -> None:
    """Say how many pulls an upstream still allows.

    Docker Hub is asked, by a request that it does not count as a pull; it is meant if no UPSTREAM is named. Of any
    other it is told what its last answers said.
    """
    answer = service.get("ratelimit", upstream=upstream)
    if as_json:
        print_json(answer)
        return
    if not answer["rate_limits"]:
        when = "" if answer["asked"] else " since depproxy was started"
        click.echo(f"{answer['upstream']} has said nothing about limits{when}.")
        return
    asked_as = "" if answer["username"] is None else f", asked as {answer['username']}"
    click.echo(f"{answer['upstream']}{asked_as}")
    print_table(
        ("LEFT", "OF", "IN", "COUNTED FOR"),
        [
            (
                count(limit, "remaining"),
                count(limit, "limit"),
                "-" if limit["window"] is None else span(limit["window"]),
                limit["source"] or "-",
            )
            for limit in answer["rate_limits"]
        ],
        right=("LEFT", "OF"),
    )
