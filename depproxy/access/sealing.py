"""Secrets that lie in the cache index, sealed: Redis and its dumps alone are of no use to anybody."""

from __future__ import annotations

import os
import secrets
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from depproxy.access.keys import KeyRingError

_KEY_BYTES: Final = 32
# NIST SP 800-38D section 8.2.2: 96 random bits are good for 2**32 texts under one key.
_NONCE_BYTES: Final = 12
_LARGEST_FILE: Final = 1024
_REMOVE: Final = "remove it: a new key is made then, and the secrets that groups have set must be set again"


class Unsealable(Exception):
    """What was sealed cannot be read: by another key, for another place, or it was changed."""


class Sealer:
    """Seals under the key in `<directory>/settings-key`, which all processes share. `load` comes first."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "settings-key"
        self._cipher: AESGCM | None = None

    def load(self) -> None:
        """Read the key; make it where there is none. However many processes start at once, all have the same one.

        Raises `KeyRingError`.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = self._read()
            if key is None:
                self._make()
                key = self._read()
        except OSError as error:
            raise KeyRingError(
                f"{self.path}: must be a regular file that depproxy can read and write: {error.strerror}"
            ) from None
        if key is None:
            raise KeyRingError(f"{self.path}: was removed as it was written: start again")
        self._cipher = AESGCM(key)

    def seal(self, text: str, place: str) -> bytes:
        """`text` as it can be read for this place alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return urlsafe_b64encode(nonce + self._loaded().encrypt(nonce, text.encode(), place.encode()))

    def unseal(self, sealed: bytes, place: str) -> str:
        """What was sealed for this place. Raises `Unsealable`."""
        try:
            raw = urlsafe_b64decode(sealed)
            if urlsafe_b64encode(raw) != sealed:
                raise Unsealable
            return self._loaded().decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode()).decode()
        except (InvalidTag, ValueError):
            raise Unsealable from None

    def _loaded(self) -> AESGCM:
        if self._cipher is None:
            raise RuntimeError("the key was not loaded")
        return self._cipher

    def _read(self) -> bytes | None:
        try:
            # A FIFO in its place must not hold us up.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            self._check(os.fstat(fd))
            body = os.read(fd, _LARGEST_FILE)
        finally:
            os.close(fd)
        try:
            key = urlsafe_b64decode(body)
        except ValueError:
            key = b""
        # The decoder overlooks what is not of its alphabet.
        if len(key) != _KEY_BYTES or urlsafe_b64encode(key) != body.strip():
            raise KeyRingError(f"{self.path}: is no key of ours: restore it, or {_REMOVE}")
        return key

    def _check(self, state: os.stat_result) -> None:
        if not stat.S_ISREG(state.st_mode):
            raise KeyRingError(f"{self.path}: must be a regular file: {_REMOVE}")
        if state.st_uid != os.geteuid():
            raise KeyRingError(
                f"{self.path}: belongs to user {state.st_uid}, but this runs as user {os.geteuid()}: chown it"
            )
        if stat.S_IMODE(state.st_mode) & 0o077:
            raise KeyRingError(
                f"{self.path}: is open to others (mode {stat.S_IMODE(state.st_mode):04o}): chmod 0600 it; or, if others"
                f" may have read it, {_REMOVE}"
            )

    def _make(self) -> None:
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        # Of one that had our number, and was killed here.
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(urlsafe_b64encode(AESGCM.generate_key(8 * _KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # Not a rename, which would replace the key of one that was faster.
            os.link(new, self.path)
        except FileExistsError:
            pass
        finally:
            new.unlink()
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
