"""TLS of our listeners: what is offered, certificates that can be read anew, and who a client proved to be."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.web.http import Request
from zope.interface import implementer

from depproxy.access.interface import ClientCertificate
from depproxy.config.endpoints import TLSFiles, split_tls
from depproxy.web.pem import KeyPair, TLSFileError, read_certificates, read_pair

HTTP_1_1 = b"http/1.1"
# Of TLS 1.2; those of 1.3 are all good. Each has forward secrecy, and every client in use knows one of them.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
# How long before its end (seconds) a certificate is warned of.
ENDS_SOON = 14 * 86400.0

# X509_verify_cert(3); of the others the number is told.
_VERDICTS = {
    7: "its signature is wrong",
    9: "it is not valid yet",
    10: "it has expired",
    18: "it signed itself",
    19: "its authority is not in client_ca",
    20: "its authority is not in client_ca",
    21: "its authority is not in client_ca",
    24: "its authority is none",
    26: "it is not one for clients",
}

log = Logger()


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """The TLS of one listener. `context` may be replaced: connections keep the one that they began with."""

    def __init__(self, context: SSL.Context) -> None:
        self.context = context

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class TLSContexts:
    """
    The TLS of all listeners.

    Clients that prove who they are by a certificate of `client_ca` may do so; without it none is asked to. `now` is
    Unix time.
    """

    def __init__(self, client_ca: Path | None, now: Callable[[], float]) -> None:
        self._client_ca = client_ca
        self._now = now
        self._servers: list[tuple[TLSFiles, ServerTLS]] = []

    def server(self, files: TLSFiles) -> ServerTLS:
        """The TLS of one more listener. Raises TLSFileError."""
        pair = read_pair(files)
        server = ServerTLS(make_context(pair, _authorities(self._client_ca)))
        self._servers.append((files, server))
        self._warn(files, pair.chain[0])
        return server

    def reload(self, client_ca: Path | None) -> None:
        """Read all files again, for connections to come. Raises TLSFileError, and all is as it was."""
        authorities = _authorities(client_ca)
        pairs = [read_pair(files) for files, _ in self._servers]
        contexts = [make_context(pair, authorities) for pair in pairs]
        self._client_ca = client_ca
        for (files, server), pair, context in zip(self._servers, pairs, contexts, strict=True):
            server.context = context
            self._warn(files, pair.chain[0])

    def _warn(self, files: TLSFiles, certificate: x509.Certificate) -> None:
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        now = self._now()
        if now >= ends.timestamp():
            log.warn("{file}: the certificate has expired on {date}", file=files.certificate, date=_date(ends))
        elif now < begins.timestamp():
            log.warn("{file}: the certificate is not valid before {date}", file=files.certificate, date=_date(begins))
        elif now >= ends.timestamp() - ENDS_SOON:
            log.warn("{file}: the certificate expires on {date}", file=files.certificate, date=_date(ends))


def make_endpoint(reactor: Any, description: str, contexts: TLSContexts) -> IStreamServerEndpoint:
    """The endpoint that a listen string describes, with TLS or without. Raises TLSFileError."""
    plain, files = split_tls(description)
    endpoint: IStreamServerEndpoint = serverFromString(reactor, plain)
    return endpoint if files is None else wrapServerTLS(contexts.server(files), endpoint, reactor)


def make_context(pair: KeyPair, authorities: Sequence[x509.Certificate]) -> SSL.Context:
    """A server's context. With `authorities` clients are asked for a certificate of theirs. Raises TLSFileError."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # A session that was taken up again would not prove again who the client is.
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # Idle connections are many.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS)
    context.set_alpn_select_callback(_choose_protocol)
    try:
        context.use_certificate(pair.chain[0])
        context.use_privatekey(pair.key)
        for certificate in pair.chain[1:]:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        reason = error.args[0][-1][2] if error.args and error.args[0] else "no reason given"
        raise TLSFileError(f"{pair.file}: must be good enough for OpenSSL, which says: {reason}") from None
    if authorities:
        _ask_clients(context, authorities)
    return context


def _ask_clients(context: SSL.Context, authorities: Sequence[x509.Certificate]) -> None:
    store = context.get_cert_store()
    assert store is not None
    # One that is not at the top counts as well: whoever names it means it, and not what is above.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
        context.add_client_ca(authority)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE, _verified)


def _verified(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, good: int) -> bool:
    """What OpenSSL found stands. Clients learn little of why, so that operators have to."""
    if not good:
        log.warn(
            "{peer}: the client's certificate is refused, for {why}",
            peer=getattr(connection.get_app_data().transport.getPeer(), "host", "unix"),
            why=_VERDICTS.get(number, f"OpenSSL says number {number}"),
        )
    return bool(good)


def _choose_protocol(connection: SSL.Connection, offered: Sequence[bytes]) -> Any:
    # A client that offers nothing of ours may go on without: those of HTTP/1.0 offer just that.
    return HTTP_1_1 if HTTP_1_1 in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def client_certificate(request: Request) -> ClientCertificate | None:
    """What the client's certificate says, which was verified when the connection began; None without one."""
    handle = getattr(request.transport, "getHandle", lambda: None)()
    if not isinstance(handle, SSL.Connection):
        return None
    try:
        certificate = handle.get_peer_certificate(as_cryptography=True)
        return None if certificate is None else ClientCertificate(_names(certificate), _ends(certificate))
    except ValueError as error:
        log.warn("a client's certificate cannot be read: {error}", error=error)
        return None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The alternative names that may stand for somebody, then the common name. Raises ValueError."""
    names: list[str] = []
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            for kind in (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier):
                names += extension.value.get_values_for_type(kind)
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    names += [attribute.value for attribute in common if isinstance(attribute.value, str)]
    return tuple(dict.fromkeys(names))


def _ends(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _authorities(client_ca: Path | None) -> list[x509.Certificate]:
    return [] if client_ca is None else read_certificates(client_ca)
