"""What operators and their monitoring ask: alive, able to serve, and the numbers."""

from __future__ import annotations

import json

from depproxy import __version__
from depproxy.index.interface import Home
from depproxy.metrics import Metrics
from depproxy.oci.digest import Digest
from depproxy.web.status import MOST_GROUPS, Status
from tests.cache_tools import HOME, NAME, STRANGER
from tests.fakes import MemoryIndex
from tests.test_metrics import samples
from tests.web_support import Answer, Cache, Client, WebTestCase


class StatusTestCase(WebTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.index = MemoryIndex(lambda: 0.0)
        self.metrics = Metrics()
        self.fills = 0
        status = Status(self.index, self.index, self.metrics, lambda: self.fills)
        self.port = self.listen(self.faces(Cache(self.directory / "data").registry(), status=status))

    async def get(self, path: str, method: str = "GET", client: Client | None = None) -> Answer:
        client = client or await self.client(self.port)
        client.ask(path, method)
        return await client.answer(method)

    async def test_alive(self) -> None:
        for path in ("/healthz", "/healthz?verbose"):
            answer = await self.get(path)
            assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
            assert answer.headers["content-type"] == "application/json"

    async def test_ready(self) -> None:
        self.fills = 3
        answer = await self.get("/readyz")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(answer.body) == {"status": "ok", "version": __version__, "index": "ok", "fills": 3}

    async def test_ready_without_the_index(self) -> None:
        """It can serve what is here, so it must not be taken out of service."""
        self.index.available = False
        answer = await self.get("/readyz")
        assert answer.status == 200
        assert json.loads(answer.body)["index"] == "unavailable"

    async def test_the_numbers(self) -> None:
        await self.index.put_blob(Digest.of(b"a"), 1000, [HOME])
        await self.index.put_blob(Digest.of(b"b"), 234, [HOME])
        self.metrics.answered["blob", "hit"].inc()
        answer = await self.get("/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"] == self.metrics.content_type
        assert answer.body == self.metrics.exposition()
        found = samples(self.metrics)
        assert found["depproxy_cache_blobs", ()] == 2
        assert found["depproxy_cache_bytes", ()] == 1234
        assert found["depproxy_requests_total", ("blob", "hit")] == 1

    async def test_the_numbers_of_groups(self) -> None:
        await self.index.put_blob(Digest.of(b"a"), 1000, [HOME, STRANGER])
        await self.index.put_blob(Digest.of(b"b"), 234, [HOME])
        await self.get("/metrics")
        found = samples(self.metrics)
        assert [found["depproxy_group_blobs", (group,)] for group in ("acme", "other")] == [2, 1]
        assert [found["depproxy_group_bytes", (group,)] for group in ("acme", "other")] == [1234, 1000]
        for home in (HOME, STRANGER):
            await self.index.forget_home(home)
        await self.index.let_go("other", await self.index.coldest_of("other", 1))
        await self.get("/metrics")
        assert ("depproxy_group_blobs", ("other",)) not in samples(self.metrics)

    async def test_the_numbers_of_very_many_groups(self) -> None:
        for number in range(MOST_GROUPS + 2):
            home = Home(f"g{number}", "docker.io", NAME)
            await self.index.put_blob(Digest.of(b"%d" % number), number, [home])
        await self.get("/metrics")
        names = {labels for name, labels in samples(self.metrics) if name == "depproxy_group_bytes"}
        assert names == {(f"g{number}",) for number in range(2, MOST_GROUPS + 2)}

    async def test_the_numbers_without_the_index(self) -> None:
        """The last totals stay: a drop to nothing would be told to whoever is on call."""
        await self.index.put_blob(Digest.of(b"a"), 1000, [HOME])
        await self.get("/metrics")
        self.index.available = False
        assert (await self.get("/metrics")).status == 200
        found = samples(self.metrics)
        assert found["depproxy_cache_bytes", ()] == 1000
        assert found["depproxy_errors_total", ("index",)] == 1

    async def test_asking_is_not_counted_as_a_request(self) -> None:
        for path in ("/metrics", "/readyz", "/healthz"):
            await self.get(path)
        found = samples(self.metrics)
        assert not any(value for (name, _), value in found.items() if name == "depproxy_requests_total")

    async def test_head_and_length(self) -> None:
        """On one connection: each answer has its length, and a HEAD has no body."""
        client = await self.client(self.port)
        for path in ("/healthz", "/readyz", "/metrics"):
            whole = await self.get(path, client=client)
            head = await self.get(path, "HEAD", client)
            assert head.status == 200
            assert int(head.headers["content-length"]) == len(whole.body)
            assert head.headers["content-type"] == whole.headers["content-type"]

    async def test_only_these_paths(self) -> None:
        for path in ("/healthz/", "/healthz/x", "/metrics.json", "/readyz%20", "/Healthz"):
            answer = await self.get(path)
            assert (answer.status, answer.error) == (404, "NAME_UNKNOWN"), path
