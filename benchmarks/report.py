"""What is kept of a run: a JSON file, and the page of recorded results."""

import datetime
import json
import os
import platform
import re
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from .figures import Figure, judge, list_table, tables
from .plan import Plan

FOLDER = Path(__file__).resolve().parent
OUT = FOLDER / "out"
RESULTS = FOLDER / "RESULTS.rst"

_HEAD = """\
One run of ``make bench`` of {date}, on {machine}; {versions}. All parties shared these cores, the load generator
too; before the run, other work kept {foreign:.2f} cores busy. Values are medians of {rounds} alternating rounds.
Absolute figures are this machine's; what counts are the ratios.
"""

_PAGE = """\
Results
=======

{head}

{tables}

Notes
-----

{notes}
"""


def machine() -> str:
    """The machine in general words."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        system = f"Debian {Path('/etc/debian_version').read_text().strip()}"
    except OSError:
        system = platform.system()
    return f"{os.cpu_count()} cores, {pages / 2**30:.0f} GiB of memory, {system}"


def versions(programs: Mapping[str, str]) -> str:
    """The peers' versions and Python's."""
    found = []
    for name, flag in (("docker-registry", "--version"), ("nginx", "-v")):
        done = subprocess.run([programs[name], flag], capture_output=True, text=True, timeout=10, check=False)
        number = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        found.append(f"{name} {number[0] if number else 'of unknown version'}")
    return ", ".join([*found, f"Python {platform.python_version()}"])


def document(figures: Sequence[Figure], plan: Plan, programs: Mapping[str, str], foreign: float) -> dict[str, object]:
    """The run as plain values for JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(programs),
        "cores_busy_before": round(foreign, 2),
        "plan": attrs.asdict(plan),
        "figures": [
            {
                "row": figure.row,
                "what": figure.what,
                "unit": figure.unit,
                "rounds": dict(figure.values),
                "medians": {server: figure.median(server) for server in figure.values},
                "failed": sorted(figure.failed),
                "verdicts": [
                    {"target": str(verdict.target), "value": verdict.value, "verdict": verdict.word}
                    for verdict in judge(figure)
                ],
                "notes": list(figure.notes),
            }
            for figure in figures
        ],
    }


def write_json(figures: Sequence[Figure], plan: Plan, programs: Mapping[str, str], foreign: float) -> Path:
    """Write the run to a file of its own; its path."""
    OUT.mkdir(exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    target = OUT / f"{plan.name}-{stamp}.json"
    target.write_text(json.dumps(document(figures, plan, programs, foreign), indent=2) + "\n")
    return target


def page(figures: Sequence[Figure], plan: Plan, date: str, versions_text: str, foreign: float) -> str:
    """The page of recorded results in reStructuredText."""
    notes: list[str] = []
    for row in dict.fromkeys(figure.row for figure in figures):
        told = next(figure.notes for figure in figures if figure.row == row)
        notes += [f"{row}", *(f"    - {note}" for note in told if note), ""]
    head = _HEAD.format(date=date, machine=machine(), versions=versions_text, rounds=plan.rounds, foreign=foreign)
    return _PAGE.format(
        head=textwrap.fill(head, 100),
        tables="\n\n".join(map(list_table, tables(figures))),
        notes="\n".join(notes).rstrip(),
    )


def record(figures: Sequence[Figure], plan: Plan, programs: Mapping[str, str], foreign: float) -> Path:
    """Write the page of recorded results; its path."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    RESULTS.write_text(page(figures, plan, date, versions(programs), foreign))
    return RESULTS
