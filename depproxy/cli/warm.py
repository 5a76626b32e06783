"""``depproxy warm``."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import IO, Final, Protocol, cast

import click

from depproxy.cli.bars import Bars
from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import Command, Refused, example
from depproxy.cli.output import json_option, size
from depproxy.config.errors import one_line

_LONGEST_LIST: Final = 1 << 20


@click.command(
    "warm",
    cls=Command,
    epilog=example(
        "depproxy warm alpine:3.20 ghcr.io/org/app",
        "depproxy warm -f images.txt --platform linux/amd64,linux/arm64",
        more="exit status: 0 if all images are in the cache, 1 if one is not, 2 if the command is wrong",
    ),
)
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option(
    "-f",
    "--file",
    "lists",
    type=click.File("r", encoding="utf-8"),
    multiple=True,
    help="A file with one image on each line, and comments after #; - is standard input.",
)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH,...",
    help="Which platforms of an image that has several, such as linux/arm/v7, or all.  [default: the server's own]",
)
@click.option("--group", metavar="PATH", help="The group whose clients will pull them.  [default: the mirror's]")
@json_option
@service_options
def warm(
    service: Service,
    images: tuple[str, ...],
    lists: tuple[IO[str], ...],
    platforms: tuple[str, ...],
    group: str | None,
    as_json: bool,
) -> None:
    """Bring images into the cache ahead of those who will pull them.

    What is in the cache already is not fetched again, and what was interrupted goes on where it stopped. Ctrl-C ends
    it; layers that are being downloaded then are still completed by the service.
    """
    wanted = [*images, *(image for found in lists for image in _listed(found))]
    if not wanted:
        raise click.UsageError("Name at least one IMAGE, or a file that lists them by -f.")
    asked = [part.strip() for text in platforms for part in text.split(",") if part.strip()]
    told = cast(Generator[Answer], service.follow("warm", images=wanted, group=group, platforms=asked))
    try:
        with closing(told) as steps:
            failed = _print_json(steps) if as_json else _show(steps)
    except KeyboardInterrupt:
        click.echo("Nothing more is begun; layers that are being downloaded go on to their end.", err=True)
        raise click.Abort from None
    if failed:
        raise click.exceptions.Exit(1)


def _listed(file: IO[str]) -> Iterator[str]:
    """The images that a file lists. Raises Refused."""
    try:
        text = file.read(_LONGEST_LIST + 1)
    except UnicodeDecodeError:
        raise Refused(f"{file.name}: is not UTF-8; a list has one image on each line") from None
    except OSError as error:
        raise Refused(f"{file.name}: cannot be read ({error.strerror})") from None
    if len(text) > _LONGEST_LIST:
        raise Refused(f"{file.name}: is larger than {_LONGEST_LIST} bytes; a list has one image on each line")
    for line in text.splitlines():
        image = line.partition("#")[0].strip()
        if image:
            yield image


def _print_json(steps: Iterator[Answer]) -> int:
    """Each line as it is; how many images failed."""
    failed = 0
    for step in steps:
        click.echo(json.dumps(step))
        failed = step.get("failed", 0) if step.get("done") is True else failed
    return failed


class _Display(Protocol):
    """Where progress is shown."""

    def layer(self, step: Answer) -> None:
        """A layer has come further."""

    def ended(self, image: str, line: str) -> None:
        """An image has come to its end."""


class _Lines:
    """Without a terminal: a line for each image."""

    def layer(self, step: Answer) -> None:
        """Not told."""

    def ended(self, image: str, line: str) -> None:
        click.echo(line)


def _show(steps: Iterator[Answer]) -> int:
    """For people; how many images failed."""
    failures: list[str] = []
    last: Answer = {}
    opened: AbstractContextManager[_Display] = Bars() if sys.stdout.isatty() else nullcontext(_Lines())
    with opened as display:
        for step in steps:
            event, image = step.get("event"), one_line(str(step.get("image")))
            if event == "layer":
                display.layer(step)
            elif event == "done":
                fetched = f"{size(step['fetched'])} fetched" if step["fetched"] else "was there"
                display.ended(image, f"{image}: done, {size(step['size'])}, {fetched}")
            elif event == "failed":
                failures.append(f"{image}: {one_line(str(step['reason']))}")
                display.ended(image, f"{image}: failed")
            last = step
    _sum_up(last, failures)
    return len(failures)


def _sum_up(last: Answer, failures: Sequence[str]) -> None:
    done = last["images"] - len(failures)
    click.echo(f"{done} {'image is' if done == 1 else 'images are'} in the cache, {size(last['fetched'])} fetched")
    if failures:
        click.echo(f"{len(failures)} {'is' if len(failures) == 1 else 'are'} not:", err=True)
    for failure in failures:
        click.echo(f"  {failure}", err=True)
