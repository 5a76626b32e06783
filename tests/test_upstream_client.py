"""The questions of the distribution-spec, over real sockets."""

from __future__ import annotations

import gzip
import json

from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from depproxy import __version__
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import DOCKER_MANIFEST, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import Invalid, NotFound, Refused, Throttled, Unavailable
from depproxy.upstream.interface import IBlobStream, IUpstream, ManifestHead
from tests.upstream_fake import Call, Raw, Ready, Sink, UpstreamCase, answers, reactor

REPOSITORY = Name("library/alpine")
TAG = Tag("3.20")
MANIFEST = b'{"schemaVersion": 2, "layers": []}'
BLOB = bytes(range(256)) * 1000


class Manifests(UpstreamCase):
    async def test_head(self) -> None:
        registry = self.registry()
        digest = registry.put_manifest(TAG, MANIFEST, OCI_INDEX)
        client = self.client(registry)
        verifyObject(IUpstream, client)
        head = await client.head_manifest(REPOSITORY, TAG)
        assert head == ManifestHead(digest, OCI_INDEX, len(MANIFEST))
        assert registry.asked() == ["HEAD /v2/library/alpine/manifests/3.20"]
        assert self.counted("HEAD", 200) == 1

    async def test_get_by_tag_and_by_digest(self) -> None:
        registry = self.registry()
        digest = registry.put_manifest(TAG, MANIFEST)
        client = self.client(registry)
        for reference in (TAG, digest):
            manifest = await client.get_manifest(REPOSITORY, reference)
            assert (manifest.body, manifest.media_type, manifest.digest) == (MANIFEST, OCI_MANIFEST, digest)
        # One connection served both.
        assert (len(registry.seen), registry.accepted) == (2, 1)

    async def test_what_is_sent(self) -> None:
        registry = self.registry()
        registry.put_manifest(TAG, MANIFEST)
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        await client.get_manifest(REPOSITORY, TAG)
        for seen in registry.seen:
            assert seen.header("Accept") == ", ".join(MANIFEST_TYPES)
            assert seen.header("Accept-Encoding") == "identity"
            assert seen.header("User-Agent") == f"depproxy/{__version__}"
            assert seen.header("Host") == registry.netloc
            assert seen.header("Authorization") is None
            assert seen.header("Cookie") is None

    async def test_a_head_tells_only_what_is_well_formed(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        registry.paths["/v2/library/alpine/manifests/3.20"] = answers(
            200, b"12345", Docker_Content_Digest="sha256:ABC", Content_Type=f"{OCI_MANIFEST}; charset=utf-8"
        )
        head = await client.head_manifest(REPOSITORY, TAG)
        assert head == ManifestHead(None, OCI_MANIFEST, 5)

    async def test_other_bytes_than_the_digest_says(self) -> None:
        registry = self.registry()
        wanted = Digest.of(b"other")
        registry.manifests[wanted] = (OCI_MANIFEST, MANIFEST)
        await self.fails(Invalid, self.client(registry).get_manifest(REPOSITORY, wanted))

    async def test_a_digest_header_that_lies(self) -> None:
        registry = self.registry()
        for lie in (Digest.of(b"other"), Digest.of(b"other", "sha512")):
            registry.paths["/v2/library/alpine/manifests/3.20"] = answers(
                200, MANIFEST, Content_Type=OCI_MANIFEST, Docker_Content_Digest=lie
            )
            await self.fails(Invalid, self.client(registry).get_manifest(REPOSITORY, TAG))

    async def test_a_sha512_reference(self) -> None:
        registry = self.registry()
        digest = Digest.of(MANIFEST, "sha512")
        registry.manifests[digest] = (OCI_MANIFEST, MANIFEST)
        assert (await self.client(registry).get_manifest(REPOSITORY, digest)).digest == digest

    async def test_a_type_that_says_nothing_is_read_from_the_body(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        bodies = {
            json.dumps({"mediaType": DOCKER_MANIFEST}).encode(): DOCKER_MANIFEST,
            MANIFEST: OCI_MANIFEST,
            b'{"manifests": []}': OCI_INDEX,
        }
        for claimed in ("application/json", "text/plain; charset=utf-8", "application/octet-stream"):
            for body, expected in bodies.items():
                registry.put_manifest(TAG, body, claimed)
                assert (await client.get_manifest(REPOSITORY, TAG)).media_type == expected

    async def test_a_login_page_is_no_manifest(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        for body in (b"<html>Please log in</html>", b"[]", b"{}", b"\xff", b"[" * 100_000):
            registry.put_manifest(TAG, body, "text/html")
            await self.fails(Invalid, client.get_manifest(REPOSITORY, TAG))

    async def test_half_a_manifest_without_length_or_digest(self) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\n\r\n".encode()
        raw = self.serve(Raw(reactor, head + MANIFEST, head + MANIFEST[:20], head + MANIFEST[:20], close_after=True))
        client = self.client(raw)
        assert (await client.get_manifest(REPOSITORY, TAG)).body == MANIFEST
        await self.fails(Invalid, client.get_manifest(REPOSITORY, TAG))
        await self.fails(Invalid, client.get_document(REPOSITORY, "tags/list", ""))

    async def test_at_most_4_mib(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        most = b'{"layers": [], "x": "' + b"x" * (4 * 1024 * 1024 - 23) + b'"}'
        registry.put_manifest(TAG, most)
        assert (await client.get_manifest(REPOSITORY, TAG)).body == most
        registry.put_manifest(TAG, most + b" ")
        await self.fails(Invalid, client.get_manifest(REPOSITORY, TAG))

        def chunked(call: Call) -> object:
            call.begin(200, Content_Type=OCI_MANIFEST)
            call.request.write(most)
            call.request.write(b"  ")
            return None

        registry.paths["/v2/library/alpine/manifests/3.20"] = chunked
        await self.fails(Invalid, client.get_manifest(REPOSITORY, TAG))

    async def test_a_body_that_breaks_off(self) -> None:
        registry = self.registry()

        def half(call: Call) -> object:
            call.begin(200, len(MANIFEST), Content_Type=OCI_MANIFEST)
            call.request.write(MANIFEST[:10])
            reactor.callLater(0, call.cut)
            return NOT_DONE_YET

        registry.paths["/v2/library/alpine/manifests/3.20"] = half
        await self.fails(Unavailable, self.client(registry).get_manifest(REPOSITORY, TAG))

    async def test_encoded_bodies_are_left_alone(self) -> None:
        registry = self.registry()
        body = gzip.compress(MANIFEST)
        digest = Digest.of(body)
        registry.manifests[digest] = (OCI_MANIFEST, body)
        registry.headers["Content_Encoding"] = "gzip"
        client = self.client(registry)
        assert (await client.get_manifest(REPOSITORY, digest)).body == body
        blob = registry.put_blob(gzip.compress(BLOB))
        registry.paths[f"/v2/library/alpine/blobs/{blob}"] = answers(200, registry.blobs[blob], Content_Encoding="gzip")
        sink = Sink()
        (await client.open_blob(REPOSITORY, blob)).start(sink)
        await sink.done
        assert bytes(sink.data) == registry.blobs[blob]

    async def test_no_cookies(self) -> None:
        registry = self.registry()
        registry.put_manifest(TAG, MANIFEST)
        registry.headers["Set_Cookie"] = "session=secret; Path=/"
        client = self.client(registry)
        for _ in range(2):
            await client.get_manifest(REPOSITORY, TAG)
        assert [seen.header("Cookie") for seen in registry.seen] == [None, None]


class Statuses(UpstreamCase):
    async def test_each_error_has_its_class(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        expected = {
            400: Invalid,
            402: Refused,
            404: NotFound,
            408: Unavailable,
            410: NotFound,
            405: Refused,
            429: Throttled,
            451: Refused,
            500: Unavailable,
            502: Unavailable,
            503: Unavailable,
            504: Unavailable,
            204: Invalid,
            300: Invalid,
            304: Invalid,
            418: Invalid,
        }
        for status, kind in expected.items():
            registry.paths["/v2/library/alpine/manifests/3.20"] = answers(
                status, b"" if status in (204, 304) else b'{"errors": [{"code": "X", "message": "it said"}]}'
            )
            error = await self.fails(kind, client.get_manifest(REPOSITORY, TAG))
            assert error.status == status
            if status not in (204, 304):
                assert "X: it said" in str(error)
            await self.fails(kind, client.head_manifest(REPOSITORY, TAG))
        # Each body was read: the connection was good for all.
        assert registry.accepted == 1

    async def test_401_and_403_without_a_challenge(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        for status in (401, 403):
            registry.paths["/v2/library/alpine/manifests/3.20"] = answers(status)
            error = await self.fails(Refused, client.head_manifest(REPOSITORY, TAG))
            assert error.status == status
        assert len(registry.seen) == 2

    async def test_a_large_error_page_is_not_read(self) -> None:
        registry = self.registry()
        registry.paths["/v2/library/alpine/manifests/3.20"] = answers(500, b"x" * 2**20)
        await self.fails(Unavailable, self.client(registry).get_manifest(REPOSITORY, TAG))
        await registry.gone()

    async def test_an_error_page_without_end_is_not_waited_for(self) -> None:
        registry = self.registry()

        def trickle(call: Call) -> object:
            call.begin(500)
            call.request.write(b"<html>")
            return NOT_DONE_YET

        clock = Ready()
        registry.paths["/v2/library/alpine/manifests/3.20"] = trickle
        client = self.client(registry, clock=clock)
        given_up = clock.waits(2.0)
        asking = Deferred.fromCoroutine(client.get_manifest(REPOSITORY, TAG))
        await given_up
        clock.advance(2.0)
        await self.fails(Unavailable, asking)
        await registry.gone()

    async def test_429_says_when(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        cases = {"7": 7.0, "": None, "soon": None, "Wed, 21 Oct 2015 07:28:30 GMT": 30.0}
        for text, expected in cases.items():
            registry.paths["/v2/library/alpine/manifests/3.20"] = answers(
                429, Retry_After=text, Date="Wed, 21 Oct 2015 07:28:00 GMT"
            )
            error = await self.fails(Throttled, client.head_manifest(REPOSITORY, TAG))
            assert error.retry_after == expected

    async def test_garbage(self) -> None:
        for answer in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
            b"",
        ):
            raw = self.serve(Raw(reactor, answer, close_after=True))
            await self.fails(Unavailable, self.client(raw).get_manifest(REPOSITORY, TAG))

    async def test_nobody_there(self) -> None:
        raw = Raw(reactor)
        await raw.close()
        error = await self.fails(Unavailable, self.client(raw).head_manifest(REPOSITORY, TAG))
        assert "refused" in str(error)
        assert self.counted("HEAD", 0) == 1

    async def test_a_host_that_does_not_exist(self) -> None:
        client = self.client("http://does-not-exist.invalid")
        await self.fails(Unavailable, client.head_manifest(REPOSITORY, TAG))

    async def test_a_connection_that_went_stale_is_replaced(self) -> None:
        registry = self.registry()
        registry.put_manifest(TAG, MANIFEST)
        client = self.client(registry)
        await client.head_manifest(REPOSITORY, TAG)
        registry.paths["/v2/library/alpine/manifests/3.20"] = lambda call: (
            call.cut() if registry.accepted == 1 else registry.fallback(call)
        )
        await client.head_manifest(REPOSITORY, TAG)
        assert registry.accepted == 2


class Blobs(UpstreamCase):
    async def test_head(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(BLOB)
        assert await self.client(registry).head_blob(REPOSITORY, digest) == len(BLOB)
        assert registry.asked() == [f"HEAD /v2/library/alpine/blobs/{digest}"]

    async def test_the_whole(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(BLOB)
        stream = await self.client(registry).open_blob(REPOSITORY, digest)
        verifyObject(IBlobStream, stream)
        assert (stream.offset, stream.size) == (0, len(BLOB))
        assert registry.seen[0].header("Range") is None
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert (bytes(sink.data), sink.ends) == (BLOB, [None])

    async def test_from_an_offset(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(BLOB)
        stream = await self.client(registry).open_blob(REPOSITORY, digest, 1000)
        assert (stream.offset, stream.size) == (1000, len(BLOB))
        assert registry.seen[0].header("Range") == "bytes=1000-"
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert bytes(sink.data) == BLOB[1000:]

    async def test_an_upstream_that_ignores_range(self) -> None:
        registry = self.registry(ranges=False)
        digest = registry.put_blob(BLOB)
        stream = await self.client(registry).open_blob(REPOSITORY, digest, 1000)
        assert (stream.offset, stream.size) == (0, len(BLOB))
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert bytes(sink.data) == BLOB

    async def test_an_offset_past_the_end(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(BLOB)
        error = await self.fails(Invalid, self.client(registry).open_blob(REPOSITORY, digest, len(BLOB)))
        assert error.status == 416

    async def test_other_ranges_than_asked_for(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(BLOB)
        client = self.client(registry)
        for content_range in (
            "bytes 0-9/20",
            "bytes 11-19/20",
            "bytes 10-20/20",
            "bytes 10-9/20",
            "bytes */20",
            "items 10-19/20",
            "",
            "bytes 10-18/20",
        ):
            registry.paths[f"/v2/library/alpine/blobs/{digest}"] = answers(
                206, b"0123456789", Content_Range=content_range
            )
            await self.fails(Invalid, client.open_blob(REPOSITORY, digest, 10))
            await registry.gone()

    async def test_a_part_where_the_whole_was_asked_for(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(BLOB)
        client = self.client(registry)
        path = f"/v2/library/alpine/blobs/{digest}"
        registry.paths[path] = answers(206, b"01234", Content_Range="bytes 5-9/10")
        await self.fails(Invalid, client.open_blob(REPOSITORY, digest))
        registry.paths[path] = answers(206, b"01234", Content_Range="bytes 0-4/5")
        stream = await client.open_blob(REPOSITORY, digest)
        assert (stream.offset, stream.size) == (0, 5)
        stream.stop()
        registry.put_manifest(TAG, MANIFEST)
        registry.paths["/v2/library/alpine/manifests/3.20"] = answers(206, MANIFEST)
        await self.fails(Invalid, client.get_manifest(REPOSITORY, TAG))

    async def test_a_total_that_is_not_said(self) -> None:
        registry = self.registry()
        digest = registry.put_blob(BLOB)
        registry.paths[f"/v2/library/alpine/blobs/{digest}"] = answers(206, b"01234", Content_Range="bytes 5-9/*")
        stream = await self.client(registry).open_blob(REPOSITORY, digest, 5)
        assert (stream.offset, stream.size) == (5, None)
        stream.stop()

    async def test_empty_and_chunked(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        empty = registry.put_blob(b"")
        stream = await client.open_blob(REPOSITORY, empty)
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert (stream.size, bytes(sink.data), sink.ends) == (0, b"", [None])

        def chunked(call: Call) -> object:
            call.begin(200)
            call.request.write(BLOB[:1000])
            call.request.write(BLOB[1000:])
            return None

        digest = registry.put_blob(BLOB)
        registry.paths[f"/v2/library/alpine/blobs/{digest}"] = chunked
        stream = await client.open_blob(REPOSITORY, digest)
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert (stream.size, bytes(sink.data), sink.ends) == (None, BLOB, [None])

    async def test_without_length_the_end_of_the_connection_is_the_end(self) -> None:
        raw = self.serve(Raw(reactor, b"HTTP/1.1 200 OK\r\n\r\n" + BLOB, close_after=True))
        stream = await self.client(raw).open_blob(REPOSITORY, Digest.of(BLOB))
        assert stream.size is None
        sink = Sink()
        stream.start(sink)
        await sink.done
        assert (bytes(sink.data), sink.ends) == (BLOB, [None])

    async def test_404(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        await self.fails(NotFound, client.open_blob(REPOSITORY, Digest.of(b"?")))
        await self.fails(NotFound, client.head_blob(REPOSITORY, Digest.of(b"?")))


class Documents(UpstreamCase):
    async def test_tags(self) -> None:
        registry = self.registry()
        body = b'{"name": "library/alpine", "tags": ["3.20"]}'
        link = '</v2/library/alpine/tags/list?n=1&last=3.20>; rel="next"'
        registry.paths["/v2/library/alpine/tags/list"] = answers(
            200, body, Content_Type="application/json; charset=utf-8", Link=link, X_Other="no"
        )
        document = await self.client(registry).get_document(REPOSITORY, "tags/list", "n=1&last=a%2Fb")
        assert registry.seen[0].uri == b"/v2/library/alpine/tags/list?n=1&last=a%2Fb"
        assert registry.seen[0].header("Accept") == "application/json"
        assert (document.body, document.media_type) == (body, "application/json")
        assert document.headers == {"Link": link}

    async def test_referrers(self) -> None:
        registry = self.registry()
        path = f"referrers/{Digest.of(b'x')}"
        registry.paths[f"/v2/library/alpine/{path}"] = answers(
            200, b"{}", Content_Type=OCI_INDEX, OCI_Filters_Applied="artifactType"
        )
        document = await self.client(registry).get_document(REPOSITORY, path, "")
        assert registry.seen[0].header("Accept") == OCI_INDEX
        assert document.media_type == OCI_INDEX
        assert document.headers == {"OCI-Filters-Applied": "artifactType"}

    async def test_too_large_or_missing(self) -> None:
        registry = self.registry()
        client = self.client(registry)
        registry.paths["/v2/library/alpine/tags/list"] = answers(200, b" " * (4 * 1024 * 1024 + 1))
        await self.fails(Invalid, client.get_document(REPOSITORY, "tags/list", ""))
        await self.fails(NotFound, client.get_document(REPOSITORY, f"referrers/{Digest.of(b'x')}", "artifactType=a"))
