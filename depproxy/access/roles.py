"""Roles are inherited down the path: a member of acme has that role in acme/tools as well."""

from collections.abc import Collection, Iterator, Mapping

from depproxy.config import GroupSettings, Role


def inherited(direct: Mapping[str, Role], group: str) -> Role | None:
    """The highest of the roles that `direct` gives in `group` and in the groups above it; None if it gives none."""
    return max((direct[path] for path in lineage(group) if path in direct), default=None)


def lineage(group: str) -> Iterator[str]:
    """The path of a group, and of those above it, upwards."""
    while group:
        yield group
        group = group.rpartition("/")[0]


class Memberships:
    """What the members of the configured groups are in each. There is no role in a group that is not configured."""

    def __init__(self, groups: Mapping[str, GroupSettings]) -> None:
        self.groups: Collection[str] = frozenset(groups)
        self._direct: dict[str, dict[str, Role]] = {}
        for path, settings in groups.items():
            for name, role in settings.members.items():
                self._direct.setdefault(name, {})[path] = role

    def role(self, name: str, group: str) -> Role | None:
        """What the user of this name is in `group`, or None."""
        return inherited(self._direct.get(name, {}), group) if group in self.groups else None
