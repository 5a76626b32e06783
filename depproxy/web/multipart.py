"""Several ranges in one answer (RFC 9110 section 14.6)."""

from collections.abc import Sequence

from depproxy.oci.byterange import ByteRange
from depproxy.oci.digest import Digest
from depproxy.web.body import Part


class Multipart:
    """The frame of a multipart/byteranges body: `content_type`, `length` in bytes, and `parts` for a sender."""

    def __init__(self, digest: Digest, ranges: Sequence[ByteRange], size: int) -> None:
        # No part can contain its own blob's digest but by a collision.
        boundary = digest.encoded[:32].encode("ascii")
        self.content_type = b"multipart/byteranges; boundary=" + boundary
        self.parts: list[Part] = []
        self.length = 0
        for part in ranges:
            head = b"\r\n--%s\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (
                boundary,
                part.start,
                part.stop - 1,
                size,
            )
            self.parts += [head, (part.start, part.stop)]
            self.length += len(head) + part.stop - part.start
        tail = b"\r\n--%s--\r\n" % boundary
        self.parts.append(tail)
        self.length += len(tail)
