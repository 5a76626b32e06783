"""Rules for ID tokens, and how they are configured: what claims match, where they lead, what a mistake says."""

from __future__ import annotations

import fnmatch
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depproxy.access.oidc_rules import Credential, fingerprint, group_of, matches, roles_of
from depproxy.config import ConfigError, OidcRule, OidcSettings, Role
from depproxy.config.errors import Wrong
from depproxy.config.names import group_path
from tests.configurations import load_text

PATTERNS = st.text("ab/*?[].", min_size=1, max_size=8)
VALUES = st.text("ab/.[]\n", max_size=8)
PATHS = st.lists(st.text(string.ascii_letters + "0._-", min_size=1, max_size=4), min_size=1, max_size=3).map("/".join)
CLAIMS = st.one_of(
    PATHS,
    st.text("aA/.{}_- \n\u00e4", max_size=8),
    st.integers(),
    st.booleans(),
    st.none(),
    st.lists(PATHS, max_size=2),
)


def plain_match(pattern: str, value: str) -> bool:
    """What * and ? mean, as plainly as it can be said."""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return any(plain_match(pattern[1:], value[start:]) for start in range(len(value) + 1))
    return bool(value) and pattern[0] in ("?", value[0]) and plain_match(pattern[1:], value[1:])


@given(PATTERNS, VALUES)
def test_patterns(pattern: str, value: str) -> None:
    assert matches(pattern, value) == plain_match(pattern, value)


@given(VALUES.filter(lambda text: "*" not in text and "?" not in text and text))
def test_a_text_matches_itself_alone(text: str) -> None:
    assert matches(text, text)
    assert not matches(text, text + "a")
    assert not matches(text, "a" + text)


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("true", True, True),
        ("true", "true", True),
        ("True", True, False),
        ("false", False, True),
        ("1", True, False),
        ("7", 7, True),
        ("7", 7.0, False),
        ("*", 10**100, False),
        ("*", None, False),
        ("*", {}, False),
        ("*", [], False),
        ("*", [None, []], False),
        ("acme", ["x", "acme"], True),
        ("acme", ["x", ["acme"]], False),
        ("acme", "Acme", False),
        ("*", "x" * 5000, False),
        ("*a*a*a*a*a*b", "a" * 4000, False),
    ],
)
def test_values(pattern: str, value: object, expected: bool) -> None:
    assert matches(pattern, value) is expected


@given(
    st.lists(st.sampled_from(("ci", "Acme", "{a}", "{b}")), min_size=1, max_size=3),
    st.dictionaries(st.sampled_from("ab"), CLAIMS),
)
def test_a_claim_never_leads_out_of_the_grammar(segments: list[str], claims: dict[str, Any]) -> None:
    rule = OidcRule({"a": "*"}, "/".join(segments))
    found = group_of(rule, claims)
    parts = [claims.get(segment[1]) if segment[0] == "{" else segment for segment in segments]
    try:
        lowered = [group_path(part) for part in parts if isinstance(part, str)]
        expected = group_path("/".join(lowered)) if len(lowered) == len(parts) else None
    except Wrong:
        expected = None
    assert found == expected
    if found is not None:
        assert group_path(found) == found


def test_what_a_claim_cannot_do() -> None:
    rule = OidcRule({"a": "*"}, "ci/{a}")
    for value in (
        "..",
        "../acme",
        "/acme",
        "acme/",
        "acme//x",
        "a b",
        "",
        "a\n",
        "{a}",
        "x/dependency_proxy/y",
        ["x"],
        None,
    ):
        assert group_of(rule, {"a": value}) is None
    assert group_of(rule, {"a": "Acme/Tools"}) == "ci/acme/tools"
    assert group_of(rule, {}) is None


@st.composite
def rules(draw: st.DrawFn) -> OidcRule:
    claims = draw(st.dictionaries(st.sampled_from("abc"), st.sampled_from(("x", "x*", "*", "?")), min_size=1))
    return OidcRule(claims, draw(st.sampled_from(("acme", "acme/tools", "{a}"))), draw(st.sampled_from(Role)))


@given(
    st.lists(rules(), min_size=1, max_size=5),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(("x", "xy", "acme", "y"))),
)
def test_roles_are_those_of_the_rules_that_match(found: list[OidcRule], claims: dict[str, Any]) -> None:
    settings = OidcSettings("https://issuer.example", ("x",), tuple(found))
    roles = roles_of(settings, claims)
    expected: dict[str, Role] = {}
    for role in Role:
        for rule in found:
            fits = all(name in claims and fnmatch.fnmatchcase(claims[name], rule.claims[name]) for name in rule.claims)
            if fits and rule.role is role and ("{" not in rule.group or "a" in claims):
                expected[claims["a"] if "{" in rule.group else rule.group] = role
    assert roles == expected
    credential = Credential(fingerprint(settings), "thumb", roles)
    assert Credential.read(str(credential)) == credential


# The configuration

TABLE = """
[[access.oidc]]
issuer = "https://gitlab.example"
audience = "depproxy"

[[access.oidc.rules]]
claims = { namespace_path = "acme", ref_protected = true, runner_id = 1 }
group = "Acme/{namespace_path}"
role = "developer"
"""


def test_the_tables() -> None:
    (settings,) = load_text(TABLE).access.oidc
    assert settings == OidcSettings(
        "https://gitlab.example",
        ("depproxy",),
        (
            OidcRule(
                {"namespace_path": "acme", "ref_protected": "true", "runner_id": "1"},
                "acme/{namespace_path}",
                Role.DEVELOPER,
            ),
        ),
    )
    assert (settings.algorithms, settings.username, settings.called) == (("RS256", "ES256"), "sub", "gitlab.example")
    assert load_text("").access.oidc == ()
    two = load_text(
        TABLE + TABLE.replace("gitlab.example", "gitlab.example/").replace('"depproxy"', '["a", "b"]\nname = "b"')
    )
    assert [found.issuer for found in two.access.oidc] == ["https://gitlab.example", "https://gitlab.example/"]
    assert (two.access.oidc[1].audience, two.access.oidc[1].called) == (("a", "b"), "b")


def changed(old: str, new: str) -> str:
    assert old in TABLE
    return TABLE.replace(old, new)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            changed('"https://gitlab.example"', '"http://gitlab.example"'),
            'access.oidc[0].issuer = "http://gitlab.example": must be an https',
        ),
        (changed("//gitlab.example", "//gitlab.example/?x"), "access.oidc[0].issuer"),
        (changed("//gitlab.example", "//u:hunter2@gitlab.example"), "access.oidc[0].issuer"),
        (changed("//gitlab.example", "//gitlab_.-"), "access.oidc[0].issuer"),
        (changed('issuer = "https://gitlab.example"', ""), "access.oidc[0]: needs the key issuer"),
        (changed('audience = "depproxy"', ""), "access.oidc[0]: needs the key audience"),
        (changed('audience = "depproxy"', "audience = []"), "access.oidc[0].audience = []: must have from 1"),
        (changed('audience = "depproxy"', 'audience = ["a", 7]'), "access.oidc[0].audience[1] = 7: must be a string"),
        (changed('audience = "depproxy"', 'audience = ""'), 'access.oidc[0].audience = "": must be a text'),
        (
            changed('audience = "depproxy"', 'audience = "x"\nalgorithms = ["HS256"]'),
            'access.oidc[0].algorithms[0] = "HS256": must be "RS256"',
        ),
        (changed('audience = "depproxy"', 'audience = "x"\nalgorithms = ["none"]'), "access.oidc[0].algorithms[0]"),
        (changed('audience = "depproxy"', 'audience = "x"\nalgorithms = []'), "access.oidc[0].algorithms = []"),
        (
            changed('audience = "depproxy"', 'audience = "x"\naudiense = 1'),
            'access.oidc[0].audiense: unknown key; did you mean "audience"?',
        ),
        (
            changed('audience = "depproxy"', 'audience = "x"\nca_file = "/no/file"'),
            'access.oidc[0].ca_file = "/no/file"',
        ),
        (changed('audience = "depproxy"', 'audience = "x"\nname = "a b"'), 'access.oidc[0].name = "a b"'),
        (changed('role = "developer"', 'role = "king"'), 'access.oidc[0].rules[0].role = "king": must be "guest"'),
        (
            changed('role = "developer"', 'rolle = "guest"'),
            'access.oidc[0].rules[0].rolle: unknown key; did you mean "role"?',
        ),
        (changed('group = "Acme/{namespace_path}"', ""), "access.oidc[0].rules[0]: needs the key group"),
        (changed("{namespace_path}", "{namespace_path"), "access.oidc[0].rules[0].group"),
        (changed("{namespace_path}", "x{namespace_path}"), "each claim as a whole segment"),
        (changed("{namespace_path}", "{}"), "each claim as a whole segment"),
        (changed("Acme/", "-/"), "must be a group path"),
        (
            changed("{ namespace_path", "{ x = 1.5, namespace_path"),
            "access.oidc[0].rules[0].claims.x = 1.5: must be a pattern",
        ),
        (changed('"acme"', '""'), 'access.oidc[0].rules[0].claims.namespace_path = ""'),
        (
            changed('{ namespace_path = "acme", ref_protected = true, runner_id = 1 }', "{}"),
            "access.oidc[0].rules[0].claims = {}: must have from 1",
        ),
        (
            changed('{ namespace_path = "acme", ref_protected = true, runner_id = 1 }', '"*"'),
            "access.oidc[0].rules[0].claims",
        ),
        (
            TABLE + TABLE,
            'access.oidc[1].issuer = "https://gitlab.example": must be its own, but is that of access.oidc[0], too',
        ),
        (TABLE + "[[access.oidc.rules]]\nclaims = { a = 1 }\ngroup = 7", "access.oidc[0].rules[1].group = 7"),
        (
            '[access.oidc]\nissuer = "https://x"',
            "access.oidc = {...}: must be an array of tables, each written [[access.oidc]]",
        ),
        ('[[access.oidc]]\nissuer = "https://x"\naudience = "x"', "access.oidc[0]: needs the key rules"),
        (
            '[[access.oidc]]\nissuer = "https://x"\naudience = "x"\nrules = {}',
            "access.oidc[0].rules = {}: must be an array of tables",
        ),
        ("[access]\noidc = []", "access.oidc = []"),
        ("[access]\noidc = [7]", "access.oidc"),
    ],
)
def test_mistakes(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_http_is_for_loopback() -> None:
    for host in ("127.0.0.1:8080", "localhost", "[::1]:80"):
        (settings,) = load_text(changed("https://gitlab.example", f"http://{host}")).access.oidc
        assert settings.issuer == f"http://{host}"
