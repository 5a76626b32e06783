"""Who may pull from which group: asked on every request, and answered from memory but for the first time."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.cred.error import UnauthorizedLogin
from twisted.logger import Logger

from depproxy.access.errors import Unauthenticated, no_role, turned_off
from depproxy.access.groups import Groups
from depproxy.access.interface import AccountsUnavailable, ICaller
from depproxy.access.logins import known_by
from depproxy.access.networks import address_text
from depproxy.access.portal import ANONYMOUS, Account, Accounts
from depproxy.access.tokens import Bearer, InvalidToken, Tokens
from depproxy.config import Role
from depproxy.oci.errors import Code, OCIError

T = TypeVar("T")

# What a grant of "everything that the account may" looks like.
EVERYTHING = "*"
# Pairs of a token and a group that were found good lately, and the longest header (bytes) that is remembered.
REMEMBERED = 20_000
LONGEST_REMEMBERED = 2048


class Gate:
    """
    Lets a request pass, or says why not.

    The order of the rules: a group that is open to the client's address needs no token, and none is looked at (docker
    sends the credentials of Docker Hub to a mirror); then a token must be valid; then the account behind it must have a
    role in the group now; then the token must have been asked for with this group; then the group must be turned on, by
    the configuration and, as `turned_on` says, by its owners.
    """

    _log = Logger()

    def __init__(
        self,
        groups: Groups,
        accounts: Accounts,
        tokens: Tokens,
        turned_on: Callable[[str], bool] = lambda group: True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._groups = groups
        self._accounts = accounts
        self._tokens = tokens
        self._turned_on = turned_on
        self._now = now
        # Until when (Unix time) a header's token is good for a group.
        self._passes: dict[tuple[bytes, str], float] = {}

    def replace(self, groups: Groups, accounts: Accounts) -> None:
        """Go on by other rules."""
        self._groups = groups
        self._accounts = accounts
        self.forget()

    def forget(self) -> None:
        """Check every token anew."""
        # Not cleared: a check that is under way goes on by the old rules, and remembers what it found in the old one.
        self._passes = {}

    async def admit(self, group: str, caller: ICaller) -> None:
        """
        Return if the caller may pull from `group`.

        Raises Unauthenticated; OCIError: DENIED, or UNAVAILABLE where a source of accounts cannot be asked.
        """
        authorization, passes = caller.authorization, self._passes
        if authorization is not None and passes.get((authorization, group), 0.0) > self._now():
            return
        if self._groups.open_to(group, caller.address):
            self._refuse_turned_off(group)
            return
        if authorization is None:
            account = await self._by_certificate(caller)
            if account is None:
                raise self._nobody(group, caller)
            grants, expires = frozenset({EVERYTHING}), 0.0
        else:
            bearer = self._bearer(authorization)
            account, grants, expires = self._account(bearer), bearer.grants, bearer.expires
        if await role_of(account, group) is None:
            raise no_role(account.identity.name, group)
        if EVERYTHING not in grants and group not in grants:
            raise Unauthenticated(
                f"the token was not asked for with a scope of group {group}: ask for a new one", "insufficient_scope"
            )
        self._refuse_turned_off(group)
        if authorization is not None and len(authorization) <= LONGEST_REMEMBERED:
            if len(passes) >= REMEMBERED:
                passes.clear()
            passes[authorization, group] = min(expires, self._now() + account.accounts.max_age)

    def _refuse_turned_off(self, group: str) -> None:
        above = self._groups.off(group)
        if above is not None or not self._turned_on(group):
            raise turned_off(group, above)

    async def probe(self, group: str, caller: ICaller) -> None:
        """
        Return if a client without a token may do without one, or if its token is valid. Raises Unauthenticated.

        A client that is let through here never logs in later, so whoever could log in is challenged.
        """
        if caller.authorization is not None:
            self._bearer(caller.authorization)
            return
        known = await self._by_certificate(caller) is not None
        if not known and (self._accounts or not self._groups.open_to(group, caller.address)):
            raise self._nobody(group, caller)

    async def _by_certificate(self, caller: ICaller) -> Account | None:
        return await known_by(caller.certificate, self._accounts) if self._accounts else None

    def _nobody(self, group: str, caller: ICaller) -> Unauthenticated:
        if self._accounts:
            if caller.certificate is not None:
                names = ", ".join(caller.certificate.names)[:200]
                return Unauthenticated(f"group {group}: a login is needed, for no user has a certificate of {names}")
            return Unauthenticated(f"group {group}: a login is needed: docker login, then pull again")
        peer = address_text(caller.address)
        error = Unauthenticated(
            f"group {group}: {peer} is in no network that may pull from it, and there are no accounts here; an operator"
            f" admits networks by anonymous in [mirror] or [groups]"
        )
        # Somebody was forgotten in the configuration: clients seldom show why.
        self._log.warn("{error}", error=error)
        return error

    def _bearer(self, authorization: bytes) -> Bearer:
        scheme, _, token = authorization.partition(b" ")
        # GitLab takes both words.
        if scheme.lower() not in (b"bearer", b"token"):
            raise Unauthenticated(
                "a bearer token is needed here: the token endpoint gives one for a user name and password"
            )
        try:
            return self._tokens.verify(token.strip())
        except InvalidToken as error:
            raise Unauthenticated(str(error), "invalid_token") from None

    def _account(self, bearer: Bearer) -> Account:
        account = self._accounts.account(bearer.identity)
        if account is None:
            raise _unknown(bearer)
        return account


async def role_of(account: Account, group: str) -> Role | None:
    """The account's role, with the errors that a client is told."""
    return await told(account.role(group), group)


async def told(answer: Awaitable[T], group: str) -> T:
    """What a source of accounts answers, with the errors that a client is told."""
    try:
        return await answer
    except UnauthorizedLogin as error:
        raise Unauthenticated(str(error) or "this login is not good any more: docker login", "invalid_token") from None
    except AccountsUnavailable as error:
        raise OCIError(Code.UNAVAILABLE, f"group {group}: it cannot be told who may pull: {error}") from None


def _unknown(bearer: Bearer) -> Unauthenticated:
    if bearer.identity.source == ANONYMOUS:
        return Unauthenticated(
            "the token is one for nobody in particular, and not good here: docker login", "invalid_token"
        )
    return Unauthenticated(
        "the token is from a source of accounts that is not there any more: docker login", "invalid_token"
    )
