"""``depproxy status``."""

from __future__ import annotations

import click

from depproxy.cli.client import Service, service_options
from depproxy.cli.command import Command, example
from depproxy.cli.output import json_option, print_json, print_pairs


@click.command(cls=Command, epilog=example("depproxy status", "depproxy status --json"))
@service_options
@json_option
def status(service: Service, as_json: bool) -> None:
    """Say how the running service is."""
    answer = service.get("status")
    if as_json:
        print_json(answer)
        return
    print_pairs([("version", answer["version"])])
