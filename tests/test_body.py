"""The senders: whole blobs, ranges, followers, slow and vanishing clients; over real sockets, plain and with TLS."""

from __future__ import annotations

import os
from contextlib import closing
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from random import Random
from ssl import create_default_context
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from depproxy.cache.interface import Outcome
from depproxy.metrics import Metrics
from depproxy.oci.byterange import Unsatisfiable, parse_range, resolve
from depproxy.oci.digest import Digest
from depproxy.upstream.errors import Unavailable
from depproxy.web.body import BURST
from depproxy.web.site import IDLE_TIMEOUT
from tests.test_multipart import read_back
from tests.web_support import (
    HOME,
    REACTOR,
    Client,
    CutShort,
    Shelf,
    Source,
    WebTestCase,
    descriptors,
    shelf_registry,
    until,
)

MIB = 1 << 20
STALL = 60.0
GONE = Unavailable("docker.io", "the connection broke off")


def data_of(size: int) -> bytes:
    """Bytes in which every mistake shows."""
    return Random(size).randbytes(size)


class TestReactor(Clock):
    """The reactor's descriptors, and a clock of the test's."""

    __test__ = False

    def addWriter(self, writer: Any) -> None:
        REACTOR.addWriter(writer)

    def removeWriter(self, writer: Any) -> None:
        REACTOR.removeWriter(writer)


class BodyTestCase(WebTestCase):
    tls = False

    def setUp(self) -> None:
        super().setUp()
        self.shelf = Shelf(self.directory / "data")
        self.clock = TestReactor()
        self.metrics = Metrics()
        self.site = self.faces(shelf_registry(self.shelf, self.clock, STALL, self.metrics))
        if self.tls:
            self.port, self.trust = self.listen_tls(self.site)
        else:
            self.port = self.listen(self.site)

    async def connect(self, receive_buffer: int = 0) -> Client:
        if not self.tls:
            return await self.client(self.port, receive_buffer)
        client = await self.tls_client(self.port, self.trust, receive_buffer=receive_buffer)
        client.ask("/v2/")
        await client.answer()
        return client

    def path(self, digest: Digest) -> str:
        return f"/v2/{HOME.repository}/blobs/{digest}"

    @property
    def served(self) -> float:
        """Body bytes, by the metric."""
        value: float = self.metrics.served["blob"]._value.get()
        return value

    def follow(self, size: int | None, readable: int = 0) -> None:
        """Blobs opened from now on are being filled."""
        self.shelf.make = lambda opened: Source(opened, size, readable, Outcome.JOINED)

    async def ask(self, client: Client, digest: Digest, **headers: str) -> Source:
        """Ask for a blob; its source."""
        count = len(self.shelf.sources)
        client.ask(self.path(digest), **headers)
        await until(lambda: len(self.shelf.sources) > count)
        return self.shelf.sources[-1]

    async def blocked(self, client: Client) -> None:
        """Wait until the client's and our own buffers are full: nothing moves."""
        client.stop_reading()
        while True:
            before = self.served
            for _ in range(5):
                await deferLater(REACTOR, 0.01)
            if self.served == before > 0:
                return


class Whole(BodyTestCase):
    async def test_sizes(self) -> None:
        """On one connection, one after the other."""
        client = await self.connect()
        for size in (0, 1, 100, 300_000, 0, BURST, 5 * MIB + 1):
            data = data_of(size)
            digest = await self.shelf.put(data)
            client.ask(self.path(digest))
            answer = await client.answer()
            assert answer.status == 200
            assert answer.body == data
            assert answer.headers["content-length"] == str(size)
            assert answer.headers["docker-content-digest"] == digest
            assert answer.headers["etag"] == f'"{digest}"'
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["x-cache"] == "hit"
            assert self.shelf.sources[-1].closed
        assert client.data == b""
        assert self.served == 100 + 1 + 300_000 + BURST + 5 * MIB + 1

    async def test_pipelined(self) -> None:
        small, large = data_of(1000), data_of(2 * MIB)
        one, other = await self.shelf.put(small), await self.shelf.put(large)
        client = await self.connect()
        for digest in (one, other, one, other):
            client.ask(self.path(digest))
        client.ask("/v2/")
        for data in (small, large, small, large, b"{}"):
            assert (await client.answer()).body == data

    async def test_close_is_obeyed(self) -> None:
        data = data_of(3 * MIB)
        digest = await self.shelf.put(data)
        client = await self.connect()
        client.ask(self.path(digest), Connection="close")
        assert (await client.answer()).body == data
        assert await client.end()

    async def test_head_opens_no_file(self) -> None:
        digest = await self.shelf.put(data_of(1000))
        client = await self.connect()
        for headers in ({}, {"Range": "bytes=0-9"}, {"If_None_Match": '"other"'}):
            client.ask(self.path(digest), "HEAD", **headers)
            answer = await client.answer("HEAD")
            assert (answer.status, answer.headers["content-length"]) == (200, "1000")
            assert answer.headers["docker-content-digest"] == digest
        client.ask(f"/v2/{HOME.repository}/blobs/{Digest.of(b'nobody')}", "HEAD")
        assert (await client.answer("HEAD")).status == 404
        assert self.shelf.sources == []
        assert self.served == 0

    async def test_not_modified(self) -> None:
        digest = await self.shelf.put(b"data")
        client = await self.connect()
        for condition in (f'"{digest}"', f'W/"{digest}"', "*", f'"a", "{digest}"', f'"a",W/"{digest}"'):
            for method in ("GET", "HEAD"):
                client.ask(self.path(digest), method, If_None_Match=condition)
                answer = await client.answer(method)
                assert answer.status == 304, condition
                assert answer.headers["etag"] == f'"{digest}"'
                assert "content-length" not in answer.headers
                assert "transfer-encoding" not in answer.headers
        assert self.shelf.sources == []
        for condition in ('"a"', '""', "nonsense"):
            client.ask(self.path(digest), If_None_Match=condition)
            assert (await client.answer()).body == b"data"

    async def test_a_blob_that_is_not_there(self) -> None:
        client = await self.connect()
        client.ask(self.path(Digest.of(b"nobody")))
        answer = await client.answer()
        assert (answer.status, answer.error) == (404, "BLOB_UNKNOWN")

    async def test_many_at_once(self) -> None:
        data = data_of(2 * MIB)
        digest = await self.shelf.put(data)
        clients = [await self.connect() for _ in range(20)]
        for client in clients:
            client.ask(self.path(digest))
        for client in clients:
            assert (await client.answer()).body == data

    async def test_nothing_is_left_open(self) -> None:
        digest = await self.shelf.put(data_of(100_000))
        client = await self.connect()
        client.ask(self.path(digest))
        await client.answer()
        before = descriptors()
        for _ in range(5):
            client.ask(self.path(digest))
            await client.answer()
        assert descriptors() == before
        assert self.clock.getDelayedCalls() == []


class Ranges(BodyTestCase):
    SIZE = 70_000

    async def start(self) -> Client:
        self.blob = data_of(self.SIZE)
        self.digest = await self.shelf.put(self.blob)
        return await self.connect()

    async def test_one_range(self) -> None:
        client = await self.start()
        for header, start, stop in (
            ("bytes=0-", 0, self.SIZE),
            ("bytes=0-0", 0, 1),
            ("bytes=1000-1999", 1000, 2000),
            ("bytes=69999-", 69_999, 70_000),
            ("bytes=-5", 69_995, 70_000),
            ("bytes=-99999999", 0, self.SIZE),
            (f"bytes=5-{self.SIZE}", 5, self.SIZE),
            ("Bytes= 5-9 ", 5, 10),
            ("bytes=99999999-, 3-4", 3, 5),
        ):
            client.ask(self.path(self.digest), Range=header)
            answer = await client.answer()
            assert (answer.status, answer.body) == (206, self.blob[start:stop]), header
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{self.SIZE}"
            assert answer.headers["content-length"] == str(stop - start)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["docker-content-digest"] == self.digest
            assert self.shelf.sources[-1].closed

    async def test_several_ranges(self) -> None:
        client = await self.start()
        client.ask(self.path(self.digest), Range="bytes=0-99,5000-5999, -10")
        answer = await client.answer()
        assert answer.status == 206
        assert "content-range" not in answer.headers
        assert read_back(answer.headers["content-type"].encode(), answer.body) == [
            (f"bytes {start}-{stop - 1}/{self.SIZE}", self.blob[start:stop])
            for start, stop in ((0, 100), (5000, 6000), (69_990, 70_000))
        ]
        assert self.served == 1110

    async def test_any_ranges(self) -> None:
        """Every answer holds exactly what was asked for, or the whole; on one connection."""
        client = await self.start()
        random = Random(7)
        for _ in range(150):
            specs = [self.any_spec(random) for _ in range(random.choice((1, 1, 2, 3, 8)))]
            header = f"bytes={','.join(specs)}"
            client.ask(self.path(self.digest), Range=header)
            answer = await client.answer()
            found = parse_range(header)
            if found is None:
                assert (answer.status, answer.body) == (200, self.blob), header
                continue
            try:
                ranges = resolve(found, self.SIZE)
            except Unsatisfiable:
                assert (answer.status, answer.error) == (416, "RANGE_INVALID"), header
                continue
            asked = [(f"bytes {r.start}-{r.stop - 1}/{self.SIZE}", self.blob[r.start : r.stop]) for r in ranges]
            if answer.status == 200:
                assert sum(len(data) for _, data in asked) > self.SIZE, header
                assert answer.body == self.blob
            elif len(asked) == 1:
                assert [(answer.headers["content-range"], answer.body)] == asked, header
            else:
                assert read_back(answer.headers["content-type"].encode(), answer.body) == asked, header

    def any_spec(self, random: Random) -> str:
        first = random.choice((random.randrange(self.SIZE), random.randrange(2 * self.SIZE)))
        last = first + random.choice((0, 1, 1000, self.SIZE))
        return random.choice((f"{first}-{last}", f"{first}-{last}", f"{first}-", f"-{first}", f"{last}-{first}"))

    async def test_overlapping_ranges_give_the_whole(self) -> None:
        client = await self.start()
        for header in ("bytes=0-,0-", "bytes=0-69999,69999-69999", "bytes=-70000,1-2"):
            client.ask(self.path(self.digest), Range=header)
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, self.blob)
            assert "content-range" not in answer.headers

    async def test_unsatisfiable(self) -> None:
        client = await self.start()
        for header in (f"bytes={self.SIZE}-", f"bytes={self.SIZE}-{self.SIZE + 5}", "bytes=-0", "bytes=99999999-,-0"):
            client.ask(self.path(self.digest), Range=header)
            answer = await client.answer()
            assert (answer.status, answer.error) == (416, "RANGE_INVALID")
            assert answer.headers["content-range"] == f"bytes */{self.SIZE}"
            assert self.shelf.sources[-1].closed
        empty = await self.shelf.put(b"")
        client.ask(self.path(empty), Range="bytes=0-0")
        assert (await client.answer()).headers["content-range"] == "bytes */0"

    async def test_a_refused_range_is_counted_once(self) -> None:
        client = await self.start()
        client.ask(self.path(self.digest), Range=f"bytes={self.SIZE}-")
        await client.answer()
        counted = {key: child._value.get() for key, child in self.metrics.answered.items() if child._value.get()}
        assert counted == {("blob", "error"): 1}

    async def test_what_is_no_range_is_ignored(self) -> None:
        client = await self.start()
        for header in ("items=0-5", "bytes=", "bytes=5", "bytes=9-3", "bytes=a-b", "nonsense", "bytes=1-2;3-4"):
            client.ask(self.path(self.digest), Range=header)
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, self.blob)

    async def test_if_range(self) -> None:
        """RFC 9110 section 13.1.5: a strong validator, or the whole."""
        client = await self.start()
        for condition, status in (
            (f'"{self.digest}"', 206),
            (f'W/"{self.digest}"', 200),
            ('"other"', 200),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
        ):
            client.ask(self.path(self.digest), Range="bytes=5-9", If_Range=condition)
            answer = await client.answer()
            assert answer.status == status, condition
            assert answer.body == (self.blob[5:10] if status == 206 else self.blob)


class Followers(BodyTestCase):
    """Of a blob that is still being filled."""

    SIZE = 500_000

    async def start(self, readable: int = 0, **headers: str) -> tuple[Client, Source]:
        self.blob = data_of(self.SIZE)
        self.digest = await self.shelf.put(self.blob)
        self.follow(self.SIZE, readable)
        client = await self.connect()
        return client, await self.ask(client, self.digest, **headers)

    async def cut(self, client: Client) -> bytes:
        """The connection ends, and not as if the answer were whole; what came before."""
        assert not await client.end()
        return client.data

    async def test_bytes_as_they_come(self) -> None:
        client, source = await self.start()
        status, headers = await client.head()
        assert (status, headers["content-length"]) == (200, str(self.SIZE))
        assert headers["x-cache"] == "joined"
        assert client.data == b""
        position = 0
        for readable in (1, 100, 100, 300_000, self.SIZE - 1):
            source.grow(readable)
            assert await client.take(readable - position) == self.blob[position:readable]
            assert client.data == b"", "more was sent than may be read"
            position = readable
        assert not source.closed
        source.grow(self.SIZE)
        assert await client.take(1) == self.blob[-1:]
        await until(lambda: source.closed)
        client.ask("/v2/")
        assert (await client.answer()).status == 200

    async def test_a_range_waits_for_its_first_byte(self) -> None:
        client, source = await self.start(Range="bytes=200000-200009,100-109")
        status, headers = await client.head()
        assert status == 206
        source.grow(200_005)
        await client.until(lambda: client.data.endswith(self.blob[200_000:200_005]))
        source.grow(self.SIZE - 1)
        body = await client.take(int(headers["content-length"]))
        assert read_back(headers["content-type"].encode(), body) == [
            (f"bytes 200000-200009/{self.SIZE}", self.blob[200_000:200_010]),
            (f"bytes 100-109/{self.SIZE}", self.blob[100:110]),
        ]
        await until(lambda: source.closed)

    async def test_a_failure_is_never_a_clean_end(self) -> None:
        for readable in (0, 1, self.SIZE - 1):
            client, source = await self.start(readable)
            await client.head()
            await client.take(readable)
            source.fail(GONE)
            assert await self.cut(client) == b""
            assert source.closed
            assert self.has_logged("cut off: docker.io: the connection broke off")

    async def test_what_may_be_read_is_sent_before_the_cut(self) -> None:
        client, source = await self.start()
        await client.head()
        source.readable = 1000
        source.fail(GONE)
        with pytest.raises(CutShort):
            await client.take(self.SIZE)
        assert source.closed

    async def test_a_failure_while_the_client_is_slow(self) -> None:
        """It gets what could be read before."""
        self.blob = data_of(12 * MIB)
        self.digest = await self.shelf.put(self.blob)
        self.follow(len(self.blob), len(self.blob) - 1)
        client = await self.connect(receive_buffer=4096)
        source = await self.ask(client, self.digest)
        await self.blocked(client)
        source.fail(GONE)
        assert not source.closed
        client.read_on()
        await until(lambda: source.closed)
        assert not await client.end()
        assert self.served == len(self.blob) - 1

    async def test_a_file_that_is_shorter_than_it_was(self) -> None:
        """Whoever truncates it: a short body is cut, not ended."""
        self.blob = data_of(self.SIZE)
        self.digest = await self.shelf.put(self.blob)
        self.shelf.make = lambda opened: Source(opened, self.SIZE, self.SIZE)
        os.truncate(self.shelf.path(self.digest), 1000)
        client = await self.connect()
        source = await self.ask(client, self.digest)
        with pytest.raises(CutShort):
            await client.answer()
        assert not await client.end()
        assert source.closed
        assert self.has_logged("before its time")

    async def test_unknown_size(self) -> None:
        """In chunks, whose end is sent when the size is known and reached."""
        self.blob = data_of(self.SIZE)
        self.digest = await self.shelf.put(self.blob)
        self.follow(None)
        client = await self.connect()
        source = await self.ask(client, self.digest, Range="bytes=5-9")
        await until(lambda: b"\r\n\r\n" in client.data)
        source.grow(1000)
        await until(lambda: len(client.data) > 1000)
        source.grow(self.SIZE - 1)
        source.size = self.SIZE
        source.grow(self.SIZE)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, self.blob)
        assert "content-length" not in answer.headers
        client.ask("/v2/")
        assert (await client.answer()).status == 200

    async def test_unknown_size_that_fails(self) -> None:
        self.digest = await self.shelf.put(data_of(1000))
        self.follow(None, 999)
        client = await self.connect()
        source = await self.ask(client, self.digest)
        await until(lambda: len(client.data) > 999)
        source.fail(GONE)
        with pytest.raises(CutShort):
            await client.answer()
        assert b"\r\n0\r\n" not in client.data

    async def test_unknown_size_of_a_large_blob(self) -> None:
        """More than one burst is there at once, and nothing changes any more."""
        self.blob = data_of(3 * BURST)
        self.digest = await self.shelf.put(self.blob)
        self.follow(None, len(self.blob))
        # In a thread, which takes the bytes while they are sent: no buffer ever fills.
        fetched = deferToThread(fetch, self.port, self.path(self.digest), self.trust if self.tls else None)
        await until(lambda: self.shelf.sources)
        self.shelf.sources[0].size = len(self.blob)
        assert await fetched == self.blob

    async def test_unknown_size_to_an_old_client(self) -> None:
        """HTTP/1.0 knows no chunks: the end of the connection is the end, so a failure must not look like it."""
        self.blob = data_of(self.SIZE)
        self.digest = await self.shelf.put(self.blob)
        for failure in (None, GONE):
            self.follow(None, self.SIZE - 1)
            client = await self.connect()
            client.send(f"GET {self.path(self.digest)} HTTP/1.0\r\n\r\n".encode())
            await client.enough(self.SIZE)
            source = self.shelf.sources[-1]
            if failure is not None:
                source.fail(failure)
                assert not await client.end()
            else:
                source.size = self.SIZE
                source.grow(self.SIZE)
                assert (await client.answer()).body == self.blob

    async def test_each_at_its_own_pace(self) -> None:
        """Two followers of one file: the slow one does not hold the other up."""
        self.blob = data_of(16 * MIB)
        self.digest = await self.shelf.put(self.blob)
        self.follow(len(self.blob))
        slow, quick = await self.connect(receive_buffer=4096), await self.connect()
        sources = [await self.ask(client, self.digest) for client in (slow, quick)]
        slow.stop_reading()
        for readable in (*range(0, len(self.blob) - 1, MIB), len(self.blob)):
            for source in sources:
                source.grow(readable)
        assert (await quick.answer()).body == self.blob
        assert not sources[0].closed
        slow.read_on()
        assert (await slow.answer()).body == self.blob


class SlowClients(BodyTestCase):
    async def start(self, size: int = 24 * MIB) -> tuple[Client, Source]:
        self.blob = data_of(size)
        self.digest = await self.shelf.put(self.blob)
        client = await self.connect(receive_buffer=4096)
        source = await self.ask(client, self.digest)
        await self.blocked(client)
        return client, source

    async def test_cost_no_memory_and_nobodys_time(self) -> None:
        first, _ = await self.start(64 * MIB)
        slow = [await self.connect(receive_buffer=4096) for _ in range(8)]
        before = resident()
        for client in slow:
            await self.ask(client, self.digest)
            client.stop_reading()
        await self.blocked(first)
        assert resident() - before < 40 * MIB
        small = await self.shelf.put(b"small")
        quick = await self.connect()
        quick.ask(self.path(small))
        assert (await quick.answer()).body == b"small"

    async def test_who_takes_nothing_is_cut_in_time(self) -> None:
        client, source = await self.start()
        self.clock.advance(STALL - 1)
        assert not source.closed
        # The first look may find that bytes were taken since the last one.
        self.clock.pump([STALL] * 2)
        assert self.shelf.sources[-1].closed
        assert self.has_logged("the client took no byte for")
        client.read_on()
        assert not await client.end()
        assert client.received < len(self.blob)
        assert self.clock.getDelayedCalls() == []

    async def test_who_takes_a_little_is_not_cut(self) -> None:
        """However little that is: the kernel's buffers hide it from us, but for TCP's own count."""
        client, source = await self.start()
        for _ in range(25):
            assert await client.read_some()
            # The acknowledgement is on its way; it needs no time that a clock could tell.
            await deferLater(REACTOR, 0.01)
            self.clock.advance(STALL * 0.9)
            assert not source.closed
        client.read_on()
        assert (await client.answer()).body == self.blob

    async def test_a_source_that_is_silent_is_not_the_clients_stall(self) -> None:
        self.digest = await self.shelf.put(data_of(1000))
        self.follow(1000, 500)
        client = await self.connect()
        source = await self.ask(client, self.digest)
        await client.head()
        await client.take(500)
        self.clock.pump([STALL] * 5)
        source.grow(1000)
        await client.take(500)
        assert source.closed

    async def test_a_pause_of_the_source_does_not_count_against_the_client(self) -> None:
        """It was slow once; the source was silent for long; then the client has its whole time again."""
        self.blob = data_of(24 * MIB)
        self.digest = await self.shelf.put(self.blob)
        self.follow(len(self.blob), 12 * MIB)
        client = await self.connect(receive_buffer=4096)
        source = await self.ask(client, self.digest)
        await self.blocked(client)
        client.read_on()
        await until(lambda: client.received > 12 * MIB)
        self.clock.pump([STALL * 0.75] * 7)
        client.stop_reading()
        source.grow(len(self.blob))
        await self.blocked(client)
        self.clock.advance(STALL * 0.9)
        assert not source.closed
        client.read_on()
        assert (await client.answer()).body == self.blob

    async def test_the_tail_is_not_cut_by_the_idle_timeout(self) -> None:
        """The last bytes may wait in the kernel for long after the request has ended, as we see it."""
        clock = Clock()
        self.site = self.faces(shelf_registry(self.shelf, self.clock, STALL, self.metrics), clock=clock)
        if self.tls:
            self.port, self.trust = self.listen_tls(self.site)
        else:
            self.port = self.listen(self.site)
        self.blob = data_of(MIB)
        self.digest = await self.shelf.put(self.blob)
        client = await self.connect(receive_buffer=4096)
        source = await self.ask(client, self.digest)
        client.stop_reading()
        await until(lambda: source.closed)
        for _ in range(8):
            await client.read_some()
            await deferLater(REACTOR, 0.01)
            clock.pump([IDLE_TIMEOUT * 0.9])
        client.read_on()
        assert (await client.answer()).body == self.blob

    async def test_drain_waits_for_the_body(self) -> None:
        client, source = await self.start(12 * MIB)
        drained = Deferred.fromCoroutine(self.site.drain(60))
        client.read_on()
        assert (await client.answer()).body == self.blob
        await drained
        assert source.closed

    async def test_drain_cuts_what_takes_too_long(self) -> None:
        client, source = await self.start()
        await self.site.drain(0)
        assert source.closed
        client.read_on()
        assert not await client.end()


class Leavers(BodyTestCase):
    """A client that is gone leaves nothing behind: no open file, no descriptor, no timer, no error in the log."""

    async def leaves(self, pipelined: int = 0, readable: int | None = None, growing: bool = False) -> None:
        blob = data_of(24 * MIB)
        digest = await self.shelf.put(blob)
        if readable is not None:
            self.follow(len(blob), readable)
        warm = await self.connect()
        await until(lambda: len(self.site.channels) == 1)
        before = descriptors()
        for leave in (Client.leave, Client.say_goodbye):
            client = await self.connect(receive_buffer=4096)
            source = await self.ask(client, digest)
            await client.enough(1)
            if readable is None:
                await self.blocked(client)
            for _ in range(pipelined):
                client.ask("/v2/")
            leave(client)
            await self.nothing_is_left(source, before, growing)
        assert warm.reason is None

    async def nothing_is_left(self, source: Source, before: int, growing: bool) -> None:
        def gone() -> bool:
            if growing and not source.closed:
                source.grow(source.readable + 100)
            return source.closed and len(self.site.channels) == 1

        await until(gone)
        await until(lambda: descriptors() == before)
        assert self.clock.getDelayedCalls() == []
        source.tell()

    async def test_in_the_middle(self) -> None:
        await self.leaves()

    async def test_while_the_source_is_silent(self) -> None:
        await self.leaves(readable=1000)

    async def test_when_we_do_not_read_any_more(self) -> None:
        """More pipelined requests than are read ahead: our own reading is paused, and tells us nothing."""
        await self.leaves(pipelined=500, readable=1000, growing=True)

    async def test_when_we_do_not_read_and_the_client_is_slow(self) -> None:
        await self.leaves(pipelined=500)


class WholeTLS(Whole):
    tls = True


class RangesTLS(Ranges):
    tls = True


class FollowersTLS(Followers):
    tls = True


class SlowClientsTLS(SlowClients):
    tls = True


class LeaversTLS(Leavers):
    tls = True


def fetch(port: int, path: str, trust: Certificate | None) -> bytes:
    """The body under a path, by blocking calls."""
    if trust is None:
        connection = HTTPConnection("localhost", port, timeout=20)
    else:
        context = create_default_context(cadata=trust.dumpPEM().decode())
        connection = HTTPSConnection("localhost", port, timeout=20, context=context)
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
