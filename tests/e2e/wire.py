"""HTTP by hand: what the clients that Debian does not carry send, and an exact look at how an answer ends."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from attrs import field, frozen

READ = 1 << 18
# As containerd asks (core/remotes/docker/resolver.go).
ACCEPT = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "*/*",
)


class CutShort(Exception):
    """The connection ended before the body did. ``args[0]`` is the number of body bytes that came."""


@frozen
class Answer:
    """A whole answer; header names in lower case, the last of several wins."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        return "sha256:" + hashlib.sha256(self.body).hexdigest()

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the first error in an OCI error document; fails if this is not such a document."""
        assert self.headers["content-type"].split(";")[0] == "application/json", self.headers
        first = self.document["errors"][0]
        assert isinstance(first["message"], str)
        assert first["message"]
        return cast(str, first["code"])

    @property
    def outcome(self) -> str | None:
        """The X-Cache header: hit, miss, joined or stale."""
        return self.headers.get("x-cache")


class Download:
    """One request on a connection of its own, its answer's head read, its body read as the test pleases.

    ``receive_buffer`` in bytes makes a client whose kernel takes little off the sender's hands.
    """

    def __init__(
        self,
        url: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes = b"",
        timeout: float = 60,
        receive_buffer: int = 0,
    ) -> None:
        parts = urlsplit(url)
        self._method = method
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect((parts.hostname or "", parts.port or 80))
            target = url[url.index(parts.netloc) + len(parts.netloc) :] or "/"
            lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            if body:
                lines.append(f"Content-Length: {len(body)}")
            self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            self._buffer = b""
            self.status, self.headers = self._read_head()
        except BaseException:
            self.close()
            raise
        self.received = 0

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def outcome(self) -> str | None:
        return self.headers.get("x-cache")

    @property
    def length(self) -> int | None:
        """Bytes that the body is announced to have; None if it is chunked or ends with the connection."""
        if self._method == "HEAD" or self.status in (204, 304):
            return 0
        value = self.headers.get("content-length")
        return None if value is None else int(value)

    def _read_head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            data = self._socket.recv(65536)
            if not data:
                raise CutShort(0)
            self._buffer += data
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        return int(status.split()[1]), {name.strip().lower(): value.strip() for name, value in pairs}

    def some(self, most: int = READ) -> bytes:
        """At least one byte and at most ``most``, or none once the body has ended; CutShort if it was cut."""
        left = most if self.length is None else min(most, self.length - self.received)
        if left == 0:
            return b""
        data, self._buffer = self._buffer[:left], self._buffer[left:]
        if not data:
            try:
                data = self._socket.recv(left)
            except ConnectionResetError:
                raise CutShort(self.received) from None
        if not data and self.length is not None:
            raise CutShort(self.received)
        self.received += len(data)
        return data

    def exactly(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        data = b""
        while len(data) < count:
            more = self.some(count - len(data))
            if not more:
                raise CutShort(self.received)
            data += more
        return data

    def rest(self) -> bytes:
        """All that is left of the body. A chunked body is decoded; CutShort if its last chunk is missing."""
        parts = bytearray()
        while data := self.some(READ):
            parts += data
        if self.headers.get("transfer-encoding") == "chunked":
            return unchunk(bytes(parts))
        return bytes(parts)

    def equals(self, expected: bytes, start: int = 0) -> bool:
        """Read to the end and compare with ``expected[start:]`` on the way; holds nothing in memory."""
        view, position = memoryview(expected), start
        while data := self.some():
            if view[position : position + len(data)] != data:
                return False
            position += len(data)
        return position == len(expected)

    def until_cut(self) -> bytes:
        """All the bytes that come before the connection breaks; fails if the body ends whole."""
        parts = bytearray()
        with contextlib.suppress(CutShort):
            while data := self.some():
                parts += data
            raise AssertionError(f"the body ended whole, after {len(parts)} bytes")
        return bytes(parts)


def unchunk(body: bytes) -> bytes:
    """The payload of a chunked body (RFC 9112 7.1)."""
    parts: list[bytes] = []
    rest = body
    while True:
        line, found, rest = rest.partition(b"\r\n")
        if not found:
            raise CutShort(len(body))
        size = int(line.split(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(rest[:size])
        rest = rest[size + 2 :]


def fetch(url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """Ask once, read all."""
    with Download(url, method, headers, body=body) as download:
        return Answer(download.status, download.headers, download.rest())


def manifest(base: str, reference: str, method: str = "GET", **headers: str) -> Answer:
    """Ask for a manifest below ``base`` (``http://host:port/v2/<repository>``) as containerd does."""
    return fetch(f"{base}/manifests/{reference}", method, {"Accept": ", ".join(ACCEPT), **headers})


def blob(base: str, digest: str, method: str = "GET", **headers: str) -> Answer:
    """Ask for a blob below ``base``."""
    return fetch(f"{base}/blobs/{digest}", method, headers)


class KeptConnection:
    """Several requests one after the other on one connection, as engines send them."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._connection.connect()
        self._socket = self._connection.sock

    def __enter__(self) -> KeptConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One answer; fails if the server closed the connection since the last one."""
        self._connection.request(method, path, headers=dict(headers or {}))
        response = self._connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, names, response.read())
        assert self._connection.sock is self._socket, "the connection was not kept"
        return answer
