"""Groups as the configuration has them: whether they are turned on, and to whom they are open without a token."""

from collections.abc import Mapping

from twisted.internet.interfaces import IAddress

from depproxy.access.networks import Networks
from depproxy.access.roles import lineage
from depproxy.config import GroupSettings, MirrorSettings


class Groups:
    """Asked on every request, so nothing here does I/O."""

    def __init__(self, groups: Mapping[str, GroupSettings], mirror: MirrorSettings, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._off = frozenset(path for path, settings in groups.items() if not settings.enabled)
        self._open = {path: Networks(settings.anonymous) for path, settings in groups.items() if settings.anonymous}
        own = groups[mirror.group].anonymous if mirror.group in groups else ()
        self._open[mirror.group] = Networks((*mirror.anonymous, *own), unix_sockets=mirror.unix_sockets)

    def open_to(self, group: str, address: IAddress) -> bool:
        """Whether a client at this address needs no token for this group. Groups within it are not meant."""
        networks = self._open.get(group)
        return networks is not None and networks.admits(address)

    def off(self, group: str) -> str | None:
        """
        Where the configuration has turned the group off: in itself, in a group that it is in, or for all (""); None:
        nowhere.
        """
        if not self._enabled:
            return ""
        if not self._off:
            return None
        return next((path for path in lineage(group) if path in self._off), None)
