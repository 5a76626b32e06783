"""Proof of a login, with the errors that its sender is told."""

from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.logger import Logger

from depproxy.access.errors import Unauthenticated
from depproxy.access.hashing import Busy
from depproxy.access.interface import AccountsUnavailable, ClientCertificate, Login, Withdrawn
from depproxy.access.passwords import is_token
from depproxy.access.portal import Account, Accounts
from depproxy.access.throttle import Throttle, TooManyGuesses
from depproxy.coalesce import apart
from depproxy.oci.errors import Code, OCIError

log = Logger()


async def prove(login: Login, accounts: Accounts, throttle: Throttle, advice: str) -> Account:
    """
    The account that `login` proves; guessing is slowed. `advice` is for whoever got it wrong.

    Raises Unauthenticated; OCIError: TOOMANYREQUESTS, UNAVAILABLE. May be cancelled: a wrong login is counted all the
    same, or who hangs up before his answer could guess as fast as he likes.
    """
    return await apart(lambda: _prove(login, accounts, throttle, advice))


async def _prove(login: Login, accounts: Accounts, throttle: Throttle, advice: str) -> Account:
    # A token says whose it is by itself: who guesses somebody's password must not lock out his tokens. Other sources'
    # tokens come without a user name to the API, and all of those are not one account.
    account = None if is_token(login.password) else login.username or None
    try:
        await throttle.check(account, login.address)
        return await accounts.login(login)
    except TooManyGuesses as error:
        log.warn("{address}: too many wrong logins{who}", address=login.address, who=_who(login, accounts))
        raise _later("too many wrong logins: wait, then check user name and password", error.retry_after) from None
    except Busy:
        # Whoever floods has to wait before others do.
        await throttle.failed(None, login.address)
        raise _later("too many logins at a time", 2) from None
    except Withdrawn as error:
        log.warn("{address}: login refused: {error}", address=login.address, error=error)
        raise Unauthenticated(str(error)) from None
    except UnauthorizedLogin:
        await throttle.failed(account, login.address)
        log.warn("{address}: wrong login{who}", address=login.address, who=_who(login, accounts))
        raise Unauthenticated(f"wrong user name, password or token: {advice}") from None
    except AccountsUnavailable as error:
        if account is not None:
            # A password that the sources at hand do not know: while another one is down, it is a guess as well.
            await throttle.failed(account, login.address)
        raise OCIError(Code.UNAVAILABLE, f"it cannot be told who you are: {error}") from None


async def known_by(certificate: ClientCertificate | None, accounts: Accounts) -> Account | None:
    """The account that a verified certificate means; None for none, and for one that means nobody."""
    if certificate is None:
        return None
    try:
        return await accounts.login(certificate)
    except LoginFailed:
        return None


def _who(login: Login, accounts: Accounts) -> str:
    # Some type their password in the place of the user name.
    return f" as {login.username}" if accounts.knows(login.username) else " with a user name that is not known"


def _later(message: str, seconds: float) -> OCIError:
    return OCIError(Code.TOOMANYREQUESTS, message, headers={"Retry-After": str(max(1, round(seconds)))})
