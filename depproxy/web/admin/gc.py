"""What has to go, goes now: `depproxy gc`."""

from depproxy.cache.collection import Collector
from depproxy.cache.removal import Removed
from depproxy.web.admin.answers import Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.progress import Progress


class CollectFace:
    """Collects garbage, or says what would go."""

    app = AdminApplication()

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    @app.tells("/v1/gc", "dry_run")
    async def collect(self, ask: Ask, progress: Progress) -> Document:
        """What went, by why and group. Who leaves does not end it."""
        dry = ask.flag("dry_run")
        found = await (self._collector.rehearse() if dry else self._collector.collect())
        return {
            "dry_run": dry,
            "removed": [_removed(removed) for removed in found.removed],
            "adopted": found.swept.adopted,
            "forgotten": found.swept.forgotten,
            "interrupted": {"removed": found.swept.removed, "removed_bytes": found.swept.size},
        }


def _removed(removed: Removed) -> Document:
    return {
        "why": removed.why,
        "group": removed.group,
        "blobs": removed.blobs,
        "let_go_bytes": removed.let_go,
        "removed": removed.removed,
        "removed_bytes": removed.size,
        "repositories": removed.repositories,
    }
