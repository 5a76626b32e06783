"""The keys that sign our tokens: one file, which every process of this data directory shares."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jwt
from attrs import evolve, field, frozen
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from twisted.logger import Logger

from depproxy.config.accounts import Algorithm

GRACE: Final = 24 * 60 * 60.0
"""Seconds that a retired key still verifies: the most that `access.token_lifetime` may be."""

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks at the file for keys that are not known."""

MAX_KEYS: Final = 100

_LARGEST_FILE: Final = 64 << 10
_HMAC_BYTES: Final = 32
_KID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LATEST: Final = 1 << 53
_REMOVE: Final = "remove it: a new key is made then, and every client logs in again"

PrivateKey = bytes | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = bytes | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Stamp = tuple[int, int, int, int]


class KeyRingError(Exception):
    """The keys cannot be read or kept. `str()` is one line that names the file, and what mends it."""


@frozen
class Key:
    """A signing key. `created` and `retired` are Unix times in whole seconds; the current key is not retired."""

    kid: str
    algorithm: Algorithm
    private: PrivateKey = field(repr=False, eq=False)
    created: int
    retired: int | None = None

    @classmethod
    def generate(cls, algorithm: Algorithm, now: float) -> Key:
        """A new key, with 256 bits of randomness for HS256, on P-256 for ES256, and of Ed25519 for EdDSA."""
        private: PrivateKey
        if algorithm == "HS256":
            private = secrets.token_bytes(_HMAC_BYTES)
        elif algorithm == "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        else:
            private = ed25519.Ed25519PrivateKey.generate()
        # Not a thumbprint (RFC 7638): that of an HMAC key is a hash of the secret.
        return cls(secrets.token_urlsafe(12), algorithm, private, int(now))

    @property
    def public(self) -> PublicKey:
        """What verifies; for HS256 it is the secret itself."""
        return self.private if isinstance(self.private, bytes) else self.private.public_key()

    @property
    def ends(self) -> float:
        """When it verifies no more, in Unix time."""
        return math.inf if self.retired is None else self.retired + GRACE

    def to_jwk(self) -> dict[str, Any]:
        """The key with its secret, as a JSON Web Key (RFC 7517 section 4) with two members of ours."""
        jwk = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private, as_dict=True)
        jwk |= {"kid": self.kid, "alg": self.algorithm, "use": "sig", "created": self.created}
        return jwk if self.retired is None else jwk | {"retired": self.retired}

    @classmethod
    def from_jwk(cls, jwk: object) -> Key:
        """Reads what `to_jwk` wrote. Raises ValueError, whose text says what is wrong, and nothing of the key."""
        if not isinstance(jwk, dict):
            raise ValueError("is not an object")
        kid, algorithm = jwk.get("kid"), jwk.get("alg")
        if not isinstance(kid, str) or not _KID.fullmatch(kid):
            raise ValueError("has no proper kid")
        if algorithm not in ("HS256", "ES256", "EdDSA"):
            raise ValueError("has an alg that is none of HS256, ES256, EdDSA")
        created = _moment(jwk, "created")
        retired = _moment(jwk, "retired") if "retired" in jwk else None
        try:
            private = jwt.get_algorithm_by_name(algorithm).from_jwk(jwk)
        except (jwt.PyJWTError, ValueError, TypeError, LookupError):
            private = None
        # What the libraries say of it may hold the secret, and they overlook what is no base64url.
        if not _fits(private, algorithm):
            raise ValueError(f"holds no private key for {algorithm}")
        key = cls(kid, algorithm, private, created, retired)
        if any(jwk.get(name) != value for name, value in key.to_jwk().items()):
            raise ValueError("is damaged")
        return key


def _moment(jwk: dict[str, Any], name: str) -> int:
    moment = jwk.get(name)
    # JSON's true would pass as an int.
    if type(moment) is not int or not 0 <= moment < _LATEST:
        raise ValueError(f"has a wrong time {name}")
    return moment


def _fits(private: object, algorithm: Algorithm) -> bool:
    if algorithm == "HS256":
        return isinstance(private, bytes) and len(private) >= _HMAC_BYTES
    if algorithm == "ES256":
        return isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1)
    return isinstance(private, ed25519.Ed25519PrivateKey)


def renewed(keys: Sequence[Key], algorithm: Algorithm, now: float, *, rotate: bool = False) -> tuple[Key, ...]:
    """The keys to go on with, the current one first; `keys` as they are, if there is nothing to do.

    The current key is replaced to `rotate`, and where it is of another algorithm. Drops the keys that have ended.
    """
    kept = tuple(key for key in keys if now < key.ends)
    if kept and kept[0].retired is None and kept[0].algorithm == algorithm and not rotate:
        return kept
    retired = math.ceil(now)
    return (
        Key.generate(algorithm, now),
        *(evolve(key, retired=retired) if key.retired is None else key for key in kept),
    )


def parse(body: bytes) -> tuple[Key, ...]:
    """Reads a file of keys, the current one first. Raises ValueError, whose text says what is wrong."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list) or not 0 < len(found) <= MAX_KEYS:
        raise ValueError(f'it has no list "keys" of 1 to {MAX_KEYS}')
    keys = []
    for number, jwk in enumerate(found, 1):
        try:
            keys.append(Key.from_jwk(jwk))
        except ValueError as wrong:
            raise ValueError(f"key {number} {wrong}") from None
    if len({key.kid for key in keys}) < len(keys):
        raise ValueError("two keys have the same kid")
    if [key.retired is None for key in keys] != [True] + [False] * (len(keys) - 1):
        raise ValueError("not the first key alone is without the time at which it was retired")
    return tuple(keys)


class KeyRing:
    """The keys in `<directory>/signing-keys.json`, a JWK set (RFC 7517 section 5). `load` comes first.

    Methods read and write that small file at once, without a thread: at start, at a reload, and at most once a
    second where a key is asked for that is not known. To end every token at once, remove the file and reload.
    """

    _log = Logger()

    def __init__(self, directory: Path, algorithm: Algorithm, now: Callable[[], float] = time.time) -> None:
        self.algorithm = algorithm
        """Of the next new key; a change counts from the next `load`."""
        self.path = directory / "signing-keys.json"
        self.generation = 0
        """Another number each time that the keys were read: who remembers what they verified forgets it."""
        self._directory = directory
        self._now = now
        self._keys: dict[str, Key] = {}
        self._current: Key | None = None
        self._seen: Stamp | None = None
        self._looked = -math.inf

    @property
    def current(self) -> Key:
        """The key that signs."""
        if self._current is None:
            raise RuntimeError("the keys were not loaded")
        return self._current

    def by_id(self, kid: str) -> Key | None:
        """The key of that id, as long as it verifies; the file is read for it, if it has changed."""
        now = self._now()
        # A clock may be set back, too.
        if kid not in self._keys and not 0 <= now - self._looked < LOOK_INTERVAL:
            self._looked = now
            self._look()
        key = self._keys.get(kid)
        return key if key is not None and now < key.ends else None

    def load(self) -> None:
        """Read the file, at start and again; make it, or a new current key, where that is wanting.

        However many processes start at once, all end up with the same keys. Raises `KeyRingError`, and keeps the
        keys that it had.
        """
        self._prepare()
        found = self._read()
        keys = () if found is None else found[0]
        if found is None or renewed(keys, self.algorithm, self._now()) != keys:
            found = self._change(rotate=False)
        self._take(*found)

    def reload(self) -> None:
        """`load` again: takes over what another process wrote, and a changed `algorithm`."""
        self.load()

    def rotate(self) -> None:
        """Make a new current key. Those before it verify for `GRACE` longer, also in processes that start later.

        Other processes learn of it as they reload, or are asked about a token that it signed. Raises `KeyRingError`.
        """
        self._prepare()
        self._take(*self._change(rotate=True))

    def _look(self) -> None:
        try:
            stamp = _stamp(os.lstat(self.path))
        except OSError:
            stamp = None
        if stamp == self._seen:
            return
        # Remembered even if it cannot be read, so that it is read once, and complained of once.
        self._seen = stamp
        try:
            found = self._read()
        except KeyRingError as error:
            self._log.warn("the signing keys stay as they were: {error}", error=str(error))
            return
        if found is None:
            self._log.warn("the signing keys stay as they were until a reload: {path} is gone", path=str(self.path))
        else:
            self._take(*found)

    def _take(self, keys: Sequence[Key], stamp: Stamp) -> None:
        self._keys = {key.kid: key for key in keys}
        self._current = keys[0]
        self._seen = stamp
        self.generation += 1

    def _prepare(self) -> None:
        try:
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            state = os.stat(self._directory)
        except OSError as error:
            raise KeyRingError(f"{self._directory}: must be a directory for our keys: {error.strerror}") from None
        _check(self._directory, state, 0o700, "")

    def _read(self) -> tuple[tuple[Key, ...], Stamp] | None:
        try:
            # A FIFO in its place must not hold us up.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeyRingError(
                f"{self.path}: must be a regular file that depproxy can read, and no link: {error.strerror}"
            ) from None
        try:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode):
                raise KeyRingError(f"{self.path}: must be a regular file: {_REMOVE}")
            _check(self.path, state, 0o600, f"; or, if others may have read it, {_REMOVE}")
            body = os.read(fd, _LARGEST_FILE + 1)
        finally:
            os.close(fd)
        try:
            if len(body) > _LARGEST_FILE:
                raise ValueError(f"it is larger than {_LARGEST_FILE} bytes")
            return parse(body), _stamp(state)
        except ValueError as wrong:
            raise KeyRingError(f"{self.path}: is no file of signing keys ({wrong}): restore it, or {_REMOVE}") from None

    def _change(self, *, rotate: bool) -> tuple[tuple[Key, ...], Stamp]:
        try:
            with self._locked():
                found = self._read()
                before = () if found is None else found[0]
                keys = renewed(before, self.algorithm, self._now(), rotate=rotate)
                if len(keys) > MAX_KEYS:
                    raise KeyRingError(
                        f"{self.path}: holds {MAX_KEYS} keys already: wait a day before you rotate them again"
                    )
                if found is None or keys != before:
                    self._write(keys)
                    found = self._read()
        except OSError as error:
            raise KeyRingError(f"{self.path}: cannot be written: {error.strerror}: let depproxy write there") from None
        if found is None:
            raise KeyRingError(f"{self.path}: was removed as it was written: start again")
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Two that rotate at once must not lose each other's key. Held for the few writes of `_change` alone.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(self._directory / "lock", flags, 0o600), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: Sequence[Key]) -> None:
        new = self.path.with_suffix(".new")
        # Of one that was killed here; nobody else can be here.
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(json.dumps({"keys": [key.to_jwk() for key in keys]}, indent=2).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _stamp(state: os.stat_result) -> Stamp:
    """By what another state of the file is known. The ctime tells that its permissions were mended."""
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _check(path: Path, state: os.stat_result, mode: int, more: str) -> None:
    """Raises `KeyRingError` where somebody else could read or change the keys."""
    if state.st_uid != os.geteuid():
        raise KeyRingError(
            f"{path}: belongs to user {state.st_uid}, but this runs as user {os.geteuid()}: run it as that user,"
            " or chown the path"
        )
    found = stat.S_IMODE(state.st_mode)
    if found & 0o077:
        raise KeyRingError(f"{path}: is open to others (mode {found:04o}): chmod {mode:04o} it{more}")
