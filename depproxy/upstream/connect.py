"""How to reach a host: directly or through a forward proxy, and whom to trust there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attrs import frozen
from OpenSSL.SSL import Context
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS, HostnameCachingHTTPSPolicy
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import Interface, implementer

from depproxy.upstream.redirects import Url

_MAX_ANSWER = 16 * 1024
_match_certificate = re.compile(
    r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.+?-----END (?:TRUSTED )?CERTIFICATE-----", re.DOTALL
)


@frozen
class Route:
    """One way to a URL. Connections with the same ``key`` are interchangeable; ``target`` is for the request
    line."""

    key: tuple[str, ...]
    endpoint: IStreamClientEndpoint
    target: bytes


class IRoutes(Interface):
    """Chooses the way."""

    def route(url: Url) -> Route:
        """The way to ``url``."""


@implementer(IRoutes)
class Direct:
    """No proxy: TCP, and TLS on it for https. ``timeout``: seconds for each address that the host has."""

    def __init__(self, reactor: Any, policy: IPolicyForHTTPS, timeout: float) -> None:
        self._reactor = reactor
        self._policy = policy
        self._timeout = timeout

    def route(self, url: Url) -> Route:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self._reactor, url.host, url.port, self._timeout)
        if url.scheme == "https":
            endpoint = wrapClientTLS(self._policy.creatorForNetloc(url.host.encode(), url.port), endpoint)
        return Route((url.scheme, url.netloc), endpoint, url.target)


@implementer(IRoutes)
class ThroughProxy:
    """A forward proxy: the whole URL for http (RFC 9112 section 3.2.2), a tunnel for https (RFC 9110 section
    9.3.6)."""

    def __init__(self, reactor: Any, policy: IPolicyForHTTPS, timeout: float, proxy: str) -> None:
        at = Url.parse(proxy.encode())
        self._proxy = HostnameEndpoint(reactor, at.host, at.port, timeout)
        self._policy = policy

    def route(self, url: Url) -> Route:
        if url.scheme == "http":
            return Route(("proxy",), self._proxy, url.raw)
        tunnel = wrapClientTLS(
            self._policy.creatorForNetloc(url.host.encode(), url.port),
            Tunnel(self._proxy, url.host, url.port),
        )
        return Route(("tunnel", url.netloc), tunnel, url.target)


class ProxyRefused(Exception):
    """The forward proxy gave no tunnel."""


@implementer(IStreamClientEndpoint)
class Tunnel:
    """A connection to ``host`` and ``port`` by way of CONNECT to the proxy behind ``endpoint``."""

    def __init__(self, endpoint: IStreamClientEndpoint, host: str, port: int) -> None:
        self._endpoint = endpoint
        # RFC 9110 section 7.2: CONNECT names the port always.
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        digging = Factory.forProtocol(lambda: _Digger(self._authority, factory))
        digger = await self._endpoint.connect(digging)
        assert isinstance(digger, _Digger)
        return await digger.through


class _Digger(Protocol):
    """Asks for the tunnel, then stands aside: all goes to the protocol that is to use it."""

    def __init__(self, authority: str, factory: IProtocolFactory) -> None:
        self._authority = authority
        self._factory = factory
        self._answer = b""
        self._inner: IProtocol | None = None
        self.through: Deferred[IProtocol] = Deferred(lambda _: self._abort())

    def connectionMade(self) -> None:
        assert self.transport is not None
        request = f"CONNECT {self._authority} HTTP/1.1\r\nHost: {self._authority}\r\n\r\n"
        self.transport.write(request.encode("ascii"))

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._answer += data
        head, end, rest = self._answer.partition(b"\r\n\r\n")
        if end:
            status = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", head)
            if status is not None and status[1].startswith(b"2"):
                self._pass(rest)
            else:
                self._refuse(f"answered CONNECT with {head.partition(bytes([13]))[0][:100].decode('latin-1')!r}")
        elif len(self._answer) > _MAX_ANSWER:
            self._refuse("answered CONNECT without end")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self._refuse("closed the connection")

    def _pass(self, rest: bytes) -> None:
        assert self.transport is not None
        inner = self._factory.buildProtocol(self.transport.getPeer())
        if inner is None:
            self._refuse("is not wanted any more")
            return
        self._inner = inner
        inner.makeConnection(self.transport)
        self.through.callback(inner)
        if rest:
            inner.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        if not self.through.called:
            self.through.errback(ProxyRefused(f"the proxy {why}"))
            self._abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]


@implementer(IOpenSSLTrustRoot)
class _Both:
    """The platform's certificate authorities and a few more, as in docker's certs.d: a private registry may
    redirect to public storage."""

    def __init__(self, more: IOpenSSLTrustRoot) -> None:
        self._roots = (platformTrust(), more)

    def _addCACertsToContext(self, context: Context) -> None:
        for root in self._roots:
            root._addCACertsToContext(context)


def https_policy(ca_file: Path | None) -> IPolicyForHTTPS:
    """Certificates must be for the host, and signed by an authority that the platform trusts or one in
    ``ca_file`` (PEM). What was made for a host is kept: loading authorities takes the reactor milliseconds."""
    trust: IOpenSSLTrustRoot = platformTrust()
    if ca_file is not None:
        found = _match_certificate.findall(ca_file.read_text("ascii", "replace"))
        trust = _Both(trustRootFromCertificates([Certificate.loadPEM(pem) for pem in found]))
    return HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(trust))
