"""``depproxy purge``, ``pin``, ``unpin`` and ``pins``."""

from __future__ import annotations

import sys

import click

from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import Command, Refused, example
from depproxy.cli.ls import group_option, print_images
from depproxy.cli.output import json_option, print_json, print_table, size, things
from depproxy.config.errors import one_line


@click.command(
    cls=Command,
    epilog=example(
        "depproxy purge alpine:3.20",
        "depproxy purge --all-tags ghcr.io/org/app --group acme",
        "depproxy purge --all --group acme --yes",
    ),
)
@click.argument("image", required=False)
@click.option("--group", metavar="PATH", help="Whose cache is purged.  [default: that of the mirror's group]")
@click.option("--all-tags", is_flag=True, help="Purge the whole repository that IMAGE names.")
@click.option("--all", "everything", is_flag=True, help="Purge all that the group has.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@service_options
def purge(
    service: Service,
    image: str | None,
    group: str | None,
    all_tags: bool,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove an IMAGE from a group's cache now, or all that the group has.

    What another group holds stays for that group, and what another image of this group needs stays, too. The next pull
    fetches it again.
    """
    if (image is None) != everything:
        raise click.UsageError("Name either an IMAGE, or --all.")
    if everything and all_tags:
        raise click.UsageError("--all-tags needs an IMAGE.")
    if not yes:
        _confirm(service, image, group, all_tags)
    told = list(service.follow("purge", image=image, group=group, all_tags=all_tags, all=everything))
    answer = {key: value for key, value in told[-1].items() if key != "done"}
    if as_json:
        print_json(answer)
        return
    removed = f"{things(answer, 'removed', 'is', 'are')} removed, {size(answer['removed_bytes'])}"
    click.echo(
        f"{answer['image'] or 'All'} of group {answer['group']} is purged:"
        f" {things(answer, 'blobs', 'blob')} that it held, of which {removed}."
    )


def _confirm(service: Service, image: str | None, group: str | None, all_tags: bool) -> None:
    """Ask whether what is named is meant. Raises Refused where it is not there or nobody can be asked, and Abort for a
    no."""
    if not sys.stdin.isatty():
        raise Refused("nobody can be asked here whether to purge that; if it is meant, add --yes")
    flags = {"all_tags": "true"} if all_tags else {"all": "true"} if image is None else {}
    named = service.get("purge/named", image=image, group=group, **flags)
    what = named["image"] or "everything"
    question = f"Purge {'all tags of ' if all_tags else ''}{what} from the cache of group {named['group']}?"
    click.confirm(one_line(question), abort=True, err=True)


@click.command(cls=Command, epilog=example("depproxy pin alpine:3.20", "depproxy pin ghcr.io/org/app --group acme"))
@click.argument("image")
@group_option
@json_option
@service_options
def pin(service: Service, image: str, group: str | None, as_json: bool) -> None:
    """Keep an IMAGE in a group's cache, however long nobody reads it.

    A tag is followed: kept is what it means at the time. A purge removes it all the same.
    """
    answer = service.post("pins/add", image=image, group=group)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['image']} is kept for group {answer['group']}.")
    if not answer["here"]:
        to = "" if group is None else f" --group {answer['group']}"
        click.echo(f"It is not in the cache yet; `depproxy warm{to} {image}` brings it in.", err=True)


@click.command(cls=Command, epilog=example("depproxy unpin alpine:3.20"))
@click.argument("image")
@group_option
@json_option
@service_options
def unpin(service: Service, image: str, group: str | None, as_json: bool) -> None:
    """Keep an IMAGE no longer than others."""
    answer = service.post("pins/remove", image=image, group=group)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['image']} is not pinned for group {answer['group']} any more.")


@click.command(cls=Command, epilog=example("depproxy pins", "depproxy pins --json"))
@json_option
@service_options
def pins(service: Service, as_json: bool) -> None:
    """List the images that are pinned."""
    found: list[Answer] = [told["pin"] for told in service.follow("pins") if "pin" in told]
    if as_json:
        print_json({"pins": found})
        return
    if not found:
        click.echo("No image is pinned.", err=True)
    print_images([pin for pin in found if pin["digest"]], groups=True)
    absent = [(pin["group"], pin["image"]) for pin in found if not pin["digest"]]
    if absent:
        print_table(("GROUP", "NOT IN THE CACHE"), absent)
