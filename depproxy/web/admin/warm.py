"""Images into the cache ahead of those who will pull them: `depproxy warm`."""

from attrs import asdict
from twisted.internet.defer import Deferred

from depproxy.cache.progress import Done, Ended, Failed, Layer, Order, Resolved, Resolving
from depproxy.cache.progress import Progress as Step
from depproxy.cache.together import together
from depproxy.cache.warm import Warmer
from depproxy.config import HOST_PLATFORMS
from depproxy.oci.platform import InvalidPlatform, parse_platforms
from depproxy.web.admin.answers import AdminError, Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.named import Named
from depproxy.web.admin.progress import Progress

_EVENTS: dict[type[Step], str] = {
    Resolving: "resolving",
    Resolved: "resolved",
    Layer: "layer",
    Done: "done",
    Failed: "failed",
}


class WarmFace:
    """Warms for whoever asks."""

    app = AdminApplication()

    def __init__(self, warmer: Warmer, named: Named) -> None:
        self._warmer = warmer
        self._named = named

    @app.tells("/v1/warm", "images", "group", "platforms")
    async def warm(self, ask: Ask, progress: Progress) -> Document:
        """
        Each step is a line with its `event`: resolving, resolved, layer, done or failed, and what it tells. Who leaves
        cancels it: nothing more is begun, and the fills under way go on to their end.
        """
        order, outbox = self._order(ask), Outbox()
        ended: list[Ended] = []

        async def work() -> None:
            try:
                ended.extend(await self._warmer.warm(order, outbox.put))
            finally:
                outbox.close()

        async def tell() -> None:
            while (step := await outbox.take()) is not None:
                await progress.tell({"event": _EVENTS[type(step)], **asdict(step)})

        await together((work(), tell()))
        failed = sum(isinstance(image, Failed) for image in ended)
        return {"images": len(ended), "failed": failed, "fetched": sum(image.fetched for image in ended)}

    def _order(self, ask: Ask) -> Order:
        images = ask.texts("images")
        if not images:
            raise AdminError("images must name at least one image")
        texts = ask.texts("platforms")
        try:
            platforms = parse_platforms(texts) if texts else HOST_PLATFORMS
        except InvalidPlatform as error:
            raise AdminError(str(error)) from None
        return Order(images, self._named.pulled_by(ask), platforms)


class Outbox:
    """Steps that are still to be told. Where a layer goes on faster than they are taken, its latest one counts."""

    def __init__(self) -> None:
        self._steps: dict[object, Step] = {}
        self._closed = False
        self._taker: Deferred[None] | None = None

    def put(self, step: Step) -> None:
        """One more."""
        self._steps[(step.image, step.digest) if isinstance(step, Layer) else step] = step
        self._wake()

    def close(self) -> None:
        """There will be no more."""
        self._closed = True
        self._wake()

    async def take(self) -> Step | None:
        """The first one, when there is one; None after the last. One taker at a time; may be cancelled."""
        while not self._steps:
            if self._closed:
                return None
            self._taker = Deferred()
            await self._taker
        return self._steps.pop(next(iter(self._steps)))

    def _wake(self) -> None:
        taker, self._taker = self._taker, None
        if taker is not None and not taker.called:
            taker.callback(None)
