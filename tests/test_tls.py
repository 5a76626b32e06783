"""TLS over real sockets: what is offered, what a reload changes, which files are refused, and who clients are."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.x509.oid import ExtensionOID
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from twisted.internet.ssl import PrivateCertificate, optionsForClientTLS
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.protocols.wire import Echo
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from depproxy.access.certificates import CertificateAccounts
from depproxy.access.interface import ClientCertificate, Identity
from depproxy.config import UserSettings
from depproxy.config.endpoints import TLSFiles, parse_listener, split_tls
from depproxy.config.errors import Wrong
from depproxy.web.caller import Caller
from depproxy.web.pem import TLSFileError
from depproxy.web.registry import Registry
from depproxy.web.site import PATIENCE
from depproxy.web.tls import ENDS_SOON, TLSContexts, make_endpoint
from tests.certificates import CLIENT, SERVER, Authority, Pair, key_pem
from tests.web_support import REACTOR, Client, WebTestCase, until

T = TypeVar("T")

RUNNER = (
    x509.DNSName("runner-1.example"),
    x509.RFC822Name("ci@runner.example"),
    x509.UniformResourceIdentifier("spiffe://example/runner/1"),
    x509.IPAddress(ip_address("192.0.2.1")),
)
NAMES = ("runner-1.example", "ci@runner.example", "spiffe://example/runner/1", "runner one")


class Who(Resource):
    """Keeps who asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.app = self
        self.seen: list[ClientCertificate | None] = []

    def resource(self) -> Who:
        return self

    def render_GET(self, request: Request) -> int:
        self.seen.append(Caller(request).certificate)
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"2"])
        request.write(b"ok")
        request.finish()
        return NOT_DONE_YET


class TLSTestCase(WebTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(str(self.directory / "ca"))
        self.pair = self.authority.issue()
        self.who = Who()
        self.clock: Any = REACTOR

    async def serve(self, client_ca: Path | None = None, pair: Pair | None = None) -> int:
        """Listen as the service does; the port."""
        self.contexts = TLSContexts(client_ca, time.time)
        return await self.serve_more(pair or self.pair)

    async def serve_more(self, pair: Pair, factory: Any = None) -> int:
        self.site = site = self.faces(cast(Registry, self.who), clock=self.clock)
        description = f"ssl:0:{pair.listener}:interface=127.0.0.1"
        port: Any = await make_endpoint(REACTOR, description, self.contexts).listen(factory or site)
        self._end(site, port)
        return cast(int, port.getHost().port)

    async def connect(
        self,
        port: int,
        certificate: PrivateCertificate | None = None,
        protocols: list[bytes] | None = None,
    ) -> Client:
        options = optionsForClientTLS(
            "localhost", self.authority.trust, clientCertificate=certificate, acceptableProtocols=protocols
        )
        endpoint = wrapClientTLS(options, TCP4ClientEndpoint(REACTOR, "127.0.0.1", port), REACTOR)
        client = await endpoint.connect(Factory.forProtocol(Client))
        assert isinstance(client, Client)
        self._clients.append(client)
        return client

    async def works(self, client: Client) -> None:
        client.ask("/v2/")
        assert (await client.answer()).body == b"ok"

    async def seen(self, port: int, certificate: PrivateCertificate | None = None) -> ClientCertificate | None:
        """Whom the server sees."""
        await self.works(await self.connect(port, certificate))
        return self.who.seen[-1]

    async def names(self, port: int, certificate: PrivateCertificate | None = None) -> tuple[str, ...]:
        seen = await self.seen(port, certificate)
        return () if seen is None else seen.names

    async def refused(self, port: int, certificate: PrivateCertificate) -> None:
        """The handshake fails; in TLS 1.3 the client learns of it when it has sent its request."""
        before = len(self.who.seen)
        client = await self.connect(port, certificate)
        client.ask("/v2/")
        assert not await client.end()
        assert client.reason is not None
        assert client.reason.check(SSL.Error), client.reason
        assert len(self.who.seen) == before


def serial(client: Client) -> int:
    """The number of the certificate that the server showed."""
    connection = cast(Any, client.transport).getHandle()
    shown: x509.Certificate = connection.get_peer_certificate(as_cryptography=True)
    return shown.serial_number


class Blocking:
    """A client of the standard library."""

    def __init__(self, port: int, authority: Authority) -> None:
        self._port = port
        self.context = ssl.create_default_context(cafile=str(authority.file))

    def only(self, version: ssl.TLSVersion) -> None:
        self.context.minimum_version = self.context.maximum_version = version

    def ask(self, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        """A request and its answer; the connection, which is closed."""
        with (
            socket.create_connection(("127.0.0.1", self._port), 10) as plain,
            self.context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: cache.test\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := connection.recv(4096):
                answer += data
            assert answer.endswith(b"\r\n\r\nok"), answer
            self.session = connection.session
            self.reused = connection.session_reused
            return connection


class Offers(TLSTestCase):
    async def blocking(self) -> Blocking:
        return Blocking(await self.serve(), self.authority)

    async def test_versions_from_1_2_on(self) -> None:
        client = await self.blocking()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client.only(version)
            await deferToThread(client.ask)

    async def test_older_versions_are_refused(self) -> None:
        client = await self.blocking()
        # Without it this client itself would have nothing to offer.
        client.context.set_ciphers("ALL:@SECLEVEL=0")
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            client.only(version)
            with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_PROTOCOL_VERSION"):
                await deferToThread(client.ask)

    async def test_ciphers_have_forward_secrecy(self) -> None:
        client = await self.blocking()
        client.only(ssl.TLSVersion.TLSv1_2)
        for cipher in (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ):
            client.context.set_ciphers(cipher)
            await deferToThread(client.ask)
        client.context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await deferToThread(client.ask)

    async def test_no_session_is_taken_up_again(self) -> None:
        """It would say who the client was, not who it is."""
        port = await self.serve(self.authority.file)
        certificate = self.authority.issue("client", "runner one", (), use=CLIENT)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = Blocking(port, self.authority)
            client.only(version)
            client.context.load_cert_chain(certificate.certificate, certificate.key)
            await deferToThread(client.ask)
            await deferToThread(client.ask, client.session)
            assert not client.reused
            assert self.who.seen[-1] == self.who.seen[-2] != None  # noqa: E711

    async def test_http_1_1_is_all_that_is_offered(self) -> None:
        port = await self.serve()
        for protocols, chosen in (
            ([b"h2", b"http/1.1"], b"http/1.1"),
            ([b"http/1.0", b"http/1.1"], b"http/1.1"),
            ([b"h2"], None),
            (None, None),
        ):
            client = await self.connect(port, protocols=protocols)
            await self.works(client)
            assert cast(Any, client.transport).negotiatedProtocol == chosen

    async def test_whatever_else_the_site_would_offer(self) -> None:
        """Twisted's does so where the library for HTTP/2 is there."""

        @implementer(IProtocolNegotiationFactory)
        class Eager(Factory):
            def acceptableProtocols(self) -> list[bytes]:
                return [b"h2", b"http/1.1"]

        await self.serve()
        eager = cast(Any, Eager.forProtocol(Echo))
        client = await self.connect(await self.serve_more(self.pair, eager), protocols=[b"h2", b"http/1.1"])
        client.send(b"hello")
        assert await client.take(5) == b"hello"
        assert cast(Any, client.transport).negotiatedProtocol == b"http/1.1"
        client.leave()

    async def test_a_client_that_does_not_trust_us(self) -> None:
        port = await self.serve()
        self.authority = Authority(str(self.directory / "other"))
        client = await self.connect(port)
        client.ask("/v2/")
        assert not await client.end()
        assert self.who.seen == []
        self.authority.file.write_bytes((self.directory / "ca" / "ca.pem").read_bytes())
        await self.works(await self.connect(port))


class Chains(TLSTestCase):
    """The client knows the authority at the top alone."""

    async def test_the_chain_in_the_certificate_or_beside_it(self) -> None:
        between = Authority(str(self.directory / "between"), "between", self.authority)
        pair = between.issue()
        self.contexts = TLSContexts(None, time.time)
        beside = f"{pair.listener}:extraCertChain={between.file}"
        port: Any = await make_endpoint(REACTOR, f"ssl:0:{beside}:interface=127.0.0.1", self.contexts).listen(
            site := self.faces(cast(Registry, self.who))
        )
        self._end(site, port)
        await self.works(await self.connect(port.getHost().port))
        full = evolve(pair, certificate=self.directory / "fullchain.pem")
        full.certificate.write_bytes(pair.certificate.read_bytes() + between.file.read_bytes())
        await self.works(await self.connect(await self.serve_more(full)))
        client = await self.connect(await self.serve_more(pair))
        assert not await client.end()

    async def test_key_and_certificate_in_one_file(self) -> None:
        one = self.directory / "one.pem"
        one.write_bytes(self.pair.certificate.read_bytes() + self.pair.key.read_bytes())
        self.contexts = TLSContexts(None, time.time)
        endpoint = make_endpoint(REACTOR, f"ssl:0:privateKey={one}:interface=127.0.0.1", self.contexts)
        port: Any = await endpoint.listen(site := self.faces(cast(Registry, self.who)))
        self._end(site, port)
        await self.works(await self.connect(port.getHost().port))

    async def test_kinds_of_keys(self) -> None:
        self.contexts = TLSContexts(None, time.time)
        keys = (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()))
        for number, key in enumerate((*keys, ed25519.Ed25519PrivateKey.generate())):
            pair = self.authority.issue(f"{number}", key=key)
            await self.works(await self.connect(await self.serve_more(pair)))


class Reload(TLSTestCase):
    async def test_new_connections_get_the_new_certificate(self) -> None:
        port = await self.serve()
        old = await self.connect(port)
        await self.works(old)
        before = serial(old)
        after = self.authority.issue().load().serial_number
        still = await self.connect(port)
        await self.works(still)
        self.contexts.reload(None)
        new = await self.connect(port)
        await self.works(new)
        assert (serial(still), serial(new)) == (before, after)
        assert before != after
        for client in (old, still):
            await self.works(client)
            assert serial(client) == before

    async def test_a_handshake_under_way_ends_as_it_began(self) -> None:
        port = await self.serve()
        before = self.pair.load().serial_number
        plain = await self.client(port)
        await client_hello(plain)
        self.authority.issue()
        self.contexts.reload(None)
        new = await self.connect(port)
        await self.works(new)
        assert serial(new) != before
        assert plain.reason is None

    async def test_a_wrong_file_leaves_all_as_it_was(self) -> None:
        port = await self.serve()
        other = self.authority.issue("second")
        second = await self.serve_more(other)
        before = self.pair.load().serial_number, other.load().serial_number
        self.authority.issue()
        key = other.key.read_bytes()
        for mistake, words in MISTAKES.items():
            other.key.write_bytes(key)
            self.authority.issue("second", key=serialization.load_pem_private_key(key, None))
            MAKE[mistake](other)
            with pytest.raises(TLSFileError, match=re.escape(words)):
                self.contexts.reload(None)
            for number, at in enumerate((port, second)):
                client = await self.connect(at)
                await self.works(client)
                assert serial(client) == before[number], mistake
                client.leave()
        renewed = self.authority.issue("second").load().serial_number
        self.contexts.reload(None)
        client = await self.connect(second)
        await self.works(client)
        assert serial(client) == renewed

    async def test_a_wrong_client_ca_leaves_all_as_it_was(self) -> None:
        port = await self.serve(self.authority.file)
        certificate = self.authority.issue("client", "runner one", (), use=CLIENT).client()
        before = self.pair.load().serial_number
        self.authority.issue()
        for wrong in (self.directory / "nothing.pem", self.pair.key):
            with pytest.raises(TLSFileError, match=f"{wrong}: must "):
                self.contexts.reload(wrong)
            client = await self.connect(port, certificate)
            await self.works(client)
            assert serial(client) == before
            assert self.who.seen[-1] is not None

    async def test_another_client_ca(self) -> None:
        other = Authority(str(self.directory / "other"))
        ours = self.authority.issue("client", "runner one", (), use=CLIENT).client()
        theirs = other.issue("client", "runner two", (), use=CLIENT).client()
        port = await self.serve()
        assert await self.names(port, ours) == ()
        self.contexts.reload(self.authority.file)
        assert await self.names(port, ours) == ("runner one",)
        await self.refused(port, theirs)
        self.contexts.reload(other.file)
        assert await self.names(port, theirs) == ("runner two",)
        await self.refused(port, ours)
        self.contexts.reload(None)
        assert await self.names(port, theirs) == ()
        # A listener that is added later is like the others.
        self.contexts.reload(other.file)
        assert await self.names(await self.serve_more(self.pair), theirs) == ("runner two",)


async def client_hello(plain: Client) -> None:
    """Send the first message of a handshake, and wait for the server's."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        handshake.do_handshake()
    plain.send(outgoing.read())
    await plain.enough(5)


class ClientCertificates(TLSTestCase):
    def runner(self, authority: Authority | None = None, **more: Any) -> PrivateCertificate:
        given: dict[str, Any] = {"name": "runner one", "alternatives": RUNNER, "use": CLIENT, **more}
        return (authority or self.authority).issue("runner", **given).client()

    async def test_its_names_and_its_end(self) -> None:
        port = await self.serve(self.authority.file)
        certificate = self.runner()
        seen = await self.seen(port, certificate)
        ends = x509.load_der_x509_certificate(certificate.dump()).not_valid_after_utc.timestamp()
        assert seen == ClientCertificate(NAMES, ends)
        users = {"ci": UserSettings("ci", certificates=(NAMES[2],))}
        accounts = CertificateAccounts(users, lambda user, group: None, lambda user: True, "ca", time.time)
        assert await accounts.requestAvatarId(seen) == Identity("certificate", "ci", f"ca:{NAMES[2]}", ends)

    async def test_each_request_of_a_connection(self) -> None:
        client = await self.connect(await self.serve(self.authority.file), self.runner())
        for _ in range(3):
            await self.works(client)
        assert len(self.who.seen) == 3
        assert len(set(self.who.seen)) == 1

    async def test_other_names(self) -> None:
        port = await self.serve(self.authority.file)
        assert await self.names(port, self.runner(alternatives=())) == ("runner one",)
        assert await self.names(port, self.runner(name="")) == NAMES[:3]
        assert await self.names(port, self.runner(name="", alternatives=())) == ()
        twice = [x509.DNSName("runner one"), x509.DNSName("runner one")]
        assert await self.names(port, self.runner(alternatives=twice)) == ("runner one",)
        # Any use is as good as the one of clients.
        assert await self.names(port, self.runner(use=None)) == NAMES

    async def test_none_is_needed(self) -> None:
        port = await self.serve(self.authority.file)
        assert await self.seen(port) is None

    async def test_none_is_asked_for(self) -> None:
        assert await self.seen(await self.serve(), self.runner()) is None

    async def test_wrong_ones(self) -> None:
        port = await self.serve(self.authority.file)
        # Of the same name as ours.
        other = Authority(str(self.directory / "other"))
        server = ed25519.Ed25519PrivateKey.generate()
        below = Authority(str(self.directory / "below"), "below", other)
        for wrong, why in (
            (self.runner(other), "is refused, for "),
            (self.runner(below), "its authority is not in client_ca"),
            (self.runner(days=-1.0), "it has expired"),
            (self.runner(begins=1.0), "it is not valid yet"),
            (self.runner(use=SERVER, key=server), "it is not one for clients"),
            (self.authority.issue("late", days=-0.001).client(), "it has expired"),
        ):
            self.logged.clear()
            await self.refused(port, wrong)
            assert self.has_logged("127.0.0.1: the client's certificate is refused, for"), why
            assert self.has_logged(why), self.logged
        assert await self.names(port, self.runner()) == NAMES

    async def test_an_authority_below_another(self) -> None:
        between = Authority(str(self.directory / "between"), "between", self.authority)
        port = await self.serve(between.file)
        assert await self.names(port, self.runner(between)) == NAMES
        # What stands beside or above it does not count.
        await self.refused(port, self.runner())

    async def test_what_cannot_be_read_is_nobody(self) -> None:
        port = await self.serve(self.authority.file)
        broken = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x03\x82\x01\xff")
        certificate = self.runner(alternatives=(), extensions=[broken])
        assert await self.seen(port, certificate) is None
        assert self.has_logged("a client's certificate cannot be read")

    async def test_who_is_connected_while_the_authorities_change(self) -> None:
        """Whoever connected under the old ones is nobody, also if his first request is yet to come."""
        port = await self.serve(self.authority.file)
        certificate = self.runner()
        known, silent = await self.connect(port, certificate), await self.connect(port, certificate)
        await self.works(known)
        await until(lambda: len(self.site.channels) == 2)
        assert self.who.seen.pop() is not None
        self.site.forget_certificates()
        for client in (known, silent, known):
            await self.works(client)
        assert self.who.seen == [None, None, None]
        assert await self.names(port, certificate) == NAMES

    async def test_without_tls(self) -> None:
        site = self.faces(cast(Registry, self.who))
        await self.works(await self.client(self.listen(site)))
        await self.works(await self.client(self.listen_unix(site, "http.sock")))
        assert self.who.seen == [None, None]


class ByHand:
    """A TLS client that says nothing by itself, and so no goodbye either."""

    def __init__(self, plain: Client, authority: Authority) -> None:
        self.plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(authority.file))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def works(self) -> None:
        await self._through(self._tls.do_handshake)
        self._tls.write(b"GET /v2/ HTTP/1.1\r\nHost: cache.test\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            answer += await self._through(self._tls.read)

    async def _through(self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self.plain.send(self._outgoing.read())
                await self.plain.until(lambda: self.plain.data)
                self._incoming.write(self.plain.data)
                self.plain.data = b""
            else:
                self.plain.send(self._outgoing.read())
                return done


class Draining(TLSTestCase):
    async def test_who_does_not_say_goodbye_is_cut(self) -> None:
        """An end waits for the client's own goodbye, which would hold up the stop until its last moment."""
        self.clock = Clock()
        port = await self.serve()
        idle = await self.client(port)
        await ByHand(idle, self.authority).works()
        # One who has not even begun a handshake, and one in the middle of it.
        fresh, half = await self.client(port), await self.client(port)
        await client_hello(half)
        await until(lambda: len(self.site.channels) == 3)
        idle.data = b""
        drained = Deferred.fromCoroutine(self.site.drain(60))
        await idle.until(lambda: idle.data)
        self.clock.advance(2 * PATIENCE - 0.1)
        assert (idle.reason, drained.called) == (None, False)
        self.clock.advance(0.1)
        for client in (idle, fresh, half):
            await client.end()
        await drained


def mismatch(pair: Pair) -> None:
    pair.key.write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))


def encrypt(pair: Pair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, how))


def weaken(pair: Pair) -> None:
    authority = Authority(str(pair.key.parent / "weak"))
    weak = authority.issue(key=rsa.generate_private_key(65537, 1024))
    weak.key.replace(pair.key)
    weak.certificate.replace(pair.certificate)


def swap(pair: Pair) -> None:
    key, certificate = pair.key.read_bytes(), pair.certificate.read_bytes()
    pair.key.write_bytes(certificate)
    pair.certificate.write_bytes(key)


def unlink(pair: Pair) -> None:
    pair.certificate.unlink()


MAKE: Mapping[str, Callable[[Pair], object]] = {
    "no certificate": unlink,
    "no key": lambda pair: pair.key.unlink(),
    "mismatch": mismatch,
    "encrypted": encrypt,
    "weak": weaken,
    "swapped": swap,
    "cut short": lambda pair: pair.certificate.write_bytes(pair.certificate.read_bytes()[:200]),
    "empty": lambda pair: pair.certificate.write_bytes(b""),
    "another kind": lambda pair: pair.key.write_bytes(key_pem(x25519.X25519PrivateKey.generate())),
}
MISTAKES = {
    "no certificate": "second.pem: must be a readable file (No such file or directory)",
    "no key": "second.key: must be a readable file (No such file or directory)",
    "mismatch": "second.pem: its first certificate must be the one of the private key in ",
    "encrypted": "second.key: must hold a private key that needs no passphrase",
    "weak": "second.pem: must be good enough for OpenSSL, which says: ee key too small",
    "swapped": "second.key: must hold a private key in PEM form",
    "cut short": "second.pem: must hold certificates in PEM form",
    "empty": "second.pem: must hold certificates in PEM form",
    "another kind": "second.key: must hold an RSA, EC, Ed25519 or Ed448 key",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_start_with_a_wrong_file(mistake: str, tmp_path: Path) -> None:
    pair = Authority(str(tmp_path)).issue("second")
    MAKE[mistake](pair)
    with pytest.raises(TLSFileError, match=re.escape(MISTAKES[mistake])) as raised:
        make_endpoint(MemoryReactorClock(), f"ssl:1:{pair.listener}", TLSContexts(None, time.time))
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_start_with_a_pipe(tmp_path: Path) -> None:
    pair = Authority(str(tmp_path)).issue("second")
    pair.key.unlink()
    os.mkfifo(pair.key)
    with pytest.raises(TLSFileError, match=r"second\.key: must be a regular file"):
        make_endpoint(MemoryReactorClock(), f"ssl:1:{pair.listener}", TLSContexts(None, time.time))


class Warnings(WebTestCase):
    def warned(self, **more: Any) -> list[str]:
        """What is said at the start, and again at a reload."""
        pair = Authority(str(self.directory)).issue(**more)
        self.logged.clear()
        contexts = TLSContexts(None, time.time)
        contexts.server(TLSFiles(pair.key, pair.certificate))
        lines = list(self.logged)
        contexts.reload(None)
        assert self.logged == lines * 2
        self.date = pair.load().not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
        self.file = pair.certificate
        return lines

    def test_of_the_end_of_a_certificate(self) -> None:
        assert ENDS_SOON == 14 * 86400
        assert self.warned(days=14.1) == []
        (line,) = self.warned(days=13.9)
        assert line == f"{self.file}: the certificate expires on {self.date}"
        (line,) = self.warned(days=-0.01)
        assert line == f"{self.file}: the certificate has expired on {self.date}"
        (line,) = self.warned(begins=0.5)
        assert "the certificate is not valid before" in line


WITH_FILES = st.fixed_dictionaries(
    {"privateKey": st.text("a:=\\/.", min_size=1, max_size=9)},
    optional={
        "certKey": st.text("b:=\\/.", min_size=1, max_size=9),
        "extraCertChain": st.text("c:=\\/.", min_size=1, max_size=9),
    },
)
SOCKETS = st.sampled_from(
    [
        (["ssl", "5443"], ["tcp", "5443"], {}),
        (["ssl", "0"], ["tcp", "0"], {"interface": "::1", "backlog": "9"}),
        (["systemd"], ["systemd"], {"domain": "INET", "name": "a:b=\\c"}),
    ]
)


@given(WITH_FILES, SOCKETS, st.randoms(use_true_random=False))
def test_a_listen_string_is_a_socket_and_files(
    files: dict[str, str], kind: tuple[list[str], list[str], dict[str, str]], random: Any
) -> None:
    arguments, plain, options = kind
    pairs = list((files | options).items())
    random.shuffle(pairs)
    quoted = [f"{name}={endpoints.quoteStringArgument(value)}" for name, value in pairs]
    socket_alone, found = split_tls(":".join([*arguments, *quoted]))
    key, chain = files["privateKey"], files.get("extraCertChain")
    assert found == TLSFiles(Path(key), Path(files.get("certKey", key)), None if chain is None else Path(chain))
    parse: Any = endpoints._parse
    assert parse(socket_alone) == (plain, options)


@pytest.mark.parametrize("text", ["tcp:5000:interface=127.0.0.1", "unix:/x:mode=660", r"tcp:1:interface=\:\:1"])
def test_other_listen_strings_stay(text: str) -> None:
    assert split_tls(text) == (text, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssl:1:privateKey={0}:sslmethod=SSLv23_METHOD", "must have no sslmethod: TLS 1.2 and 1.3 are what is offered"),
        ("ssl:1:privateKey={0}:dhParameters={0}", "must have no dhParameters: keys are exchanged by elliptic curves"),
        ("ssl:1:privateKey={0}:mode=1", "mode is no option of ssl; known are privateKey, certKey, extraCertChain, "),
        ("ssl:1:certKey={0}", "must name its key and certificate"),
        ("ssl:1:privateKey={0}:extraCertChain=/no", "extraCertChain must be a readable file"),
        ("systemd:domain=INET:name=web:certKey={0}", "must have privateKey, too, where it has certKey"),
        ("systemd:domain=INET:name=web:privateKey=/no", "privateKey must be a readable file"),
        ("tcp:1:privateKey={0}", "privateKey is no option of tcp"),
    ],
)
def test_listen_strings_that_are_refused(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.touch()
    with pytest.raises(Wrong, match=re.escape(words)):
        parse_listener(text.format(file))


def test_listen_strings_with_files(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.touch()
    text = f"systemd:domain=INET6:index=0:privateKey={file}:certKey={file}:extraCertChain={file}"
    assert parse_listener(text).kind == "systemd"
    assert parse_listener(f"ssl:1:privateKey={file}").kind == "ssl"


SERVICE = """
import os, sys, time
os.dup2(int(sys.argv[2]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=str(os.getpid()))
from twisted.internet import reactor
from twisted.web.server import Site
from twisted.web.static import Data
from depproxy.web.tls import TLSContexts, make_endpoint
root = Data(b"ok", "text/plain")
root.putChild(b"", root)
root.isLeaf = True
make_endpoint(reactor, sys.argv[1], TLSContexts(None, time.time)).listen(Site(root))
reactor.run()
"""


def test_tls_on_a_socket_of_systemd(tmp_path: Path) -> None:
    """sd_listen_fds(3): the socket is descriptor 3, for the process whose number is LISTEN_PID."""
    authority = Authority(str(tmp_path))
    description = f"systemd:domain=INET:name=web:{authority.issue().listener}"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, description, f"{listening.fileno()}"], pass_fds=[listening.fileno()]
        )
    try:
        # The kernel keeps the connection until the process takes it.
        client = Blocking(port, authority)
        client.ask()
    finally:
        process.terminate()
        process.wait(10)
