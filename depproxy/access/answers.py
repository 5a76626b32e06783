"""What a service elsewhere answered lately: each question is asked once at a time, and remembered for a while."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from attrs import frozen
from cachetools import TTLCache
from twisted.cred.error import UnauthorizedLogin

from depproxy.access.interface import AccountsUnavailable
from depproxy.coalesce import Coalescer

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

REFUSAL: Final = 5.0
"""Seconds for which a "no" is remembered: whoever was let in just now does not want to wait."""

TROUBLE: Final = 2.0
"""Seconds for which a question without an answer is not asked again."""

REMEMBERED: Final = 10_000


@frozen
class _Answer(Generic[V]):
    value: V
    since: float


@frozen
class _No:
    """None, or an error: what it is made of, for its traceback would keep everything alive that asked, secrets too."""

    kind: type[UnauthorizedLogin] | None
    args: tuple[object, ...] = ()


class Answers(Generic[K, V]):
    """
    Answers by their questions.

    An answer counts for `fresh` seconds from the moment at which it was asked for, and for `last_known` seconds where
    the service cannot be asked. A "no" is None or an UnauthorizedLogin: it ends what was known. `now` is Unix time.
    """

    def __init__(
        self, fresh: float, last_known: float, now: Callable[[], float], *, remembered: int = REMEMBERED
    ) -> None:
        self._fresh = fresh
        self._last_known = last_known
        self._now = now
        self._running: Coalescer[K, V | None] = Coalescer()
        self._known: TTLCache[K, _Answer[V]] = TTLCache(remembered, max(fresh, last_known), now)
        # Apart from the answers, so that guessing does not drive those out.
        self._refused: TTLCache[K, _No] = TTLCache(remembered, REFUSAL, now)
        self._troubles: TTLCache[K, str] = TTLCache(remembered, TROUBLE, now)

    async def get(self, key: K, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        """
        The answer to the question `key`, which `ask` asks. Raises `AccountsUnavailable`, `UnauthorizedLogin` and its
        subclasses, as `ask` does.
        """
        known = self._within(key, self._fresh)
        if known is not None:
            return known.value
        refused = self._refused.get(key)
        if refused is not None:
            if refused.kind is None:
                return None
            raise refused.kind(*refused.args)
        try:
            trouble = self._troubles.get(key)
            if trouble is not None:
                raise AccountsUnavailable(trouble)
            return await self._running.join(key, lambda: self._asked(key, ask))
        except AccountsUnavailable:
            known = self._within(key, self._last_known)
            if known is None:
                raise
            return known.value

    async def _asked(self, key: K, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        since = self._now()
        try:
            value = await ask()
        except AccountsUnavailable as error:
            self._troubles[key] = str(error)
            raise
        except UnauthorizedLogin as error:
            self._known.pop(key, None)
            self._refused[key] = _No(type(error), error.args)
            raise
        if value is None:
            self._known.pop(key, None)
            self._refused[key] = _No(None)
        else:
            self._known[key] = _Answer(value, since)
        return value

    def _within(self, key: K, seconds: float) -> _Answer[V] | None:
        """The answer that is not older. One from the future is none: the clock was set back."""
        known = self._known.get(key)
        return known if known is not None and 0 <= self._now() - known.since < seconds else None
