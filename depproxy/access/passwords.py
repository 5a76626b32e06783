"""Passwords and the secrets of tokens: how they are made, and how they are checked against what is kept of them."""

import re
import secrets
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable
from hashlib import scrypt, sha256
from hmac import compare_digest
from typing import Final

import bcrypt

from depproxy.config.accounts import password_hash

LONGEST: Final = 1024
"""Bytes of a password. No more are hashed, so that what a client sends cannot take long by its length."""

PERSONAL, DEPLOY, GROUP = "dpp_", "dpd_", "dpg_"
"""What the secrets of our tokens begin with: a personal access token, a group's deploy token, its access token."""

_SCRYPT: Final = "$scrypt$"
# 32 MiB, and an eighth of a second on a slow core.
_LOG_N, _R, _P = 15, 8, 1
_SALT_BYTES, _HASH_BYTES = 16, 32
# bcrypt looks at no more. Some implementations ignore the rest, and so would take a password for another.
_BCRYPT_BYTES: Final = 72
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# The least number of them that has 160 bits.
_SECRET_LENGTH: Final = 27

# Ours; an ID token (RFC 7519 section 3); those of a GitLab by their usual prefixes, such as glpat- and glcbt-.
_match_token = re.compile(
    r"dp[pdg]_.*|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*|gl[a-z]{2,8}-[A-Za-z0-9_.-]{16,}", re.DOTALL
).fullmatch


def hash_password(password: str, log_n: int = _LOG_N) -> str:
    """What to keep of a password: scrypt in PHC string form. One more in `log_n` doubles its memory and time.

    Raises ValueError, which may be shown, for one that could not log in: empty, too long, with a NUL, or like a token.
    """
    raw = _encoded(password)
    if raw is None or not raw:
        raise ValueError(f"a password must have from 1 to {LONGEST} bytes, and no NUL")
    if is_token(password):
        raise ValueError("a password must not look like a token")
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"{_costs_of(log_n)}{_base64(salt)}${_base64(_scrypt(raw, salt, log_n, _R, _P))}"


def verify(password: str, hashed: str) -> bool:
    """Whether this is the password that was hashed, by scrypt or bcrypt. Slow, thread-safe, and raises nothing."""
    raw = _encoded(password)
    if raw is None:
        return False
    try:
        # Whatever this admits takes no more than 256 MiB, and a few seconds.
        if not password_hash(hashed).startswith(_SCRYPT):
            # The library compares in constant time. For what is longer some of its releases raise, others cut it off.
            return len(raw) <= _BCRYPT_BYTES and bcrypt.checkpw(raw, hashed.encode("ascii"))
        _, _, costs, salt, kept = hashed.split("$")
        log_n, r, p = (int(cost.partition("=")[2]) for cost in costs.split(","))
        return compare_digest(_scrypt(raw, _unpadded(salt), log_n, r, p), _unpadded(kept))
    except ValueError:
        # A salt or costs that cannot be.
        return False


def stand_in(hashes: Iterable[str] = ()) -> str:
    """A hash of nobody's password, which takes as long to check as most of `hashes`.

    It is checked where there is no such account, so that the time tells nothing about who has one.
    """
    usual = Counter(map(_costs, hashes)).most_common(1)
    costs = usual[0][0] if usual else _costs_of(_LOG_N)
    if costs.startswith(_SCRYPT):
        return f"{costs}{_base64(secrets.token_bytes(_SALT_BYTES))}${_base64(secrets.token_bytes(_HASH_BYTES))}"
    # 22 characters of salt, the last of which can be a dot, and 31 of the hash.
    return f"{costs}{_random(21)}.{_random(31)}"


def is_token(password: str) -> bool:
    """Whether this can be nobody's password, because it has the form of a token, ours or somebody else's."""
    return bool(_match_token(password))


def new_secret(prefix: str) -> str:
    """A token's secret: the prefix, then 160 random bits in letters and digits."""
    return prefix + _random(_SECRET_LENGTH)


def hash_token(secret: str) -> str:
    """What to keep of a token's secret.

    A fast hash without salt is right here: the secret is random and too long to be guessed, so there is nothing that a
    slow hash would slow down, and a token can be found by its hash.
    """
    return "sha256:" + sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint(kept: str) -> str:
    """Eight hexadecimal digits that change when what is kept of a password or a token changes."""
    return sha256(kept.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _encoded(password: str) -> bytes | None:
    """The password's bytes; None for what nobody's password is: too long, or with a NUL.

    To scrypt the passwords "a" and "a" with a NUL at its end are the same: HMAC fills its key up (RFC 2104 section 2).
    """
    raw = password[: LONGEST + 1].encode("utf-8", "surrogatepass")
    return raw if len(raw) <= LONGEST and b"\0" not in raw else None


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    # RFC 7914 section 2: 128 * N * r bytes; OpenSSL counts its working memory as well.
    memory = 128 * r * ((1 << log_n) + p + 2)
    return scrypt(password, salt=salt, n=1 << log_n, r=r, p=p, maxmem=memory, dklen=_HASH_BYTES)


def _costs_of(log_n: int) -> str:
    return f"{_SCRYPT}ln={log_n},r={_R},p={_P}$"


def _costs(hashed: str) -> str:
    """The part of a hash that says how long it takes."""
    return hashed[: hashed.index("p=") + 4] if hashed.startswith(_SCRYPT) else hashed[: len("$2b$10$")]


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _base64(raw: bytes) -> str:
    return b64encode(raw).rstrip(b"=").decode("ascii")


def _unpadded(text: str) -> bytes:
    """Raises ValueError (binascii.Error) for what is no base64."""
    return b64decode(text + "=" * (-len(text) % 4), validate=True)
