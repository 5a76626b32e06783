"""What there is: `depproxy ls` and `depproxy inspect`."""

from depproxy.cache.inspection import Inspected, Inspector, NotKnown, Part
from depproxy.cache.inventory import GroupSummary, ImageSummary, Inventory, image_name
from depproxy.index.interface import IGroupIndex
from depproxy.web.admin.answers import AdminError, Document, finite
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.named import Named
from depproxy.web.admin.progress import Progress

# Images in one answer.
LIMIT = 50
MOST = 100_000


class ListFace:
    """Lists groups, or a group's images."""

    app = AdminApplication()

    def __init__(self, inventory: Inventory, groups: IGroupIndex, named: Named) -> None:
        self._inventory = inventory
        self._groups = groups
        self._named = named

    @app.answers("GET", "/v1/ls")
    async def all_groups(self, ask: Ask) -> Document:
        """All groups."""
        return {"groups": [_group(group) for group in await self._inventory.all_groups()]}

    @app.tells("/v1/ls/images", "group", "limit")
    async def images(self, ask: Ask, progress: Progress) -> Document:
        """A line for each image of a group, the latest read first, as many as `limit`."""
        group = self._named.group_of(ask)
        limit = ask.number("limit", 1, MOST, LIMIT)
        found = await self._inventory.images(group, limit)
        pins = await self._groups.pins()
        for image in found.found:
            await progress.tell({"image": summary(await self._inventory.summary(image, pins))})
        return {"group": group, "images": len(found.found), "more": found.more}


class InspectFace:
    """Shows one image."""

    app = AdminApplication()

    def __init__(self, inspector: Inspector, named: Named) -> None:
        self._inspector = inspector
        self._named = named

    @app.answers("GET", "/v1/inspect", "image", "group")
    async def inspect(self, ask: Ask) -> Document:
        """An image in every part."""
        home, reference = self._named.image_of(ask)
        try:
            found = await self._inspector.inspect(home, reference)
        except NotKnown as error:
            raise AdminError(str(error), 404) from None
        return {
            "image": image_name(home, reference),
            "group": home.group,
            "digest": found.image.root.digest,
            "media_type": found.image.root.media_type,
            "size": found.named,
            "here": found.stored,
            "read": found.image.read or None,
            "checked": found.checked,
            "pinned": found.pinned,
            "linked": list(found.linked),
            "parts": [_part(found, found.root)],
        }


def _group(group: GroupSummary) -> Document:
    return {
        "group": group.group,
        "repositories": group.repositories,
        "blobs": group.share.blobs,
        "bytes": group.share.size,
        "quota": None if group.quota is None else finite(group.quota),
        "ttl": group.ttl,
    }


def summary(found: ImageSummary) -> Document:
    """An image of a list."""
    image = found.image
    return {
        "image": image_name(image.home, image.reference),
        "group": image.home.group,
        "digest": image.root.digest,
        "media_type": image.root.media_type,
        "platforms": list(found.platforms),
        "size": found.named,
        "held": found.held,
        "read": image.read or None,
        "pinned": found.pinned,
    }


def _part(found: Inspected, part: Part) -> Document:
    holding = found.here.get(part.descriptor.digest)
    return {
        "digest": part.descriptor.digest,
        "media_type": part.descriptor.media_type,
        "size": part.descriptor.size if part.descriptor.size >= 0 else None,
        "platform": None if part.platform is None else str(part.platform),
        "here": holding is not None,
        "groups": [] if holding is None else sorted(holding.groups),
        "parts": [_part(found, child) for child in part.parts],
    }
