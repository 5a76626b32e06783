"""What depproxy sees of upstreams: ``IUpstreams``, ``IUpstream``, ``IBlobStream``, ``IBodySink``, and their values."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from attrs import field, frozen
from zope.interface import Attribute, Interface

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Reference
from depproxy.upstream.errors import UpstreamError


@frozen
class ManifestHead:
    """What upstream's answer to a HEAD told; each part is None where it was not sent or not well-formed."""

    digest: Digest | None
    media_type: str | None
    size: int | None


@frozen
class Manifest:
    """A manifest as received: ``digest`` is computed from ``body``, never taken from a header."""

    body: bytes
    media_type: str
    digest: Digest


@frozen
class Document:
    """A tags list or a referrers index, as received. ``headers``: Link and OCI-Filters-Applied where sent."""

    body: bytes
    media_type: str
    headers: Mapping[str, str]


@frozen
class Credential:
    """A user name and its password."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


class IBodySink(Interface):
    """Where the bytes of a blob go."""

    def received(data: bytes) -> None:
        """Some bytes, in order. May call ``pause``, ``resume`` and ``stop`` of its stream."""

    def ended(error: UpstreamError | None) -> None:
        """The end, told exactly once unless ``stop`` came first.

        None: upstream closed the body cleanly. That proves neither length nor digest; the sink does.
        Otherwise the body broke off, and may be continued by another ``open_blob`` from where it stopped.
        """


class IBlobStream(Interface):
    """The open body of a blob. Nothing is read from upstream before ``start``."""

    offset: int = Attribute("Where in the blob the first byte to come stands (0 if upstream ignored the Range).")
    size: int | None = Attribute("Bytes in the whole blob, None where upstream did not say.")

    def start(sink: IBodySink) -> None:
        """Let the bytes flow to ``sink``. At most once."""

    def pause() -> None:
        """Stop reading from upstream (its silence is not counted meanwhile); a few bytes may still come."""

    def resume() -> None:
        """Read on."""

    def stop() -> None:
        """Drop the connection, for good and in silence: the sink hears nothing any more. May be called twice,
        before ``start`` and after the end. A stream that is not going to be started must be stopped."""


class IUpstream(Interface):
    """One configured upstream registry.

    Every method raises subclasses of ``UpstreamError`` alone, or ``CancelledError`` when it was cancelled,
    which leaves nothing behind. Each has done authentication, retries and redirects when it returns.
    """

    name: str = Attribute("The upstream's configured name, such as docker.io.")

    async def head_manifest(repository: Name, reference: Reference) -> ManifestHead:
        """What upstream has under ``reference`` now. Nothing is downloaded."""

    async def get_manifest(repository: Name, reference: Reference) -> Manifest:
        """The manifest (or image index), at most 4 MiB. Its digest is computed, and compared with the reference
        if that is a digest and with Docker-Content-Digest if that was sent: ``Invalid`` where they differ."""

    async def head_blob(repository: Name, digest: Digest) -> int | None:
        """The blob's size, None where upstream did not say. ``Refused`` does not mean that a GET would be
        refused: some registries do not know HEAD for blobs."""

    async def open_blob(repository: Name, digest: Digest, offset: int = 0, *, retry: bool = True) -> IBlobStream:
        """The blob's bytes from ``offset`` on, or from 0 where upstream ignored that: see the stream's own.
        Without ``retry`` a failure is told at once, to a caller that has a patience of its own."""

    async def get_document(repository: Name, path: str, query: str) -> Document:
        """``path`` is ``tags/list`` or ``referrers/<digest>``, ``query`` is sent as it is. At most 4 MiB."""


class IUpstreams(Interface):
    """All configured upstreams, each with the credential in use for a group."""

    def of(upstream: str, group: str) -> IUpstream:
        """The upstream of that name, as ``group`` asks it: no I/O.

        Groups get equal objects exactly where the credential in use is the same one. So an answer may be shared by
        all who have got equal objects, and by nobody else.
        """


@frozen
class RateLimit:
    """``limit`` and ``remaining`` in pulls, ``window`` in seconds; each None where upstream did not say."""

    limit: int | None
    remaining: int | None
    window: int | None


@frozen
class UpstreamState:
    """How an upstream has been since the start. Times are Unix time, None: not yet.

    ``username`` is of the credential that the configuration names, None: anonymous. ``rate_limits`` has what upstream
    said last, by the source that it named ("" for none).
    """

    name: str
    url: str
    username: str | None
    connections: int
    max_connections: int
    last_success: float | None
    last_failure: float | None
    failure: str
    rate_limits: Mapping[str, RateLimit]


class IUpstreamStates(Interface):
    """What an operator is told about upstreams."""

    def states() -> Sequence[UpstreamState]:
        """All of them, in the order of the configuration. No I/O."""

    async def ask_rate_limit(upstream: str, repository: Name, reference: Reference) -> Mapping[str, RateLimit]:
        """What the answer to one HEAD says about the pulls that are left, by source; empty where it says nothing.

        As the configured credential; a 429 is an answer like any other. Raises ``UpstreamError``.
        """


class IGroupCredentials(Interface):
    """Which groups have a credential of their own."""

    def find(upstream: str, group: str) -> Credential | None:
        """The credential with which ``group`` asks that upstream; None: the one that the configuration names, if any.

        No I/O. Raises ``Refused`` where the group has one that cannot be used.
        """


@frozen
class Fetched:
    """A whole answer, whatever its status. ``headers`` have their names in lower case; of several with one name it is
    the first."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class IFetcher(Interface):
    """Small requests to services that are no registries."""

    async def fetch(method: str, url: str, headers: Mapping[str, str] = {}, body: bytes | None = None) -> Fetched:
        """The answer, its body at most 1 MiB; a redirect is an answer like any other, and not followed.

        ``url`` is https; http is for the hosts that the configuration named so. Raises ``Unavailable`` where there
        was no answer (connection, TLS, time), ``Invalid`` where it is too large or the URL is none of these. What
        the headers hold stands in no error. Cancelling leaves no connection behind."""
