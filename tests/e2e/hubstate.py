"""What the Hub double remembers and is told: requests, faults, gates; and the API by which tests tell it."""

from __future__ import annotations

import json
from typing import Any

from attrs import asdict, define, field, frozen
from twisted.internet.defer import Deferred
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request

KINDS = ("ping", "token", "manifest", "blob", "document", "cdn")


@define
class Seen:
    """One request as it came; ``status`` is None until it is answered, and stays so if it is dropped."""

    kind: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    accept: list[str]
    encoding: str | None
    status: int | None = None


@define
class Fault:
    """What is to happen to the next ``times`` requests (None: to all) of a kind with ``path`` in their path.

    ``method`` None means any. The effects may be combined; those of the second group are for blob bodies
    (kind cdn), in bytes: ``cut`` and ``gate`` count in the answer's body, ``corrupt`` in the blob. A ``gate``
    for another kind holds the whole answer.
    """

    kind: str = field()
    method: str | None = None
    path: str = ""
    times: int | None = None

    drop: bool = False
    status: int | None = None
    headers: dict[str, str] = field(factory=dict)
    body: str = ""
    delay: float = 0
    no_digest: bool = False

    cut: int | None = None
    gate: int | None = None
    corrupt: int | None = None
    throttle: int | None = None
    ignore_range: bool = False
    chunked: bool = False

    @kind.validator
    def _known(self, _: object, value: str) -> None:
        if value not in KINDS:
            raise ValueError(f"kind {value!r} is none of {KINDS}")

    def matches(self, seen: Seen) -> bool:
        return (
            self.times != 0 and self.kind == seen.kind and self.method in (None, seen.method) and self.path in seen.path
        )


@frozen
class Account:
    """The one account that may pull repositories below ``private/``."""

    username: str
    password: str


@define
class State:
    """Everything that changes while the double runs."""

    limit: int
    account: Account | None
    seen: list[Seen] = field(factory=list)
    faults: list[Fault] = field(factory=list)
    remaining: int = field(init=False)
    tokens: dict[str, set[str]] = field(factory=dict)
    _gated: list[Deferred[None]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.remaining = self.limit

    def arrived(self, request: HTTPRequest, kind: str) -> tuple[Seen, Fault]:
        """Write the request down, and take the first fault meant for it (or one without any effect)."""
        accept = request.requestHeaders.getRawHeaders("accept", [])
        seen = Seen(
            kind,
            request.method.decode(),
            request.uri.decode(),
            request.getHeader("range"),
            request.getHeader("authorization"),
            [part.strip() for value in accept for part in value.split(",")],
            request.getHeader("accept-encoding"),
        )
        self.seen.append(seen)
        for fault in self.faults:
            if fault.matches(seen):
                if fault.times is not None:
                    fault.times -= 1
                return seen, fault
        return seen, Fault(kind)

    def gate(self) -> Deferred[None]:
        """Fires when the test opens the gates."""
        waiting: Deferred[None] = Deferred()
        self._gated.append(waiting)
        return waiting

    def release(self) -> int:
        """Open all gates, also for requests still to come; the number of bodies that had been held."""
        self.faults = [fault for fault in self.faults if fault.gate is None]
        gated, self._gated = self._gated, []
        for waiting in gated:
            waiting.callback(None)
        return len(gated)

    def reset(self) -> None:
        self.release()
        self.seen, self.faults, self.remaining = [], [], self.limit
        self.tokens.clear()


class Control(Resource):
    """``GET /requests``; ``POST /faults`` (one, as JSON), ``/release``, ``/reset``, ``/forget-tokens``."""

    isLeaf = True

    def __init__(self, state: State) -> None:
        Resource.__init__(self)
        self._state = state

    def render(self, request: Request) -> bytes:
        """Answer with JSON; what cannot be understood is a 400 that says why."""
        request.setHeader("Content-Type", "application/json")
        try:
            return json.dumps(self._answer(request)).encode()
        except (ValueError, TypeError) as error:
            request.setResponseCode(400)
            return json.dumps({"error": str(error)}).encode()

    def _answer(self, request: Request) -> Any:
        state = self._state
        what = (request.method, request.path)
        if what == (b"GET", b"/requests"):
            return [asdict(seen) for seen in state.seen]
        if what == (b"POST", b"/faults"):
            assert request.content is not None
            state.faults.append(Fault(**json.load(request.content)))
        elif what == (b"POST", b"/release"):
            return {"released": state.release()}
        elif what == (b"POST", b"/reset"):
            state.reset()
        elif what == (b"POST", b"/forget-tokens"):
            state.tokens.clear()
        else:
            raise ValueError(f"no such address: {request.method!r} {request.path!r}")
        return {}
