"""How much there is: `depproxy du`."""

from collections.abc import Callable

from depproxy.cache.counting import count
from depproxy.index.interface import ICacheIndex, IGroupIndex, Share
from depproxy.storage.interface import IBlobStore
from depproxy.web.admin.answers import Document, finite
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.progress import Progress

NOTHING = Share(0, 0)


class UsageFace:
    """Adds up what is stored; `max_size` gives the limit of the cache in bytes."""

    app = AdminApplication()

    def __init__(
        self, store: IBlobStore, index: ICacheIndex, groups: IGroupIndex, max_size: Callable[[], float]
    ) -> None:
        self._store = store
        self._index = index
        self._groups = groups
        self._max_size = max_size

    @app.tells("/v1/du")
    async def usage(self, ask: Ask, progress: Progress) -> Document:
        """All sums. With a million entries it takes about ten seconds, while others are served."""
        await self._index.flush()
        counted, sums = await count(self._index), await self._groups.sums()
        room = await self._store.measure()
        return {
            "groups": [
                {"group": group, **_share(share), "alone": _share(counted.alone.get(group, NOTHING))}
                for group, share in sorted(sums.groups.items())
            ],
            "total": {"blobs": sums.blobs, "bytes": sums.size},
            "nobody": _share(counted.nobody),
            "max_size": finite(self._max_size()),
            "directories": {
                name: {"files": measure.files, "bytes": measure.size} for name, measure in room.beside.items()
            },
            "file_system": {"bytes": room.total, "free": room.free},
        }


def _share(share: Share) -> Document:
    return {"blobs": share.blobs, "bytes": share.size}
