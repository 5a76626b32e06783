"""What a client gets at the token endpoint."""

from collections.abc import Sequence

from depproxy.access.errors import Unauthenticated
from depproxy.access.gate import EVERYTHING, role_of
from depproxy.access.groups import Groups
from depproxy.access.interface import ICaller, Identity, Login, Withdrawn
from depproxy.access.logins import known_by, prove
from depproxy.access.portal import ANONYMOUS, Account, Accounts
from depproxy.access.throttle import Throttle
from depproxy.access.tokens import InvalidToken, Issued, Tokens, TokenTooLarge
from depproxy.oci.errors import Code, OCIError

# One who is known by his address alone.
NOBODY = Identity(ANONYMOUS, ANONYMOUS, "")


class Issuer:
    """Proves a login, and issues a token that grants what was asked for, as far as the account may have it."""

    def __init__(self, groups: Groups, accounts: Accounts, tokens: Tokens, refresh: Tokens, throttle: Throttle) -> None:
        self._groups = groups
        self._accounts = accounts
        self._tokens = tokens
        self._refresh = refresh
        self._throttle = throttle

    def replace(self, groups: Groups, accounts: Accounts) -> None:
        """Go on by other rules."""
        self._groups = groups
        self._accounts = accounts

    async def issue(self, login: Login | None, caller: ICaller, groups: Sequence[str] | None) -> Issued:
        """
        A token for `groups`; for None, for all that the account may. What it may not is left out.

        Where all of `groups` are open to the client's address the login is not looked at: docker sends the credentials
        of Docker Hub to a mirror. Raises Unauthenticated; OCIError: TOOMANYREQUESTS, UNAVAILABLE.
        """
        opened = [group for group in groups or () if self._groups.open_to(group, caller.address)]
        if groups and len(opened) == len(groups):
            return self._issue(NOBODY, opened)
        if not self._accounts:
            raise Unauthenticated(
                "there are no accounts here to log in with; an operator adds them, or admits networks"
            )
        if login is None:
            account = await known_by(caller.certificate, self._accounts)
        else:
            account = await prove(login, self._accounts, self._throttle, "docker login with the right ones")
        if account is None:
            raise Unauthenticated("a user name and a password or token are needed here: docker login, then pull again")
        return await self._grant(account, groups, opened)

    def refresh_token(self, issued: Issued) -> str | None:
        """
        A token for `renew`, in place of the login that gave the token `issued`; None where none is given: by default,
        to nobody in particular, and for accounts whose source has to see the secret from time to time.
        """
        identity = self._tokens.verify(issued.token.encode("ascii")).identity
        account = self._accounts.account(identity)
        if not self._refresh.lifetime or account is None or not account.accounts.renewable:
            return None
        return self._issue(identity, [], self._refresh).token

    async def renew(self, token: str, groups: Sequence[str] | None) -> Issued:
        """A token as from `issue`, for a refresh token. Raises Unauthenticated; OCIError: UNAVAILABLE."""
        try:
            identity = self._refresh.verify(token.encode("utf-8", "replace")).identity
        except InvalidToken as error:
            raise Unauthenticated(str(error)) from None
        account = self._accounts.account(identity)
        if account is None:
            raise Unauthenticated("the account of this login is not there any more: docker login")
        # Of no group: it raises where the credential is not good any more.
        await role_of(account, "")
        return await self._grant(account, groups, ())

    async def _grant(self, account: Account, groups: Sequence[str] | None, opened: Sequence[str]) -> Issued:
        if groups is None:
            return self._issue(account.identity, [EVERYTHING])
        granted = [group for group in groups if group in opened or await role_of(account, group) is not None]
        return self._issue(account.identity, granted)

    def _issue(self, identity: Identity, grants: Sequence[str], tokens: Tokens | None = None) -> Issued:
        try:
            return (tokens or self._tokens).issue(identity, grants)
        except Withdrawn as error:
            raise Unauthenticated(str(error)) from None
        except TokenTooLarge as error:
            raise OCIError(Code.UNSUPPORTED, f"{error}: ask for fewer at a time", status=400) from None
