"""What goes now: `depproxy purge`."""

from depproxy.cache.inspection import Inspector
from depproxy.cache.inventory import image_name
from depproxy.cache.purge import Purges
from depproxy.index.interface import Home
from depproxy.oci.reference import Reference
from depproxy.web.admin.answers import AdminError, Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.named import Named
from depproxy.web.admin.progress import Progress

WHO = "the operator"


class PurgeFace:
    """Purges an image, a repository, or all that a group has."""

    app = AdminApplication()

    def __init__(self, purges: Purges, inspector: Inspector, named: Named) -> None:
        self._purges = purges
        self._inspector = inspector
        self._named = named

    @app.answers("GET", "/v1/purge/named", "group", "image", "all_tags", "all")
    async def named(self, ask: Ask) -> Document:
        """What would be purged, by its full name, for a question to somebody; an error if nothing is known of it."""
        group, home, reference = self._what(ask)
        if not await self._purges.knows(group, home, reference):
            raise AdminError(await self._why_not(group, home, reference), 404)
        return {"group": group, "image": _name(home, reference)}

    @app.tells("/v1/purge", "group", "image", "all_tags", "all")
    async def purge(self, ask: Ask, progress: Progress) -> Document:
        """What the group does not hold any more, and what of that was removed. Who leaves does not end it."""
        group, home, reference = self._what(ask)
        purged = await self._purges.carry_out(WHO, group, home, reference)
        if purged is None:
            raise AdminError(await self._why_not(group, home, reference), 404)
        return {
            "group": group,
            "image": _name(home, reference),
            "blobs": purged.blobs,
            "removed": purged.removed,
            "removed_bytes": purged.removed_bytes,
        }

    def _what(self, ask: Ask) -> tuple[str, Home | None, Reference | None]:
        if (ask.text("image") is None) != ask.flag("all"):
            raise AdminError("name either an image, or all that the group has")
        if ask.flag("all"):
            if ask.flag("all_tags"):
                raise AdminError("all_tags is for one repository, and needs an image")
            return self._named.group_of(ask), None, None
        if ask.flag("all_tags"):
            home = self._named.repository_of(ask)
            return home.group, home, None
        home, reference = self._named.image_of(ask)
        return home.group, home, reference

    async def _why_not(self, group: str, home: Home | None, reference: Reference | None) -> str:
        if home is None:
            return f"group {group} has nothing in the cache; `depproxy ls` shows the groups"
        if reference is None:
            return f"{_name(home, reference)} is not in the cache of group {group}. `depproxy ls {group}` shows what is"
        return str(await self._inspector.not_known(home, reference))


def _name(home: Home | None, reference: Reference | None) -> str | None:
    if home is None:
        return None
    return f"{home.upstream}/{home.repository}" if reference is None else image_name(home, reference)
