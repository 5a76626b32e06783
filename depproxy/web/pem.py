"""Keys and certificates, read from files in PEM form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from depproxy.config import ConfigError
from depproxy.config.endpoints import TLSFiles
from depproxy.config.errors import Wrong
from depproxy.config.values import read_regular

LARGEST_FILE = 4 << 20

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class TLSFileError(ConfigError):
    """A file that TLS cannot be made of; `str()` is one line: which, and what is wrong with it."""


@frozen
class KeyPair:
    """A private key with its certificate, which is the first of `chain`."""

    key: PrivateKey
    chain: Sequence[x509.Certificate]
    file: Path


def read_pair(files: TLSFiles) -> KeyPair:
    """Raises TLSFileError for files that are not there, not understood, or do not fit each other."""
    key = _private_key(files.private_key)
    chain = read_certificates(files.certificate)
    if files.chain is not None:
        chain += read_certificates(files.chain)
    try:
        fits = _encoded(chain[0].public_key()) == _encoded(key.public_key())
    except (ValueError, UnsupportedAlgorithm):
        fits = False
    if not fits:
        raise TLSFileError(
            f"{files.certificate}: its first certificate must be the one of the private key in {files.private_key}"
        )
    return KeyPair(key, chain, files.certificate)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, LARGEST_FILE)
    except Wrong as wrong:
        raise TLSFileError(f"{path}: {wrong}") from None


def read_certificates(path: Path) -> list[x509.Certificate]:
    """At least one. Raises TLSFileError."""
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise TLSFileError(f"{path}: must hold certificates in PEM form") from None


def _private_key(path: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(_read(path), None)
    except TypeError:
        raise TLSFileError(f"{path}: must hold a private key that needs no passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TLSFileError(f"{path}: must hold a private key in PEM form") from None
    if not isinstance(key, PrivateKey):
        raise TLSFileError(f"{path}: must hold an RSA, EC, Ed25519 or Ed448 key")
    return key


def _encoded(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
