"""The settings of accounts: users, groups with their members, and the tokens of both.

A secret is never in the file: a password stands there as a salted hash, a token as the SHA-256 of its secret, which is
long and random.
"""

# ruff: noqa: RUF009 - key() makes an attrs field, which is what a class body may call.

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from attrs import field, frozen

from depproxy.config import values
from depproxy.config.errors import Absent, Wrong
from depproxy.config.gitlab import GitLabSettings, gitlab
from depproxy.config.keys import by, key, pairs, tables
from depproxy.config.oidc import OidcSettings, oidc
from depproxy.config.roles import Role, role
from depproxy.config.units import Quota, parse_duration
from depproxy.config.values import Network, Reader, each, text

Algorithm = Literal["HS256", "ES256", "EdDSA"]

# What `depproxy hash-password` prints (PHC string format), and what htpasswd files hold (bcrypt).
_SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=(1[0-7]),r=([1-9]|1[0-6]),p=([1-4])\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{43}"
)
_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}")
_TOKEN_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
_USER: Final = re.compile(r"[A-Za-z0-9_.@-]{1,255}")
_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# The user name of a GitLab CI job's token; nobody else may be called so.
JOB_TOKEN_USER: Final = "gitlab-ci-token"


def user_name(value: str) -> str:
    """The name of an account. Upper and lower case differ."""
    if not _USER.fullmatch(value):
        raise Wrong("must be a user name of 1 to 255 letters, digits and _ . @ -", Absent.HIDDEN)
    if value == JOB_TOKEN_USER:
        raise Wrong("is the user name of CI job tokens; choose another", Absent.HIDDEN)
    return value


def token_name(value: str) -> str:
    """What a token is called within its user or group."""
    if not _TOKEN_NAME.fullmatch(value):
        raise Wrong("must be a name of 1 to 100 letters, digits and _ . -", Absent.HIDDEN)
    return value


def password_hash(value: str) -> str:
    """The hash of a password."""
    if not _SCRYPT.fullmatch(value) and not _BCRYPT.fullmatch(value):
        raise Wrong(
            "must be a hash, as `depproxy hash-password` prints it (or by bcrypt with a cost from 4 to 14)",
            Absent.HIDDEN,
        )
    return value


def _token_hash(value: str) -> str:
    if not _TOKEN_HASH.fullmatch(value):
        raise Wrong("must be sha256: and 64 hexadecimal digits, as `depproxy token create` writes it", Absent.HIDDEN)
    return value


def _hidden(parse: Callable[[str], str]) -> Reader[str]:
    """A reader of strings that are never shown: what is no hash may be the secret itself, quoted or not."""

    def read(value: object, base: Path) -> str:
        try:
            return text(parse)(value, base)
        except Wrong as wrong:
            raise Wrong(str(wrong), Absent.HIDDEN) from None

    return read


def _certificate_name(value: str) -> str:
    if not 1 <= len(value) <= 255 or not value.isprintable():
        raise Wrong("must be a name of a certificate, of 1 to 255 characters")
    return value


def moment(value: object, _base: Path) -> float:
    """Reads a date (its first moment in UTC) or a date with time, as Unix time; without a zone it is UTC."""
    if isinstance(value, date):
        found = value if isinstance(value, datetime) else datetime.combine(value, time(), UTC)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    raise Wrong("must be a date such as 2027-01-31, or 2027-01-31T12:00:00Z, without quotes")


SCOPES: Final = ("api", "read_registry", "write_registry", "read_virtual_registry", "write_virtual_registry")
"""What a token may be good for, in GitLab's words."""

_scopes: Final = each(values.choice(*SCOPES), least=1)


@frozen
class TokenSettings:
    """``[users.NAME.tokens.NAME]``: a personal access token. ``expires`` is Unix time, None: never."""

    name: str
    hash: str = field(repr=False, metadata=by(_hidden(_token_hash)))
    scopes: tuple[str, ...] = key(("read_registry",), _scopes)
    expires: float | None = key(None, moment)


@frozen
class DeployTokenSettings(TokenSettings):
    """``[groups."PATH".deploy_tokens.NAME]``: pulls from the group and its subgroups, by a user name of its own."""

    username: str = field(kw_only=True, metadata=by(text(user_name)))


@frozen
class GroupTokenSettings(TokenSettings):
    """``[groups."PATH".access_tokens.NAME]``: a member that is no person."""

    role: Role = key(Role.GUEST, role)


@frozen
class UserSettings:
    """``[users.NAME]``. Without ``password_login`` only tokens are taken; an ``admin`` owns every group."""

    name: str
    password: str | None = field(default=None, repr=False, metadata=by(_hidden(password_hash)))
    password_login: bool = key(True, values.boolean)
    admin: bool = key(False, values.boolean)
    certificates: tuple[str, ...] = key((), each(text(_certificate_name)))
    tokens: Mapping[str, TokenSettings] = key(MappingProxyType({}), tables(TokenSettings, token_name))


_DAY: Final = 24 * 60 * 60
_ttl: Final = values.duration("1d", "36500d", unit="d")


def _whole_days(value: object, base: Path) -> float:
    seconds = _ttl(value, base)
    if seconds % _DAY:
        # Owners see and set days.
        raise Wrong('must be whole days, such as "90d"')
    return seconds


@frozen
class GroupSettings:
    """``[groups."PATH"]``: a group. ``path`` is in lower case, nested by slashes. ``ttl`` None: for ever."""

    path: str
    enabled: bool = key(True, values.boolean)
    ttl: float | None = key(None, _whole_days)
    quota: Quota | None = key(None, values.quota)
    anonymous: tuple[Network, ...] = key((), each(text(values.network)))
    members: Mapping[str, Role] = key(MappingProxyType({}), pairs(role, user_name))
    deploy_tokens: Mapping[str, DeployTokenSettings] = key(
        MappingProxyType({}), tables(DeployTokenSettings, token_name)
    )
    access_tokens: Mapping[str, GroupTokenSettings] = key(MappingProxyType({}), tables(GroupTokenSettings, token_name))


def _seconds(default: str, low: str, high: str) -> Any:
    return key(parse_duration(default), values.duration(low, high))


@frozen
class AccessSettings:
    """``[access]``: how accounts prove who they are, and what they get for it.

    Guesses are the wrong logins that an account or an address has free; as many come back in a minute.
    """

    token_lifetime: float = _seconds("15m", "1m", "1d")
    refresh_lifetime: float = _seconds("0s", "0s", "365d")
    algorithm: Algorithm = key("HS256", values.choice("HS256", "ES256", "EdDSA"))
    require_write_registry: bool = key(False, values.boolean)
    guesses_per_account: int = key(10, values.whole(1, 1_000_000))
    guesses_per_address: int = key(30, values.whole(1, 1_000_000))
    htpasswd: Path | None = key(None, values.readable_file)
    gitlab: GitLabSettings | None = key(None, gitlab)
    oidc: tuple[OidcSettings, ...] = key((), oidc)
