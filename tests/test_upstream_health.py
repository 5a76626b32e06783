"""How an upstream has been lately, by what it answers on real sockets."""

from __future__ import annotations

from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import NotFound, Refused, Unavailable
from depproxy.upstream.health import Health
from depproxy.upstream.interface import Credential
from tests.upstream_fake import UpstreamCase, answers

REPOSITORY, TAG = Name("library/alpine"), Tag("3.20")
PATH = f"/v2/{REPOSITORY}/manifests/{TAG}"


def test_what_is_remembered() -> None:
    now = 0.0
    health = Health(lambda: now)
    assert (health.last_success, health.last_failure, health.failure) == (None, None, "")
    now = 1.0
    health.failed(Unavailable("docker.io", "down"))
    now = 2.0
    health.succeeded()
    assert (health.last_success, health.last_failure, health.failure) == (2, 1, "down")
    now = 3.0
    health.failed(NotFound("docker.io", "no such tag", 404))
    assert (health.last_success, health.last_failure, health.failure) == (3, 1, "down")
    health.failed(Refused("docker.io", "no"))
    assert (health.last_success, health.last_failure, health.failure) == (3, 3, "no")


class OnTheWire(UpstreamCase):
    async def test_all_questions_count_whoever_asks(self) -> None:
        registry = self.registry()
        registry.put_manifest(TAG, b"{}")
        client = self.client(registry)
        before = client.state
        assert (before.last_success, before.last_failure) == (None, None)
        await client.head_manifest(REPOSITORY, TAG)
        answered = client.state
        assert answered.last_success is not None
        assert answered.last_failure is None
        registry.paths[PATH] = answers(503, b"")
        await self.fails(Unavailable, client.acting_as(Credential("alice", "a")).get_manifest(REPOSITORY, TAG))
        failed = client.state
        assert failed.last_failure is not None
        assert "503" in failed.failure
        registry.paths[PATH] = answers(404, b"")
        await self.fails(NotFound, client.get_manifest(REPOSITORY, TAG))
        assert client.state.last_failure == failed.last_failure

    async def test_of_the_configuration_it_has_no_secret(self) -> None:
        client = self.client(self.registry(), max_connections=3)
        state = client.state
        assert (state.name, state.username, state.connections, state.max_connections) == ("fake", None, 0, 3)
