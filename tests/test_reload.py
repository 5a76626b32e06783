"""What a reload takes over, for any two configurations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import asdict, evolve
from hypothesis import given
from hypothesis import strategies as st

from depproxy.config import ConfigError, Settings, taken_over
from depproxy.config.errors import dotted
from depproxy.config.keys import fixed
from tests.configurations import load_text, settings

BASE = Path("/srv")
any_settings = settings(BASE).map(lambda drawn: drawn[1])


def flat(found: Settings) -> Iterator[tuple[str, bool, object]]:
    """Every key by its dotted name, whether it needs a restart, and its value; groups and users as one each."""
    parts: dict[tuple[str, ...], object] = {
        (name,): getattr(found, name) for name in ("server", "storage", "index", "cache", "mirror", "access")
    }
    parts |= {("upstreams", name): upstream for name, upstream in found.upstreams.items()}
    for at, part in parts.items():
        for name, value in asdict(part, recurse=False).items():  # type: ignore[arg-type]  # all are attrs classes
            yield dotted(*at, name), name in fixed(type(part)), value
    yield "groups", False, found.groups
    yield "users", False, found.users
    yield "warm", False, found.warm


@given(running=any_settings, wanted=any_settings)
def test_what_is_fixed_stays_and_the_rest_is_new(running: Settings, wanted: Settings) -> None:
    wanted = evolve(wanted, mirror=evolve(wanted.mirror, upstream=running.mirror.upstream))
    result, kept = taken_over(running, wanted)
    before, after = ({key: value for key, _, value in flat(found)} for found in (running, wanted))
    assert list(result.upstreams) == list(running.upstreams)
    for key, is_fixed, value in flat(result):
        taken = before if is_fixed or key not in after else after
        assert value == taken[key], key
    named = {key for key, is_fixed, value in flat(running) if is_fixed and after.get(key, value) != value}
    named |= {dotted("upstreams", name) for name in set(running.upstreams) ^ set(wanted.upstreams)}
    assert sorted(kept) == sorted(named)


def test_the_same_again_changes_nothing() -> None:
    found = load_text('[upstreams."ghcr.io"]\nusername = "x"\npassword_file = "/etc/hostname"\n[groups.acme]\n')
    assert taken_over(found, found) == (found, ())


def test_a_mirror_of_an_upstream_that_is_not_there_yet() -> None:
    wanted = load_text('[upstreams."ghcr.io"]\n[mirror]\nupstream = "ghcr.io"\n')
    with pytest.raises(ConfigError, match=r'mirror\.upstream: "ghcr\.io" is new, which needs a restart'):
        taken_over(load_text(""), wanted)


@given(st.sampled_from(("server.listen", "server.admin_socket", "index.url")))
def test_a_change_that_waits_is_named(key: str) -> None:
    table, name = key.split(".")
    values = {"listen": '["tcp:5001"]', "admin_socket": '"/run/x.sock"', "url": '"redis://redis.example"'}
    assert taken_over(load_text(""), load_text(f"[{table}]\n{name} = {values[name]}\n"))[1] == (key,)


def test_the_admin_socket_is_with_the_data() -> None:
    kept = taken_over(load_text(""), load_text('[storage]\npath = "/srv/elsewhere"\n'))[1]
    assert kept == ("server.admin_socket", "storage.path")
