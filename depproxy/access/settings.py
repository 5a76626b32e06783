"""The settings that owners of groups change at run time, as they are in force now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen
from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from depproxy.access.choices import (
    NO_CHOICES,
    Choice,
    Choices,
    OwnCredential,
    TTLPolicy,
    decode,
    encode,
    nearest,
    ttl_policy,
)
from depproxy.access.sealing import Sealer
from depproxy.config.names import HUB
from depproxy.index.interface import IGroupSettings, IndexUnavailable
from depproxy.oci.errors import Code, OCIError
from depproxy.upstream.errors import Refused
from depproxy.upstream.interface import Credential, IGroupCredentials

# Seconds between two looks at the cache index: what another process changed counts within 5.
REFRESH = 3.0
# Groups that may have settings of their own: all of them are in memory.
MAX_GROUPS = 10_000


@frozen
class Effective:
    """What is in force for a group, each with the group that chose it (None: nobody has)."""

    enabled: bool
    enabled_by: str | None
    credential: OwnCredential | None
    credential_by: str | None


@implementer(IGroupCredentials)
class RunTimeSettings:
    """
    All choices of all groups, in memory: nothing that is asked here does I/O, but for `refresh` and `change`.

    A choice is inherited by the groups below, down to one that has made another. While the cache index is unavailable,
    what was known last goes on; before anything is known, no group has chosen anything. `changed` is called after each
    change, whoever made it. `configured_ttls` is the TTL (seconds) of each group that has one in the configuration; it
    may be replaced at any time.
    """

    _log = Logger()

    def __init__(
        self, index: IGroupSettings, sealer: Sealer, clock: IReactorTime, changed: Callable[[], object] = lambda: None
    ) -> None:
        self.changed = changed
        self.configured_ttls: Mapping[str, float] = {}
        self._index = index
        self._sealer = sealer
        self._version: str | None = None
        self._values: dict[str, Mapping[str, bytes]] = {}
        self._table: dict[str, Choices] = {}
        # Whether any group has chosen to be off, and whether any has a credential: most often none, and then nobody
        # needs to look for one.
        self._some_off = self._some_own = False
        self._lock = DeferredLock()
        self._unavailable = False
        self._refresher = LoopingCall(self._refresh_quietly)
        self._refresher.clock = clock

    async def start(self) -> None:
        """Read what there is, as far as the cache index answers, and again and again from now on."""
        self._refresher.start(REFRESH, now=False).addErrback(self._refresher_ended)
        await self._refresh_quietly()

    def stop(self) -> None:
        """Look no more."""
        if self._refresher.running:
            self._refresher.stop()

    def enabled(self, group: str) -> bool:
        """Whether owners have the group turned on."""
        return not self._some_off or self.effective(group).enabled

    def ttl(self, group: str) -> float | None:
        """Seconds for which what nobody pulls stays in the group's cache; None: for ever, or it is not known yet what
        owners have chosen, who may want it to stay for longer than the configuration says."""
        return None if self._version is None else self.ttl_policy(group).seconds

    def ttl_policy(self, group: str) -> TTLPolicy:
        """What `ttl` says, with who says so: owners, or else the configuration."""
        return ttl_policy(self._table, self.configured_ttls, group)

    def find(self, upstream: str, group: str) -> Credential | None:
        """See `IGroupCredentials`: of Docker Hub alone."""
        if not self._some_own or upstream != HUB:
            return None
        found = self.effective(group)
        if found.credential is None:
            return None
        if found.credential.credential is None:
            raise Refused(HUB, _lost(found.credential_by))
        return found.credential.credential

    def credentials(self) -> frozenset[Credential]:
        """All that `find` can give."""
        own = (choices.credential for choices in self._table.values())
        return frozenset(found.credential for found in own if found is not None and found.credential is not None)

    def effective(self, group: str) -> Effective:
        """What is in force for a group, but for what the configuration says."""
        enabled_by, enabled = nearest(self._table, group, lambda choices: choices.enabled) or (None, True)
        credential_by, credential = nearest(self._table, group, lambda choices: choices.credential) or (None, None)
        return Effective(enabled, enabled_by, credential, credential_by)

    async def change(self, group: str, choices: Mapping[str, Choice | None]) -> None:
        """
        Set choices of a group by their keys (see `choices`); None takes one back. They are in force here
        when this returns.

        Raises `IndexUnavailable`: then it may have been done or not; OCIError where too many groups have settings.
        """
        values = {key: encode(group, choice, self._sealer) for key, choice in choices.items()}
        await self._lock.acquire()
        # What was read before this was written must not be taken over after it.
        try:
            if len(self._table) >= MAX_GROUPS and group not in self._table:
                raise OCIError(Code.DENIED, f"more than {MAX_GROUPS} groups cannot have settings of their own")
            await self._index.write_settings(group, values)
            kept = {**self._values.get(group, {}), **values}
            self._take({**self._values, group: {key: value for key, value in kept.items() if value is not None}})
        finally:
            self._lock.release()

    async def refresh(self) -> None:
        """Take over what other processes have changed. Raises `IndexUnavailable`."""
        await self._lock.acquire()
        try:
            table = await self._index.read_settings(self._version)
            if table is not None:
                self._version = table.version
                self._take(table.groups)
        finally:
            self._lock.release()

    def _take(self, groups: Mapping[str, Mapping[str, bytes]]) -> None:
        values = {group: found for group, found in groups.items() if found}
        if values == self._values:
            return
        table: dict[str, Choices] = {}
        for group, found in values.items():
            same = found == self._values.get(group)
            table[group] = self._table[group] if same else self._decoded(group, found)
        self._values, self._table = values, table
        self._some_off = any(choices.enabled is False for choices in table.values())
        self._some_own = any(choices.credential is not None for choices in table.values())
        self.changed()

    def _decoded(self, group: str, values: Mapping[str, bytes]) -> Choices:
        choices = decode(group, values, self._sealer)
        if choices.credential is not None and choices.credential.credential is None:
            self._log.error(
                "{trouble}: the key in {path} is not the one that it was sealed with",
                trouble=_lost(group),
                path=str(self._sealer.path),
            )
        elif choices == NO_CHOICES:
            self._log.warn("the settings of group {group} cannot be read; they are left out", group=group)
        return choices

    async def _refresh_quietly(self) -> None:
        """Refresh, and log a failure once. Raises nothing: a LoopingCall ends at an exception."""
        try:
            await self.refresh()
        except CancelledError:
            raise
        except IndexUnavailable as error:
            if not self._unavailable:
                known = "the configuration alone counts" if self._version is None else "those known last go on"
                self._log.warn("the settings of groups cannot be read, {known}: {error}", known=known, error=str(error))
            self._unavailable = True
        except Exception:
            self._log.failure("the settings of groups could not be read")
        else:
            self._unavailable = False

    def _refresher_ended(self, failure: Failure) -> None:
        self._log.failure("the settings of groups are not read any more", failure=failure)


def _lost(group: str | None) -> str:
    return f"the Docker Hub secret of group {group} cannot be read any more: an owner of the group must set it again"
