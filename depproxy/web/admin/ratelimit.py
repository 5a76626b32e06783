"""What upstreams say about the pulls that are left: `depproxy ratelimit`."""

from collections.abc import Mapping

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from depproxy.cache.deadline import Deadline
from depproxy.config.names import HUB, HUB_ALIASES
from depproxy.oci.reference import Name, Tag
from depproxy.upstream.errors import NotFound
from depproxy.upstream.interface import IUpstreamStates, RateLimit
from depproxy.web.admin.answers import AdminError, Document
from depproxy.web.admin.application import AdminApplication
from depproxy.web.admin.ask import Ask
from depproxy.web.admin.status import limits

# What Docker has for this question; a HEAD is not counted as a pull.
# https://docs.docker.com/docker-hub/usage/pulls/#view-hourly-pull-rate-and-limit
PREVIEW = Name("ratelimitpreview/test")
LATEST = Tag("latest")


class RateLimitFace:
    """Asks Docker Hub; of other upstreams it tells what their last answers said."""

    app = AdminApplication()

    def __init__(self, upstreams: IUpstreamStates, clock: IReactorTime) -> None:
        self._upstreams = upstreams
        self._clock = clock

    @app.answers("GET", "/v1/ratelimit", "upstream")
    async def ratelimit(self, ask: Ask) -> Document:
        """The limits of one upstream, Docker Hub if none is named. `asked`: just now. None may be known."""
        name = ask.text("upstream") or HUB
        name = HUB if name in HUB_ALIASES else name
        states = {state.name: state for state in self._upstreams.states()}
        if name not in states:
            raise AdminError(f"{name[:100]!r} is no configured upstream; there are {', '.join(states)}", 404)
        state, asked = states[name], name == HUB
        known = await self._ask(name) if asked else state.rate_limits
        return {"upstream": name, "username": state.username, "asked": asked, "rate_limits": limits(known)}

    async def _ask(self, name: str) -> Mapping[str, RateLimit]:
        asking = Deferred.fromCoroutine(self._upstreams.ask_rate_limit(name, PREVIEW, LATEST))
        try:
            return await Deadline.after(self._clock).wait(asking, name, f"HEAD {PREVIEW}:{LATEST}")
        except NotFound:
            raise AdminError(
                f"{name} has no {PREVIEW}, which Docker Hub has for this question: its url is that of another registry",
                502,
            ) from None
