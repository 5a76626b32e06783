"""One suite for the real upstream client and for the one in memory, so that the fake is no looser than the real one."""

from typing import Any

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from depproxy.oci.digest import Digest
from depproxy.oci.manifest import OCI_INDEX
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import Invalid, NotFound, Refused, Unavailable, UpstreamError
from depproxy.upstream.interface import IBlobStream, IUpstream, ManifestHead
from tests.cache_tools import Outcome, some_bytes
from tests.fakes import MemoryStream, MemoryUpstream, Threads
from tests.upstream_fake import Registry, Sink, UpstreamCase

NAME = Name("library/alpine")
TAG = Tag("3.20")
MANIFEST = b'{"schemaVersion": 2, "manifests": []}'
BLOB = some_bytes(300_000)


class UpstreamSuite:
    """What every upstream does. `upstream` has MANIFEST under TAG, and BLOB."""

    upstream: Any

    def set(self, **attributes: bool) -> None:
        """`ranges`, `head_blobs`: whether the registry knows them."""
        raise NotImplementedError

    def flow(self, stream: IBlobStream) -> None:
        """Let a started stream flow to its end."""
        raise NotImplementedError

    async def raises(self, kind: type[UpstreamError], work: Any) -> UpstreamError:
        try:
            found = await work
        except kind as error:
            return error
        raise AssertionError(f"no error, but {found!r}")

    async def body(self, offset: int = 0) -> tuple[IBlobStream, bytes]:
        stream = await self.upstream.open_blob(NAME, Digest.of(BLOB), offset)
        verifyObject(IBlobStream, stream)
        sink = Sink()
        stream.start(sink)
        self.flow(stream)
        await sink.done
        assert sink.ends == [None]
        return stream, bytes(sink.data)

    async def test_provides_the_interface(self) -> None:
        verifyObject(IUpstream, self.upstream)

    async def test_manifests(self) -> None:
        digest = Digest.of(MANIFEST)
        for reference in (TAG, digest):
            head = await self.upstream.head_manifest(NAME, reference)
            assert head == ManifestHead(digest, OCI_INDEX, len(MANIFEST))
            manifest = await self.upstream.get_manifest(NAME, reference)
            assert (manifest.digest, manifest.media_type, manifest.body) == (digest, OCI_INDEX, MANIFEST)

    async def test_blobs(self) -> None:
        assert await self.upstream.head_blob(NAME, Digest.of(BLOB)) == len(BLOB)
        stream, data = await self.body()
        assert (stream.offset, stream.size, data) == (0, len(BLOB), BLOB)
        stream, data = await self.body(100_000)
        assert (stream.offset, stream.size, data) == (100_000, len(BLOB), BLOB[100_000:])

    async def test_ranges_that_are_ignored(self) -> None:
        self.set(ranges=False)
        stream, data = await self.body(100_000)
        assert (stream.offset, stream.size, data) == (0, len(BLOB), BLOB)

    async def test_beyond_the_end(self) -> None:
        error = await self.raises(Invalid, self.upstream.open_blob(NAME, Digest.of(BLOB), len(BLOB)))
        assert error.status == 416

    async def test_nothing_there(self) -> None:
        gone = Digest.of(b"gone")
        for work in (
            self.upstream.head_manifest(NAME, Tag("gone")),
            self.upstream.get_manifest(NAME, gone),
            self.upstream.head_blob(NAME, gone),
            self.upstream.open_blob(NAME, gone, retry=False),
            self.upstream.get_document(NAME, "tags/list", "n=1"),
        ):
            error = await self.raises(NotFound, work)
            assert error.status == 404

    async def test_no_heads_for_blobs(self) -> None:
        self.set(head_blobs=False)
        await self.raises(Refused, self.upstream.head_blob(NAME, Digest.of(BLOB)))

    async def test_stop_is_silent_and_final(self) -> None:
        """Before the start, and after the end; a stream that was stopped starts no more."""
        stream = await self.upstream.open_blob(NAME, Digest.of(BLOB))
        stream.stop()
        stream.stop()
        sink = Sink()
        stream.start(sink)
        stream.pause()
        stream.resume()
        self.flow(stream)
        ended, _ = await self.body()
        ended.stop()
        assert (bytes(sink.data), sink.ends) == (b"", [])

    async def test_stop_from_within(self) -> None:
        stream = await self.upstream.open_blob(NAME, Digest.of(BLOB))
        sink = Sink(lambda _: stream.stop())
        stream.start(sink)
        first = sink.first
        self.flow(stream)
        await first
        await self.body()
        assert sink.ends == []

    async def test_started_once(self) -> None:
        stream = await self.upstream.open_blob(NAME, Digest.of(BLOB))
        stream.start(Sink())
        try:
            stream.start(Sink())
        except RuntimeError:
            stream.stop()
        else:
            raise AssertionError("it was started twice")

    async def test_a_stream_that_is_paused_before_it_starts(self) -> None:
        stream = await self.upstream.open_blob(NAME, Digest.of(BLOB))
        stream.pause()
        sink = Sink()
        stream.start(sink)
        stream.resume()
        self.flow(stream)
        await sink.done
        assert bytes(sink.data) == BLOB


class RealUpstream(UpstreamSuite, UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.served: Registry = self.registry()
        self.served.put_manifest(TAG, MANIFEST, OCI_INDEX)
        self.served.put_blob(BLOB)
        self.upstream = self.client(self.served)

    def set(self, **attributes: bool) -> None:
        for name, value in attributes.items():
            setattr(self.served, name, value)

    def flow(self, stream: IBlobStream) -> None:
        """It does so by itself."""


class UpstreamInMemory(UpstreamSuite, TestCase):
    def setUp(self) -> None:
        self.upstream = MemoryUpstream()
        self.upstream.put_manifest(NAME, MANIFEST, TAG, OCI_INDEX)
        self.upstream.put_blob(NAME, BLOB)

    def set(self, **attributes: bool) -> None:
        self.upstream.ignores_range = not attributes.get("ranges", True)
        if not attributes.get("head_blobs", True):
            self.upstream.errors["head_blob"] = Refused("docker.io", "no HEAD for blobs", 401)

    def flow(self, stream: IBlobStream) -> None:
        assert isinstance(stream, MemoryStream)
        stream.finish()

    async def test_questions_wait_while_they_are_held(self) -> None:
        self.upstream.held = True
        first, second = (Outcome(self.upstream.head_blob(NAME, Digest.of(BLOB))) for _ in range(2))
        first.leave()
        assert second.waits
        # They are answered as things are then.
        self.upstream.blobs.clear()
        self.upstream.release()
        assert isinstance(second.error, NotFound)
        assert self.upstream.count(f"HEAD {NAME} blobs/") == 2

    async def test_step_by_step(self) -> None:
        stream: MemoryStream = await self.upstream.open_blob(NAME, Digest.of(BLOB))
        sink = Sink()
        stream.send(10)
        assert sink.data == b""
        stream.start(sink)
        stream.send(10)
        stream.send(5)
        assert (bytes(sink.data), stream.left) == (BLOB[:15], len(BLOB) - 15)
        error = Unavailable("docker.io", "the connection was lost")
        stream.break_off(error)
        stream.close()
        stream.send(5)
        assert sink.ends == [error]
        assert (stream.over, stream.stopped, stream.flows) == (True, False, False)


class OneThread(SynchronousTestCase):
    """The runner that stands for threads."""

    def test_at_once(self) -> None:
        assert Outcome(Threads()(max, 1, 2)).value == 2

    def test_held(self) -> None:
        threads = Threads(held=True)
        done: list[int] = []
        first, second = Outcome(threads(done.append, 1)), Outcome(threads(done.append, 2))
        threads.jobs[0].run()
        assert (done, first.waits) == ([1], True)
        assert threads.finish(1) == 1
        assert (done, first.value, second.waits) == ([1], None, True)
        threads.finish()
        assert done == [1, 2]

    def test_who_leaves_does_not_stop_the_thread(self) -> None:
        threads = Threads(held=True)
        done: list[int] = []
        Outcome(threads(done.append, 1)).leave()
        threads.finish()
        assert done == [1]

    def test_errors(self) -> None:
        threads = Threads(held=True)
        outcomes: list[Outcome[Any]] = [Outcome(threads(int, "x")), Outcome(threads(succeed, 1))]
        error = OSError("full")
        threads.jobs[1].fail(error)
        threads.finish()
        assert isinstance(outcomes[0].error, ValueError)
        assert outcomes[1].error is error
        threads.held = False
        threads.error = error
        assert Outcome(threads(max, 1, 2)).error is error
