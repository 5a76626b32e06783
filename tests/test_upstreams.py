"""Upstreams with the credentials of groups, before a registry on real sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer
from zope.interface.verify import verifyObject

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import Refused
from depproxy.upstream.interface import Credential, IGroupCredentials, IUpstream, IUpstreams, IUpstreamStates
from depproxy.upstream.upstreams import MAX_ACTING, Barred, Upstreams
from tests.cache_tools import Outcome
from tests.fakes import MemoryUpstream, MemoryUpstreams
from tests.upstream_fake import Account, Call, Registry, Sink, UpstreamCase

IMAGE, TAG = Name("acme/secret"), Tag("1")
BODY = b'{"schemaVersion": 2}'
PATH = f"/v2/{IMAGE}/manifests/{TAG}"
ALICE, BOB = Credential("alice", "a"), Credential("bob", "b")


@implementer(IGroupCredentials)
@define
class Own:
    """The credentials of groups, as the test sets them; of "broken" the secret is lost."""

    of: dict[str, Credential] = field(factory=dict)

    def find(self, upstream: str, group: str) -> Credential | None:
        if group == "broken":
            raise Refused(upstream, "the secret is lost")
        return self.of.get(group)


def test_interfaces() -> None:
    own = Own()
    verifyObject(IGroupCredentials, own)
    verifyObject(IUpstreams, Upstreams({}, own))
    verifyObject(IUpstreamStates, Upstreams({}, own))
    verifyObject(IUpstreams, MemoryUpstreams(MemoryUpstream()))
    verifyObject(IUpstream, Barred("docker.io", "no"))


def test_a_password_is_not_shown() -> None:
    assert "hush" not in repr(Credential("alice", "hush"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda upstream: upstream.head_manifest(IMAGE, TAG),
        lambda upstream: upstream.get_manifest(IMAGE, TAG),
        lambda upstream: upstream.head_blob(IMAGE, Digest.of(b"")),
        lambda upstream: upstream.open_blob(IMAGE, Digest.of(b"")),
        lambda upstream: upstream.get_document(IMAGE, "tags/list", ""),
    ],
)
def test_a_credential_that_is_not_usable(ask: Callable[[IUpstream], Awaitable[object]]) -> None:
    """The group that has it is refused, whatever it asks for; without a word to upstream."""
    upstream = Upstreams({}, Own()).of("docker.io", "broken")
    assert upstream == Upstreams({}, Own()).of("docker.io", "broken")
    error = Outcome(ask(upstream)).error
    assert isinstance(error, Refused)
    assert str(error) == "docker.io: the secret is lost"


class Groups(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.own = Own({"acme": ALICE, "acme/tools": ALICE, "beta": BOB})
        self.server = self.registry(authentication="bearer")
        self.server.put_manifest(TAG, BODY)
        self.server.paths["/token"] = self.token
        self.known = {ALICE.basic, BOB.basic}

    def token(self, call: Call) -> object:
        """Tokens for those whose credential is known."""
        basic = call.seen.header("Authorization")
        self.server.account = None if basic in self.known else Account("nobody", "x")
        return self.server.token(call)

    def upstreams(self, registry: Registry | None = None) -> Upstreams:
        return Upstreams({"fake": self.client(registry or self.server)}, self.own)

    def asked_as(self) -> list[str | None]:
        """With what the token endpoint was asked."""
        return [seen.header("Authorization") for seen in self.server.token_requests]

    async def test_each_asks_with_its_own(self) -> None:
        upstreams = self.upstreams()
        for group in ("acme", "beta", "acme", "beta"):
            manifest = await upstreams.of("fake", group).get_manifest(IMAGE, TAG)
            assert manifest.body == BODY
        assert self.asked_as() == [ALICE.basic, BOB.basic]
        assert [seen.header("Authorization") for seen in self.server.seen if seen.path == PATH] == [
            None,
            "Bearer t1",
            "Bearer t2",
            "Bearer t1",
            "Bearer t2",
        ]
        # Without one it is the configuration's, which is none.
        await self.fails(Refused, upstreams.of("fake", "other").get_manifest(IMAGE, TAG))
        assert self.asked_as()[2:] == [None]

    async def test_objects_are_equal_where_the_credential_is(self) -> None:
        upstreams = self.upstreams()
        acme, below, beta, one, two = (
            upstreams.of("fake", group) for group in ("acme", "acme/tools", "beta", "one", "two")
        )
        assert acme == below
        assert one == two
        assert len({acme, beta, one}) == 3
        assert {upstream.name for upstream in (acme, beta, one)} == {"fake"}

    async def test_the_credential_of_the_configuration_is_for_the_others(self) -> None:
        path = Path(self.directory()) / "password"
        path.write_text("b")
        client = self.client(self.server, username="bob", password_file=path)
        upstreams = Upstreams({"fake": client}, Own({"acme": ALICE}))
        for group in ("acme", "other"):
            await upstreams.of("fake", group).head_manifest(IMAGE, TAG)
        assert self.asked_as() == [ALICE.basic, BOB.basic]

    async def test_another_secret(self) -> None:
        upstreams = self.upstreams()
        before = upstreams.of("fake", "acme")
        await before.head_manifest(IMAGE, TAG)
        self.own.of["acme"] = self.own.of["acme/tools"] = changed = Credential("alice", "new")
        upstreams.retain({changed, BOB})
        self.known = {changed.basic, BOB.basic}
        after = upstreams.of("fake", "acme")
        assert after != before
        await after.head_manifest(IMAGE, TAG)
        assert self.asked_as() == [ALICE.basic, changed.basic]
        # Back again: the tokens of then are gone.
        self.own.of["acme"] = ALICE
        upstreams.retain({ALICE, BOB})
        await self.fails(Refused, upstreams.of("fake", "acme").head_manifest(IMAGE, TAG))
        assert self.asked_as()[2:] == [ALICE.basic]

    async def test_what_does_not_change_keeps_its_tokens(self) -> None:
        upstreams = self.upstreams()
        before = upstreams.of("fake", "acme")
        await before.head_manifest(IMAGE, TAG)
        upstreams.retain([ALICE])
        assert upstreams.of("fake", "acme") is before
        await before.head_manifest(IMAGE, TAG)
        assert len(self.asked_as()) == 1

    async def test_a_wrong_secret_is_one_groups_trouble(self) -> None:
        upstreams = self.upstreams()
        self.known = {BOB.basic}
        error = await self.fails(Refused, upstreams.of("fake", "acme").head_manifest(IMAGE, TAG))
        assert "as alice" in str(error)
        await upstreams.of("fake", "beta").head_manifest(IMAGE, TAG)
        await self.fails(Refused, upstreams.of("fake", "acme").head_manifest(IMAGE, TAG))

    async def test_basic(self) -> None:
        self.server.authentication = "basic"
        self.server.account = Account("alice", "a")
        upstreams = self.upstreams()
        for _ in range(2):
            await upstreams.of("fake", "acme").head_manifest(IMAGE, TAG)
            await self.fails(Refused, upstreams.of("fake", "beta").head_manifest(IMAGE, TAG))
            await self.fails(Refused, upstreams.of("fake", "other").head_manifest(IMAGE, TAG))

    async def test_all_share_the_connections(self) -> None:
        """What groups have open counts against the one limit of the upstream."""
        digest = self.server.put_blob(b"layer")
        client = self.client(self.server, max_connections=2)
        upstreams = Upstreams({"fake": client}, self.own)
        acme, beta = (upstreams.of("fake", group) for group in ("acme", "beta"))
        stream = await acme.open_blob(IMAGE, digest)
        assert client.connections == 1
        waiting = Deferred.fromCoroutine(beta.open_blob(IMAGE, digest))
        await self.server.until(lambda: len(self.asked_as()) == 1)
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert bytes(sink.data) == b"layer"
        (await waiting).stop()

    async def test_rate_limits_by_source(self) -> None:
        self.server.headers = {"RateLimit-Limit": "200;w=21600", "Docker-RateLimit-Source": "alice"}
        client = self.client(self.server)
        await Upstreams({"fake": client}, self.own).of("fake", "acme").head_manifest(IMAGE, TAG)
        assert client.rate_limits["alice"].limit == 200

    async def test_closing_gives_up_token_requests_of_all(self) -> None:
        self.server.paths["/token"] = lambda call: NOT_DONE_YET
        upstreams = self.upstreams()
        ended: list[object] = []
        for group in ("acme", "beta"):
            asking = Deferred.fromCoroutine(upstreams.of("fake", group).head_manifest(IMAGE, TAG))
            asking.addBoth(ended.append)
        await self.server.until(lambda: len(self.asked_as()) == 2)
        # One of them is in use no more.
        upstreams.retain({BOB})
        await upstreams.close()
        assert len(ended) == 2

    async def test_they_are_bounded(self) -> None:
        upstreams = self.upstreams()
        first = upstreams.of("fake", "acme")
        await first.head_manifest(IMAGE, TAG)
        for number in range(MAX_ACTING):
            self.own.of["many"] = Credential("many", str(number))
            upstreams.of("fake", "many")
        assert len(upstreams._acting) == MAX_ACTING
        assert upstreams.of("fake", "acme") is not first
        await upstreams.of("fake", "acme").head_manifest(IMAGE, TAG)
        assert self.asked_as() == [ALICE.basic] * 2
