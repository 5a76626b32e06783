"""How Redis is reached: URLs, transports, credentials, and what the configuration asks for."""

import os
import string
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from depproxy.config import IndexSettings
from depproxy.index.address import Credentials, InvalidAddress, parse_address
from depproxy.index.factory import make_index
from depproxy.index.interface import IncompatibleSchema, IndexUnavailable
from depproxy.index.redis import RedisIndex
from depproxy.index.rundir import find_redis_server
from tests.index_tools import HOME, REACTOR, A, DirectoryTestCase, Raw, RedisTestCase, deferred


class CredentialsTests(RedisTestCase):
    """AUTH, and that no password is ever shown."""

    PASSWORD = "hunter2 %é"

    async def refused(self, credentials: Credentials | None, words: str, **options: Any) -> None:
        index = await self.started(credentials=credentials, **options)
        with pytest.raises(IndexUnavailable) as caught:
            await index.totals()
        assert words in str(caught.value)
        shown = "\n".join([*self.log.lines, repr(caught.value), repr(index), repr(credentials)])
        assert "hunter2" not in shown

    async def test_password(self) -> None:
        await self.raw("CONFIG", "SET", "requirepass", self.PASSWORD)
        index = await self.started(credentials=Credentials(None, self.PASSWORD))
        assert await index.totals() == (0, 0)
        await self.refused(Credentials(None, "hunter2"), "AUTH was refused (WRONGPASS)")
        await self.refused(None, "NOAUTH")

    async def test_user(self) -> None:
        await self.raw("ACL", "SETUSER", "depproxy", "on", f">{self.PASSWORD}", "~depproxy:*", "+@all")
        index = await self.started(credentials=Credentials("depproxy", self.PASSWORD))
        await index.put_blob(A, 1, [HOME])
        assert await index.totals() == (1, 1)
        await self.refused(Credentials("nobody", self.PASSWORD), "AUTH was refused (WRONGPASS)")

    async def test_a_server_that_repeats_what_it_is_sent(self) -> None:
        class Parrot(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"-ERR unknown command, with args beginning with: 'hunter2'\r\n")

        port = REACTOR.listenUNIX(str(self.data / "parrot"), Factory.forProtocol(Parrot))
        self.addCleanup(port.stopListening)
        endpoint = UNIXClientEndpoint(REACTOR, str(self.data / "parrot"))
        await self.refused(Credentials(None, "hunter2"), "AUTH was refused", endpoint=endpoint)

    async def test_no_such_database(self) -> None:
        index = await self.started(database=5)
        with pytest.raises(IndexUnavailable, match="DB index is out of range"):
            await index.totals()


class DatabaseTests(DirectoryTestCase):
    """A Redis with several databases."""

    async def test_databases_are_apart(self) -> None:
        # The private redis-server has one database alone.
        binary = self.data / "redis-server"
        binary.write_text(f'#!/bin/sh\nexec {find_redis_server(os.environ)} "$@" --databases 4\n')
        binary.chmod(0o755)
        server = self.make_server(environ={"PATH": f"{self.data}:{os.environ['PATH']}"})
        await server.start()
        indexes = [RedisIndex(REACTOR, self.now, server, "R", database=number) for number in (0, 3)]
        for index in indexes:
            await index.start()
        await indexes[1].put_blob(A, 1, [HOME])
        assert [await index.totals() for index in indexes] == [(0, 0), (1, 1)]
        assert await Raw(server)("KEYS", "*") == [b"depproxy:schema"]
        for index in indexes:
            await index.stop()


class Relay(Protocol):
    """Passes bytes on to a unix socket and back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent = b""
        self.peer: Relay | None = None

    def connectionMade(self) -> None:
        if self.peer is not None:
            self.peer.attach(self)
            return
        factory = Factory()
        factory.buildProtocol = lambda addr: self.back()  # type: ignore[method-assign]
        UNIXClientEndpoint(REACTOR, str(self._path)).connect(factory)

    def back(self) -> "Relay":
        other = Relay(self._path)
        other.peer = self
        return other

    def attach(self, peer: "Relay") -> None:
        self.peer = peer
        assert peer.transport is not None
        peer.transport.write(self._sent)

    def dataReceived(self, data: bytes) -> None:
        if self.peer is None or self.peer.transport is None:
            self._sent += data
        else:
            self.peer.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.loseConnection()


class TransportTests(RedisTestCase):
    """TCP and TLS, by a relay in front of the real Redis."""

    async def test_tcp(self) -> None:
        port = REACTOR.listenTCP(0, self.relay(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        index = self.from_url(f"redis://127.0.0.1:{port.getHost().port}/0")
        await index.start()
        await index.put_blob(A, 3, [HOME])
        assert await index.totals() == (1, 3)
        await index.stop()

    async def test_tls(self) -> None:
        certificate = self.certificate("localhost")
        port = REACTOR.listenSSL(0, self.relay(), certificate.options(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        address = parse_address(f"rediss://localhost:{port.getHost().port}")
        trusted = address.endpoint(REACTOR, 2.0, Certificate.loadPEM(certificate.dumpPEM()))
        index = await self.started(endpoint=trusted)
        await index.put_blob(A, 3, [HOME])
        assert await index.totals() == (1, 3)
        untrusting = await self.started(endpoint=address.endpoint(REACTOR, 2.0))
        with pytest.raises(IndexUnavailable, match="certificate verify failed"):
            await untrusting.totals()
        await index.stop()

    async def test_tls_for_another_host(self) -> None:
        certificate = self.certificate("elsewhere.example")
        port = REACTOR.listenSSL(0, self.relay(), certificate.options(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        address = parse_address(f"rediss://localhost:{port.getHost().port}")
        index = await self.started(endpoint=address.endpoint(REACTOR, 2.0, Certificate.loadPEM(certificate.dumpPEM())))
        with pytest.raises(IndexUnavailable):
            await index.totals()

    async def test_nobody_there(self) -> None:
        port = REACTOR.listenTCP(0, self.relay(), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        index = self.from_url(f"redis://:hunter2@127.0.0.1:{number}/0")
        await index.start()
        with pytest.raises(IndexUnavailable, match=f"redis://127.0.0.1:{number}/0 is unavailable: .*refused"):
            await index.totals()
        assert "hunter2" not in "\n".join(self.log.lines)
        await index.stop()

    def from_url(self, url: str) -> RedisIndex:
        return make_index(REACTOR, IndexSettings(url), self.data, now=self.now, environ=os.environ)

    def relay(self) -> Factory:
        factory = Factory()
        factory.buildProtocol = lambda addr: Relay(self.server.socket)  # type: ignore[method-assign]
        return factory

    def certificate(self, host: str) -> PrivateCertificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        begin = datetime.now(UTC) - timedelta(days=1)
        built = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=3))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = built.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        made: PrivateCertificate = PrivateCertificate.loadPEM(pem)
        return made


class FactoryTests(DirectoryTestCase):
    """What the configuration asks for."""

    def make(self, url: str) -> RedisIndex:
        return make_index(REACTOR, IndexSettings(url), self.data, now=self.now, environ=os.environ)

    async def test_embedded(self) -> None:
        index = self.make("embedded")
        await index.start()
        await index.put_blob(A, 3, [HOME])
        await index.stop()
        assert not (self.data / "redis" / "redis.sock").exists()
        await index.start()
        assert await index.totals() == (1, 3)
        await index.stop()

    async def test_embedded_with_data_of_a_later_version(self) -> None:
        server = self.make_server()
        await server.start()
        await Raw(server)("SET", "depproxy:schema", "3")
        await server.stop()
        with pytest.raises(IncompatibleSchema):
            await self.make("embedded").start()
        # The server was stopped, and its lock given up.
        await server.start()
        await server.stop()

    async def test_unix(self) -> None:
        server = self.make_server()
        await server.start()
        for url in (f"unix://{server.socket}", f"unix:{quote(str(server.socket))}?db=0"):
            index = self.make(url)
            await index.start()
            assert await index.totals() == (0, 0)
            await index.stop()
        await server.stop()

    async def test_stopped_while_it_connects(self) -> None:
        """However far it has come, it tries no more."""
        silent = REACTOR.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        for port in (silent.getHost().port, 1):
            index = self.make(f"redis://127.0.0.1:{port}")
            starting = deferred(index.start())
            for turns in range(4):
                for _ in range(turns):
                    await deferLater(REACTOR, 0)
                await index.stop()
                await starting
                assert not [call for call in REACTOR.getDelayedCalls() if call.getTime() - REACTOR.seconds() < 30]
                starting = deferred(index.start())
            await index.stop()
            await starting

    def test_wrong(self) -> None:
        with pytest.raises(InvalidAddress):
            self.make("http://127.0.0.1/")


hosts = st.sampled_from(["redis.example", "127.0.0.1", "[::1]", "localhost"])
secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda text: "hunter2" + text)


class AddressTests(SynchronousTestCase):
    """URLs."""

    @given(st.booleans(), hosts, st.none() | st.integers(1, 65535), st.integers(0, 15), st.none() | secrets, secrets)
    def test_tcp(self, tls: bool, host: str, port: int | None, database: int, user: str | None, password: str) -> None:
        scheme = "rediss" if tls else "redis"
        place = host + ("" if port is None else f":{port}")
        login = f"{quote(user or '', safe='')}:{quote(password, safe='')}@"
        address = parse_address(f"{scheme}://{login}{place}/{database}")
        assert (address.host, address.port, address.path, address.tls, address.database, address.credentials) == (
            host.strip("[]"),
            port or 6379,
            None,
            tls,
            database,
            Credentials(user, password),
        )
        assert str(address) == f"{scheme}://{host}:{port or 6379}/{database}"
        assert "hunter2" not in str(address) + repr(address)
        assert parse_address(str(address)).credentials is None

    @given(st.text(string.printable.strip() + "é ", min_size=1), st.integers(0, 15))
    def test_unix(self, name: str, database: int) -> None:
        path = "/run/" + name.replace("/", "") + ".sock"
        for prefix in ("unix://", "unix:"):
            address = parse_address(f"{prefix}{quote(path)}?db={database}")
            assert (address.path, address.database, address.credentials) == (path, database, None)
        address = parse_address(f"unix://:hunter2@{quote(path)}")
        assert (address.path, address.credentials) == (path, Credentials(None, "hunter2"))
        assert "hunter2" not in str(address) + repr(address)

    def test_forms(self) -> None:
        assert str(parse_address("redis://h")) == "redis://h:6379/0"
        assert str(parse_address("redis://h/")) == "redis://h:6379/0"
        assert str(parse_address("unix:///a/b")) == "unix:///a/b"
        assert str(parse_address("unix:///a/b?db=3")) == "unix:///a/b?db=3"

    def test_wrong(self) -> None:
        for url in (
            "",
            "embedded",
            "http://h",
            "h:6379",
            "redis://",
            "redis:///0",
            "redis://h/x",
            "redis://h/-1",
            "redis://h/1/2",
            "redis://h/²",
            "redis://h:port",
            "redis://h:70000",
            "redis://h?db=1",
            "redis://user@h",
            "redis://[::1",
            "unix:relative",
            "unix://relative/path",
            "unix:///",
            "unix:///a/",
            "unix:///a%00b",
            "unix:///a?x=1",
            "unix:///a?db=1&db=2",
            "unix:///a?db=",
        ):
            with pytest.raises(InvalidAddress):
                parse_address(url)

    @given(st.sampled_from(["redis", "rediss", "unix"]), secrets)
    @example("redis", "hunter2/x")
    @example("redis", "hunter2#x")
    @example("redis", "hunter2?x")
    @example("redis", "hunter2[")
    @example("redis", "hunter2\u2100")
    def test_no_error_shows_a_password_that_is_not_quoted(self, scheme: str, password: str) -> None:
        try:
            address = parse_address(f"{scheme}://user:{password}@host/0")
            shown = str(address) + repr(address)
        except InvalidAddress as error:
            shown = "".join(traceback.format_exception(error))
        assert "hunter2" not in shown
