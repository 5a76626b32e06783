"""Challenges, tokens and passwords, over real sockets."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.server import NOT_DONE_YET

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, Unavailable
from tests.upstream_fake import (
    Account,
    Call,
    Ready,
    Registry,
    Responder,
    Seen,
    Server,
    Sink,
    UpstreamCase,
    answers,
    reactor,
)

REPOSITORY = Name("library/alpine")
TAG = Tag("3.20")
MANIFEST = b'{"schemaVersion": 2, "layers": []}'
BLOB = b"a layer"
PATH = f"/v2/{REPOSITORY}/manifests/{TAG}"


def together(*waiting: Awaitable[Any]) -> list[Deferred[Any]]:
    """All of them, started now."""

    async def wait(one: Awaitable[Any]) -> Any:
        return await one

    return [Deferred.fromCoroutine(wait(one)) for one in waiting]


def hold(held: list[Call]) -> Responder:
    """Keeps the request in this list, for the test to answer."""

    def keep(call: Call) -> object:
        held.append(call)
        return NOT_DONE_YET

    return keep


class Case(UpstreamCase):
    def bearer(self, **attributes: object) -> Registry:
        registry = self.registry(authentication="bearer", **attributes)
        registry.put_manifest(TAG, MANIFEST)
        return registry

    def password_file(self, password: str) -> Path:
        path = Path(self.directory()) / "password"
        path.write_text(password)
        return path

    def private(self, registry: Registry, password: str = "secret", **settings: Any) -> dict[str, Any]:
        """The settings of a client that knows this password."""
        registry.account = registry.account or Account("alice", password)
        return {"username": "alice", "password_file": self.password_file(password), **settings}


class Tokens(Case):
    async def test_the_first_challenge_is_answered(self) -> None:
        registry = self.bearer()
        await self.client(registry).head_manifest(REPOSITORY, TAG)
        assert registry.asked() == [f"HEAD {PATH}", "GET /token", f"HEAD {PATH}"]
        (asked,) = registry.token_requests
        assert asked.query == {"service": ["fake"], "scope": ["repository:library/alpine:pull"]}
        assert asked.header("Authorization") is None
        assert asked.header("Accept-Encoding") == "identity"
        assert registry.seen[2].header("Authorization") == "Bearer t1"

    async def test_a_token_serves_for_its_life(self) -> None:
        registry = self.bearer()
        clock = Ready()
        client = self.client(registry, clock=clock)
        await client.head_manifest(REPOSITORY, TAG)
        clock.advance(289)
        await client.get_manifest(REPOSITORY, TAG)
        assert registry.issued == 1
        clock.advance(2)
        await client.get_manifest(REPOSITORY, TAG)
        assert registry.issued == 2
        # Neither needed a 401 to find out.
        assert registry.asked("HEAD", "GET").count(f"GET {PATH}") == 2

    async def test_without_a_life_it_is_a_minute(self) -> None:
        registry = self.bearer()
        for life in (None, "300", -5, True, 0):
            registry.life = life
            issued = registry.issued
            clock = Ready()
            client = self.client(registry, clock=clock)
            await client.head_manifest(REPOSITORY, TAG)
            clock.advance(49)
            await client.head_manifest(REPOSITORY, TAG)
            assert registry.issued == issued + 1
            clock.advance(2)
            await client.head_manifest(REPOSITORY, TAG)
            assert registry.issued == issued + 2

    async def test_access_token(self) -> None:
        registry = self.bearer(token_name="access_token")
        await self.client(registry).head_manifest(REPOSITORY, TAG)

    async def test_other_repositories_need_tokens_but_no_challenge(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        await client.head_manifest(Name("other/image"), TAG)
        assert registry.asked()[3:] == ["GET /token", "HEAD /v2/other/image/manifests/3.20"]
        assert registry.token_requests[1].query["scope"] == ["repository:other/image:pull"]

    async def test_it_is_asked_for_once_however_many_wait(self) -> None:
        registry = self.bearer()
        client = self.client(registry, max_connections=8)
        await client.head_manifest(REPOSITORY, TAG)
        held: list[Call] = []
        registry.tokens.clear()
        registry.paths["/token"] = hold(held)
        waiting = together(*(client.head_manifest(REPOSITORY, TAG) for _ in range(20)))
        await registry.until(lambda: len(held) == 1 and len(registry.asked("HEAD")) == 22)
        registry.token(held[0])
        held[0].request.finish()
        for one in waiting:
            await one
        assert len(held) == 1

    async def test_who_leaves_while_waiting_leaves_alone(self) -> None:
        registry = self.bearer()
        held: list[Call] = []
        registry.paths["/token"] = hold(held)
        client = self.client(registry)
        first, second = together(*(client.head_manifest(REPOSITORY, TAG) for _ in range(2)))
        await registry.until(lambda: len(held) == 1 and len(registry.asked("HEAD")) == 2)
        first.cancel()
        await self.assertFailure(first, CancelledError)
        registry.token(held[0])
        held[0].request.finish()
        await second

    async def test_when_all_have_left_the_token_is_there_for_the_next(self) -> None:
        registry = self.bearer()
        held: list[Call] = []
        registry.paths["/token"] = hold(held)
        client = self.client(registry)
        (first,) = together(client.head_manifest(REPOSITORY, TAG))
        await registry.until(lambda: len(held) == 1)
        first.cancel()
        await self.assertFailure(first, CancelledError)
        registry.token(held[0])
        held[0].request.finish()
        await client.head_manifest(REPOSITORY, TAG)
        assert len(held) == 1

    async def test_closing_gives_up_a_token_request(self) -> None:
        registry = self.bearer()
        registry.paths["/token"] = lambda call: NOT_DONE_YET
        client = self.client(registry)
        (waiting,) = together(client.head_manifest(REPOSITORY, TAG))
        await registry.until(lambda: len(registry.token_requests) == 1)
        await client.close()
        await self.assertFailure(waiting, CancelledError)
        await registry.gone()

    async def test_a_cached_token_that_is_refused_is_renewed_once(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        registry.tokens.clear()
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.asked()[3:] == [f"HEAD {PATH}", "GET /token", f"HEAD {PATH}"]
        registry.token_name = "tokn"
        registry.tokens.clear()
        await self.fails(Invalid, client.head_manifest(REPOSITORY, TAG))

    async def test_a_late_refusal_of_the_old_token_spares_the_new_one(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        registry.tokens.clear()
        late: list[Call] = []
        registry.paths[f"/v2/{REPOSITORY}/manifests/late"] = hold(late)
        (waiting,) = together(client.get_manifest(REPOSITORY, Tag("late")))
        await registry.until(lambda: len(late) == 1)
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.issued == 2
        registry.manifests["late"] = registry.manifests[TAG]
        del registry.paths[f"/v2/{REPOSITORY}/manifests/late"]
        registry.challenge(late[0], REPOSITORY)
        late[0].request.finish()
        await waiting
        assert registry.issued == 2

    async def test_a_denied_token_does_not_stick(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        registry.paths["/token"] = answers(200, b'{"token": "useless", "expires_in": 3600}')
        for number in (1, 2):
            error = await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
            assert error.status == 401
            assert "UNAUTHORIZED" not in str(error)  # a HEAD has no body
            assert len(registry.asked("HEAD")) == 2 * number
        error = await self.fails(Refused, client.get_manifest(REPOSITORY, TAG))
        assert "UNAUTHORIZED: authentication required" in str(error)
        # Rights are granted: nobody has to restart anything.
        registry.paths["/token"] = registry.token
        await client.head_manifest(REPOSITORY, TAG)

    async def test_403_with_a_fresh_token_is_final_with_a_cached_one_not(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        registry.paths[PATH] = lambda call: (
            call.answer(403) if call.seen.header("Authorization") == "Bearer t1" else registry.fallback(call)
        )
        await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
        assert (registry.issued, len(registry.asked("HEAD"))) == (1, 2)
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.issued == 2
        registry.paths[PATH] = lambda call: (
            call.answer(403) if call.seen.header("Authorization") == "Bearer t2" else registry.fallback(call)
        )
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.issued == 3

    async def test_scopes_of_the_challenge(self) -> None:
        registry = self.bearer(challenge_scope="aws")
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.token_requests[0].query["scope"] == ["repository:library/alpine:pull", "aws"]
        await client.head_manifest(Name("other/image"), TAG)
        assert registry.token_requests[1].query["scope"] == ["repository:other/image:pull", "aws"]

    async def test_a_repository_that_the_challenge_names_otherwise(self) -> None:
        registry = self.bearer(challenge_scope="repository:mirror/library/alpine:pull")
        client = self.client(registry)
        for _ in range(2):
            await client.head_manifest(REPOSITORY, TAG)
        (asked,) = registry.token_requests
        assert asked.query["scope"] == ["repository:mirror/library/alpine:pull"]

    async def test_a_realm_with_a_query(self) -> None:
        registry = self.bearer()
        registry.realm = f"{registry.url}/token?tenant=a%2Fb"
        await self.client(registry).head_manifest(REPOSITORY, TAG)
        assert registry.token_requests[0].uri.startswith(b"/token?tenant=a%2Fb&service=fake&scope=")

    async def test_several_challenges(self) -> None:
        registry = self.bearer()

        def challenge(call: Call) -> object:
            if call.seen.header("Authorization"):
                return registry.fallback(call)
            call.request.responseHeaders.setRawHeaders(
                "WWW-Authenticate", ['Basic realm="x", Negotiate realm="left open', f'Bearer realm="{registry.realm}"']
            )
            return call.answer(401)

        registry.paths[PATH] = challenge
        await self.client(registry).head_manifest(REPOSITORY, TAG)
        assert registry.token_requests[0].query == {"scope": ["repository:library/alpine:pull"]}

    async def test_a_scheme_that_is_unknown(self) -> None:
        registry = self.registry()
        registry.paths[PATH] = answers(401, WWW_Authenticate="Negotiate")
        error = await self.fails(Refused, self.client(registry).head_manifest(REPOSITORY, TAG))
        assert "negotiate" in str(error)

    async def test_an_upstream_that_moves_its_realm(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        registry.paths["/token"] = answers(404)
        registry.paths["/moved"] = registry.token
        registry.realm = f"{registry.url}/moved"
        registry.tokens.clear()
        other = Name("other/image")
        error = await self.fails(Refused, client.head_manifest(other, TAG))
        assert error.status == 404
        await client.head_manifest(other, TAG)

    async def test_the_token_endpoint_in_trouble(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        expected = {400: Refused, 401: Refused, 403: Refused, 404: Refused, 429: Throttled, 500: Unavailable}
        for status, kind in {**expected, 503: Unavailable, 302: Refused}.items():
            registry.paths["/token"] = answers(status, b'{"details": "it said"}', Retry_After="60")
            for asking in (client.head_manifest(REPOSITORY, TAG), client.get_manifest(REPOSITORY, TAG)):
                error = await self.fails(kind, asking)
                assert error.status == status
                assert "it said" in str(error)
        registry.paths["/token"] = lambda call: call.cut()
        await self.fails(Unavailable, client.head_manifest(REPOSITORY, TAG))
        # Nothing of it sticks.
        registry.paths["/token"] = registry.token
        await client.head_manifest(REPOSITORY, TAG)

    async def test_a_token_endpoint_that_does_not_answer(self) -> None:
        registry = self.bearer()
        registry.paths["/token"] = lambda call: NOT_DONE_YET
        clock = Ready()
        client = self.client(registry, clock=clock)
        (waiting,) = together(client.head_manifest(REPOSITORY, TAG))
        await registry.until(lambda: len(registry.token_requests) == 1)
        clock.advance(31)
        await self.fails(Unavailable, waiting)

    async def test_token_answers_that_are_none(self) -> None:
        registry = self.bearer()
        client = self.client(registry)
        for body in (
            b"",
            b"[]",
            b"{}",
            b'{"token": ""}',
            b'{"token": 5}',
            b'{"token": "a b"}',
            b'{"token": "a\\r\\nX: y"}',
        ):
            registry.paths["/token"] = answers(200, body)
            await self.fails(Invalid, client.head_manifest(REPOSITORY, TAG))
        small = b'{"token": "t", "x": "' + b"x" * (64 * 1024 - 23) + b'"}'
        assert len(small) == 64 * 1024
        registry.tokens["t"] = "repository:library/alpine:pull"
        registry.paths["/token"] = answers(200, small)
        await client.head_manifest(REPOSITORY, TAG)
        registry.tokens.clear()
        registry.paths["/token"] = answers(200, small + b" ")
        await self.fails(Invalid, client.head_manifest(REPOSITORY, TAG))

    async def test_tokens_do_not_wait_for_permits_of_those_who_need_them(self) -> None:
        registry = self.bearer()
        registry.put_blob(BLOB)
        client = self.client(registry, max_connections=1)
        for one in together(*(client.head_manifest(Name(f"image/{number}"), TAG) for number in range(10))):
            await one


class HeadsOfBlobs(Case):
    """Some registries answer a blob's HEAD with 401, 403 or 405, whatever the token."""

    async def test_a_refused_head_does_not_cost_the_token(self) -> None:
        registry = self.bearer(head_blobs=False)
        digest = registry.put_blob(BLOB)
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        for _ in range(3):
            error = await self.fails(Refused, client.head_blob(REPOSITORY, digest))
            assert error.status == 401
            sink = Sink()
            (await client.open_blob(REPOSITORY, digest)).start(sink)
            await sink.done
            assert bytes(sink.data) == BLOB
        # One for the manifest, one because the HEAD might have been right.
        assert registry.issued == 2

    def no_heads(self, registry: Registry, status: int) -> Responder:
        return lambda call: call.answer(status) if call.seen.method == "HEAD" else registry.fallback(call)

    async def test_403_and_405(self) -> None:
        for status in (403, 405):
            registry = self.bearer()
            digest = registry.put_blob(BLOB)
            client = self.client(registry)
            registry.paths[f"/v2/{REPOSITORY}/blobs/{digest}"] = self.no_heads(registry, status)
            await client.head_manifest(REPOSITORY, TAG)
            for _ in range(3):
                error = await self.fails(Refused, client.head_blob(REPOSITORY, digest))
                assert error.status == status
                (await client.open_blob(REPOSITORY, digest)).stop()
            assert registry.issued <= 2

    async def test_basic(self) -> None:
        registry = self.registry(authentication="basic", head_blobs=False)
        digest = registry.put_blob(BLOB)
        client = self.client(registry, **self.private(registry))
        (await client.open_blob(REPOSITORY, digest)).stop()
        await self.fails(Refused, client.head_blob(REPOSITORY, digest))
        (await client.open_blob(REPOSITORY, digest)).stop()
        assert registry.asked().count(f"GET /v2/{REPOSITORY}/blobs/{digest}") == 3

    async def test_heads_that_work_again(self) -> None:
        registry = self.bearer(head_blobs=False)
        digest = registry.put_blob(BLOB)
        client = self.client(registry)
        await self.fails(Refused, client.head_blob(REPOSITORY, digest))
        registry.head_blobs = True
        assert await client.head_blob(REPOSITORY, digest) == len(BLOB)
        registry.tokens.clear()
        assert await client.head_blob(REPOSITORY, digest) == len(BLOB)
        await self.fails(NotFound, client.head_blob(REPOSITORY, Digest.of(b"?")))


class Passwords(Case):
    async def test_a_token_for_a_password(self) -> None:
        registry = self.bearer()
        client = self.client(registry, **self.private(registry))
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.account is not None
        first, asked, second = registry.seen
        assert first.header("Authorization") is None
        assert asked.header("Authorization") == registry.account.basic
        assert asked.query["account"] == ["alice"]
        assert second.header("Authorization") == "Bearer t1"

    async def test_a_wrong_password(self) -> None:
        registry = self.bearer(account=Account("alice", "right"))
        client = self.client(registry, **self.private(registry, "wrong"))
        error = await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
        assert "as alice: 401 incorrect username or password" in str(error)
        assert "wrong" not in repr(error)

    async def test_a_password_that_changes(self) -> None:
        for authentication in ("bearer", "basic"):
            registry = self.registry(authentication=authentication)
            registry.put_manifest(TAG, MANIFEST)
            settings = self.private(registry, "first")
            client = self.client(registry, **settings)
            await client.head_manifest(REPOSITORY, TAG)
            registry.account = Account("alice", "second")
            registry.tokens.clear()
            await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
            settings["password_file"].write_text("second\n")
            await client.head_manifest(REPOSITORY, TAG)

    async def test_a_password_that_changes_unseen(self) -> None:
        for authentication in ("bearer", "basic"):
            registry = self.registry(authentication=authentication)
            registry.put_manifest(TAG, MANIFEST)
            settings = self.private(registry, "first!")
            path = settings["password_file"]
            before = os.stat(path)
            client = self.client(registry, **settings)
            await client.head_manifest(REPOSITORY, TAG)
            registry.account = Account("alice", "second")
            registry.tokens.clear()
            path.write_text("second")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            await client.head_manifest(REPOSITORY, TAG)

    async def test_403_for_a_password_that_expired(self) -> None:
        registry = self.registry(authentication="basic")
        registry.put_manifest(TAG, MANIFEST)
        settings = self.private(registry, "first")
        client = self.client(registry, **settings)
        await client.head_manifest(REPOSITORY, TAG)
        account = registry.account = Account("alice", "second")

        def expired(call: Call) -> object:
            return registry.fallback(call) if call.seen.header("Authorization") == account.basic else call.answer(403)

        registry.paths[PATH] = expired
        error = await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
        assert error.status == 403
        settings["password_file"].write_text("second")
        await client.head_manifest(REPOSITORY, TAG)

    async def test_a_password_file_that_is_gone(self) -> None:
        registry = self.registry(authentication="basic")
        registry.put_manifest(TAG, MANIFEST)
        settings = self.private(registry)
        client = self.client(registry, **settings)
        path, text = settings["password_file"], settings["password_file"].read_text()
        path.unlink()
        error = await self.fails(Unavailable, client.head_manifest(REPOSITORY, TAG))
        assert str(path) not in str(error), "clients read this"
        path.write_text(text)
        await client.head_manifest(REPOSITORY, TAG)
        # One that is being replaced is empty, or not there, for a moment.
        for spoil in (path.unlink, lambda: path.write_text("")):
            spoil()
            await client.head_manifest(REPOSITORY, TAG)

    async def test_basic(self) -> None:
        registry = self.registry(authentication="basic")
        registry.put_manifest(TAG, MANIFEST)
        client = self.client(registry, **self.private(registry))
        await client.head_manifest(REPOSITORY, TAG)
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.account is not None
        sent = [seen.header("Authorization") for seen in registry.seen]
        assert sent == [None, registry.account.basic, registry.account.basic]

    async def test_basic_without_a_password(self) -> None:
        registry = self.registry(authentication="basic")
        error = await self.fails(Refused, self.client(registry).head_manifest(REPOSITORY, TAG))
        assert "set username and password_file" in str(error)
        assert len(registry.seen) == 1

    async def test_basic_with_a_wrong_password(self) -> None:
        registry = self.registry(authentication="basic", account=Account("alice", "right"))
        client = self.client(registry, **self.private(registry, "wrong"))
        for _ in range(2):
            error = await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
            assert "as alice: 401" in str(error)

    async def test_from_basic_to_bearer_and_back(self) -> None:
        registry = self.bearer()
        client = self.client(registry, **self.private(registry))
        for authentication in ("bearer", "basic", "bearer", "basic"):
            registry.authentication = authentication
            await client.head_manifest(REPOSITORY, TAG)


class Realms(Case):
    """127.0.0.1 and localhost are two hosts, and neither is under a domain."""

    def elsewhere(self) -> tuple[Registry, Server, list[Seen]]:
        registry = self.bearer()
        other = self.serve(Server(reactor))
        other.paths["/token"] = registry.token
        registry.realm = f"{other.alias}/token"
        return registry, other, other.seen

    async def test_another_host_gets_no_password(self) -> None:
        registry, other, seen = self.elsewhere()
        client = self.client(registry, **self.private(registry))
        error = await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
        assert seen == []
        assert 'token_hosts has "localhost"' in str(error)
        assert other.accepted == 0

    async def test_another_host_gives_anonymous_tokens(self) -> None:
        registry, _, seen = self.elsewhere()
        await self.client(registry).head_manifest(REPOSITORY, TAG)
        assert [one.header("Authorization") for one in seen] == [None]

    async def test_a_configured_host_gets_the_password(self) -> None:
        registry, other, seen = self.elsewhere()
        for name in ("localhost", f"localhost:{other.port}"):
            settings = self.private(registry, token_hosts=(name,))
            await self.client(registry, **settings).head_manifest(REPOSITORY, TAG)
        assert len(seen) == 2

    async def test_another_port_of_the_host_gets_the_password(self) -> None:
        registry, other, seen = self.elsewhere()
        registry.realm = f"{other.url}/token"
        await self.client(registry, **self.private(registry)).head_manifest(REPOSITORY, TAG)
        assert len(seen) == 1

    async def test_a_realm_that_redirects_does_not_pass_the_password_on(self) -> None:
        registry, other, seen = self.elsewhere()
        registry.realm = f"{registry.url}/moved"
        registry.paths["/moved"] = answers(307, Location=f"{other.alias}/token?scope=repository:library/alpine:pull")
        other.paths["/token"] = answers(401)
        client = self.client(registry, **self.private(registry))
        await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
        assert [one.header("Authorization") for one in seen] == [None]

    async def test_realms_that_are_no_urls(self) -> None:
        registry = self.bearer()
        for realm in ("", "registry", "ftp://127.0.0.1/", "http://", "/token", "//127.0.0.1/token"):
            registry.realm = realm
            error = await self.fails(Refused, self.client(registry).head_manifest(REPOSITORY, TAG))
            assert "realm" in str(error)

    async def test_a_token_in_an_answer_is_never_told(self) -> None:
        registry = self.bearer()
        registry.paths["/token"] = answers(403, json.dumps({"token": "s3cret"}).encode())
        error = await self.fails(Refused, self.client(registry).head_manifest(REPOSITORY, TAG))
        assert "s3cret" not in str(error)
