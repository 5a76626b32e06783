"""`depproxy warm` before a service that says what the test wants."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from depproxy.cli import main
from tests.test_cli_client import Double, chunked

DIGEST = "sha256:" + "a" * 64
LAYER = {"event": "layer", "image": "a", "digest": DIGEST, "size": 10, "here": 10, "cached": False}
DONE = {"event": "done", "image": "a", "digest": DIGEST, "size": 3 << 20, "fetched": 1 << 20}
FAILED = {"event": "failed", "image": "b", "reason": "docker.io: \u001b[31mno", "fetched": 0}


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    double = Double(tmp_path / "s")
    answer(double, {"images": 0, "failed": 0, "fetched": 0, "done": True})
    yield double
    double.close()


def answer(double: Double, *steps: object) -> None:
    double.answer = chunked(*(json.dumps(step) + "\n" for step in steps))


def warm(double: Double, *arguments: str, told: str | bytes = "") -> Result:
    result = CliRunner().invoke(main, ["warm", "--socket", str(double.path), *arguments], input=told)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def asked(double: Double) -> object:
    head, _, body = double.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/warm ")
    return json.loads(body)


def test_what_is_asked(double: Double, tmp_path: Path) -> None:
    warm(double, "a", "b:1")
    assert asked(double) == {"images": ["a", "b:1"], "platforms": []}
    warm(double, "a", "--platform", "linux/amd64, linux/arm/v7,", "--platform", "all", "--group", "acme")
    expected = {"images": ["a"], "platforms": ["linux/amd64", "linux/arm/v7", "all"], "group": "acme"}
    assert asked(double) == expected
    listed = tmp_path / "list"
    listed.write_text("# all\n  b:1  # one\r\n\n\tc@sha256:1\n#d\ne")
    warm(double, "a", "-f", str(listed), "-f", "-", told="f\n")
    assert asked(double) == {"images": ["a", "b:1", "c@sha256:1", "e", "f"], "platforms": []}


def test_all_done(double: Double) -> None:
    was = {**DONE, "image": "c", "fetched": 0}
    last = {"images": 2, "failed": 0, "fetched": 1 << 20, "done": True}
    answer(double, {"event": "resolving", "image": "a"}, LAYER, DONE, was, last)
    result = warm(double, "a")
    assert result.exit_code == 0
    assert result.stdout == (
        "a: done, 3.0 MiB, 1.0 MiB fetched\nc: done, 3.0 MiB, was there\n2 images are in the cache, 1.0 MiB fetched\n"
    )
    assert result.stderr == ""


def test_some_failed(double: Double) -> None:
    answer(double, FAILED, DONE, {**FAILED, "image": "c"}, {"images": 3, "failed": 2, "fetched": 1 << 20, "done": True})
    result = warm(double, "a")
    assert result.exit_code == 1
    assert result.stdout == (
        "b: failed\na: done, 3.0 MiB, 1.0 MiB fetched\nc: failed\n1 image is in the cache, 1.0 MiB fetched\n"
    )
    # What comes from elsewhere moves no cursor.
    assert result.stderr == "2 are not:\n  b: docker.io: \\x1b[31mno\n  c: docker.io: \\x1b[31mno\n"


@pytest.mark.parametrize("failed", [0, 1])
def test_json(double: Double, failed: int) -> None:
    steps = [LAYER, DONE, {"images": 1, "failed": failed, "fetched": 5, "done": True}]
    answer(double, *steps)
    result = warm(double, "a", "--json")
    assert result.exit_code == failed
    assert [json.loads(line) for line in result.stdout.splitlines()] == steps


def test_an_error_of_the_service(double: Double) -> None:
    answer(double, DONE, {"error": "depproxy gave this up; it may be stopping"})
    for option in ((), ("--json",)):
        result = warm(double, "a", *option)
        assert (result.exit_code, result.stderr) == (1, "depproxy gave this up; it may be stopping\n")


@pytest.mark.parametrize(
    ("arguments", "told", "status", "words"),
    [
        ((), b"", 2, "Name at least one IMAGE, or a file that lists them by -f."),
        (("-f", "-"), b"# none\n", 2, "Name at least one IMAGE"),
        (("-f", "/nonexistent"), b"", 2, "No such file"),
        (("-f", "-"), b"\xff\xfe", 1, "<stdin>: is not UTF-8; a list has one image on each line\n"),
        (("-f", "/"), b"", 2, "Is a directory"),
        (("-f", "-"), b"a\n" * (1 << 20), 1, "<stdin>: is larger than 1048576 bytes"),
    ],
)
def test_what_is_refused(double: Double, arguments: tuple[str, ...], told: bytes, status: int, words: str) -> None:
    result = warm(double, *arguments, told=told)
    assert result.exit_code == status
    assert words in result.stderr
    assert double.request == b""


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(main, ["warm", "--help"])
    assert "depproxy warm alpine:3.20 ghcr.io/org/app" in result.stdout


def test_ctrl_c(double: Double) -> None:
    """What goes on without the command is said."""
    double.answer, double.keep = chunked(json.dumps(DONE) + "\n", last=False), True
    command = [sys.executable, "-m", "depproxy.cli", "warm", "a", "b", "--socket", str(double.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "a: done, 3.0 MiB, 1.0 MiB fetched\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    said = "Nothing more is begun; layers that are being downloaded go on to their end.\nAborted!\n"
    assert (process.returncode, err) == (1, said)
