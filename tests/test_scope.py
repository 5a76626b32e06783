"""Scopes, by their grammar."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.scope import MAX_SCOPES, InvalidScope, Scope, parse_scopes

KINDS = st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True)
HOSTS = st.sampled_from(("", "cache.example/", "cache.example:5000/", "[::1]:5000/"))
NAMES = st.builds("{}{}".format, HOSTS, st.from_regex(r"[a-z0-9._-]{1,20}(/[A-Za-z0-9._-]{1,20}){0,4}", fullmatch=True))
ACTIONS = st.sets(st.sampled_from(("pull", "push", "delete", "*")), min_size=1)


@st.composite
def scopes(draw: st.DrawFn) -> tuple[str, Scope]:
    kind, name, actions = draw(KINDS), draw(NAMES), draw(ACTIONS)
    plugin = draw(st.sampled_from(("", "(plugin)")))
    return f"{kind}{plugin}:{name}:{','.join(sorted(actions))}", Scope(kind, name, frozenset(actions))


@given(st.lists(st.lists(scopes(), max_size=4), max_size=4))
def test_scopes_of_all_parameters(drawn: list[list[tuple[str, Scope]]]) -> None:
    """Several parameters, and several scopes in one, mean the same (distribution's specification)."""
    expected = tuple(scope for values in drawn for _, scope in values)
    assert parse_scopes([" ".join(text for text, _ in values) for values in drawn]) == expected
    assert parse_scopes([text for values in drawn for text, _ in values]) == expected


@given(scopes())
def test_what_pulls(drawn: tuple[str, Scope]) -> None:
    _, scope = drawn
    assert scope.pulls == (scope.kind == "repository" and bool(scope.actions & {"pull", "*"}))


@pytest.mark.parametrize(
    "text",
    [
        "repository",
        "repository:app",
        ":app:pull",
        "repository::pull",
        "repository:app:",
        'repository:app":pull',
        "Repository:app:pull",
        "repository:app\n:pull",
        "repository:app:pull\n",
        "repository:" + "a" * 513 + ":pull",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidScope, match="is no scope such as"):
        parse_scopes([text])


@given(st.lists(st.text(max_size=60), max_size=4))
def test_anything_is_scopes_or_refused(texts: list[str]) -> None:
    with suppress(InvalidScope):
        assert all(scope.name and scope.actions for scope in parse_scopes(texts))


def test_how_many() -> None:
    many = ["repository:app:pull"] * MAX_SCOPES
    assert len(parse_scopes(many)) == MAX_SCOPES
    with pytest.raises(InvalidScope, match="at most 100"):
        parse_scopes([*many, "repository:app:pull"])
