"""Proof of a login: what is told, and what is counted as a guess."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from depproxy.access.errors import Unauthenticated
from depproxy.access.hashing import Busy
from depproxy.access.interface import AccountsUnavailable, IAccounts, Identity, ILogin, Login, Withdrawn
from depproxy.access.logins import prove
from depproxy.access.portal import Account, Accounts
from depproxy.access.throttle import Throttle
from depproxy.config import Role
from depproxy.oci.errors import OCIError
from tests.fakes import MemoryIndex

ALICE = Identity("slow", "alice", "c")
PASSWORD, TOKEN = Login("alice", "a guess", "192.0.2.1"), Login("alice", "glpat-0123456789abcdef", "192.0.2.1")


@implementer(IAccounts, ICredentialsChecker)
class Slow:
    """A source that answers when it is told to."""

    name = "slow"
    max_age = 60.0
    renewable = False
    credentialInterfaces = (ILogin,)

    def __init__(self) -> None:
        self.asked: list[Deferred[Identity]] = []

    def requestAvatarId(self, credentials: ILogin) -> Deferred[Identity]:  # type: ignore[override]  # as all of ours
        self.asked.append(Deferred())
        return self.asked[-1]

    async def role(self, identity: Identity, group: str) -> Role | None:
        return None

    async def administers(self, identity: Identity) -> bool:
        return False

    def knows(self, username: str) -> bool:
        return username == "alice"


class Proving(SynchronousTestCase):
    def setUp(self) -> None:
        self.source = Slow()
        self.index = MemoryIndex(lambda: 0.0)
        self.throttle = Throttle(self.index, lambda: 0.0)

    def prove(self, login: Login) -> Deferred[Account]:
        return Deferred.fromCoroutine(prove(login, Accounts([self.source]), self.throttle, "do better"))

    def counted(self) -> list[str]:
        """For what a guess was counted."""
        return [key.partition(":")[0] for what, key in self.index.asked if what == "take"]

    def told(self, login: Login, error: Exception) -> Any:
        waiting = self.prove(login)
        self.source.asked[-1].errback(error)
        return cast(Any, self).failureResultOf(waiting).value

    def test_who_is_right(self) -> None:
        waiting = self.prove(PASSWORD)
        self.source.asked[0].callback(ALICE)
        assert self.successResultOf(waiting).identity == ALICE
        assert self.counted() == []

    def test_what_counts_as_a_guess(self) -> None:
        for login, error, kind, counted in (
            (PASSWORD, UnauthorizedLogin(), Unauthenticated, ["address", "account"]),
            # Who guesses a password must not lock out tokens, which nobody guesses.
            (TOKEN, UnauthorizedLogin(), Unauthenticated, ["address"]),
            (PASSWORD, Withdrawn("has expired"), Unauthenticated, []),
            # The sources that were asked before said no.
            (PASSWORD, AccountsUnavailable("down"), OCIError, ["address", "account"]),
            (TOKEN, AccountsUnavailable("down"), OCIError, []),
            (PASSWORD, Busy(), OCIError, ["address"]),
        ):
            self.index.asked.clear()
            assert type(self.told(login, error)) is kind, error
            assert self.counted() == counted, error

    def test_who_hangs_up_has_guessed_all_the_same(self) -> None:
        """A right guess would be answered at once the next time, so a wrong one has to cost something."""
        waiting = self.prove(PASSWORD)
        waiting.cancel()
        cast(Any, self).failureResultOf(waiting, CancelledError)
        assert self.counted() == []
        self.source.asked[0].errback(UnauthorizedLogin())
        assert self.counted() == ["address", "account"]

    def test_messages(self) -> None:
        assert str(self.told(PASSWORD, UnauthorizedLogin())) == "wrong user name, password or token: do better"
        assert str(self.told(PASSWORD, Withdrawn("has expired"))) == "has expired"
        busy = self.told(PASSWORD, Busy())
        assert (busy.status, busy.headers) == (429, {"Retry-After": "2"})
        with pytest.raises(OCIError, match="it cannot be told who you are: down"):
            raise self.told(PASSWORD, AccountsUnavailable("down"))
