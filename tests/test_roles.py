"""Roles are inherited down the path, against a plain model."""

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from depproxy.access.roles import Memberships, inherited, lineage
from depproxy.config import GroupSettings, Role

# Few names, so that paths lie above each other; "ab" begins with "a", but is no group in it.
paths = st.lists(st.sampled_from(["a", "ab", "b", "a.b"]), min_size=1, max_size=4).map("/".join)
roles = st.sampled_from(list(Role))
names = st.sampled_from(["alice", "bob"])


def model(direct: dict[str, Role], group: str) -> Role | None:
    """The highest role of all groups that hold this one, or are it."""
    found = [role for path, role in direct.items() if f"{group}/".startswith(f"{path}/")]
    return max(found) if found else None


@given(st.dictionaries(paths, roles, max_size=6), paths)
def test_the_highest_of_the_group_and_those_above(direct: dict[str, Role], group: str) -> None:
    assert inherited(MappingProxyType(direct), group) == model(direct, group)


@given(st.dictionaries(paths, roles, max_size=6), paths, st.sampled_from(["a", "b/ab"]))
def test_a_subgroup_gives_no_less(direct: dict[str, Role], group: str, below: str) -> None:
    above = inherited(direct, group)
    assert above is None or (inherited(direct, f"{group}/{below}") or 0) >= above


@given(st.dictionaries(paths, st.dictionaries(names, roles), max_size=5), names, paths)
def test_memberships_count_in_configured_groups(groups: dict[str, dict[str, Role]], name: str, group: str) -> None:
    memberships = Memberships({path: GroupSettings(path, members=members) for path, members in groups.items()})
    direct = {path: members[name] for path, members in groups.items() if name in members}
    assert memberships.role(name, group) == (model(direct, group) if group in groups else None)


def test_the_path_upwards() -> None:
    assert list(lineage("a/b/c")) == ["a/b/c", "a/b", "a"]
    assert list(lineage("a")) == ["a"]
    assert list(lineage("")) == []
    assert inherited({"": Role.OWNER}, "a") is None


def test_nobody_is_nothing() -> None:
    memberships = Memberships({"a": GroupSettings("a", members={"alice": Role.OWNER})})
    assert memberships.role("bob", "a") is None
    assert memberships.role("alice", "a/b") is None
    assert memberships.role("alice", "") is None
