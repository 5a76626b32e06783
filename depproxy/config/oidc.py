"""The settings of issuers of ID tokens (OpenID Connect): which are believed, and what their tokens are good for."""

# ruff: noqa: RUF009 - key() makes an attrs field, which is what a class body may call.

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from attrs import field, frozen

from depproxy.config import names, values
from depproxy.config.errors import Wrong, dotted
from depproxy.config.keys import by, key, table_array
from depproxy.config.roles import Role, role
from depproxy.config.values import each, text

T = TypeVar("T")

# RFC 7518 section 3.1 and RFC 8037, as far as the verifier needs no secret.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

CLAIM_SEGMENT: Final = re.compile(r"\{([^{}/]{1,255})\}")
"""A segment of a group's path that stands for the value of a claim."""

_URL: Final = re.compile(r"(https?)://([^/?#@\s]+)((?:/[A-Za-z0-9._~%+-]*)*)")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_MOST_CLAIMS: Final = 20
_LONGEST: Final = 255


def issuer_url(value: str) -> str:
    """An issuer, exactly as its tokens write it: it is compared, and not only asked."""
    found = _URL.fullmatch(value)
    if found is None:
        raise Wrong("must be the https URL that the tokens have as iss, such as https://gitlab.example")
    host, _ = names.host_port(found[2])
    if found[1] == "http" and not names.is_loopback(host):
        raise Wrong("must be an https URL; http is for loopback only, because the keys come from there")
    return value


def _short(value: str) -> str:
    if not 1 <= len(value) <= _LONGEST or not value.isprintable():
        raise Wrong(f"must be a text of 1 to {_LONGEST} characters")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise Wrong("must be a name of 1 to 100 letters, digits and _ . -")
    return value


def _audience(value: object, base: Path) -> tuple[str, ...]:
    """One text, or an array of them."""
    if isinstance(value, str):
        return (_short(value),)
    if not isinstance(value, list):
        raise Wrong('must be a text in quotes such as "depproxy", or an array of them')
    return each(text(_short), least=1, most=_MOST_CLAIMS)(value, base)


def _claims(value: object, _base: Path) -> Mapping[str, str]:
    """Patterns by their claims; true, false and whole numbers stand for themselves."""
    if not isinstance(value, dict):
        raise Wrong('must be a table of claims and patterns such as { ref_protected = "true" }')
    if not 1 <= len(value) <= _MOST_CLAIMS:
        # A rule without any would be for everybody whom the issuer knows.
        raise Wrong(f"must have from 1 to {_MOST_CLAIMS} claims, not {len(value)}")
    found: dict[str, str] = {}
    for name, pattern in value.items():
        try:
            if not isinstance(pattern, str | bool | int):
                raise Wrong("must be a pattern in quotes, where * stands for any characters and ? for one")
            found[_short(name)] = _short(pattern if isinstance(pattern, str) else str(pattern).lower())
        except Wrong as wrong:
            raise Wrong(str(wrong), pattern, "." + dotted(name)) from None
    return MappingProxyType(found)


def _group(value: str) -> str:
    """A group's path, where a segment such as ``{namespace_path}`` stands for a claim."""
    if "{" not in value and "}" not in value:
        return names.group_path(value)
    segments = value.split("/")
    claims = [segment for segment in segments if CLAIM_SEGMENT.fullmatch(segment)]
    if any("{" in segment or "}" in segment for segment in segments if segment not in claims):
        raise Wrong('must have each claim as a whole segment, such as "{namespace_path}" or "ci/{project_path}"')
    plain = names.group_path("/".join("claim" if segment in claims else segment for segment in segments))
    return "/".join(
        segment if segment in claims else lower for segment, lower in zip(segments, plain.split("/"), strict=True)
    )


@frozen
class OidcRule:
    """``[[access.oidc.rules]]``: tokens of which all these claims match have ``role`` in ``group``."""

    claims: Mapping[str, str] = field(metadata=by(_claims))
    group: str = field(metadata=by(text(_group)))
    role: Role = key(Role.GUEST, role)


@frozen
class OidcSettings:
    """``[[access.oidc]]``: an issuer whose ID tokens are passwords, for whom the rules say.

    A token must be for one of ``audience``. ``username`` is the claim by which messages call its bearer.
    """

    issuer: str = field(metadata=by(text(issuer_url)))
    audience: tuple[str, ...] = field(metadata=by(_audience))
    rules: tuple[OidcRule, ...] = field(metadata=by(table_array(OidcRule, "access.oidc.rules")))
    algorithms: tuple[str, ...] = key(("RS256", "ES256"), each(values.choice(*ALGORITHMS), least=1))
    name: str | None = key(None, text(_name))
    username: str = key("sub", text(_short))
    ca_file: Path | None = key(None, values.certificates)

    @property
    def called(self) -> str:
        """What messages call the issuer."""
        return self.name or self.issuer.partition("://")[2]


_issuers: Final = table_array(OidcSettings, "access.oidc")


def oidc(value: object, base: Path) -> tuple[OidcSettings, ...]:
    """Reads the array of tables ``oidc``."""
    found = _issuers(value, base)
    for index, settings in enumerate(found):
        for what in ("issuer", "name"):
            mine = getattr(settings, what)
            first = next(at for at, other in enumerate(found) if getattr(other, what) == mine)
            if mine is not None and first != index:
                raise Wrong(f"must be its own, but is that of access.oidc[{first}], too", mine, f"[{index}].{what}")
    return found
