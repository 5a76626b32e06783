"""Digests: the names of content (OCI image-spec, descriptor.md, section "Digests")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Protocol, Self

__all__ = ["Buffer", "Digest", "Hasher", "InvalidDigest", "UnsupportedAlgorithm"]

Buffer = bytes | bytearray | memoryview


class InvalidDigest(ValueError):
    """The text is no digest that can be verified here."""


class UnsupportedAlgorithm(InvalidDigest):
    """The text has the form of a digest, in an algorithm other than sha256 and sha512."""


class Hasher(Protocol):
    """What is used of a hashlib object."""

    @property
    def name(self) -> str: ...

    def update(self, data: Buffer, /) -> None: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> Hasher: ...


_HASHERS: dict[str, Callable[..., Hasher]] = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}

_match = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}").fullmatch
# The grammar of every digest, registered or not. The group is not possessive: before Python 3.11.5 one that has begun
# to match, and does not go on to, counts as far as it came (python/cpython#106052).
_match_any = re.compile(r"[a-z0-9]++(?:[+._-][a-z0-9]++)*:[A-Za-z0-9=_-]++").fullmatch


def _hasher(algorithm: str) -> Callable[..., Hasher]:
    try:
        return _HASHERS[algorithm]
    except KeyError:
        raise UnsupportedAlgorithm(f"digest algorithm {algorithm[:80]!r} is neither sha256 nor sha512") from None


class Digest(str):
    """A verified text `sha256:<64 hex>` or `sha512:<128 hex>`, in lower case; raises InvalidDigest.

    It is a str in every other respect, and safe as a part of a path.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if _match(text) is None:
            if _match_any(text) is not None:
                _hasher(text.partition(":")[0])
            raise InvalidDigest(f"digest {text[:80]!r} is not sha256:<64 lower-case hex digits>")
        return str.__new__(cls, text)

    @classmethod
    def of(cls, data: Buffer, algorithm: str = "sha256") -> Self:
        """The digest of these bytes; raises UnsupportedAlgorithm."""
        return cls.from_hasher(_hasher(algorithm)(data))

    @classmethod
    def from_hasher(cls, hasher: Hasher) -> Self:
        """The digest of all that this hasher was fed so far; raises UnsupportedAlgorithm."""
        return cls(f"{hasher.name}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The hex digits."""
        return self.partition(":")[2]

    def hasher(self) -> Hasher:
        """A new, empty hasher of this digest's algorithm, for `from_hasher` to compare with this one."""
        return _HASHERS[self.algorithm]()
