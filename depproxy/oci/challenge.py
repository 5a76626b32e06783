"""Challenges: what a WWW-Authenticate header asks for (RFC 9110 section 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import field, frozen

__all__ = ["Challenge", "parse_challenges"]

# Possessive repetitions throughout: whatever a registry sends is read in one pass.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = r'"((?:[^"\\]++|\\.)*+)"'
# Some registries leave a realm's quotes out, although it holds colons and slashes.
_UNQUOTED = r'[^\s,"=][^\s,"]*+'
_match_param = re.compile(rf"({_TOKEN})[ \t]*+=[ \t]*+(?:{_QUOTED}|({_UNQUOTED}))", re.DOTALL).match
_match_scheme = re.compile(rf"({_TOKEN})(?:[ \t]++|(?=,)|\Z)").match
_match_token68 = re.compile(r"([A-Za-z0-9._~+/-]++=*+)(?=[ \t]*+(?:,|\Z))").match
_match_separator = re.compile(r"[ \t,]*+").match
# Up to the next comma outside quotes; an open quote swallows the rest.
_match_garbage = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.?)*+(?:"|\Z))*+', re.DOTALL).match
_unescape = re.compile(r"\\(.)", re.DOTALL).sub


@frozen
class Challenge:
    """One challenge. Scheme and the parameters' names are in lower case; values are unquoted.

    `token68` is what a scheme such as Negotiate sends in the place of parameters.
    """

    scheme: str
    params: Mapping[str, str] = field(factory=dict)
    token68: str | None = None


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of one header's value, in its order; never raises.

    What cannot be understood is left out. Of a parameter given twice the first counts.
    """
    found: list[Challenge] = []
    params: dict[str, str] = {}
    position = 0
    may_start = True
    while True:
        separator = _match_separator(header, position)
        assert separator is not None  # it may be empty
        position = separator.end()
        if position == len(header):
            return tuple(found)
        may_start = may_start or "," in separator[0]
        if param := _match_param(header, position):
            name, quoted, unquoted = param.groups()
            params.setdefault(name.lower(), unquoted if quoted is None else _unescape(r"\1", quoted))
            position = param.end()
        elif may_start and (scheme := _match_scheme(header, position)):
            token68 = _match_token68(header, scheme.end())
            params = {}
            found.append(Challenge(scheme[1].lower(), params, token68 and token68[1]))
            position = (token68 or scheme).end()
        else:
            garbage = _match_garbage(header, position)
            assert garbage is not None  # and not empty: neither at a comma nor at the end
            position = garbage.end()
        may_start = False
