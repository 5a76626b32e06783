"""``depproxy ls`` and ``depproxy inspect``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import Command, example
from depproxy.cli.output import ago, count, json_option, print_json, print_pairs, print_table, short, size, span

_IMAGES: Final = ("IMAGE", "DIGEST", "TYPE", "HELD", "OF", "LAST READ", "PINNED")
_MOST: Final = 100_000

group_option = click.option("--group", metavar="PATH", help="The group whose image it is.  [default: the mirror's]")


@click.command(
    cls=Command,
    epilog=example("depproxy ls", "depproxy ls acme", "depproxy ls acme --limit 1000 --json"),
)
@click.argument("group", required=False)
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST),
    default=50,
    show_default=True,
    metavar="N",
    help="So many images, those that the group has read last.",
)
@json_option
@service_options
def ls(service: Service, group: str | None, limit: int, as_json: bool) -> None:
    """List the groups; or the images of a GROUP, the latest read first.

    HELD is how much of an image the group has read, and OF is how much it names: other platforms, too.
    """
    if group is None:
        _print_groups(service.get("ls"), as_json)
        return
    images: list[Answer] = []
    last: Answer = {}
    for told in service.follow("ls/images", group=group, limit=limit):
        if "image" in told:
            images.append(told["image"])
        last = told
    if as_json:
        print_json({"group": last["group"], "images": images, "more": last["more"]})
        return
    print_images(images)
    if not images:
        click.echo(f"Group {last['group']} has no images in the cache.", err=True)
    if last["more"]:
        click.echo(f"There are more; --limit {min(limit * 10, _MOST)} shows them.", err=True)


def _print_groups(answer: Answer, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    rows = [
        (
            group["group"],
            count(group, "repositories"),
            count(group, "blobs"),
            size(group["bytes"]),
            "-" if group["quota"] is None else size(group["quota"]),
            "-" if group["ttl"] is None else span(group["ttl"]),
        )
        for group in answer["groups"]
    ]
    columns = ("GROUP", "REPOSITORIES", "BLOBS", "SIZE", "QUOTA", "TTL")
    print_table(columns, rows, right=columns[1:])


def print_images(images: Sequence[Answer], *, groups: bool = False) -> None:
    """A line for each image of a list; with its group where they are of several ``groups``."""
    now = time.time()
    rows = [
        (
            *([image["group"]] if groups else []),
            image["image"],
            short(image["digest"]),
            _kind(image),
            size(image["held"]),
            size(image["size"]),
            ago(image["read"], now),
            "yes" if image["pinned"] else "",
        )
        for image in images
    ]
    if rows:
        print_table((*(["GROUP"] if groups else []), *_IMAGES), rows, right=("HELD", "OF"))


def _kind(image: Answer) -> str:
    platforms = image["platforms"]
    if len(platforms) > 2:
        return f"{len(platforms)} platforms"
    return ", ".join(platforms) or media_type(image["media_type"])


def media_type(text: str) -> str:
    """A media type in a word or two, where that is possible."""
    kind = text.partition(";")[0].removesuffix("+json").lower()
    for end, word in (
        (".image.index.v1", "index"),
        (".manifest.list.v2", "index"),
        (".manifest.v2", "manifest"),
        (".manifest.v1", "manifest"),
        (".image.config.v1", "config"),
        (".container.image.v1", "config"),
    ):
        if kind.endswith(end):
            return word
    return "layer" if ".layer." in kind or ".rootfs." in kind else text


@click.command(cls=Command, epilog=example("depproxy inspect alpine:3.20", "depproxy inspect ghcr.io/org/app --json"))
@click.argument("image")
@group_option
@json_option
@service_options
def inspect(service: Service, image: str, group: str | None, as_json: bool) -> None:
    """Show an IMAGE in every part: platforms, layers, sizes, and what of it is in the cache for whom."""
    answer = service.get("inspect", image=image, group=group)
    if as_json:
        print_json(answer)
        return
    now = time.time()
    print_pairs(
        [
            ("image", answer["image"]),
            ("group", answer["group"]),
            ("digest", answer["digest"]),
            ("type", answer["media_type"]),
            ("in the cache", f"{size(answer['here'])} of {size(answer['size'])}"),
            ("last read", ago(answer["read"], now)),
            *([] if answer["checked"] is None else [("checked upstream", ago(answer["checked"], now))]),
            ("pinned", "yes" if answer["pinned"] else "no"),
            ("groups that may pull it", ", ".join(answer["linked"]) or "-"),
        ]
    )
    click.echo()
    rows = list(_rows(answer["parts"], ""))
    print_table(("PART", "DIGEST", "SIZE", "HERE", "HELD BY"), rows, right=("SIZE",))


def _rows(parts: Sequence[dict[str, Any]], indent: str) -> Iterator[tuple[str, ...]]:
    for part in parts:
        kind = media_type(part["media_type"])
        platform = f" {part['platform']}" if part["platform"] else ""
        yield (
            f"{indent}{kind}{platform}",
            short(part["digest"]),
            "-" if part["size"] is None else size(part["size"]),
            "yes" if part["here"] else "no",
            ", ".join(part["groups"]) or "-",
        )
        yield from _rows(part["parts"], indent + "  ")
