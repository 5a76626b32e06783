"""The table of docs/access.rst: `python -m tests.access_table` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.access_cases import CASES, Told
from tests.access_cases_elsewhere import ELSEWHERE


def rows() -> Iterator[str]:
    """The table, line by line."""
    yield from (
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 34 33 33",
        "",
        "   * - Case",
        "     - Token endpoint",
        "     - Pull",
    )
    for case in (*CASES, *ELSEWHERE):
        yield f"   * - {case.title}"
        yield f"     - {_cell(case.token)}"
        yield f"     - {_cell(case.pull)}"


def _cell(told: Told | None) -> str:
    if told is None:
        return "-"
    return f"{told.status} {told.code}: {told.message}" if told.code else f"{told.status}"


if __name__ == "__main__":
    print("\n".join(rows()))
