"""What the running service says of itself: real HTTP, a real Redis, a registry on real sockets."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from depproxy import __version__
from depproxy.config import load
from depproxy.web.admin.ratelimit import LATEST, PREVIEW
from tests.test_service import NOWHERE, ServiceTestCase
from tests.upstream_fake import Call, Registry, answers
from tests.web_support import until

LIMITS = {
    "RateLimit_Limit": "100;w=21600",
    "RateLimit_Remaining": "76;w=21600",
    "Docker_RateLimit_Source": "192.0.2.1",
}
LIMIT = {"source": "192.0.2.1", "limit": 100, "remaining": 76, "window": 21600}
PREVIEW_PATH = f"/v2/{PREVIEW}/manifests/{LATEST}"


class AdminOfService(ServiceTestCase):
    async def ask(self, path: str) -> tuple[int, Any]:
        client = await self.client(str(self.data / "admin.sock"))
        client.ask(path)
        answer = await client.answer()
        client.leave()
        return answer.status, json.loads(answer.body)

    async def status(self) -> Any:
        code, document = await self.ask("/v1/status")
        assert code == 200
        return document

    async def upstream(self, name: str = "docker.io") -> Any:
        (found,) = (upstream for upstream in (await self.status())["upstreams"] if upstream["name"] == name)
        return found


class Status(AdminOfService):
    async def test_of_a_service_that_has_just_started(self) -> None:
        self.configure('[upstreams."ghcr.io"]\nmax_connections = 7\n')
        await self.start()
        found = await self.status()
        assert found.pop("uptime") >= 0
        upstreams = found.pop("upstreams")
        assert found == {
            "version": __version__,
            "pid": os.getpid(),
            "state": "serving",
            "listeners": self.listening,
            "requests": {
                kind: {"hit": 0, "miss": 0, "joined": 0, "stale": 0, "error": 0, "hit_ratio": None}
                for kind in ("manifest", "blob", "document")
            },
            "index": {"reachable": True, "error": None},
            "cache": {"max_bytes": 50 << 30, "bytes": 0, "blobs": 0},
            "fills": [],
        }
        assert [upstream["name"] for upstream in upstreams] == ["docker.io", "ghcr.io"]
        assert upstreams[1] == {
            "name": "ghcr.io",
            "url": "https://ghcr.io",
            "username": None,
            "connections": 0,
            "max_connections": 7,
            "last_success": None,
            "last_failure": None,
            "failure": None,
            "held_off": 0.0,
            "held_off_repositories": 0,
            "rate_limits": [],
        }

    async def test_of_one_that_serves(self) -> None:
        registry = self.registry()
        registry.headers = LIMITS
        registry.put_manifest("1", b"{}")
        self.configure(url=registry.url)
        await self.start()
        for _ in range(4):
            assert (await self.get("/v2/team/app/manifests/1")).body == b"{}"
        assert (await self.get("/v2/team/app/manifests/none")).status == 404
        await until(lambda: self.service.house.background._running == set())
        found = await self.status()
        counts = {"hit": 3, "miss": 1, "joined": 0, "stale": 0, "error": 1, "hit_ratio": 0.75}
        assert found["requests"]["manifest"] == counts
        assert (found["cache"]["bytes"], found["cache"]["blobs"]) == (2, 1)
        upstream = await self.upstream()
        assert upstream["last_success"] is not None
        # That there is no such tag is an answer.
        assert (upstream["last_failure"], upstream["failure"], upstream["held_off"]) == (None, None, 0)
        assert upstream["rate_limits"] == [LIMIT]

    async def test_of_a_fill(self) -> None:
        size = 10_000_000
        registry = self.registry()
        digest = registry.put_blob(bytes(size))
        calls: list[Call] = []

        def half(call: Call) -> object:
            if call.request.method == b"HEAD":
                return call.answer(200, bytes(size))
            calls.append(call)
            call.begin(200, size)
            call.request.write(bytes(size // 2))
            return 1

        registry.paths[f"/v2/team/app/blobs/{digest}"] = half
        self.configure(url=registry.url)
        await self.start()
        clients = [await self.client(self.port) for _ in range(2)]
        for client in clients:
            client.ask(f"/v2/team/app/blobs/{digest}")
            await client.enough(size // 2)
        (fill,) = (await self.status())["fills"]
        assert fill.pop("seconds") >= 0
        assert fill == {
            "digest": str(digest),
            "upstream": "docker.io",
            "repository": "team/app",
            "bytes": size // 2,
            "size": size,
            "waiters": 2,
        }
        assert (await self.upstream())["connections"] == 1
        for client in clients:
            client.leave()
        await until(lambda: not self.service.house.blobs.fills()[0].waiters)
        ((fill,), (call,)) = (await self.status())["fills"], calls
        assert fill["waiters"] == 0
        call.request.write(bytes(size // 2))
        call.request.finish()
        await until(lambda: not self.service.house.blobs.fills())
        assert (await self.status())["fills"] == []

    async def test_of_one_in_trouble(self) -> None:
        self.configure(f'[index]\nurl = "redis://{NOWHERE.removeprefix("http://")}"\n')
        await self.start()
        assert (await self.get("/v2/team/app/manifests/1")).status == 504
        found = await self.status()
        assert found["index"]["reachable"] is False
        assert found["index"]["error"]
        assert found["cache"] == {"max_bytes": 50 << 30, "bytes": None, "blobs": None}
        (upstream,) = found["upstreams"]
        assert upstream["last_success"] is None
        assert upstream["last_failure"] is not None
        assert "refused" in upstream["failure"]
        assert 0 < upstream["held_off"] <= 5

    async def test_of_a_repository_in_trouble(self) -> None:
        registry = self.registry()
        registry.paths["/v2/team/app/manifests/1"] = answers(503, b"")
        self.configure("retries = 0\n", registry.url)
        await self.start()
        assert (await self.get("/v2/team/app/manifests/1")).status == 504
        upstream = await self.upstream()
        assert (upstream["held_off"], upstream["held_off_repositories"]) == (0, 1)

    async def test_without_a_limit(self) -> None:
        self.file.write_text(f'[storage]\npath = "{self.data}"\nmax_size = "unlimited"\n')
        await self.start()
        assert (await self.status())["cache"]["max_bytes"] is None


class Socket(AdminOfService):
    async def test_it_is_there_until_all_is_served(self) -> None:
        """While requests under way end, the service can still be asked, and nobody new gets in."""
        registry = self.registry()
        digest = registry.put_blob(bytes(50_000_000))
        self.configure('[server]\ndrain_timeout = "1h"\n', registry.url)
        await self.start()
        path = self.data / "admin.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = await self.client(self.port)
        client.ask(f"/v2/team/app/blobs/{digest}")
        await client.enough(1)
        client.stop_reading()
        stopping = self.service.stopService()
        await until(lambda: self.service.house.site.draining)
        assert (await self.status())["state"] == "stopping"
        client.leave()
        await stopping
        assert not path.exists()

    async def test_another_place(self) -> None:
        self.configure('[server]\nadmin_socket = "x.sock"\n')
        await self.start()
        path = self.file.parent / "x.sock"
        assert load(self.file, environ=self.environ).server.admin_socket == path
        client = await self.client(str(path))
        client.ask("/v1/status")
        assert (await client.answer()).status == 200

    async def test_a_place_that_is_taken(self) -> None:
        self.configure()
        (self.data / "admin.sock").write_text("precious")
        self.make().startService()
        await until(lambda: self.fatal)
        assert self.fatal[0].startswith(f"depproxy cannot start: {self.data}/admin.sock: is there and is no socket; ")
        assert not self.has_logged("Traceback")


class RateLimits(AdminOfService):
    async def begin(self, text: str = "") -> Registry:
        registry = self.registry()
        registry.headers = LIMITS
        registry.put_manifest("latest", b"{}")
        self.configure(text, registry.url)
        await self.start()
        return registry

    async def test_docker_hub_is_asked(self) -> None:
        registry = await self.begin()
        expected = {"upstream": "docker.io", "username": None, "asked": True, "rate_limits": [LIMIT]}
        for path in ("", "?upstream=docker.io", "?upstream=index.docker.io"):
            before = len(registry.asked("HEAD"))
            assert await self.ask(f"/v1/ratelimit{path}") == (200, expected)
            assert registry.asked("HEAD")[before:] == [f"HEAD {PREVIEW_PATH}"]
        assert not registry.asked("GET")

    async def test_when_nothing_is_left(self) -> None:
        registry = await self.begin()
        registry.paths[PREVIEW_PATH] = answers(429, b"", **{**LIMITS, "RateLimit_Remaining": "0;w=21600"})
        status, found = await self.ask("/v1/ratelimit")
        assert (status, found["rate_limits"]) == (200, [{**LIMIT, "remaining": 0}])

    async def test_a_hub_that_does_not_tell(self) -> None:
        registry = await self.begin()
        registry.headers = {}
        status, found = await self.ask("/v1/ratelimit")
        assert (status, found["asked"], found["rate_limits"]) == (200, True, [])

    async def test_a_hub_that_is_none(self) -> None:
        registry = await self.begin()
        registry.paths[PREVIEW_PATH] = answers(404, b"")
        status, found = await self.ask("/v1/ratelimit")
        assert status == 502
        assert found["error"] == (
            "docker.io has no ratelimitpreview/test, which Docker Hub has for this question: its url is that of another"
            " registry"
        )

    async def test_a_hub_in_trouble(self) -> None:
        registry = await self.begin()
        registry.paths[PREVIEW_PATH] = answers(503, b"")
        status, found = await self.ask("/v1/ratelimit")
        assert (status, set(found)) == (502, {"error"})
        assert found["error"].startswith("docker.io: ")
        # As with any trouble; but no client is held off by it.
        assert (await self.upstream())["failure"] is not None
        assert (await self.upstream())["held_off"] == 0

    async def test_others_are_not(self) -> None:
        registry = self.registry()
        registry.headers = LIMITS
        registry.put_manifest("1", b"{}")
        self.configure(f'[upstreams."other.example"]\nurl = "{registry.url}"\n')
        await self.start()
        nothing: dict[str, object] = {"upstream": "other.example", "username": None, "asked": False, "rate_limits": []}
        assert await self.ask("/v1/ratelimit?upstream=other.example") == (200, nothing)
        assert registry.seen == []
        assert (await self.get("/v2/other.example/team/app/manifests/1")).status == 200
        known = {**nothing, "rate_limits": [LIMIT]}
        assert await self.ask("/v1/ratelimit?upstream=other.example") == (200, known)

    async def test_a_stranger(self) -> None:
        self.configure()
        await self.start()
        assert await self.ask("/v1/ratelimit?upstream=quay.io") == (
            404,
            {"error": "'quay.io' is no configured upstream; there are docker.io"},
        )
