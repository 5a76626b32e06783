"""The cache index for a backup: `depproxy backup`, which reads files by itself."""

import os
from pathlib import Path

from depproxy import __version__
from depproxy.backup.records import document
from depproxy.index.interface import ICacheIndex, IIndexContents
from depproxy.web.admin.answers import Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.progress import Progress


class BackupFace:
    """Tells what is in the index, and that keys and blobs are below `data`."""

    app = AdminApplication()

    def __init__(self, index: ICacheIndex, contents: IIndexContents, data: Path) -> None:
        self._index = index
        self._contents = contents
        self._data = data

    @app.tells("/v1/backup")
    async def backup(self, ask: Ask, progress: Progress) -> Document:
        """A line about the whole, then one for each record."""
        # Last uses that wait in memory belong into it.
        await self._index.flush()
        blobs, size = await self._index.totals()
        await progress.tell(
            {
                "version": __version__,
                "schema": self._contents.schema,
                "data": os.fspath(self._data),
                "blobs": blobs,
                "bytes": size,
            }
        )
        items = 0
        async for record in self._contents.records():
            items += len(record.items)
            await progress.tell(document(record))
        return {"items": items}
