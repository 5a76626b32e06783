"""Lists of images that are warmed at the times of their schedules."""

import time
from collections.abc import Callable, Sequence

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

from depproxy.cache.background import ended
from depproxy.cache.progress import Ended, Failed, Order
from depproxy.cache.warm import Warmer
from depproxy.config import WarmSettings
from depproxy.metrics import Metrics
from depproxy.plural import counted

# The clock on the wall may be set, so it is looked at this often (seconds), however far the next time is.
LONGEST_WAIT = 60.0
# Failures whose words are told; the others are counted.
MOST_TOLD = 5


@define
class _List:
    """A list, when it is due (Unix time), and its run that is under way."""

    settings: WarmSettings
    due: float
    run: Deferred[None] | None = None


class Schedules:
    """
    Runs each list when it is due, one run of a list at a time.

    A time at which its last run is still under way is skipped; of several that have passed while the host slept, one
    counts. `now` gives Unix time.
    """

    _log = Logger()

    def __init__(
        self, warmer: Warmer, clock: IReactorTime, metrics: Metrics, now: Callable[[], float] = time.time
    ) -> None:
        self._warmer = warmer
        self._clock = clock
        self._metrics = metrics
        self._now = now
        self._seen = now()
        self._lists: list[_List] = []
        self._runs: set[Deferred[None]] = set()
        self._call: IDelayedCall | None = None
        self._stopped = False

    def replace(self, lists: Sequence[WarmSettings]) -> None:
        """Go by these lists from now on. Those that were there before go on as they were; runs under way end."""
        before = {known.settings: known for known in self._lists}
        now = self._now()
        self._lists = [before.get(settings) or _List(settings, settings.schedule.after(now)) for settings in lists]
        self._look()

    async def stop(self) -> None:
        """Begin nothing more, and cancel the runs under way."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        for run in tuple(self._runs):
            run.cancel()
        await ended(self._runs)

    def _look(self) -> None:
        """Begin what is due, and look again in time."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._stopped or not self._lists:
            return
        now = self._now()
        for number, found in enumerate(self._lists):
            if now >= found.due:
                self._begin(found, f"warm[{number}]")
            if now >= found.due or now < self._seen:
                # It was set back, or it is done.
                found.due = found.settings.schedule.after(now)
        self._seen = now
        wait = min(found.due for found in self._lists) - now
        self._call = self._clock.callLater(min(wait, LONGEST_WAIT), self._look)

    def _begin(self, found: _List, name: str) -> None:
        if found.run is not None and not found.run.called:
            self._log.warn("{name} is due, but its last run is still under way: skipped", name=name)
            self._metrics.warm_runs.labels("skipped").inc()
            return
        found.run = run = Deferred.fromCoroutine(self._run(found.settings, name))
        self._runs.add(run)
        run.addBoth(lambda _: self._runs.discard(run))

    async def _run(self, settings: WarmSettings, name: str) -> None:
        order = Order(settings.images, settings.group, settings.platforms)
        try:
            images = await self._warmer.warm(order, lambda _: None)
        except CancelledError:
            self._log.info("{name} is stopped", name=name)
        except Exception:
            self._log.failure("{name} failed", name=name)
            self._metrics.errors.labels("internal").inc()
        else:
            self._tell(name, images)

    def _tell(self, name: str, images: Sequence[Ended]) -> None:
        failed = [image for image in images if isinstance(image, Failed)]
        self._metrics.warm_runs.labels("failed" if failed else "done").inc()
        self._log.emit(
            LogLevel.warn if failed else LogLevel.info,
            "{name}: {images} warmed, {fetched} bytes fetched, {failed} failed{told}",
            name=name,
            images=counted(len(images) - len(failed), "image"),
            fetched=sum(image.fetched for image in images),
            failed=len(failed),
            told="".join(f"; {image.image}: {image.reason}" for image in failed[:MOST_TOLD])
            + ("; ..." if len(failed) > MOST_TOLD else ""),
        )
