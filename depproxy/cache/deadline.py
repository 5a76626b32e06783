"""How long one request may wait for an upstream, all its questions together."""

from typing import TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime

from depproxy.upstream.errors import Unavailable

T = TypeVar("T")

# containerd 2.3 gives a server 30 s for the response header.
ANSWER_TIMEOUT = 25.0


class Late(Unavailable):
    """Our own patience ended; upstream is still being asked."""


@frozen
class Deadline:
    """The moment, by the clock's seconds, at which a request is answered with what is known then."""

    clock: IReactorTime
    by: float

    @classmethod
    def after(cls, clock: IReactorTime, seconds: float = ANSWER_TIMEOUT) -> "Deadline":
        """The deadline that is `seconds` from now."""
        return cls(clock, clock.seconds() + seconds)

    def within(self, seconds: float) -> "Deadline":
        """This one, or `seconds` from now if that is sooner."""
        return Deadline(self.clock, min(self.by, self.clock.seconds() + seconds))

    async def wait(self, answer: "Deferred[T]", upstream: str, what: str) -> T:
        """What `answer` gives; raises Late once the deadline has passed, and `answer` is cancelled then."""
        left = max(0.0, self.by - self.clock.seconds())
        try:
            return await answer.addTimeout(left, self.clock)
        except DeferredTimeoutError:
            raise Late(upstream, f"no answer for {what} in time; it is still being asked") from None
