"""The Hub double: a process that behaves before a real docker-registry as Docker Hub does before its own.

    python -m tests.e2e.hub --registry http://127.0.0.1:PORT --storage DIR

It demands bearer tokens, sends rate-limit headers, sends blobs from a second port (the CDN) after a redirect,
writes down each request, and misbehaves when told to. When ready, it prints its three URLs as a line of JSON.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import treq
from attrs import define
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger, globalLogPublisher, textFileLogObserver
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.e2e.hubbody import Body, span_of
from tests.e2e.hubstate import Account, Control, Fault, Seen, State

ADDRESS = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<reference>[^/]+)")
KIND = {"manifests": "manifest", "blobs": "blob", "tags": "document", "referrers": "document"}
PASSED = ("content-type", "docker-content-digest", "etag", "link", "docker-distribution-api-version")
SECRET = b"what the CDN and the registry share"
SERVICE = "registry.double"


def signature(digest: str) -> str:
    return hmac.new(SECRET, digest.encode(), hashlib.sha256).hexdigest()


def error(request: Request, status: int, code: str, message: str) -> bytes:
    request.setResponseCode(status)
    request.setHeader("Content-Type", "application/json")
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


class Face(Resource):
    """A port of the double: counts what comes, applies the common faults, and lets a subclass answer."""

    isLeaf = True
    log = Logger()

    def __init__(self, reactor: IReactorTime, state: State) -> None:
        Resource.__init__(self)
        self._reactor = reactor
        self._state = state

    def kind(self, request: Request) -> str:
        raise NotImplementedError

    async def answer(self, request: Request, seen: Seen, fault: Fault) -> bytes | None:
        """The whole body, or None if it was taken care of."""
        raise NotImplementedError

    def render(self, request: Request) -> int:
        seen, fault = self._state.arrived(request, self.kind(request))
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        ensureDeferred(self._respond(request, seen, fault, lambda: bool(gone))).addErrback(
            lambda failure: self.log.failure("while answering {path}", failure, path=seen.path)
        )
        return NOT_DONE_YET

    async def _respond(self, request: Request, seen: Seen, fault: Fault, gone: Callable[[], bool]) -> None:
        if fault.delay:
            await deferLater(self._reactor, fault.delay)
        if fault.gate is not None and seen.kind != "cdn":
            await self._state.gate()
        if gone():
            return
        if fault.drop:
            cast(Any, request.transport).abortConnection()
            return
        if fault.status is not None:
            body: bytes | None = fault.body.encode()
            request.setResponseCode(fault.status)
            for name, value in fault.headers.items():
                request.setHeader(name, value)
        else:
            body = await self.answer(request, seen, fault)
        if body is not None and not gone():
            seen.status = request.code
            request.setHeader("Content-Length", str(len(body)))
            request.write(b"" if request.method == b"HEAD" else body)
            request.finish()


class Registry(Face):
    """The registry's own port: tokens, manifests, and the way to the blobs."""

    def __init__(self, reactor: IReactorTime, state: State, backend: str, agent: Agent, realm_host: str) -> None:
        super().__init__(reactor, state)
        self._backend = backend
        self._realm_host = realm_host
        self._client = treq.client.HTTPClient(agent)
        self.cdn = ""

    def kind(self, request: Request) -> str:
        path = request.path.decode()
        if path == "/token":
            return "token"
        found = ADDRESS.fullmatch(path)
        return KIND[found["kind"]] if found else "ping"

    async def answer(self, request: Request, seen: Seen, fault: Fault) -> bytes | None:
        if seen.kind == "token":
            return self._token(request)
        found = ADDRESS.fullmatch(request.path.decode())
        name = found["name"] if found else ""
        if not self._may(seen, name):
            return self._challenge(request, name, seen)
        if found is None:
            return b"{}"
        return await self._pull(request, seen, fault, found["reference"])

    async def _pull(self, request: Request, seen: Seen, fault: Fault, reference: str) -> bytes:
        if request.method not in (b"GET", b"HEAD"):
            return error(request, 405, "UNSUPPORTED", "the double only lets pull")
        if seen.kind == "manifest":
            return await self._manifest(request, fault)
        if seen.kind == "blob":
            return await self._blob(request, reference)
        return await self._passed(request)

    def _may(self, seen: Seen, name: str) -> bool:
        scheme, _, token = (seen.authorization or "").partition(" ")
        known = self._state.tokens.get(token)
        return scheme.lower() == "bearer" and known is not None and (not name or name in known)

    def _challenge(self, request: Request, name: str, seen: Seen) -> bytes:
        host, _, port = (request.getHeader("host") or "").partition(":")
        challenge = f'Bearer realm="http://{self._realm_host or host}:{port}/token",service="{SERVICE}"'
        if name:
            challenge += f',scope="repository:{name}:pull"'
        if seen.authorization:
            challenge += ',error="insufficient_scope"' if name else ',error="invalid_token"'
        request.setHeader("WWW-Authenticate", challenge)
        return error(request, 401, "UNAUTHORIZED", "authentication required")

    def _token(self, request: Request) -> bytes:
        """A token for the repositories of the scopes; those below ``private/`` only for the account."""
        query = parse_qs(urlsplit(request.uri.decode()).query)
        if query.get("service") != [SERVICE]:
            return error(request, 400, "UNSUPPORTED", "no such service")
        account, known = self._state.account, False
        scheme, _, sent = (request.getHeader("authorization") or "").partition(" ")
        if scheme:
            pair = f"{account.username}:{account.password}" if account else ""
            known = scheme.lower() == "basic" and base64.b64decode(sent).decode() == pair
            if not known:
                return error(request, 401, "UNAUTHORIZED", "incorrect username or password")
        scopes = [scope.split(":") for value in query.get("scope", []) for scope in value.split()]
        names = {name for kind, name, actions in scopes if kind == "repository" and "pull" in actions}
        token = f"token-{len(self._state.tokens)}-{signature(','.join(sorted(names)))[:16]}"
        self._state.tokens[token] = {n for n in names if known or not n.startswith("private/")}
        request.setHeader("Content-Type", "application/json")
        answer = {
            "token": token,
            "access_token": token,
            "expires_in": 300,
            "issued_at": "2026-01-01T00:00:00Z",
        }
        return json.dumps(answer).encode()

    async def _manifest(self, request: Request, fault: Fault) -> bytes:
        state = self._state
        if request.method == b"GET":
            if state.remaining <= 0:
                request.setHeader("Retry-After", "60")
                return error(request, 429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
            state.remaining -= 1
        body = await self._passed(request)
        request.setHeader("ratelimit-limit", f"{state.limit};w=21600")
        request.setHeader("ratelimit-remaining", f"{state.remaining};w=21600")
        request.setHeader("docker-ratelimit-source", "127.0.0.1")
        if fault.no_digest:
            request.responseHeaders.removeHeader("docker-content-digest")
            request.responseHeaders.removeHeader("etag")
        return body

    async def _ask(self, method: bytes, request: Request) -> Any:
        accept = request.requestHeaders.getRawHeaders(b"accept", [])
        return await self._client.request(
            method.decode(), self._backend + request.uri.decode(), headers=Headers({b"Accept": accept})
        )

    async def _passed(self, request: Request) -> bytes:
        """The registry's own answer. To a HEAD it is the body that a GET would have: its length is needed."""
        response = await self._ask(b"GET", request)
        request.setResponseCode(response.code)
        for name in PASSED:
            for value in response.headers.getRawHeaders(name, []):
                request.setHeader(name, value)
        return cast(bytes, await response.content())

    async def _blob(self, request: Request, digest: str) -> bytes:
        """A redirect to the CDN if the repository has the blob."""
        response = await self._ask(b"HEAD", request)
        await response.content()
        if response.code != 200:
            return error(request, response.code, "BLOB_UNKNOWN", "blob unknown to registry")
        request.setResponseCode(307)
        request.setHeader("Content-Type", "application/octet-stream")
        request.setHeader(
            "Location",
            f"{self.cdn}/data/{digest}?Expires=4102444800&Key-Pair-Id=K1&Signature={signature(digest)}",
        )
        return b""


class CDN(Face):
    """The port that sends blobs from the registry's storage to whoever has a signed URL, whole or in part."""

    def __init__(self, reactor: IReactorTime, state: State, storage: Path) -> None:
        super().__init__(reactor, state)
        self._storage = storage

    def kind(self, request: Request) -> str:
        return "cdn"

    async def answer(self, request: Request, seen: Seen, fault: Fault) -> bytes | None:
        parts = urlsplit(request.uri.decode())
        digest = parts.path.rpartition("/")[2]
        if parse_qs(parts.query).get("Signature") != [signature(digest)]:
            request.setResponseCode(403)
            return b"<Error><Code>AccessDenied</Code></Error>"
        if seen.authorization is not None:  # S3 refuses a signed URL together with a header, and so do we
            request.setResponseCode(400)
            return b"<Error><Code>InvalidArgument</Code></Error>"
        encoded = digest.partition(":")[2]
        path = self._storage / "docker/registry/v2/blobs/sha256" / encoded[:2] / encoded / "data"
        size = path.stat().st_size
        span = None if fault.ignore_range else span_of(seen.range, size)
        start, stop = span or (0, size)
        request.setHeader("Content-Type", "application/octet-stream")
        if not fault.ignore_range:
            request.setHeader("Accept-Ranges", "bytes")
        if span:
            request.setResponseCode(206)
            request.setHeader("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        if not fault.chunked:
            request.setHeader("Content-Length", str(stop - start))
        seen.status = request.code
        if request.method == b"HEAD":
            request.write(b"")
            request.finish()
            return None
        with path.open("rb") as file:
            await Body(self._reactor, self._state, request, fault).send(file, start, stop)
        return None


class RefuseTLS(ProtocolWrapper):
    """Hangs up on a TLS client, which would else wait for ten seconds before it tries plain HTTP."""

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(b"\x16"):
            ProtocolWrapper.loseConnection(self)
        else:
            ProtocolWrapper.dataReceived(self, data)


@define
class Double:
    """The three ports of a running double."""

    registry: str
    cdn: str
    control: str


def start(arguments: argparse.Namespace, reactor: Any) -> Double:
    """Listen on three ports of the loopback, any that are free."""
    account = Account(*arguments.account.split(":", 1)) if arguments.account else None
    state = State(arguments.limit, account)
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = 64
    registry = Registry(reactor, state, arguments.registry, Agent(reactor, pool=pool), arguments.realm_host)

    def listen(resource: Resource) -> str:
        factory = WrappingFactory(Site(resource))
        factory.protocol = RefuseTLS
        port = reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
        return f"http://127.0.0.1:{port.getHost().port}"

    registry.cdn = listen(CDN(reactor, state, Path(arguments.storage)))
    return Double(listen(registry), registry.cdn, listen(Control(state)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--registry", required=True, help="URL of the real registry")
    parser.add_argument("--storage", required=True, help="its filesystem storage's root directory")
    parser.add_argument("--account", default="", help="NAME:PASSWORD that may pull private/...")
    parser.add_argument("--realm-host", default="", help="host of the token realm, if not the registry's own")
    parser.add_argument("--limit", type=int, default=100, help="manifest GETs until 429")
    globalLogPublisher.addObserver(textFileLogObserver(sys.stderr))
    double = start(parser.parse_args(), global_reactor)
    print(json.dumps({"registry": double.registry, "cdn": double.cdn, "control": double.control}), flush=True)
    cast(Any, global_reactor).run()


if __name__ == "__main__":
    main()
