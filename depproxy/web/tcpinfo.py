"""What TCP itself knows about a connection: our own buffers end where the kernel's, of some MiB, begin."""

import sys
from socket import IPPROTO_TCP, TCP_INFO
from typing import Any

from attrs import frozen


@frozen
class Progress:
    """How many bytes the client's host has `taken` so far, and whether more are `waiting` to be."""

    taken: int
    waiting: bool


def progress(transport: Any) -> Progress:
    """The progress of a transport's connection, below TLS where there is some; none at all of a Unix socket."""
    try:
        # A TLS transport hands the attributes of the one below on.
        info = transport.socket.getsockopt(IPPROTO_TCP, TCP_INFO, 256)
    except (AttributeError, OSError):
        return Progress(0, False)
    # tcpi_bytes_acked, tcpi_unacked and tcpi_notsent_bytes of struct tcp_info (linux/tcp.h).
    return Progress(_number(info[120:128]), bool(_number(info[24:28]) or _number(info[144:148])))


def _number(field: bytes) -> int:
    return int.from_bytes(field, sys.byteorder)
