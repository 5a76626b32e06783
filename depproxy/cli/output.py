"""What commands print: for people as lines and tables, for programs as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from depproxy.config.errors import one_line
from depproxy.plural import plural

json_option = click.option("--json", "as_json", is_flag=True, help="The service's answer as it is, for programs.")

Row = Sequence[str]


def print_json(answer: Any) -> None:
    """The answer for programs: its keys stay from one version to the next, new ones may be added."""
    click.echo(json.dumps(answer, indent=2))


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Titles with their values, a line each."""
    width = max((len(title) for title, _ in pairs), default=0)
    for title, value in pairs:
        click.echo(f"{title:<{width}}  {one_line(value)}".rstrip())


def print_table(columns: Sequence[str], rows: Sequence[Row], *, right: Sequence[str] = ()) -> None:
    """
    Rows below the titles of their columns; numbers are in those of ``right``.

    On a terminal what does not fit is folded, else each row is one line and nothing is cut off.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells, right)
        return
    for line in aligned([columns, *cells], [columns.index(title) for title in right]):
        click.echo(line)


def aligned(rows: Sequence[Row], right: Sequence[int] = ()) -> Iterator[str]:
    """The rows as lines of plain text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if number in right else f"{cell:<{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _print_rich(columns: Sequence[str], rows: Sequence[Row], right: Sequence[str]) -> None:
    # A tenth of a second, which only those who look at a table need to spend.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in columns:
        table.add_column(Text(title), justify="right" if title in right else "left", overflow="fold")
    for row in rows:
        # Not as strings: square brackets would be markup.
        table.add_row(*map(Text, row))
    Console().print(table)


def size(count: float | None) -> str:
    """Bytes for people: ``1.4 GiB``; None: unlimited."""
    if count is None:
        return "unlimited"
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def span(seconds: float) -> str:
    """A length of time for people, in its two largest units: ``3d 4h``, ``5m 10s``."""
    left = round(seconds)
    parts: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or (name == "s" and not parts):
            parts.append(f"{number}{name}")
    return " ".join(parts[:2])


def percent(part: float, whole: float) -> str:
    """``93 %``; a dash where there is no whole."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def count(answer: Mapping[str, Any], key: str) -> str:
    """A number of the answer for people; a dash where it is not known."""
    value = answer.get(key)
    return "-" if value is None else f"{value:,}"


def things(answer: Mapping[str, Any], key: str, one: str, several: str = "") -> str:
    """The same, with the word for them: ``1 blob``, ``2,000 blobs``."""
    return f"{count(answer, key)} {plural(answer.get(key, 0), one, several)}"


def ago(moment: float | None, now: float) -> str:
    """How long ago that was: ``3d 4h ago``; a dash where it never was."""
    return "-" if moment is None else f"{span(max(0.0, now - moment))} ago"


def short(digest: str) -> str:
    """As much of a digest as people compare."""
    return digest.partition(":")[2][:12]
