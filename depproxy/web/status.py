"""The status face: alive, able to serve, and the numbers."""

import json
from collections.abc import Callable, Mapping
from heapq import nlargest

from twisted.python.failure import Failure
from twisted.web.http import Request

from depproxy import __version__
from depproxy.index.interface import ICacheIndex, IGroupIndex, IndexUnavailable, Share
from depproxy.metrics import Metrics
from depproxy.web.render import fail
from depproxy.web.routing import Application

METRICS = b"/metrics"
STATUS_PATHS = frozenset({b"/healthz", b"/readyz", METRICS})
# A monitoring that has a series for each of very many groups is of no use to anybody.
MOST_GROUPS = 1000


class Status:
    """What operators and their monitoring ask."""

    app = Application()

    def __init__(self, index: ICacheIndex, groups: IGroupIndex, metrics: Metrics, filling: Callable[[], int]) -> None:
        self._index = index
        self._groups = groups
        self._metrics = metrics
        self._filling = filling

    @app.route("/healthz")
    def healthz(self, request: Request) -> bytes:
        """200 while the process answers at all."""
        return _answer(request, b'{"status":"ok"}', "application/json")

    @app.route("/readyz")
    async def readyz(self, request: Request) -> bytes:
        """
        200 once depproxy can serve. It listens only then, so the body is what tells more: without its index it
        serves on, but asks upstream more often.
        """
        try:
            await self._index.totals()
            index = "ok"
        except IndexUnavailable:
            # Without the reason, which names hosts: anybody may ask here.
            index = "unavailable"
        report = {"status": "ok", "version": __version__, "index": index, "fills": self._filling()}
        return _answer(request, json.dumps(report).encode(), "application/json")

    @app.route("/metrics")
    async def metrics(self, request: Request) -> bytes:
        """The Prometheus exposition."""
        try:
            blobs, size = await self._index.totals()
            self._metrics.blobs.set(blobs)
            self._metrics.blob_bytes.set(size)
            self._show_groups(await self._groups.groups())
        except IndexUnavailable:
            self._metrics.errors.labels("index").inc()
        return _answer(request, self._metrics.exposition(), self._metrics.content_type)

    def _show_groups(self, groups: Mapping[str, Share]) -> None:
        """Those that are there now; of very many the largest ones."""
        self._metrics.group_blobs.clear()
        self._metrics.group_bytes.clear()
        for group, share in nlargest(MOST_GROUPS, groups.items(), key=lambda item: item[1].size):
            self._metrics.group_blobs.labels(group).set(share.blobs)
            self._metrics.group_bytes.labels(group).set(share.size)

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein types handlers by IRequest.
    def failed(self, request: Request, failure: Failure) -> None:
        """Every error that a handler raised."""
        fail(request, failure, "document", self._metrics)


def _answer(request: Request, body: bytes, content_type: str) -> bytes:
    request.responseHeaders.setRawHeaders(b"Content-Type", [content_type.encode("ascii")])
    request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    return body
