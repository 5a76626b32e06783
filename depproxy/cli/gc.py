"""``depproxy gc``."""

from __future__ import annotations

import click

from depproxy.cli.client import Service, service_options
from depproxy.cli.command import Command, example
from depproxy.cli.output import count, json_option, print_json, print_table, size, things
from depproxy.plural import plural


@click.command(cls=Command, epilog=example("depproxy gc --dry-run", "depproxy gc"))
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@json_option
@service_options
def gc(service: Service, dry_run: bool, as_json: bool) -> None:
    """Remove now what depproxy removes by itself, and say what that was.

    What groups have not read for their ttl (once a day), what is above storage.max_size or a group's quota (at once),
    and entries of the index without a file (once a day). LET GO is what the group holds no more, and REMOVED what of
    that no other group holds. What an earlier run had let go of when it was interrupted is removed, too.
    """
    answer = list(service.follow("gc", dry_run=dry_run))[-1]
    if as_json:
        print_json({key: value for key, value in answer.items() if key != "done"})
        return
    rows = [
        (
            removed["why"],
            removed["group"] or "-",
            count(removed, "blobs"),
            size(removed["let_go_bytes"]),
            count(removed, "removed"),
            size(removed["removed_bytes"]),
            count(removed, "repositories"),
        )
        for removed in answer["removed"]
        if removed["blobs"] or removed["repositories"]
    ]
    earlier = answer["interrupted"]
    if earlier["removed"]:
        rows.append(("interrupted", "-", "-", "-", count(earlier, "removed"), size(earlier["removed_bytes"]), "-"))
    if rows:
        columns = ("WHY", "GROUP", "LET GO", "LET GO SIZE", "REMOVED", "SIZE", "REPOSITORIES FORGOTTEN")
        print_table(columns, rows, right=columns[2:])
    else:
        click.echo("Nothing would go." if dry_run else "Nothing had to go.")
    if answer["adopted"] or answer["forgotten"]:
        files, entries = things(answer, "adopted", "file"), things(answer, "forgotten", "entry", "entries")
        lacks, lack = (plural(answer[key], "has", "have") if dry_run else "had" for key in ("adopted", "forgotten"))
        click.echo(f"{files} {lacks} no entry in the index, {entries} {lack} no file.")
    if dry_run:
        click.echo("Nothing is changed.", err=True)
