"""The registry face: the distribution-spec's pull endpoints, in every layout that clients write."""

import re
from urllib.parse import quote

from twisted.internet.interfaces import IReactorCore, IReactorFDSet, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import Request

from depproxy.access.errors import Unauthenticated
from depproxy.access.gate import Gate
from depproxy.cache.blobs import Blobs
from depproxy.cache.documents import Documents
from depproxy.cache.interface import BlobSource, Outcome, ServedManifest
from depproxy.cache.manifests import Manifests
from depproxy.index.interface import Home
from depproxy.metrics import Metrics
from depproxy.oci.byterange import ByteRange, Unsatisfiable, parse_range, resolve
from depproxy.oci.digest import Digest
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.reference import Reference
from depproxy.upstream.errors import UpstreamError
from depproxy.upstream.interface import Document
from depproxy.web.addresses import Addresses
from depproxy.web.body import ChunkSender, Part, Sender, SendfileSender, plain_socket
from depproxy.web.caller import Caller
from depproxy.web.multipart import Multipart
from depproxy.web.render import fail, from_upstream
from depproxy.web.routing import Application

# RFC 9110 section 15.4: the Warning header was retired, but it is what clients and their logs know (RFC 7234 5.5.1).
STALE_WARNING = b'110 depproxy "Response is Stale"'


# What a scope may name; anything else could end its quotes in the challenge.
_is_plain = re.compile(r"[A-Za-z0-9._/:-]{1,512}").fullmatch
# What a query may hold as it is; of the ASCII that is all that Twisted lets through.
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


class Reactor(IReactorTime, IReactorFDSet, IReactorCore):
    """What this module needs of a reactor."""


class Registry:
    """
    Klein's handlers. Each answers, or raises OCIError or UpstreamError.

    `addresses` and `stall_timeout` may be replaced at any time.
    """

    app = Application()

    def __init__(
        self,
        addresses: Addresses,
        gate: Gate,
        manifests: Manifests,
        blobs: Blobs,
        documents: Documents,
        reactor: Reactor,
        stall_timeout: float,
        metrics: Metrics,
    ) -> None:
        self.addresses = addresses
        self._gate = gate
        self._manifests = manifests
        self._blobs = blobs
        self._documents = documents
        self._reactor = reactor
        self.stall_timeout = stall_timeout
        self._metrics = metrics

    @app.route("/v2/")
    @app.route("/<path:prefix>/v2/")
    async def base(self, request: Request, prefix: str = "") -> bytes:
        """
        The probe (distribution-spec end-1). Clients learn here alone whether to log in, so they are asked to as soon
        as there are accounts; an anonymous token is given to who needs no other.
        """
        self.addresses.check_prefix(prefix)
        await self._gate.probe(self.addresses.group(""), Caller(request))
        request.responseHeaders.setRawHeaders(b"Content-Type", [b"application/json"])
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"2"])
        return b"{}"

    async def _home(self, request: Request, path: str, prefix: str) -> Home:
        """The home that is meant, if the client may pull from its group."""
        # The same before and after the gate: a reload may come between.
        addresses = self.addresses
        group = addresses.group(path)
        try:
            await self._gate.admit(group, Caller(request))
        except Unauthenticated as error:
            if _is_plain(path):
                error.scope = f"repository:{path}:pull"
            raise
        return addresses.home(path, prefix, _namespace(request))

    @app.route("/v2/<path:path>/manifests/<reference:reference>")
    @app.route("/<path:prefix>/v2/<path:path>/manifests/<reference:reference>")
    async def manifest(self, request: Request, path: str, reference: Reference, prefix: str = "") -> bytes | None:
        """Manifests by tag or digest (end-3)."""
        home = await self._home(request, path, prefix)
        head = request.method == b"HEAD"
        try:
            served = await self._manifests.get(home, reference, body=not head)
        except UpstreamError as error:
            raise from_upstream(error, Code.MANIFEST_UNKNOWN) from None
        self._metrics.answered["manifest", served.outcome.value].inc()
        return self._send_manifest(request, served)

    def _send_manifest(self, request: Request, served: ServedManifest) -> bytes | None:
        headers = request.responseHeaders
        _describe(request, served.digest, served.outcome)
        if served.digest is not None and _matches(request, served.digest):
            request.setResponseCode(304)
            return None
        if served.media_type:
            headers.setRawHeaders(b"Content-Type", [served.media_type.encode("latin-1")])
        if served.size is not None and served.size >= 0:
            headers.setRawHeaders(b"Content-Length", [b"%d" % served.size])
        if served.body is not None:
            self._metrics.served["manifest"].inc(len(served.body))
        return served.body

    @app.route("/v2/<path:path>/blobs/<digest:digest>")
    @app.route("/<path:prefix>/v2/<path:path>/blobs/<digest:digest>")
    async def blob(self, request: Request, path: str, digest: Digest, prefix: str = "") -> None:
        """Blobs (end-2)."""
        home = await self._home(request, path, prefix)
        if request.method == b"HEAD" or _matches(request, digest):
            try:
                size, outcome = await self._blobs.stat(home, digest)
            except UpstreamError as error:
                raise from_upstream(error, Code.BLOB_UNKNOWN) from None
            self._describe_blob(request, digest, outcome)
            self._metrics.answered["blob", outcome.value].inc()
            if _matches(request, digest):
                request.setResponseCode(304)
            elif size is not None:
                request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % size])
            return
        try:
            source = await self._blobs.open(home, digest)
        except UpstreamError as error:
            raise from_upstream(error, Code.BLOB_UNKNOWN) from None
        try:
            self._describe_blob(request, digest, source.outcome)
            parts = self._parts(request, digest, source.size)
            self._metrics.answered["blob", source.outcome.value].inc()
            sender = self._sender(request, source, parts)
        except BaseException:
            source.close()
            raise
        await sender.start()

    def _describe_blob(self, request: Request, digest: Digest, outcome: Outcome) -> None:
        _describe(request, digest, outcome)
        headers = request.responseHeaders
        headers.setRawHeaders(b"Content-Type", [b"application/octet-stream"])
        headers.setRawHeaders(b"Accept-Ranges", [b"bytes"])

    def _parts(self, request: Request, digest: Digest, size: int | None) -> list[Part]:
        """What to send, by Range and If-Range; sets status and headers. Raises RANGE_INVALID."""
        headers = request.responseHeaders
        ranges = _ranges(request, digest, size)
        if ranges is None or size is None:
            if size is not None:
                headers.setRawHeaders(b"Content-Length", [b"%d" % size])
            return [(0, size)]
        request.setResponseCode(206)
        if len(ranges) == 1:
            start, stop = ranges[0].start, ranges[0].stop
            headers.setRawHeaders(b"Content-Range", [b"bytes %d-%d/%d" % (start, stop - 1, size)])
            headers.setRawHeaders(b"Content-Length", [b"%d" % (stop - start)])
            return [(start, stop)]
        multipart = Multipart(digest, ranges, size)
        headers.setRawHeaders(b"Content-Type", [multipart.content_type])
        headers.setRawHeaders(b"Content-Length", [b"%d" % multipart.length])
        return multipart.parts

    def _sender(self, request: Request, source: BlobSource, parts: list[Part]) -> Sender:
        count = self._metrics.served["blob"].inc
        sock = plain_socket(request)
        if sock is None or source.size is None:
            return ChunkSender(request, source, parts, self._reactor, self.stall_timeout, count)
        return SendfileSender(request, source, parts, self._reactor, self.stall_timeout, count, self._reactor, sock)

    @app.route("/v2/<path:path>/tags/list")
    @app.route("/<path:prefix>/v2/<path:path>/tags/list")
    async def tags(self, request: Request, path: str, prefix: str = "") -> bytes:
        """The tags of a repository (end-8)."""
        home = await self._home(request, path, prefix)
        try:
            document, outcome = await self._documents.tags(home, _query(request))
        except UpstreamError as error:
            raise from_upstream(error, Code.NAME_UNKNOWN) from None
        return self._send_document(request, document, outcome)

    @app.route("/v2/<path:path>/referrers/<digest:digest>")
    @app.route("/<path:prefix>/v2/<path:path>/referrers/<digest:digest>")
    async def referrers(self, request: Request, path: str, digest: Digest, prefix: str = "") -> bytes:
        """The manifests that refer to a digest (end-12)."""
        home = await self._home(request, path, prefix)
        try:
            document, outcome = await self._documents.referrers(home, digest, _query(request))
        except UpstreamError as error:
            raise from_upstream(error, Code.MANIFEST_UNKNOWN) from None
        return self._send_document(request, document, outcome)

    def _send_document(self, request: Request, document: Document, outcome: Outcome) -> bytes:
        self._metrics.answered["document", outcome.value].inc()
        if request.method != b"HEAD":
            self._metrics.served["document"].inc(len(document.body))
        _describe(request, None, outcome)
        headers = request.responseHeaders
        headers.setRawHeaders(b"Content-Type", [document.media_type.encode("latin-1")])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(document.body)])
        for name, value in document.headers.items():
            if name.lower() == "link":
                headers.setRawHeaders(name, [_local_link(value, request.path.decode("ascii"), _namespace(request))])
            else:
                headers.setRawHeaders(name, [value])
        return document.body

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein types handlers by IRequest.
    def failed(self, request: Request, failure: Failure) -> None:
        """Every error that a handler, or the routing, raised."""
        kind = "blob" if b"/blobs/" in request.path else "manifest" if b"/manifests/" in request.path else "document"
        fail(request, failure, kind, self._metrics)


def _namespace(request: Request) -> str:
    if not request.args:
        return ""
    values = request.args.get(b"ns")
    return values[0].decode("latin-1") if values else ""


def _describe(request: Request, digest: Digest | None, outcome: Outcome) -> None:
    headers = request.responseHeaders
    if digest is not None:
        headers.setRawHeaders(b"Docker-Content-Digest", [digest.encode("ascii")])
        headers.setRawHeaders(b"ETag", [b'"%s"' % digest.encode("ascii")])
    headers.setRawHeaders(b"X-Cache", [outcome.value.encode("ascii")])
    if outcome is Outcome.STALE:
        headers.setRawHeaders(b"Warning", [STALE_WARNING])
    if request.args and b"ns" in request.args:
        headers.setRawHeaders(b"OCI-Namespace", [request.args[b"ns"][0]])


def _matches(request: Request, digest: Digest) -> bool:
    """Whether If-None-Match names this digest (RFC 9110 section 13.1.2)."""
    values = request.requestHeaders.getRawHeaders(b"If-None-Match")
    if not values:
        return False
    wanted = digest.encode("ascii")
    tags = (tag.strip() for value in values for tag in value.split(b","))
    return any(tag == b"*" or tag.removeprefix(b"W/").strip(b'"') == wanted for tag in tags)


def _ranges(request: Request, digest: Digest, size: int | None) -> tuple[ByteRange, ...] | None:
    """The ranges asked for; None means the whole blob. Raises RANGE_INVALID."""
    values = request.requestHeaders.getRawHeaders(b"Range")
    if not values or size is None:
        return None
    condition = request.requestHeaders.getRawHeaders(b"If-Range")
    if condition and condition[0].strip().strip(b'"') != digest.encode("ascii"):
        return None
    specs = parse_range(values[0].decode("latin-1"))
    if specs is None:
        return None
    try:
        ranges = resolve(specs, size)
    except Unsatisfiable as error:
        raise OCIError(Code.RANGE_INVALID, str(error), headers={"Content-Range": f"bytes */{size}"}) from None
    if sum(part.stop - part.start for part in ranges) > size:
        # Overlapping ranges cost more than the whole (RFC 9110 section 14.2 allows to ignore them).
        return None
    return ranges


def _query(request: Request) -> str:
    """The query for upstream, in ASCII: all but `ns`, which is between the client and us."""
    query = quote(request.uri.partition(b"?")[2], safe=PRINTABLE)
    return "&".join(part for part in query.split("&") if part and not part.startswith("ns="))


def _local_link(link: str, path: str, namespace: str) -> str:
    """
    Upstream's Link header with our path in place of its own, and the client's `ns`, so that the next page is asked
    here, of the same upstream.
    """
    tail = f"ns={quote(namespace)}" if namespace else ""

    def local(match: re.Match[str]) -> str:
        query = "&".join(part for part in (match[1], tail) if part)
        return f"<{path}?{query}>" if query else f"<{path}>"

    return re.sub(r"<[^>?]*(?:\?([^>]*))?>", local, link)
