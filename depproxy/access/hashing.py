"""Password checks in threads of their own: few at a time, a bounded number waiting, none of them twice."""

import hmac
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from cachetools import TTLCache

from depproxy.access.passwords import stand_in, verify
from depproxy.coalesce import Coalescer

WAITING: Final = 64
"""How many checks may wait beside those that run: about four seconds of work for two threads."""

REMEMBERED_FOR: Final = 5 * 60.0
"""Seconds for which a right password is not checked again."""

REMEMBERED: Final = 10_000

STAND_IN: Final = stand_in()


class Busy(Exception):
    """So many checks wait that another one is not taken. A flood of logins stops logins, but nothing else."""


class Hashing:
    """
    Checks passwords against their hashes.

    `run` calls a function in a thread, of which there are `threads`. Equal checks under way are one. A right password
    is remembered for a while, a wrong one never; of either no more is kept than a keyed hash (HMAC-SHA256), whose key
    is random and this object's own: a thousand jobs that log in as one user cost one check.
    """

    def __init__(
        self,
        # A Deferred of what the function returns: too generic a type to be written.
        run: Callable[..., Any],
        *,
        threads: int = 2,
        waiting: int = WAITING,
        now: Callable[[], float] = time.monotonic,
        remembered: int = REMEMBERED,
    ) -> None:
        self._run = run
        self._most = threads + waiting
        self._under_way = 0
        self._key = secrets.token_bytes(32)
        self._running: Coalescer[bytes, bool] = Coalescer()
        self._right: TTLCache[bytes, None] = TTLCache(remembered, REMEMBERED_FOR, now)

    async def check(self, password: str, hashed: str | None, account: str = "", stand_in: str = STAND_IN) -> bool:
        """
        Whether `password` is the one behind `hashed`; None means that there is no such account, which takes as long to
        find out: `stand_in` is checked then. Raises `Busy`.

        `account` keeps checks of different names apart, so that it does not show in the time either which names share
        the stand-in. May be cancelled: the check goes on.
        """
        known = hashed is not None
        wanted = stand_in if hashed is None else hashed
        key = self._digest(account, wanted, password)
        if known and key in self._right:
            return True
        right = await self._running.join(key, lambda: self._checked(key, password, wanted, known, stand_in))
        return right and known

    def forget(self) -> None:
        """Check every password anew: for a reload."""
        self._right.clear()

    async def _checked(self, key: bytes, password: str, hashed: str, known: bool, stand_in: str) -> bool:
        if self._under_way >= self._most:
            raise Busy
        self._under_way += 1
        try:
            right: bool = await self._run(verify, password, hashed)
            if not right and known and _cost(hashed) != _cost(stand_in):
                # A hash that is cheaper than most would tell by the time that there is such an account.
                await self._run(verify, password, stand_in)
        finally:
            self._under_way -= 1
        if right and known:
            self._right[key] = None
        return right

    def _digest(self, *parts: str) -> bytes:
        found = hmac.new(self._key, digestmod="sha256")
        for part in parts:
            raw = part.encode("utf-8", "surrogatepass")
            # With its length, so that no two lists of parts read the same.
            found.update(b"%d:%b" % (len(raw), raw))
        return found.digest()


def _cost(hashed: str) -> list[str]:
    """The kind of a hash and its parameters, which say how long it takes."""
    return hashed.split("$")[1:3]
