"""Lists that are warmed at their times, on a clock that the test moves, and the times that cron expressions have."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import datetime

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from depproxy.cache.schedules import LONGEST_WAIT, Schedules
from depproxy.cache.warm import Warmer
from depproxy.config import MirrorSettings, Schedule, WarmSettings, image_names
from depproxy.config.errors import Wrong
from depproxy.config.schedule import schedule
from depproxy.oci.manifest import OCI_MANIFEST
from depproxy.oci.reference import Tag
from tests.cache_tools import NAME, CacheTestCase, Outcome

HEAD = f"HEAD {NAME} manifests/latest"
HOURLY = WarmSettings(images=("alpine",), schedule=Schedule("0 * * * *"), group="acme")
OFTEN = WarmSettings(images=("alpine", "alpine:gone"), schedule=Schedule("*/10 * * * *"), group="acme")


class SchedulesCase(CacheTestCase):
    def setUp(self) -> None:
        super().setUp()
        # What the wall's clock is ahead of the other one.
        self.ahead = 0.0
        # A minute after a full hour, wherever the test runs.
        start = datetime.fromtimestamp(self.cache.now()).replace(minute=1, second=0, microsecond=0)
        self.ahead = start.timestamp() - self.cache.now()
        self.data = b"a layer"
        digest = self.upstream.put_blob(NAME, self.data)
        layer = {"mediaType": "application/x", "digest": digest, "size": len(self.data)}
        body = json.dumps({"mediaType": OCI_MANIFEST, "config": layer, "layers": []}).encode()
        self.upstream.put_manifest(NAME, body, Tag("latest"))
        cache = self.cache
        names = image_names(MirrorSettings(), {"docker.io": cache.upstream_settings})
        warmer = Warmer(names, cache.manifests, cache.blobs, cache.clock, cache.metrics)
        self.schedules = Schedules(warmer, cache.clock, cache.metrics, self.wall)
        self.events: list[LogEvent] = []
        observer: ILogObserver = self.events.append  # type: ignore[assignment]  # any function is one
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def wall(self) -> float:
        return self.cache.now() + self.ahead

    def pass_(self, minutes: float, *, flows: bool = True) -> None:
        """Let time pass, a second at a time, and upstream send what it is asked for, if it `flows`."""
        for _ in range(round(minutes * 60)):
            self.clock.advance(1)
            for stream in self.upstream.streams if flows else ():
                stream.finish()

    def runs(self) -> int:
        """How often the list was run since the last time."""
        return self.asked().count(HEAD)

    def logged(self) -> list[str]:
        told = [event for event in self.events if "depproxy.cache.schedules" in str(event.get("log_namespace"))]
        return [f"{event['log_level'].name}: {formatEvent(event)}" for event in told]

    def counted(self, outcome: str) -> float:
        value: float = self.cache.metrics.warm_runs.labels(outcome)._value.get()
        return value


class Running(SchedulesCase):
    def test_at_its_times(self) -> None:
        self.schedules.replace([HOURLY])
        self.pass_(58.9)
        assert self.runs() == 0
        self.pass_(0.2)
        assert self.runs() == 1
        self.pass_(59)
        assert self.runs() == 0
        self.pass_(1)
        assert self.runs() == 1
        assert self.counted("done") == 2
        assert self.logged() == [
            "info: warm[0]: 1 image warmed, 7 bytes fetched, 0 failed",
            "info: warm[0]: 1 image warmed, 0 bytes fetched, 0 failed",
        ]

    def test_each_list_at_its_own(self) -> None:
        self.schedules.replace([HOURLY, OFTEN])
        self.pass_(60)
        # Every ten minutes, and once more with the hour.
        assert self.runs() == 7
        assert (self.counted("done"), self.counted("failed")) == (1, 6)
        assert self.logged()[0] == (
            "warn: warm[1]: 1 image warmed, 7 bytes fetched, 1 failed; alpine:gone: docker.io: it has no such thing"
        )

    def test_only_some_failures_are_told(self) -> None:
        images = tuple(f"alpine:{number}" for number in range(9))
        self.schedules.replace([evolve(HOURLY, images=images)])
        self.pass_(60)
        (line,) = self.logged()
        assert "9 failed; alpine:0: " in line
        assert "alpine:4: " in line
        assert "alpine:5" not in line
        assert line.endswith("; ...")

    def test_never_two_runs_of_one_list(self) -> None:
        self.schedules.replace([OFTEN])
        self.pass_(25, flows=False)
        assert self.runs() == 1
        assert self.logged() == ["warn: warm[0] is due, but its last run is still under way: skipped"]
        assert self.counted("skipped") == 1
        self.pass_(1)
        assert self.counted("failed") == 1
        self.pass_(10)
        assert self.runs() == 1

    def test_nor_over_a_reload(self) -> None:
        self.schedules.replace([OFTEN])
        self.pass_(10, flows=False)
        self.schedules.replace([OFTEN])
        self.pass_(10, flows=False)
        assert self.runs() == 1
        assert self.counted("skipped") == 1

    def test_the_wall_clock_is_set(self) -> None:
        self.schedules.replace([HOURLY])
        # Forward, past several times: one run makes up for them.
        self.ahead += 5 * 3600
        self.pass_(LONGEST_WAIT / 60)
        assert self.runs() == 1
        self.pass_(30)
        assert self.runs() == 0
        # Back by a day: the next one is not a day away.
        self.ahead -= 24 * 3600
        self.pass_(60)
        assert self.runs() == 1

    def test_other_lists(self) -> None:
        self.schedules.replace([HOURLY])
        self.pass_(30)
        self.schedules.replace([OFTEN, HOURLY])
        self.pass_(29)
        # At 40, 50 and 60 minutes past, and the hourly one as before.
        assert self.runs() == 4
        self.schedules.replace([])
        self.pass_(120)
        assert self.runs() == 0
        assert self.clock.getDelayedCalls() == []
        self.schedules.replace([HOURLY])
        self.pass_(60)
        assert self.runs() == 1

    def test_a_run_under_way_ends_though_its_list_is_gone(self) -> None:
        self.schedules.replace([HOURLY])
        self.pass_(59, flows=False)
        self.schedules.replace([])
        self.pass_(1)
        assert self.counted("done") == 1

    def test_a_mistake_of_ours_does_not_end_it(self) -> None:
        # More than a list may have, which a configuration does not let through.
        images = tuple(f"alpine:{number}" for number in range(1001))
        self.schedules.replace([evolve(OFTEN, images=images)])
        self.pass_(20)
        assert self.errors("internal") == 2
        assert len(self.flushLoggedErrors(ValueError)) == 2  # type: ignore[no-untyped-call]


class Stopping(SchedulesCase):
    def test_between_runs(self) -> None:
        self.schedules.replace([HOURLY])
        assert Outcome(self.schedules.stop()).value is None
        assert self.clock.getDelayedCalls() == []
        self.schedules.replace([OFTEN])
        self.pass_(60)
        assert self.asked() == []

    def test_in_a_run(self) -> None:
        self.schedules.replace([HOURLY])
        self.pass_(59, flows=False)
        assert Outcome(self.schedules.stop()).value is None
        assert self.logged() == ["info: warm[0] is stopped"]
        assert self.counted("done") == self.counted("failed") == 0

    def test_before_any(self) -> None:
        assert Outcome(self.schedules.stop()).value is None


class Times(SynchronousTestCase):
    """In local time, which is another one in another process."""

    def times(self, expression: str, start: str, count: int, zone: str = "CET-1CEST,M3.5.0,M10.5.0/3") -> list[str]:
        """The first times after `start`, which is UTC, in UTC."""
        program = (
            "import sys\nfrom datetime import UTC, datetime\nfrom depproxy.config import Schedule\n"
            "moment = datetime.fromisoformat(sys.argv[2]).replace(tzinfo=UTC).timestamp()\n"
            "for _ in range(int(sys.argv[3])):\n"
            "    moment = Schedule(sys.argv[1]).after(moment)\n"
            "    print(datetime.fromtimestamp(moment, UTC).strftime('%m-%d %H:%M'))\n"
        )
        command = [sys.executable, "-c", program, expression, start, str(count)]
        environment = {"TZ": zone, "PYTHONPATH": ":".join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    def test_local_time(self) -> None:
        assert self.times("0 4 * * *", "2026-01-10T12:00", 2) == ["01-11 03:00", "01-12 03:00"]
        assert self.times("0 4 * * *", "2026-07-10T12:00", 1) == ["07-11 02:00"]
        assert self.times("0 4 * * *", "2026-07-10T12:00", 1, "UTC") == ["07-11 04:00"]

    def test_the_hour_that_is_skipped(self) -> None:
        """At 01:00 UTC of that day two o'clock becomes three."""
        assert self.times("30 2 * * *", "2026-03-28T12:00", 2) == ["03-29 01:30", "03-30 00:30"]
        assert self.times("0 * * * *", "2026-03-28T23:30", 4) == [
            "03-29 00:00",
            "03-29 01:00",
            "03-29 02:00",
            "03-29 03:00",
        ]

    def test_the_hour_that_comes_twice(self) -> None:
        """At 01:00 UTC of that day three o'clock becomes two."""
        assert self.times("30 2 * * *", "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]
        assert self.times("30 2 * * *", "2026-10-25T01:10", 1) == ["10-26 01:30"]
        assert self.times("*/30 * * * *", "2026-10-25T00:00", 3) == ["10-25 00:30", "10-25 02:00", "10-25 02:30"]


@given(st.text("0123456789*,-/#LW ?", max_size=20) | st.text(max_size=20) | st.just("0 4 * * *"), st.integers(0, 2**32))
def test_any_text_is_a_schedule_or_wrong(text: str, moment: int) -> None:
    try:
        found = schedule(text)
    except Wrong as wrong:
        assert "must " in str(wrong)  # noqa: PT017 - most texts are none
    else:
        assert moment < found.after(moment) < math.inf


@given(st.integers(0, 59), st.integers(0, 23), st.integers(1, 12), st.integers(0, 2**32))
def test_the_time_is_one_that_is_written(minute: int, hour: int, month: int, moment: int) -> None:
    at = datetime.fromtimestamp(schedule(f"{minute} {hour} * {month} *").after(moment))
    # An hour that is skipped makes it later.
    assert (at.minute, at.month) == (minute, month)
    assert at.hour in (hour, hour + 1)


@pytest.mark.parametrize("text", ["", "0 4 * *", "0 0 4 * * *", "@daily", "60 * * * *", "0 4 * * MO", "0 4 * * 1" * 50])
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(Wrong, match="as cron has them"):
        schedule(text)


@pytest.mark.parametrize("text", ["0 4 31 2 *", "0 4 30 2 *"])
def test_days_that_never_come(text: str) -> None:
    with pytest.raises(Wrong):
        schedule(text)
