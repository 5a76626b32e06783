"""All that takes something away by itself, now and in a row: what groups have not read for their ttl, what is too much,
and what files and entries do not have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from depproxy.cache.background import Background
from depproxy.cache.entries import Entries
from depproxy.cache.eviction import Evictor
from depproxy.cache.expiry import Expirer
from depproxy.cache.links import Links
from depproxy.cache.pins import Pins
from depproxy.cache.reconcile import Difference, Reconciler, Swept
from depproxy.cache.rehearsal import RehearsedIndex, RehearsedRemover
from depproxy.cache.removal import Removed
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.index.interface import ICacheIndex, IGroupIndex
from depproxy.metrics import Metrics
from depproxy.storage.interface import IBlobStore


@frozen
class Collected:
    """What went, or would go."""

    removed: Sequence[Removed]
    swept: Swept


class Collector:
    """Runs them as the timers do. `limits` gives the bytes that the cache and groups may have, `ttl` a group's ttl."""

    def __init__(
        self,
        store: IBlobStore,
        index: ICacheIndex,
        groups: IGroupIndex,
        uses: Uses,
        pins: Pins,
        evictor: Evictor,
        expirer: Expirer,
        reconciler: Reconciler,
        background: Background,
        limits: Callable[[], tuple[float, Mapping[str, float]]],
        ttl: Callable[[str], float | None],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._index = index
        self._groups = groups
        self._uses = uses
        self._pins = pins
        self._evictor = evictor
        self._expirer = expirer
        self._reconciler = reconciler
        self._background = background
        self._limits = limits
        self._ttl = ttl
        self._now = now

    async def collect(self) -> Collected:
        """Let go what has to go. Who leaves by cancelling leaves it going on. Raises IndexUnavailable, and OSError."""
        return await self._background.carry(self._collect(), "garbage collection")

    async def _collect(self) -> Collected:
        expired = await self._expirer.run()
        evicted = await self._evictor.run()
        return Collected([*expired, *evicted], await self._reconciler.run())

    async def rehearse(self) -> Collected:
        """What would go, if this was the moment. Changes nothing. Raises IndexUnavailable, and OSError."""
        metrics = Metrics()
        # It has what those two ask, and the rest from the index itself.
        index: Any = RehearsedIndex(self._index, self._groups)
        remover = RehearsedRemover(self._store, index, index, self._uses, lambda _: None, metrics, self._now)
        expirer = Expirer(
            index,
            index,
            Tags(index, self._background, metrics),
            Links(index, self._background, metrics),
            self._uses,
            self._pins,
            remover,
            self._background,
            self._ttl,
            metrics,
            self._now,
        )
        entries = Entries(index, metrics)
        evictor = Evictor(
            index, index, entries, self._uses, self._pins, remover, self._background, *self._limits(), metrics
        )
        expired = await expirer.run()
        evicted = await evictor.run()
        return Collected([*expired, *evicted], await self._reconciler.compare(_nobody, repair=False))


async def _nobody(difference: Difference) -> None:
    """Is told nothing."""
