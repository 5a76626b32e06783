"""``depproxy du``."""

from __future__ import annotations

from typing import Final

import click

from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import Command, example
from depproxy.cli.output import count, json_option, print_json, print_pairs, print_table, size

_KNOWN: Final = {
    "growing": "downloads under way",
    "incoming": "manifests on their way",
    "keys": "keys",
    "redis": "cache index",
}


@click.command(cls=Command, epilog=example("depproxy du", "depproxy du --json"))
@json_option
@service_options
def du(service: Service, as_json: bool) -> None:
    """Say how much room the cache takes: by group, in all, and beside the blobs.

    SIZE is all that a group holds, and ALONE what no other group holds: so much goes if the group is purged.
    """
    (answer,) = service.follow("du")
    if as_json:
        print_json({key: value for key, value in answer.items() if key != "done"})
        return
    rows = [
        (group["group"], count(group, "blobs"), size(group["bytes"]), size(group["alone"]["bytes"]))
        for group in answer["groups"]
    ]
    if rows:
        columns = ("GROUP", "BLOBS", "SIZE", "ALONE")
        print_table(columns, rows, right=columns[1:])
        click.echo()
    system = answer["file_system"]
    limit = "" if answer["max_size"] is None else f" of {size(answer['max_size'])}"
    print_pairs(
        [
            ("whole cache", _blobs(answer["total"]) + limit),
            ("held by no group", _blobs(answer["nobody"])),
            *(
                (f"{_KNOWN.get(name, 'other files')} ({name}/)", f"{size(directory['bytes'])}, {_files(directory)}")
                for name, directory in answer["directories"].items()
            ),
            ("file system", f"{size(system['free'])} free of {size(system['bytes'])}"),
        ]
    )


def _blobs(share: Answer) -> str:
    return f"{count(share, 'blobs')} {'blob' if share['blobs'] == 1 else 'blobs'}, {size(share['bytes'])}"


def _files(measure: Answer) -> str:
    return f"{count(measure, 'files')} {'file' if measure['files'] == 1 else 'files'}"
