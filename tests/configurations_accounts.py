"""Accounts for tests: users, groups and tokens as a configuration file has them, with what they mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from itertools import count
from typing import Any, Final

from hypothesis import strategies as st

from depproxy.config import DeployTokenSettings, GroupSettings, GroupTokenSettings, Role, TokenSettings, UserSettings
from depproxy.config.accounts import JOB_TOKEN_USER, SCOPES
from depproxy.config.units import Quota

Drawn = st.SearchStrategy[tuple[Any, Any]]
"""Pairs of a TOML value and the setting that it means."""

USER_NAMES: Final = st.from_regex(r"[A-Za-z0-9_.@-]{1,12}", fullmatch=True).filter(lambda name: name != JOB_TOKEN_USER)
TOKEN_NAMES: Final = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)
PASSWORDS: Final = st.one_of(
    st.from_regex(
        r"\$scrypt\$ln=1[0-7],r=(8|16),p=[1-4]\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}",
        fullmatch=True,
    ),
    st.from_regex(r"\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}", fullmatch=True),
)
ROLES: Final = st.sampled_from(Role).map(lambda role: (role.name.lower(), role))
_ZONES: Final = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def _meant(moment: date) -> float:
    if not isinstance(moment, datetime):
        return datetime.combine(moment, time(), UTC).timestamp()
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


MOMENTS: Final = st.one_of(
    st.dates(date(1980, 1, 1), date(2200, 1, 1)),
    st.datetimes(datetime(1980, 1, 1), datetime(2200, 1, 1), timezones=st.one_of(st.none(), _ZONES)),
).map(lambda moment: (moment, _meant(moment)))
_SCOPES: Final = st.lists(st.sampled_from(SCOPES), min_size=1, unique=True).map(lambda found: (found, tuple(found)))
_BOOLEANS: Final = st.booleans().map(lambda value: (value, value))
_QUOTAS: Final = st.integers(1, 10**6).map(lambda number: (f"{number} GiB", Quota(float(number << 30))))
_DAYS: Final = st.integers(1, 36500).map(lambda days: (f"{days}d", days * 86400.0))


def token_hash(number: int) -> str:
    """The hash of a token that nobody has, another for each number."""
    return "sha256:" + hashlib.sha256(str(number).encode()).hexdigest()


def some(draw: st.DrawFn, keys: Mapping[str, Drawn]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Some of ``keys``: the table as written, and what it means."""
    chosen = draw(st.lists(st.sampled_from(sorted(keys)), unique=True))
    pairs = {key: draw(keys[key]) for key in chosen}
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}


def _tokens(draw: st.DrawFn, settings: Any, numbers: Iterator[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    document: dict[str, Any] = {}
    means: dict[str, Any] = {}
    for name in draw(st.lists(TOKEN_NAMES, unique=True, max_size=2)):
        number = next(numbers)
        keys: dict[str, Drawn] = {"scopes": _SCOPES, "expires": MOMENTS}
        if settings is GroupTokenSettings:
            keys["role"] = ROLES
        table, meant = some(draw, keys)
        table["hash"] = meant["hash"] = token_hash(number)
        if settings is DeployTokenSettings:
            # Longer than any user's name here, so that it is its own.
            table["username"] = meant["username"] = f"deploy-token-{number}"
        document[name], means[name] = table, settings(name, **meant)
    return document, means


def _user(draw: st.DrawFn, name: str, numbers: Iterator[int]) -> tuple[dict[str, Any], UserSettings]:
    table, meant = some(
        draw,
        {
            "password": PASSWORDS.map(lambda hashed: (hashed, hashed)),
            "password_login": _BOOLEANS,
            "admin": _BOOLEANS,
            # A certificate means one user.
            "certificates": st.just(([f"{name} 1", f"{name} 2"], (f"{name} 1", f"{name} 2"))),
        },
    )
    if draw(st.booleans()):
        table["tokens"], meant["tokens"] = _tokens(draw, TokenSettings, numbers)
    return table, UserSettings(name, **meant)


def _group(
    draw: st.DrawFn, path: str, users: list[str], networks: Drawn, numbers: Iterator[int]
) -> tuple[dict[str, Any], GroupSettings]:
    table, meant = some(draw, {"enabled": _BOOLEANS, "ttl": _DAYS, "quota": _QUOTAS, "anonymous": networks})
    if draw(st.booleans()):
        members = draw(st.dictionaries(st.sampled_from(users), ROLES) if users else st.just({}))
        table["members"] = {name: pair[0] for name, pair in members.items()}
        meant["members"] = {name: pair[1] for name, pair in members.items()}
    for key, settings in (("deploy_tokens", DeployTokenSettings), ("access_tokens", GroupTokenSettings)):
        if draw(st.booleans()):
            table[key], meant[key] = _tokens(draw, settings, numbers)
    return table, GroupSettings(path.lower(), **meant)


def accounts(
    draw: st.DrawFn, paths: st.SearchStrategy[str], networks: Drawn
) -> tuple[dict[str, Any], dict[str, Any], dict[str, UserSettings], dict[str, GroupSettings]]:
    """The tables of users and of groups, and what they mean."""
    numbers = count()
    users = draw(st.lists(USER_NAMES, unique=True, max_size=2))
    groups = draw(st.lists(paths, unique_by=str.lower, max_size=2))
    found_users = {name: _user(draw, name, numbers) for name in users}
    found_groups = {path: _group(draw, path, users, networks, numbers) for path in groups}
    return (
        {name: pair[0] for name, pair in found_users.items()},
        {path: pair[0] for path, pair in found_groups.items()},
        {name: pair[1] for name, pair in found_users.items()},
        {pair[1].path: pair[1] for pair in found_groups.values()},
    )
