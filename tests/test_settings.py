"""Settings that owners change at run time: inherited, kept, shared by processes, and going on through an outage."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from depproxy.access.choices import (
    CREDENTIAL,
    ENABLED,
    MOST_TTL_DAYS,
    NO_CHOICES,
    TTL_DAYS,
    TTL_ENABLED,
    Choice,
    Choices,
    OwnCredential,
    TTLPolicy,
    decode,
    encode,
    nearest,
    ttl_policy,
)
from depproxy.access.roles import lineage
from depproxy.access.sealing import Sealer
from depproxy.access.settings import MAX_GROUPS, REFRESH, RunTimeSettings
from depproxy.index.interface import IndexUnavailable
from depproxy.oci.errors import OCIError
from depproxy.upstream.errors import Refused
from depproxy.upstream.interface import Credential, IGroupCredentials
from tests.cache_tools import Outcome
from tests.fakes import MemoryIndex
from tests.index_tools import RedisTestCase, until

GROUPS = ("acme", "acme/tools", "acme/tools/ci", "acme/toolsmith", "other", "ac")
ALICE, BOB = Credential("alice", "alice's secret"), Credential("bob", "bob's secret")
KEPT: list[tempfile.TemporaryDirectory[str]] = []


def sealer() -> Sealer:
    """With a key of its own."""
    directory = tempfile.TemporaryDirectory()
    KEPT.append(directory)
    made = Sealer(Path(directory.name) / "keys")
    made.load()
    return made


SEALER = sealer()
groups = st.sampled_from(GROUPS)
switches = st.sampled_from((True, False, None))
credentials = st.one_of(
    st.none(),
    st.builds(
        Credential,
        st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=":"), min_size=1, max_size=20),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    ),
)


all_days = st.none() | st.integers(1, MOST_TTL_DAYS)


# The choices of one group


@given(group=groups, other=groups, enabled=switches, credential=credentials, ttl=switches, days=all_days)
def test_choices_are_read_as_they_were_written(
    group: str, other: str, enabled: bool | None, credential: Credential | None, ttl: bool | None, days: int | None
) -> None:
    chosen: dict[str, Choice | None] = {ENABLED: enabled, CREDENTIAL: credential, TTL_ENABLED: ttl, TTL_DAYS: days}
    written = {key: encode(group, choice, SEALER) for key, choice in chosen.items()}
    values = {key: value for key, value in written.items() if value is not None}
    own = None if credential is None else OwnCredential(credential.username, credential)
    assert decode(group, values, SEALER) == Choices(enabled, own, ttl, days)
    if group != other and credential is not None:
        # Moved to another group, it gives its secret to nobody.
        lost = OwnCredential(credential.username, None)
        assert decode(other, values, SEALER) == Choices(enabled, lost, ttl, days)


def test_a_secret_under_another_name() -> None:
    value = encode("acme", ALICE, SEALER)
    assert value is not None
    moved = value.replace(b" alice", b" mallory")
    assert decode("acme", {CREDENTIAL: moved}, SEALER).credential == OwnCredential("mallory", None)


def test_a_secret_is_not_shown() -> None:
    own = OwnCredential("alice", ALICE)
    assert "secret" not in repr(Choices(True, own)).replace("secret=None", "")
    value = encode("acme", ALICE, SEALER)
    assert value is not None
    assert b"secret" not in value


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"enabled": b"2"},
        {"enabled": b""},
        {"credential": b"junk"},
        {"later": b"1"},
        {"ttl_policy_enabled": b"yes"},
        *({"ttl_days": value} for value in (b"", b"0", b"-1", b"36501", b"000001", b"1e3", b" 7", b"7.0", b"9" * 5000)),
    ],
)
def test_what_was_never_written(values: dict[str, bytes]) -> None:
    assert decode("acme", values, SEALER) == NO_CHOICES


@given(st.dictionaries(groups, st.builds(Choices, switches)), groups)
def test_the_nearest_choice_counts(table: dict[str, Choices], group: str) -> None:
    """As one would say it: from the top down, each group that has chosen has the last word so far."""
    expected = None
    segments = group.split("/")
    for depth in range(1, len(segments) + 1):
        path = "/".join(segments[:depth])
        chosen = table[path].enabled if path in table else None
        if chosen is not None:
            expected = path, chosen
    assert nearest(table, group, lambda choices: choices.enabled) == expected


@given(
    st.dictionaries(groups, st.builds(Choices, st.none(), st.none(), switches, all_days)),
    st.dictionaries(groups, st.integers(1, MOST_TTL_DAYS)),
    groups,
)
def test_the_ttl_policy(table: dict[str, Choices], configured: dict[str, int], group: str) -> None:
    """From the top down again: first the configuration speaks, then the owners, of each part by itself."""
    enabled: tuple[bool, str | None] = False, None
    days: tuple[int, str | None] = 90, None
    segments = group.split("/")
    paths = ["/".join(segments[:depth]) for depth in range(1, len(segments) + 1)]
    for path in paths:
        if path in configured:
            enabled, days = (True, "configuration"), (configured[path], "configuration")
    for path in paths:
        chosen = table.get(path, NO_CHOICES)
        enabled = enabled if chosen.ttl_enabled is None else (chosen.ttl_enabled, path)
        days = days if chosen.ttl_days is None else (chosen.ttl_days, path)
    found = ttl_policy(table, {path: float(count * 86400) for path, count in configured.items()}, group)
    assert found == TTLPolicy(*enabled, *days)
    assert found.seconds == (days[0] * 86400 if enabled[0] else None)


def test_lineage() -> None:
    assert list(lineage("a/b/c")) == ["a/b/c", "a/b", "a"]
    assert list(lineage("a")) == ["a"]


# In force


@implementer(ILogObserver)
class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(formatEvent(event))


class InForce(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.index = MemoryIndex(self.clock.seconds)
        self.log = Log()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)
        self.changes = 0
        self.settings = self.process(changed=self.changed)

    def changed(self) -> None:
        self.changes += 1

    def process(self, key: Sealer = SEALER, **options: Any) -> RunTimeSettings:
        """The settings as another process has them, started."""
        made = RunTimeSettings(self.index, key, self.clock, **options)
        self.start(made)
        return made

    def start(self, settings: RunTimeSettings) -> None:
        assert Outcome(settings.start()).value is None
        self.addCleanup(settings.stop)

    def change(self, group: str, settings: RunTimeSettings | None = None, **choices: Choice | None) -> None:
        assert Outcome((settings or self.settings).change(group, choices)).value is None

    def logged(self, words: str) -> int:
        return sum(words in line for line in self.log.lines)

    def test_interface(self) -> None:
        verifyObject(IGroupCredentials, self.settings)

    def test_nobody_has_chosen(self) -> None:
        assert self.settings.enabled("acme")
        assert self.settings.find("docker.io", "acme") is None
        found = self.settings.effective("acme")
        assert (found.enabled, found.enabled_by, found.credential, found.credential_by) == (True, None, None, None)
        assert (self.settings.credentials(), self.changes) == (frozenset(), 0)

    def test_turning_off(self) -> None:
        self.change("acme", enabled=False)
        assert not self.settings.enabled("acme")
        assert not self.settings.enabled("acme/tools/ci")
        assert self.settings.enabled("acm")
        assert self.settings.enabled("acmeology")
        self.change("acme/tools", enabled=True)
        assert self.settings.enabled("acme/tools/ci")
        assert not self.settings.enabled("acme/toolsmith")
        self.change("acme/tools", enabled=None)
        assert not self.settings.enabled("acme/tools/ci")
        assert self.settings.effective("acme/tools/ci").enabled_by == "acme"
        assert self.changes == 3

    def test_credentials(self) -> None:
        self.change("acme", credential=ALICE)
        self.change("acme/tools", credential=BOB)
        found = [self.settings.find("docker.io", group) for group in ("acme", "acme/x", "acme/tools/ci", "other")]
        assert found == [ALICE, ALICE, BOB, None]
        assert self.settings.credentials() == {ALICE, BOB}
        # Of Docker Hub alone.
        assert self.settings.find("ghcr.io", "acme") is None
        self.change("acme/tools", credential=None)
        assert self.settings.find("docker.io", "acme/tools/ci") == ALICE
        assert self.settings.credentials() == {ALICE}

    def test_the_ttl_policy(self) -> None:
        day = 86400.0
        assert self.settings.ttl("acme") is None
        self.change("acme", ttl_policy_enabled=True)
        assert self.settings.ttl("acme/tools") == 90 * day
        self.change("acme/tools", ttl_days=7)
        assert (self.settings.ttl("acme/tools/ci"), self.settings.ttl("acme")) == (7 * day, 90 * day)
        self.change("acme/tools/ci", ttl_policy_enabled=False)
        assert self.settings.ttl("acme/tools/ci") is None
        assert self.settings.ttl_policy("acme/tools/ci") == TTLPolicy(False, "acme/tools/ci", 7, "acme/tools")
        self.change("acme", ttl_policy_enabled=None)
        assert self.settings.ttl("acme/tools") is None

    def test_the_ttl_of_the_configuration(self) -> None:
        day = 86400.0
        self.settings.configured_ttls = {"acme": 30 * day, "acme/tools": 7 * day}
        found = [self.settings.ttl(group) for group in ("acme", "acme/toolsmith", "acme/tools/ci", "other")]
        assert found == [30 * day, 30 * day, 7 * day, None]
        self.change("acme", ttl_days=14)
        assert self.settings.ttl_policy("acme/tools") == TTLPolicy(True, "configuration", 14, "acme")
        self.change("acme", ttl_policy_enabled=False)
        assert self.settings.ttl("acme/tools") is None
        self.change("acme", ttl_policy_enabled=None, ttl_days=None)
        self.settings.configured_ttls = {}
        assert self.settings.ttl("acme/tools") is None

    def test_the_one_does_not_touch_the_other(self) -> None:
        self.change("acme", enabled=False, credential=ALICE)
        self.change("acme", enabled=None)
        assert self.settings.find("docker.io", "acme") == ALICE
        self.change("acme", credential=None)
        assert self.settings.effective("acme") == self.settings.effective("other")
        assert self.index.settings == {"acme": {}}

    def test_other_processes_see_it_soon(self) -> None:
        told: list[None] = []
        other = self.process(changed=lambda: told.append(None))
        self.change("acme", enabled=False)
        assert other.enabled("acme")
        assert told == []
        self.clock.advance(REFRESH)
        assert REFRESH < 5
        assert not other.enabled("acme")
        # Once, and in the process that made the change not again.
        self.clock.pump([REFRESH] * 3)
        assert (len(told), self.changes) == (1, 1)

    def test_two_processes_change_one_group(self) -> None:
        """Neither has seen what the other did."""
        other = self.process()
        self.change("acme", enabled=False)
        self.change("acme", other, credential=ALICE)
        self.clock.advance(REFRESH)
        for settings in (self.settings, other):
            assert not settings.enabled("acme")
            assert settings.find("docker.io", "acme") == ALICE

    def test_what_was_read_before_does_not_undo_what_was_written_after(self) -> None:
        self.change("other", enabled=False)
        self.process().change("third", {ENABLED: False}).close()
        self.index._settings_version += 1
        self.index.blocked = True
        reading = Outcome(self.settings.refresh())
        writing = Outcome(self.settings.change("acme", {ENABLED: False}))
        assert reading.waits
        while self.index._waiting:
            self.index.release()
        assert (reading.value, writing.value) == (None, None)
        assert not self.settings.enabled("acme")

    def test_who_leaves_while_he_waits(self) -> None:
        self.index.blocked = True
        first, second = (Outcome(self.settings.change("acme", {ENABLED: False})) for _ in range(2))
        second.leave()
        first.leave()
        self.index.release()
        self.change("acme", enabled=False)
        assert not self.settings.enabled("acme")

    def test_an_outage(self) -> None:
        self.change("acme", enabled=False, credential=ALICE)
        self.index.available = False
        self.clock.pump([REFRESH] * 3)
        assert not self.settings.enabled("acme")
        assert self.settings.find("docker.io", "acme") == ALICE
        assert self.logged("those known last go on") == 1
        assert isinstance(Outcome(self.settings.change("acme", {ENABLED: True})).error, IndexUnavailable)
        assert not self.settings.enabled("acme")
        self.index.available = True
        self.clock.advance(REFRESH)
        self.change("acme", enabled=True)
        assert self.settings.enabled("acme")
        self.index.available = False
        self.clock.advance(REFRESH)
        assert self.logged("those known last go on") == 2

    def test_an_outage_at_the_start(self) -> None:
        self.change("acme", enabled=False, ttl_days=365)
        self.index.available = False
        late = self.process()
        late.configured_ttls = {"acme": 7 * 86400.0}
        assert late.enabled("acme")
        # What has gone by the configuration would not come back with the index.
        assert late.ttl("acme") is None
        assert late.find("docker.io", "acme") is None
        assert self.logged("the configuration alone counts: ") == 1
        self.index.available = True
        self.clock.advance(REFRESH)
        assert not late.enabled("acme")
        assert late.ttl("acme") == 365 * 86400.0

    def test_a_lost_key(self) -> None:
        """It is one group's trouble, and he who can mend it is told what to do."""
        self.change("acme", credential=ALICE, enabled=False)
        self.change("other", enabled=False)
        late = self.process(sealer())
        with pytest.raises(Refused, match=r"group acme .* set it again"):
            late.find("docker.io", "acme/tools")
        assert late.find("ghcr.io", "acme/tools") is None
        assert late.find("docker.io", "other") is None
        assert [late.enabled(group) for group in ("acme", "other", "third")] == [False, False, True]
        found = late.effective("acme")
        assert found.credential == OwnCredential("alice", None)
        assert late.credentials() == frozenset()
        self.clock.pump([REFRESH] * 2)
        assert self.logged("group acme cannot be read any more") == 1
        self.change("acme", late, credential=BOB)
        assert late.find("docker.io", "acme/tools") == BOB

    def test_a_secret_that_was_moved_in_redis(self) -> None:
        self.change("acme", credential=ALICE)
        self.index.settings["other"] = dict(self.index.settings["acme"])
        late = self.process()
        assert late.find("docker.io", "acme") == ALICE
        with pytest.raises(Refused):
            late.find("docker.io", "other")

    def test_what_a_later_version_wrote(self) -> None:
        self.index.settings["acme"] = {"enabled": b"maybe", "later": b"1"}
        late = self.process()
        assert late.enabled("acme")
        assert self.logged("group acme cannot be read; they are left out") == 1
        # It is not lost.
        self.change("acme", late, enabled=False)
        assert self.index.settings["acme"] == {"enabled": b"0", "later": b"1"}

    def test_there_are_bounds(self) -> None:
        self.index.settings = {f"g{number}": {"enabled": b"1"} for number in range(MAX_GROUPS)}
        full = self.process()
        assert isinstance(Outcome(full.change("acme", {ENABLED: False})).error, OCIError)
        self.change("g7", full, enabled=False)
        assert not full.enabled("g7")

    def test_it_ends(self) -> None:
        self.settings.stop()
        self.settings.stop()
        assert self.clock.getDelayedCalls() == []
        self.start(self.settings)
        assert len(self.clock.getDelayedCalls()) == 1

    def test_no_secret_is_logged(self) -> None:
        self.change("acme", credential=ALICE)
        self.process(sealer())
        assert self.logged("alice's secret") == 0


class InRedis(RedisTestCase):
    async def prepare(self) -> None:
        self.clock = Clock()
        self.key = Sealer(Path(tempfile.mkdtemp(prefix="dpkeys-")) / "keys")
        self.addCleanup(shutil.rmtree, self.key.path.parent.parent)
        self.key.load()

    async def process(self) -> RunTimeSettings:
        settings = RunTimeSettings(await self.started(), self.key, self.clock)
        await settings.start()
        self.addCleanup(settings.stop)
        return settings

    async def test_two_processes(self) -> None:
        one, two = await self.process(), await self.process()
        await one.change("acme", {ENABLED: False, CREDENTIAL: ALICE})
        assert not one.enabled("acme/tools")
        assert two.enabled("acme/tools")
        self.clock.advance(REFRESH)
        await until(lambda: not two.enabled("acme/tools"))
        assert two.find("docker.io", "acme/tools") == ALICE
        dump = repr(await self.raw("HGETALL", "depproxy:2:settings"))
        assert "alice" in dump
        assert "secret" not in dump

    async def test_redis_is_gone_and_comes_back(self) -> None:
        settings = await self.process()
        await settings.change("acme", {ENABLED: False})
        await self.server.stop()
        with pytest.raises(IndexUnavailable):
            await settings.change("acme", {ENABLED: True})
        with pytest.raises(IndexUnavailable):
            await settings.refresh()
        assert not settings.enabled("acme")
        await self.server.start()
        await until(lambda: self.log.count("connected to R") == 2)
        await settings.change("acme", {ENABLED: True})
        assert settings.enabled("acme")


class Processes(RuleBasedStateMachine):
    """Three processes, an index that comes and goes, and owners who change things in any of them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.index = MemoryIndex(self.clock.seconds)
        self.processes = [RunTimeSettings(self.index, SEALER, self.clock) for _ in range(3)]
        for process in self.processes:
            assert Outcome(process.start()).value is None
        self.chosen: dict[str, Choices] = {}
        self.fresh = True

    @rule(who=st.integers(0, 2), group=groups, enabled=switches)
    def switch(self, who: int, group: str, enabled: bool | None) -> None:
        if self.change(who, group, ENABLED, enabled):
            self.chosen[group] = evolve(self.chosen.get(group, NO_CHOICES), enabled=enabled)
            # At once, though this process may not know what the others did.
            assert enabled is None or self.processes[who].enabled(group) == enabled

    @rule(who=st.integers(0, 2), group=groups, credential=st.sampled_from((ALICE, BOB, None)))
    def set_secret(self, who: int, group: str, credential: Credential | None) -> None:
        if self.change(who, group, CREDENTIAL, credential):
            own = None if credential is None else OwnCredential(credential.username, credential)
            self.chosen[group] = evolve(self.chosen.get(group, NO_CHOICES), credential=own)

    @rule(who=st.integers(0, 2), group=groups, enabled=switches)
    def switch_ttl(self, who: int, group: str, enabled: bool | None) -> None:
        if self.change(who, group, TTL_ENABLED, enabled):
            self.chosen[group] = evolve(self.chosen.get(group, NO_CHOICES), ttl_enabled=enabled)

    @rule(who=st.integers(0, 2), group=groups, days=st.sampled_from((1, 7, None)))
    def set_ttl(self, who: int, group: str, days: int | None) -> None:
        if self.change(who, group, TTL_DAYS, days):
            self.chosen[group] = evolve(self.chosen.get(group, NO_CHOICES), ttl_days=days)

    def change(self, who: int, group: str, key: str, choice: Choice | None) -> bool:
        outcome = Outcome(self.processes[who].change(group, {key: choice}))
        if not self.index.available:
            assert isinstance(outcome.error, IndexUnavailable)
            return False
        assert outcome.value is None
        self.fresh = False
        return True

    @rule(available=st.booleans())
    def outage(self, available: bool) -> None:
        self.index.available = available

    @rule()
    def time_passes(self) -> None:
        self.clock.advance(REFRESH)
        self.fresh = self.fresh or self.index.available

    @invariant()
    def all_agree_after_a_while(self) -> None:
        if not self.fresh:
            return
        for process in self.processes:
            for group in GROUPS:
                enabled, credential = self.expected(group)
                assert process.enabled(group) == enabled
                assert process.find("docker.io", group) == credential
                assert process.ttl_policy(group) == ttl_policy(self.chosen, {}, group)

    def expected(self, group: str) -> tuple[bool, Credential | None]:
        enabled, credential = True, None
        for path in reversed(list(lineage(group))):
            choices = self.chosen.get(path, NO_CHOICES)
            enabled = enabled if choices.enabled is None else choices.enabled
            credential = credential if choices.credential is None else choices.credential.credential
        return enabled, credential

    def teardown(self) -> None:
        for process in self.processes:
            process.stop()


TestProcesses = Processes.TestCase
TestProcesses.settings = profile(max_examples=30, stateful_step_count=20)
