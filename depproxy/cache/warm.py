"""
Warming: images are brought into the cache ahead of those who will pull them.

It goes the ways that clients take, so a fill is shared with whoever pulls at the same time, an interrupted one is gone
on with, and what is in the cache costs upstream no more than the question what a tag means now.
"""

import math

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from depproxy.cache.blobs import Blobs
from depproxy.cache.interface import BlobSource, Outcome, ServedManifest, StorageError
from depproxy.cache.manifests import Manifests
from depproxy.cache.progress import Done, Ended, Failed, Layer, Observer, Order, Resolved, Resolving
from depproxy.cache.together import Slots, together
from depproxy.index.interface import Home
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.oci.errors import OCIError
from depproxy.oci.image import ImageNames, parse_image
from depproxy.oci.manifest import Descriptor, InvalidManifest, children, is_index, platforms
from depproxy.oci.platform import UNKNOWN, Platform
from depproxy.upstream.errors import UpstreamError

# For all orders together: clients that wait come first.
IMAGES_AT_A_TIME = 3
LAYERS_AT_A_TIME = 6
MAX_IMAGES = 1000
# An index may stand in an index (image-spec, image-index.md); so deep.
MAX_DEPTH = 4
MAX_LAYERS = 10_000
# How often (seconds) a layer's progress is told.
TELL_INTERVAL = 0.1


class TooManyImages(ValueError):
    """More images than one order may have."""


class Incomplete(Exception):
    """Something of the image is not in the cache; the message says what."""


@define
class Found:
    """What is to be brought in of an image, as far as its manifests have been read."""

    layers: dict[Digest, Descriptor] = field(factory=dict)
    platforms: set[Platform] = field(factory=set)
    # Those that it has, in its order, for who asked for another.
    known: dict[Platform, None] = field(factory=dict)
    # Manifests that are read already: indexes that name one another many times would take for ever.
    read: set[Digest] = field(factory=set)

    def add(self, manifest: ServedManifest) -> None:
        """The layers of a manifest. Raises InvalidManifest."""
        for layer in children(manifest.media_type or "", manifest.body or b""):
            self.layers.setdefault(layer.digest, layer)
        if len(self.layers) > MAX_LAYERS:
            raise InvalidManifest(f"the image has more than {MAX_LAYERS} layers")

    def takes(self, platform: Platform | None, wanted: frozenset[Platform] | None) -> bool:
        """Whether the child of an image index that is for `platform` is wanted."""
        # What names no platform may be for any, as clients read it.
        taken = wanted is None or platform is None or platform in wanted
        if platform is not None and platform != UNKNOWN:
            self.known[platform] = None
            if taken:
                self.platforms.add(platform)
        return taken

    def missing(self, wanted: frozenset[Platform] | None) -> str:
        """What to say of wanted platforms that an image index does not have; nothing if there are none."""
        missing = sorted(map(str, (wanted or frozenset()) - self.platforms))
        if not missing or not self.known:
            return ""
        return f"has no {', '.join(missing)}; it has {', '.join(map(str, self.known))}"


@define
class _Bringing:
    """One image on its way."""

    image: str
    order: Order
    tell: Observer
    fetched: int = 0


class Warmer:
    """Brings images into the cache, a few at a time. `names` may be replaced at any time."""

    _log = Logger()

    def __init__(
        self, names: ImageNames, manifests: Manifests, blobs: Blobs, clock: IReactorTime, metrics: Metrics
    ) -> None:
        self.names = names
        self._manifests = manifests
        self._blobs = blobs
        self._clock = clock
        self._metrics = metrics
        self._images = Slots(IMAGES_AT_A_TIME, clock)
        self._layers = Slots(LAYERS_AT_A_TIME, clock)

    async def warm(self, order: Order, tell: Observer) -> list[Ended]:
        """
        Bring in what is ordered; how each image ended, in the order's order. One that fails stops no other.

        Raises TooManyImages. May be cancelled: nothing more is begun, and fills under way go on to their end.
        """
        images = dict.fromkeys(order.images)
        if len(images) > MAX_IMAGES:
            raise TooManyImages(f"{len(images)} images are asked for, and at most {MAX_IMAGES} are warmed at a time")
        return await together(self._image(_Bringing(image, order, tell)) for image in images)

    async def _image(self, bringing: _Bringing) -> Ended:
        async with self._images.taken():
            bringing.tell(Resolving(bringing.image))
            ended = await self._ended(bringing)
        self._metrics.warmed.labels("done" if isinstance(ended, Done) else "failed").inc()
        bringing.tell(ended)
        return ended

    async def _ended(self, bringing: _Bringing) -> Ended:
        try:
            return await self._bring(bringing)
        except CancelledError:
            raise
        except (UpstreamError, StorageError, OCIError, Incomplete, ValueError, OSError) as error:
            return Failed(bringing.image, str(error), bringing.fetched)
        except Exception:
            self._log.failure("warming {image} failed", image=bringing.image)
            self._metrics.errors.labels("internal").inc()
            return Failed(bringing.image, "failed within depproxy, whose log says more", bringing.fetched)

    async def _bring(self, bringing: _Bringing) -> Done:
        name, reference = parse_image(bringing.image)
        home = Home(bringing.order.group, *self.names.find(name))
        root = await self._manifests.get(home, reference)
        assert root.digest is not None, "a manifest that has a body has a digest"
        found = Found()
        await self._read(home, root, bringing.order.platforms, found)
        layers, size = found.layers.values(), sum(layer.size for layer in found.layers.values())
        bringing.tell(
            Resolved(bringing.image, root.digest, tuple(sorted(map(str, found.platforms))), len(layers), size)
        )
        for error in await together(self._layer(home, layer, bringing) for layer in layers):
            if error is not None:
                raise error
        if missing := found.missing(bringing.order.platforms):
            raise Incomplete(missing)
        if root.outcome is Outcome.STALE:
            raise Incomplete(f"{home.upstream} gives no answer; what is here is a copy that it has not confirmed")
        return Done(bringing.image, root.digest, size, bringing.fetched)

    async def _read(
        self, home: Home, manifest: ServedManifest, wanted: frozenset[Platform] | None, found: Found, depth: int = 0
    ) -> None:
        """Find the layers of a manifest, or those of the wanted platforms of an image index."""
        media_type = manifest.media_type or ""
        if not is_index(media_type):
            # For whichever platform it is: clients pull it on any.
            found.add(manifest)
            return
        if depth >= MAX_DEPTH:
            raise InvalidManifest(f"image indexes stand in one another more than {MAX_DEPTH} deep")
        for child, platform in platforms(media_type, manifest.body or b""):
            if found.takes(platform, wanted) and child.digest not in found.read:
                found.read.add(child.digest)
                await self._read(home, await self._manifests.get(home, child.digest), wanted, found, depth + 1)

    async def _layer(
        self, home: Home, layer: Descriptor, bringing: _Bringing
    ) -> UpstreamError | StorageError | OSError | None:
        """Bring in one layer. Gives its error, as the other layers are brought in all the same."""
        async with self._layers.taken():
            try:
                source = await self._blobs.open(home, layer.digest)
                try:
                    await self._arrival(source, layer, bringing)
                finally:
                    if source.outcome is Outcome.MISS:
                        bringing.fetched += source.fetched
                    source.close()
            except (UpstreamError, StorageError, OSError) as error:
                return error
        return None

    async def _arrival(self, source: BlobSource, layer: Descriptor, bringing: _Bringing) -> None:
        """Returns when the whole blob is in the store. Nothing of it is read."""
        cached = source.outcome is Outcome.HIT
        arrived: Deferred[None] = Deferred()
        told = -math.inf

        def changed() -> None:
            nonlocal told
            if arrived.called:
                return
            if source.failure is not None or source.readable == source.size:
                arrived.callback(None)
            elif self._clock.seconds() - told >= TELL_INTERVAL:
                told = self._clock.seconds()
                bringing.tell(Layer(bringing.image, layer.digest, layer.size, source.readable, cached))

        source.subscribe(changed)
        changed()
        await arrived
        if source.failure is not None:
            raise source.failure
        if not await source.stored():
            raise StorageError(f"the cache cannot store {layer.digest}; its log says why")
        bringing.tell(Layer(bringing.image, layer.digest, layer.size, source.size or 0, cached))
