"""Whose turn it is to take blobs away."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from depproxy.cache.uses import LONGEST_REST, Turns
from tests.cache_tools import Outcome


def step(turns: Turns) -> tuple[Deferred[str], Outcome[str]]:
    work: Deferred[str] = Deferred()

    async def run() -> str:
        return await work

    return work, Outcome(turns.run(run))


def test_a_rest_three_times_as_long_as_the_step() -> None:
    clock = Clock()
    work, outcome = step(Turns(clock))
    clock.advance(0.1)
    work.callback("done")
    clock.advance(0.29)
    assert outcome.waits
    clock.advance(0.02)
    assert outcome.value == "done"


def test_no_rest_after_what_took_no_time() -> None:
    work, outcome = step(Turns(Clock()))
    work.callback("done")
    assert outcome.value == "done"


def test_the_longest_rest() -> None:
    clock = Clock()
    work, outcome = step(Turns(clock))
    clock.advance(100)
    work.callback("done")
    assert outcome.waits
    clock.advance(LONGEST_REST)
    assert outcome.value == "done"


def test_one_step_at_a_time_and_others_while_one_rests() -> None:
    clock = Clock()
    turns = Turns(clock)
    first, one = step(turns)
    begun: list[int] = []

    async def other() -> int:
        begun.append(1)
        return 2

    two = Outcome(turns.run(other))
    clock.advance(0.3)
    assert not begun
    first.callback("done")
    # Its own time is none: it has waited only.
    assert (begun, two.value) == ([1], 2)
    assert one.waits
    # The rest is not as long as three such steps.
    clock.advance(LONGEST_REST)
    assert one.value == "done"


def test_a_step_that_fails() -> None:
    turns = Turns(Clock())
    work, outcome = step(turns)
    work.errback(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        outcome.value  # noqa: B018
    work, outcome = step(turns)
    work.callback("done")
    assert outcome.value == "done"
