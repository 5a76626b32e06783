"""The frame of several ranges in one answer, read back by the standard library's MIME parser."""

from collections.abc import Sequence
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from depproxy.oci.byterange import ByteRange
from depproxy.oci.digest import Digest
from depproxy.web.multipart import Multipart


def read_back(content_type: bytes, body: bytes) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part."""
    head = b"Content-Type: %s\r\n\r\n" % content_type
    message: Message = BytesParser(EmailMessage, policy=HTTP).parsebytes(head + body)
    parts = cast(list[Message], message.get_payload())
    assert all(part.get_content_type() == "application/octet-stream" for part in parts)
    return [(str(part["Content-Range"]), cast(bytes, part.get_payload(decode=True))) for part in parts]


def written(multipart: Multipart, blob: bytes) -> bytes:
    """The body that a sender makes of the parts."""
    return b"".join(part if isinstance(part, bytes) else blob[part[0] : part[1]] for part in multipart.parts)


@st.composite
def blobs_and_ranges(draw: st.DrawFn) -> tuple[bytes, Sequence[ByteRange]]:
    # A MIME parser takes a line's end before a boundary for the boundary's: letters leave no doubt.
    blob = draw(st.text("abc", min_size=1, max_size=60)).encode()
    edges = st.tuples(st.integers(0, len(blob) - 1), st.integers(1, len(blob))).filter(lambda pair: pair[0] < pair[1])
    return blob, draw(st.lists(edges.map(lambda pair: ByteRange(*pair)), min_size=1, max_size=8))


@given(blobs_and_ranges())
def test_read_back(example: tuple[bytes, Sequence[ByteRange]]) -> None:
    blob, ranges = example
    multipart = Multipart(Digest.of(blob), ranges, len(blob))
    body = written(multipart, blob)
    assert multipart.length == len(body)
    expected = [(f"bytes {part.start}-{part.stop - 1}/{len(blob)}", blob[part.start : part.stop]) for part in ranges]
    assert read_back(multipart.content_type, body) == expected


def test_exact_bytes() -> None:
    """RFC 9110 section 15.3.7.2: each part begins with a line's end, whose boundary is no part of the blob."""
    digest = Digest.of(b"0123456789", "sha512")
    multipart = Multipart(digest, (ByteRange(0, 1), ByteRange(8, 10)), 10)
    boundary = digest.encoded[:32].encode()
    assert multipart.content_type == b"multipart/byteranges; boundary=" + boundary
    assert written(multipart, b"0123456789") == (
        b"\r\n--%b\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-0/10\r\n\r\n0"
        b"\r\n--%b\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 8-9/10\r\n\r\n89"
        b"\r\n--%b--\r\n" % (boundary, boundary, boundary)
    )
