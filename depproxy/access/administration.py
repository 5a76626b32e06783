"""Who may see the settings of a group, who may change them, and who may purge its cache."""

from collections.abc import Mapping

from attrs import frozen
from twisted.logger import Logger

from depproxy.access.choices import ENABLED, Choice, TTLPolicy
from depproxy.access.errors import Unauthenticated, no_role, turned_off
from depproxy.access.gate import role_of, told
from depproxy.access.groups import Groups
from depproxy.access.interface import ICaller, Login
from depproxy.access.logins import known_by, prove
from depproxy.access.portal import Account, Accounts
from depproxy.access.settings import Effective, RunTimeSettings
from depproxy.access.throttle import Throttle
from depproxy.coalesce import apart
from depproxy.config import Role
from depproxy.index.interface import IndexUnavailable
from depproxy.oci.errors import Code, OCIError
from depproxy.upstream.interface import Credential


@frozen
class Shown:
    """What a member is shown of his group: what is in force, and whether the configuration has the group turned on."""

    group: str
    effective: Effective
    ttl: TTLPolicy
    configured_on: bool


# For whoever got his login wrong.
ADVICE = "send an access token, or a user name with its password"


class Administration:
    """What owners may do, for those who may. Raises Unauthenticated; OCIError: DENIED, TOOMANYREQUESTS, UNAVAILABLE."""

    _log = Logger()

    def __init__(self, groups: Groups, accounts: Accounts, throttle: Throttle, settings: RunTimeSettings) -> None:
        self._groups = groups
        self._accounts = accounts
        self._throttle = throttle
        self._settings = settings

    def replace(self, groups: Groups, accounts: Accounts) -> None:
        """Go on by other rules."""
        self._groups = groups
        self._accounts = accounts

    async def show(self, login: Login | None, caller: ICaller, group: str) -> Shown:
        """What is in force for a group, also what another process has just changed. Every role may ask."""
        await self._member(login, caller, group)
        try:
            await self._settings.refresh()
        except IndexUnavailable as error:
            # What goes on counting is the right answer.
            self._log.warn("the settings of group {group} may have changed: {error}", group=group, error=str(error))
        return self._shown(group)

    async def change(
        self, login: Login | None, caller: ICaller, group: str, choices: Mapping[str, Choice | None]
    ) -> Shown:
        """Make these choices for a group, by their keys; None takes one back. Owners may."""
        account = await self._owner(login, caller, group, "change settings")
        above = self._groups.off(group)
        if choices.get(ENABLED) is True and above is not None:
            raise turned_off(group, above)
        return await apart(lambda: self._change(account, group, choices))

    async def _change(self, account: Account, group: str, choices: Mapping[str, Choice | None]) -> Shown:
        """To its end, also where the client has left: what is written is in force here, and logged."""
        name = account.identity.name
        try:
            await self._settings.change(group, choices)
        except IndexUnavailable as error:
            self._log.warn("the settings of group {group} were not kept: {error}", group=group, error=str(error))
            raise OCIError(
                Code.UNAVAILABLE, f"group {group}: the cache index does not answer, the change may be lost: try again"
            ) from None
        self._log.info(
            "{name} ({source}) has changed settings of group {group}: {keys}",
            name=name,
            source=account.identity.source,
            group=group,
            keys=", ".join(_told(key, choice) for key, choice in choices.items()) or "nothing",
        )
        return self._shown(group)

    async def may_purge(self, login: Login | None, caller: ICaller, group: str) -> str:
        """Who it is that may purge the group's cache, for the log. Owners may."""
        identity = (await self._owner(login, caller, group, "purge its cache")).identity
        return f"{identity.name} ({identity.source})"

    async def _owner(self, login: Login | None, caller: ICaller, group: str, to_do: str) -> Account:
        account, role = await self._member(login, caller, group)
        name = account.identity.name
        if role < Role.OWNER:
            raise OCIError(Code.DENIED, f"group {group}: {name} is {role.name.lower()}; an owner may {to_do}")
        if not await told(account.administers(), group):
            raise OCIError(Code.DENIED, f"group {group}: a token of {name} needs the scope api to {to_do}")
        return account

    async def _member(self, login: Login | None, caller: ICaller, group: str) -> tuple[Account, Role]:
        if login is None:
            account = await known_by(caller.certificate, self._accounts)
        else:
            account = await prove(login, self._accounts, self._throttle, ADVICE)
        if account is None:
            raise Unauthenticated("a login is needed here: send an access token in the header PRIVATE-TOKEN")
        role = await role_of(account, group)
        if role is None:
            raise no_role(account.identity.name, group)
        return account, role

    def _shown(self, group: str) -> Shown:
        settings = self._settings
        return Shown(group, settings.effective(group), settings.ttl_policy(group), self._groups.off(group) is None)


def _told(key: str, choice: Choice | None) -> str:
    if choice is None:
        return f"{key} taken back"
    return key if isinstance(choice, Credential) else f"{key} = {str(choice).lower()}"
