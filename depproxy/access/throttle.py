"""Guessing is slowed: wrong logins are counted per account and per address, in token buckets in the index."""

import time
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from attrs import frozen
from cachetools import LRUCache
from twisted.internet.defer import Deferred
from zope.interface import implementer

from depproxy.config import AccessSettings
from depproxy.config.accounts import JOB_TOKEN_USER
from depproxy.index.interface import IBuckets, IndexUnavailable

MINUTE: Final = 60.0

FREE_FOR: Final = 5.0
"""Seconds for which a name or an address is not looked up again that had tries left."""

REMEMBERED: Final = 10_000

DEFAULTS: Final = AccessSettings()


class TooManyGuesses(Exception):
    """The tries are used up, and no password was looked at. `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many wrong logins: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


@frozen
class _Bucket:
    """The bucket of an account or an address. No more than a hash of what was sent goes into a key."""

    key: str
    capacity: float

    @property
    def per_second(self) -> float:
        return self.capacity / MINUTE


@frozen
class _Finding:
    """What was found at the time `at`: `wait` seconds to the next try, 0.0: it may be made at once."""

    at: float
    wait: float


class Throttle:
    """
    Says who has to wait before another login is looked at.

    Right logins take nothing out. Whoever has tries left is looked up once in `FREE_FOR` seconds, so that they cost no
    question to the index either, however many; after a wrong login here, at once. Who has none left is not looked up
    before he has one again. Logins that were under way together when the last try was used are counted as well: they
    are made up for by a longer wait, up to a minute more.

    While the index is unavailable each process counts for itself. `now` is Unix time. `settings` may be replaced at any
    time.
    """

    def __init__(
        self,
        buckets: IBuckets,
        now: Callable[[], float] = time.time,
        settings: AccessSettings = DEFAULTS,
    ) -> None:
        self.settings = settings
        self._shared = buckets
        self._own = LocalBuckets(now)
        self._now = now
        self._found: LRUCache[str, _Finding] = LRUCache(REMEMBERED)

    async def check(self, account: str | None, address: str) -> None:
        """To be called before a password is looked at; without an account only the address counts.

        Raises `TooManyGuesses`.
        """
        asked = [Deferred.fromCoroutine(self._wait(bucket)) for bucket in self._buckets(account, address)]
        wait = max([await answer for answer in asked])
        if wait > 0.0:
            raise TooManyGuesses(wait)

    async def failed(self, account: str | None, address: str) -> None:
        """The login that was checked was wrong. May be cancelled: it counts all the same."""
        # Both are told before either is waited for.
        told = [Deferred.fromCoroutine(self._take(bucket)) for bucket in self._buckets(account, address)]
        for answer in told:
            await answer

    async def _take(self, bucket: _Bucket) -> None:
        # At once, so that whoever comes next asks again; and at the end, for an answer that came from before.
        self._found.pop(bucket.key, None)
        try:
            await self._shared.take(bucket.key, bucket.capacity, bucket.per_second, debt=bucket.capacity)
        except IndexUnavailable:
            await self._own.take(bucket.key, bucket.capacity, bucket.per_second, debt=bucket.capacity)
        finally:
            self._found.pop(bucket.key, None)

    async def _wait(self, bucket: _Bucket) -> float:
        found, now = self._found.get(bucket.key), self._now()
        # One from the future is none: the clock was set back.
        if found is not None and 0.0 <= now - found.at < (found.wait or FREE_FOR):
            return max(0.0, found.at + found.wait - now)
        try:
            wait: float = await self._shared.peek(bucket.key, bucket.capacity, bucket.per_second)
        except IndexUnavailable:
            wait = await self._own.peek(bucket.key, bucket.capacity, bucket.per_second)
        self._found[bucket.key] = _Finding(now, wait)
        return wait

    def _buckets(self, account: str | None, address: str) -> list[_Bucket]:
        found = [_Bucket(f"address:{_hash(network(address))}", self.settings.guesses_per_address)]
        # Every CI job of a GitLab has that name.
        if account is not None and account != JOB_TOKEN_USER:
            # Some sources take upper and lower case for the same.
            found.append(_Bucket(f"account:{_hash(account.lower())}", self.settings.guesses_per_account))
        return found


@implementer(IBuckets)
class LocalBuckets:
    """`IBuckets` of this process alone, in memory; the buckets that were not used for longest are forgotten."""

    def __init__(self, now: Callable[[], float], remembered: int = REMEMBERED) -> None:
        self._now = now
        # What each holds, and as of when.
        self._state: LRUCache[str, tuple[float, float]] = LRUCache(remembered)

    async def take(self, key: str, capacity: float, per_second: float, cost: float = 1.0, debt: float = 0.0) -> float:
        """See `IBuckets`."""
        return self._ask(key, capacity, per_second, cost, debt, True)

    async def peek(self, key: str, capacity: float, per_second: float, cost: float = 1.0) -> float:
        """See `IBuckets`."""
        return self._ask(key, capacity, per_second, cost, 0.0, False)

    def _ask(self, key: str, capacity: float, per_second: float, cost: float, debt: float, take: bool) -> float:
        # As the script in index/buckets.py, operation by operation: one suite tests that they tell the same.
        now = self._now()
        tokens, at = self._state.get(key, (capacity, now))
        if at > now + capacity / per_second:
            tokens, at = capacity, now
        if now > at:
            tokens, at = tokens + (now - at) * per_second, now
        left = min(tokens, capacity) - cost
        if left < -debt:
            return (-debt - left) / per_second + (at - now)
        if take:
            self._state[key] = (left, at)
        return 0.0


def network(address: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits, which is what one customer has; else the address."""
    try:
        # A link-local one carries its interface: fe80::1%eth0.
        found = ip_address(address.partition("%")[0])
    except ValueError:
        # A Unix socket.
        return address
    if isinstance(found, IPv6Address):
        # A dual-stack listener sees IPv4 clients so.
        return str(found.ipv4_mapped or IPv6Network((found, 64), strict=False))
    return str(found)


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
