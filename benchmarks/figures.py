"""What was measured, what was to be reached, and the table that tells both. No input or output here."""

import statistics
from collections.abc import Mapping, Sequence

from attrs import field, frozen

US = "depproxy"
REGISTRY = "docker-registry"
NGINX = "nginx"
DIRECT = "direct"
COLUMNS = (US, REGISTRY, NGINX, DIRECT)


@frozen
class Target:
    """A bound on the median that is judged, depproxy's, or on its ratio to the median of `peer`."""

    bound: float
    at_least: bool = False
    peer: str = ""

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        return f"{word} {self.bound:g}" + (f" x {self.peer}" if self.peer else "")

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@frozen
class Figure:
    """One line of a table: per column (a server) the value of each round, and what the judged one is to reach."""

    row: str
    what: str
    unit: str
    values: Mapping[str, Sequence[float]]
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    # Columns that were not measured well in each round.
    failed: frozenset[str] = field(default=frozenset(), kw_only=True)
    columns: tuple[str, ...] = field(default=COLUMNS, kw_only=True)
    judged: str = field(default=US, kw_only=True)

    def median(self, column: str) -> float | None:
        """The median over the rounds, or None where nothing was measured."""
        values = self.values.get(column)
        return statistics.median(values) if values else None


@frozen
class Verdict:
    """How a figure stands to one of its targets; `value` is the ratio, or the bare median."""

    target: Target
    value: float | None
    failed: bool = False

    @property
    def word(self) -> str:
        if self.failed:
            return "failed"
        if self.value is None:
            return "not measured"
        return "met" if self.target.met_by(self.value) else "short"


def ratio(figure: Figure, peer: str) -> float | None:
    """The judged median over the peer's, or None if one of them is missing or zero."""
    ours, theirs = figure.median(figure.judged), figure.median(peer)
    return ours / theirs if ours is not None and theirs else None


def judge(figure: Figure) -> tuple[Verdict, ...]:
    """One verdict for each target of the figure."""
    return tuple(
        Verdict(
            target,
            ratio(figure, target.peer) if target.peer else figure.median(figure.judged),
            bool(figure.failed & {figure.judged, target.peer}),
        )
        for target in figure.targets
    )


def number(value: float | None) -> str:
    """Three digits that mean something, thousands parted by commas; "-" for what is missing."""
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio_text(value: float | None) -> str:
    """A ratio as the table shows it; three digits, as bounds such as 1.15 need them."""
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def tables(figures: Sequence[Figure]) -> list[list[tuple[str, ...]]]:
    """A table for all figures that have the same columns."""
    return [
        _table(columns, [figure for figure in figures if figure.columns == columns])
        for columns in dict.fromkeys(figure.columns for figure in figures)
    ]


def _table(columns: Sequence[str], figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The lines as cells, the header first; a further target takes a line of its own."""
    lines: list[tuple[str, ...]] = [("what", "unit", *columns, "to reach", "reached", "verdict")]
    for figure in figures:
        cells = (figure.what, figure.unit, *(number(figure.median(column)) for column in columns))
        verdicts = judge(figure)
        if not verdicts:
            lines.append((*cells, "", "", ""))
        for verdict in verdicts:
            shown = ratio_text(verdict.value) if verdict.target.peer else number(verdict.value)
            lines.append((*cells, str(verdict.target), shown, verdict.word))
            cells = ("",) * len(cells)
    return lines


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def plain(lines: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    widths = _widths(lines)
    rule = "  ".join("-" * width for width in widths).rstrip()
    return "\n".join([_joined(lines[0], widths), rule, *(_joined(line, widths) for line in lines[1:])])


def list_table(lines: Sequence[Sequence[str]]) -> str:
    """The table as a reStructuredText list-table."""
    out = [".. list-table::", "   :header-rows: 1", ""]
    for line in lines:
        marks = ["   * -", *["     -"] * (len(line) - 1)]
        # A bare dash would begin a list of its own.
        cells = [cell if cell != "-" else r"\-" for cell in line]
        out.extend(f"{mark} {cell}".rstrip() for mark, cell in zip(marks, cells, strict=True))
    return "\n".join(out)
