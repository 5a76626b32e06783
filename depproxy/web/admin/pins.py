"""What stays: `depproxy pin`, `unpin` and `pins`."""

from depproxy.cache.inventory import Inventory, image_name
from depproxy.cache.pins import Pins, TooManyPins
from depproxy.web.admin.answers import AdminError, Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.ls import summary
from depproxy.web.admin.named import Named
from depproxy.web.admin.progress import Progress


class PinFace:
    """Pins images, and lists those that are pinned."""

    app = AdminApplication()

    def __init__(self, pins: Pins, inventory: Inventory, named: Named) -> None:
        self._pins = pins
        self._inventory = inventory
        self._named = named

    @app.answers("POST", "/v1/pins/add", "image", "group")
    async def pin(self, ask: Ask) -> Document:
        """Pin an image, and say whether it is in the cache already."""
        self._named.pulled_by(ask)
        home, reference = self._named.image_of(ask)
        try:
            here = await self._pins.add(home, reference)
        except TooManyPins as error:
            raise AdminError(str(error), 409) from None
        return {"image": image_name(home, reference), "group": home.group, "here": here}

    @app.answers("POST", "/v1/pins/remove", "image", "group")
    async def unpin(self, ask: Ask) -> Document:
        """Undo a pin."""
        home, reference = self._named.image_of(ask)
        name = image_name(home, reference)
        if not await self._pins.remove(home, reference):
            raise AdminError(f"{name} is not pinned for group {home.group}; `depproxy pins` shows what is", 404)
        return {"image": name, "group": home.group}

    @app.tells("/v1/pins")
    async def all(self, ask: Ask, progress: Progress) -> Document:
        """A line for each pinned image; one that is not in the cache has no digest."""
        pins = await self._pins.all()
        for home, reference in pins:
            found = await self._inventory.find(home, reference)
            if found is None:
                await progress.tell(
                    {"pin": {"image": image_name(home, reference), "group": home.group, "digest": None}}
                )
            else:
                await progress.tell({"pin": summary(await self._inventory.summary(found, pins))})
        return {"pins": len(pins)}
