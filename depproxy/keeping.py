"""What looks after the storage, built from its settings: a part of the house."""

import time
from collections.abc import Callable, Mapping, Set

from twisted.web.resource import IResource

from depproxy.cache.background import Background
from depproxy.cache.check import Checker
from depproxy.cache.collection import Collector
from depproxy.cache.contents import Contents
from depproxy.cache.entries import Entries
from depproxy.cache.eviction import Evictor
from depproxy.cache.expiry import Expirer
from depproxy.cache.inspection import Inspector
from depproxy.cache.inventory import Inventory
from depproxy.cache.links import Links
from depproxy.cache.pins import Pins
from depproxy.cache.purge import Purger, Purges
from depproxy.cache.reconcile import Reconciler
from depproxy.cache.removal import Remover
from depproxy.cache.tags import Tags
from depproxy.cache.uses import Uses
from depproxy.config import Settings, image_names
from depproxy.index.redis import RedisIndex
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.storage.files import FileStore
from depproxy.web.admin.du import UsageFace
from depproxy.web.admin.fsck import CheckFace
from depproxy.web.admin.gc import CollectFace
from depproxy.web.admin.ls import InspectFace, ListFace
from depproxy.web.admin.named import Named
from depproxy.web.admin.pins import PinFace
from depproxy.web.admin.purge import PurgeFace


class Keeping:
    """
    What takes blobs away, what makes files and entries agree, and the admin faces that show what there is.

    `forget` is told what goes, and `ttl` says how many seconds a group keeps what it does not read.
    """

    def __init__(
        self,
        settings: Settings,
        store: FileStore,
        index: RedisIndex,
        entries: Entries,
        tags: Tags,
        links: Links,
        uses: Uses,
        background: Background,
        forget: Callable[[Digest], None],
        ttl: Callable[[str], float | None],
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        contents = Contents(store, index)
        pins = Pins(index, contents)
        remover = Remover(store, index, index, uses, forget, metrics)
        self.named = named = Named(
            image_names(settings.mirror, settings.upstreams), settings.mirror.group, _groups(settings)
        )
        self.evictor = Evictor(index, index, entries, uses, pins, remover, background, *_limits(settings), metrics)
        self.expirer = Expirer(index, index, tags, links, uses, pins, remover, background, ttl, metrics)
        self.purges = Purges(Purger(index, index, contents, tags, links, uses, remover), background)
        self.reconciler = Reconciler(store, index, entries, uses, remover, background, metrics)
        inventory = Inventory(index, index, contents, lambda: _limits(self._settings)[1], ttl, self._groups)
        usage = UsageFace(store, index, index, lambda: _limits(self._settings)[0])
        collector = Collector(
            store,
            index,
            index,
            uses,
            pins,
            self.evictor,
            self.expirer,
            self.reconciler,
            background,
            lambda: _limits(self._settings),
            ttl,
            time.time,
        )
        checker = Checker(store, index, index, entries, uses, self.reconciler, remover)
        inspector = Inspector(index, index, contents)
        self.faces: Mapping[str, IResource] = {
            "ls": ListFace(inventory, index, named).app.resource(),
            "du": usage.app.resource(),
            "inspect": InspectFace(inspector, named).app.resource(),
            "purge": PurgeFace(self.purges, inspector, named).app.resource(),
            "gc": CollectFace(collector).app.resource(),
            "fsck": CheckFace(checker).app.resource(),
            "pins": PinFace(pins, inventory, named).app.resource(),
        }

    def take_over(self, settings: Settings) -> None:
        """Other settings count from now on."""
        self._settings = settings
        self.named.names = image_names(settings.mirror, settings.upstreams)
        self.named.group = settings.mirror.group
        self.named.groups = _groups(settings)
        self.evictor.resize(*_limits(settings))

    def _groups(self) -> set[str]:
        """Those that are configured, and the mirror's."""
        return {*self._settings.groups, self._settings.mirror.group}


def _groups(settings: Settings) -> Set[str] | None:
    """Those from which, and below which, somebody may pull; None where others say that."""
    if settings.access.gitlab is not None or settings.access.oidc:
        return None
    return {*settings.groups, settings.mirror.group}


def _limits(settings: Settings) -> tuple[float, dict[str, float]]:
    """Of the cache, and of the groups that have their own; in bytes."""
    max_size = settings.storage.max_size
    return max_size, {path: group.quota.of(max_size) for path, group in settings.groups.items() if group.quota}
