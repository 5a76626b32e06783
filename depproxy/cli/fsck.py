"""``depproxy fsck``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final

import click

from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import Command, example
from depproxy.cli.output import size, things
from depproxy.plural import plural

# So many findings of a kind are printed, and the others counted.
_SHOWN: Final = 20

_MEANINGS: Final = {
    "no entry": "has no entry in the index",
    "no file": "has an entry in the index, and no file",
    "wrong size": "has another size than its entry in the index",
    "damaged": "has other bytes than its digest says",
    "unreadable": "cannot be read, see the service's log",
}


@click.command(
    cls=Command,
    epilog=example(
        "depproxy fsck",
        "depproxy fsck --verify --repair",
        more="exit status: 0 if all is right, 1 if something was wrong, repaired or not",
    ),
)
@click.option("--verify", is_flag=True, help="Read all files, and compare their bytes with their digests.")
@click.option("--repair", is_flag=True, help="Put right what is wrong.")
@click.option("--json", "as_json", is_flag=True, help="The service's lines as they are, for programs.")
@service_options
def fsck(service: Service, verify: bool, repair: bool, as_json: bool) -> None:
    """Check files against the index, both ways, and the sums that it keeps.

    A repair notes files that the index does not know, forgets what has no file, and removes damaged files, which the
    next pull fetches again. Clients are served meanwhile.
    """
    told = service.follow("fsck", verify=verify, repair=repair)
    last = _print_json(told) if as_json else _show(told)
    if not last["clean"]:
        raise click.exceptions.Exit(1)


def _print_json(told: Iterator[Answer]) -> Answer:
    step: Answer = {}
    for step in told:
        click.echo(json.dumps(step))
    return step


def _show(told: Iterator[Answer]) -> Answer:
    """For people; the last line."""
    seen: Counter[str] = Counter()
    unrepaired = 0
    step: Answer = {}
    for step in told:
        if "found" in step:
            seen[step["found"]] += 1
            unrepaired += not step["repaired"]
            if seen[step["found"]] <= _SHOWN:
                _progress("")
                meaning = _MEANINGS.get(step["found"], step["found"])
                click.echo(f"{step['digest']} {meaning}{_outcome(step['repaired'])}")
        elif not step.get("done"):
            _progress(f"{step['verified']['done']:4.0%}, {size(step['verified']['bytes'])} read")
    _progress("")
    for kind, number in seen.items():
        if number > _SHOWN:
            click.echo(f"{number - _SHOWN:,} {plural(number - _SHOWN, 'other')}: {_MEANINGS.get(kind, kind)}")
    _sum_up(step, sum(seen.values()), unrepaired)
    return step


def _progress(text: str) -> None:
    """On a terminal, in place of what was said before."""
    if sys.stderr.isatty():
        click.echo(f"\r{text:<40}\r", err=True, nl=False)


def _outcome(repaired: bool) -> str:
    return ": repaired" if repaired else ""


def _sum_up(last: Answer, found: int, unrepaired: int) -> None:
    if last["verified"] is not None:
        click.echo(
            f"{things(last['verified'], 'files', 'file is', 'files are')} read, {size(last['verified']['bytes'])}."
        )
    for wrong in last["wrong_sums"] or ():
        whose = "all sizes" if wrong["group"] is None else f"the sizes of group {wrong['group']}"
        sums = f"{wrong['kept']:,} in the index, and {wrong['counted']:,} by its entries"
        click.echo(f"The sum of {whose} is {sums}{_outcome(last['sums_repaired'])}")
    if last["wrong_sums"] is None:
        click.echo("The sums are not compared: the cache changed all the while. Try it when less is pulled.", err=True)
    count_of_sums = len(last["wrong_sums"] or ())
    left = unrepaired + (0 if last["sums_repaired"] else count_of_sums)
    if last["clean"]:
        click.echo("All is right.")
    elif not left:
        wrong = found + count_of_sums
        click.echo(
            f"{wrong:,} {plural(wrong, 'thing was', 'things were')} wrong, and {plural(wrong, 'is', 'are')} repaired."
        )
    else:
        hint = "see the service's log" if last["repair"] else "--repair puts them right"
        click.echo(f"{left:,} {plural(left, 'thing is', 'things are')} wrong; {hint}.")
