"""What people read: tables on a terminal and elsewhere, sizes and times."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.cli.output import aligned, percent, print_json, print_pairs, print_table, size, span

ROOT = Path(__file__).parent.parent
LONG = "x" * 300
ROWS = [("[bold]a[/]", "1"), (LONG, "1,000"), ("a\x1b[31m\nb", "")]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "unlimited"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (50 << 30, "50.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_size(count: float | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.4, "0s"), (59.6, "1m"), (61, "1m 1s"), (21600, "6h"), (90061, "1d 1h"), (86400 * 400, "400d")],
)
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_percent() -> None:
    assert (percent(1, 3), percent(0, 5), percent(5, 0)) == ("33 %", "0 %", "-")


def test_a_table_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each row, nothing cut off, and what would steer a terminal is shown."""
    print_table(("NAME", "COUNT"), ROWS, right=("COUNT",))
    lines = capsys.readouterr().out.splitlines()
    width = len(LONG)
    assert lines == [
        f"{'NAME':<{width}}  COUNT",
        f"{'[bold]a[/]':<{width}}      1",
        f"{LONG}  1,000",
        "a\\x1b[31m\\nb",
    ]


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=5))
def test_any_rows(rows: list[tuple[str, str]]) -> None:
    lines = list(aligned([("A", "B"), *rows], [1]))
    assert len(lines) == len(rows) + 1


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [])
    print_pairs([])
    assert capsys.readouterr().out == "A  B\n"


def test_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([("a", "1"), ("long", "x\ny"), ("b", "")])
    assert capsys.readouterr().out == "a     1\nlong  x\\ny\nb\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    answer: Any = {"b": 1, "a": [None, "é\x1b"]}
    print_json(answer)
    out = capsys.readouterr().out
    assert json.loads(out) == answer
    assert out.isascii()


def on_terminal(script: str) -> str:
    """What a script prints on a terminal of 60 columns."""
    main, terminal = pty.openpty()
    environ = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    done = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=terminal, env=environ)
    os.close(terminal)
    text = b""
    try:
        while data := os.read(main, 65536):
            text += data
    except OSError:
        # The terminal's other end is closed.
        pass
    os.close(main)
    assert done.wait(60) == 0
    return text.decode()


def test_a_table_on_a_terminal() -> None:
    """What does not fit is folded, not cut; text is no markup."""
    text = on_terminal(f"from depproxy.cli.output import print_table; print_table(('NAME', 'COUNT'), {ROWS!r})")
    assert "[bold]a[/]" in text
    assert text.count("x") == len(LONG) + 1  # and that of \x1b
    assert "\\x1b[31m\\nb" in text


def test_who_prints_no_table_does_not_wait_for_it() -> None:
    """rich takes longer to import than all the rest."""
    script = "import sys; import depproxy.cli; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
