"""A certificate authority for tests, and what TLS servers and clients on loopback need of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.ssl import Certificate, PrivateCertificate

PEM = serialization.Encoding.PEM
LOOPBACK = (x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost"))
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def key_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem


@frozen
class Pair:
    """The files of a key and of its certificate."""

    key: Path
    certificate: Path

    @property
    def listener(self) -> str:
        """What a listen string says of them."""
        return f"privateKey={self.key}:certKey={self.certificate}"

    def load(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    def client(self) -> PrivateCertificate:
        """As Twisted's clients want it."""
        pair = PrivateCertificate.loadPEM(self.certificate.read_bytes() + self.key.read_bytes())
        assert isinstance(pair, PrivateCertificate)
        return pair


class Authority:
    """A new authority, whose certificate is in `file` under `directory`; below `parent`, or by its own right."""

    def __init__(self, directory: str, name: str = "test authority", parent: Authority | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        builder = signer._builder(self._name, self._key)
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            signer._key, hashes.SHA256()
        )
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self.file = self._directory / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(PEM))

    @property
    def trust(self) -> Certificate:
        """As Twisted's clients want it."""
        return Certificate.loadPEM(self.file.read_bytes())

    def _builder(
        self, subject: x509.Name, key: Any, begins: float = -1.0, days: float = 1.0
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now + timedelta(begins),
            not_valid_after=now + timedelta(days),
        )

    def issue(
        self,
        file: str = "server",
        name: str = "test server",
        alternatives: Sequence[x509.GeneralName] = LOOPBACK,
        *,
        begins: float = -40.0,
        days: float = 30.0,
        use: x509.ObjectIdentifier | None = None,
        key: Any = None,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Pair:
        """
        A certificate and its key in `file`.pem and `file`.key: those that were there are replaced, as by a renewal.

        It is good from `begins` to `days` after now, and for `use` alone if there is one; `name` may be empty.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        builder = self._builder(subject, key, begins, days)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        if use is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        pair = Pair(self._directory / f"{file}.key", self._directory / f"{file}.pem")
        pair.key.write_bytes(key_pem(key))
        pair.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        return pair

    def server(self, *hosts: str) -> Any:
        """The context of a TLS server with a certificate for these hosts, or for loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
            for host in hosts or ("127.0.0.1", "localhost")
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test server")])
        builder = self._builder(subject, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        pem = builder.sign(self._key, hashes.SHA256()).public_bytes(PEM)
        return PrivateCertificate.loadPEM(pem + key_pem(key)).options()
