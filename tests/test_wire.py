"""Replies of Redis, read from any pieces that arrive."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from depproxy.index.wire import Reply, ReplyError, Wire, _Factory
from tests.cache_tools import Outcome

statuses = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)
plain = st.none() | st.binary(max_size=40) | st.integers(-(2**63), 2**63 - 1)
lists = st.recursive(
    st.lists(plain, min_size=1, max_size=5), lambda inner: st.lists(plain | inner, min_size=1, max_size=4), max_leaves=9
)
replies: st.SearchStrategy[Any] = plain | statuses | lists | st.just([])


def written(reply: Reply) -> bytes:
    """As Redis writes it."""
    match reply:
        case None:
            return b"$-1\r\n"
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case str():
            return b"+%b\r\n" % reply.encode()
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))
    raise AssertionError(reply)


def connected() -> tuple[Wire, Any]:
    protocol = _Factory().buildProtocol(None)
    protocol.makeConnection(StringTransport())
    return Wire(protocol), protocol


@given(st.lists(replies, min_size=1, max_size=5), st.data())
def test_any_replies_in_any_pieces(expected: list[Reply], data: st.DataObject) -> None:
    wire, protocol = connected()
    outcomes = [Outcome(wire.send("PING")) for _ in expected]
    stream = b"".join(map(written, expected))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=9)))
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        protocol.dataReceived(stream[start:stop])
    # Without a turn of the reactor.
    assert [outcome.value for outcome in outcomes] == expected


def test_many_parts_at_once() -> None:
    wire, protocol = connected()
    outcome = Outcome(wire.send("HGETALL", "x"))
    protocol.dataReceived(written([b"x" * 32] * 5000))
    assert outcome.value == [b"x" * 32] * 5000


def test_errors() -> None:
    wire, protocol = connected()
    outcomes = [Outcome(wire.send("PING")) for _ in range(2)]
    protocol.dataReceived(b"-WRONGTYPE no\r\n+PO")
    with pytest.raises(ReplyError, match="WRONGTYPE no"):
        outcomes[0].value  # noqa: B018
    assert outcomes[1].waits
    protocol.dataReceived(b"NG\r\n")
    assert outcomes[1].value == "PONG"


@pytest.mark.parametrize("sent", [[b"x" * 20_000], [b"$20\r\nabc", b"x" * 30_000], [b"+" + b"x" * 9000] * 3])
def test_lines_have_a_limit(sent: list[bytes]) -> None:
    """What is no Redis does not fill the memory."""
    _, protocol = connected()
    for data in sent:
        protocol.dataReceived(data)
    assert protocol.transport.disconnected or protocol.transport.disconnecting
