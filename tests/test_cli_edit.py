"""Editing the text of a configuration file: what is put in or taken out, and that all else stays as it was."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from depproxy.cli.edit import add_table, add_value, remove
from depproxy.cli.inline import CannotEdit
from depproxy.cli.statements import split
from tests.configurations import settings
from tests.configurations_accounts import token_hash
from tests.configurations_forms import Form, forms

Keys = tuple[str, ...]
TOKEN = {"hash": token_hash(10**6), "scopes": ["api", "read_registry"]}
KINDS = {"users": ("tokens",), "groups": ("deploy_tokens", "access_tokens")}


@st.composite
def written(draw: st.DrawFn) -> tuple[dict[str, Any], Form]:
    """A correct configuration, and a text that says it."""
    document, _ = draw(settings(Path("/srv")))
    # Not the whole of it, so that there is less to look through if it goes wrong.
    document = {name: document[name] for name in ("users", "groups", draw(st.sampled_from(sorted(document))))}
    return document, draw(forms(document))


def loads(text: str) -> dict[str, Any]:
    return tomllib.loads(text.removeprefix("\ufeff"))


def comments(form: Form, text: str) -> list[str]:
    """Those of the form's comments that the text has, in its order."""
    found = [
        (text.find(comment), comment) for comment in form.comments if re.search(re.escape(comment) + r"(?!\d)", text)
    ]
    return [comment for _, comment in sorted(found)]


def changed(document: Mapping[str, Any], at: Keys, value: Any) -> dict[str, Any]:
    """The document with the value; None takes it out."""
    result = dict(document)
    if len(at) > 1:
        result[at[0]] = changed(result.get(at[0], {}), at[1:], value)
    elif value is None:
        del result[at[0]]
    else:
        result[at[0]] = value
    return result


def without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without tables of tokens that have none: whether they are written makes no difference."""
    result = dict(document)
    for owners, kinds in KINDS.items():
        result[owners] = {
            owner: {key: value for key, value in table.items() if value or key not in kinds}
            for owner, table in result[owners].items()
        }
    return result


@given(written())
def test_a_text_is_its_statements(drawn: tuple[dict[str, Any], Form]) -> None:
    document, form = drawn
    assert loads(form.text) == document
    text = form.text.removeprefix("\ufeff")
    assert "".join(found.text for found in split(text)) == text


def _owners(document: Mapping[str, Any]) -> list[Keys]:
    return [(owners, owner, kind) for owners, kinds in KINDS.items() for owner in document[owners] for kind in kinds]


@given(written(), st.data())
def test_a_token_comes_and_goes_and_leaves_no_trace(drawn: tuple[dict[str, Any], Form], data: st.DataObject) -> None:
    document, form = drawn
    assume(_owners(document))
    table = data.draw(st.sampled_from(_owners(document)))
    at = (*table, "new token")
    more = add_table(form.text, at, TOKEN)
    assert loads(more) == changed(document, at, TOKEN)
    assert comments(form, more) == comments(form, form.text)
    less = remove(more, at)
    assert without_empty(loads(less)) == without_empty(document)
    assert comments(form, less) == comments(form, form.text)
    # An empty table that the token was put into may go with it. Dotted keys within inline tables are written anew.
    empty = document[table[0]][table[1]].get(table[2]) == {}
    if form.text.endswith("\n") and not empty and not form.dotted_inline:
        assert less == form.text


@given(written(), st.data())
def test_any_token_can_be_taken_out(drawn: tuple[dict[str, Any], Form], data: st.DataObject) -> None:
    document, form = drawn
    tokens = [(*table, name) for table in _owners(document) for name in document[table[0]][table[1]].get(table[2], {})]
    assume(tokens)
    at = data.draw(st.sampled_from(tokens))
    less = remove(form.text, at)
    assert without_empty(loads(less)) == without_empty(changed(document, at, None))
    gone = set(comments(form, form.text)) - set(comments(form, less))
    # What was said about the token may go, or about the table of tokens if it held no other.
    assert {form.comments[comment][: len(at) - 1] for comment in gone} <= {at[:-1]}


@given(written(), st.data())
def test_a_member_comes(drawn: tuple[dict[str, Any], Form], data: st.DataObject) -> None:
    document, form = drawn
    assume(document["groups"])
    group = data.draw(st.sampled_from(sorted(document["groups"])))
    at: Keys = ("groups", group, "members", "new member")
    if "members" in document["groups"][group]:
        more = add_value(form.text, at, "guest")
    else:
        more = add_value(form.text, at[:-1], {"new member": "guest"})
    assert loads(more) == changed(document, at, "guest")
    assert comments(form, more) == comments(form, form.text)


NEW = {"hash": "H", "scopes": ["api"]}
BLOCK = '[users.alice.tokens.new]\nhash = "H"\nscopes = ["api"]\n'
INLINE = '{hash = "H", scopes = ["api"]}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[users.alice]\n", f"[users.alice]\n\n{BLOCK}"),
        (
            "[users.alice]\na = 1\n# off: b = 2\n\n# Bob.\n[users.bob]\n",
            f"[users.alice]\na = 1\n# off: b = 2\n\n{BLOCK}\n# Bob.\n[users.bob]\n",
        ),
        ("[users.alice]\na = 1\n# Bob.\n[users.bob]\n", f"[users.alice]\na = 1\n\n{BLOCK}# Bob.\n[users.bob]\n"),
        (
            "[users.alice.tokens.x]\na = 1\n\n[b]\n[users.alice]\n",
            f"[users.alice.tokens.x]\na = 1\n\n{BLOCK}\n[b]\n[users.alice]\n",
        ),
        ("users.alice.a = 1\nb = 2\n\n[c]\n", f"users.alice.a = 1\nb = 2\n\n{BLOCK}\n[c]\n"),
        ("[users]\nalice.tokens.x.a = 1\nbob.a = 1\n", f"[users]\nalice.tokens.x.a = 1\nbob.a = 1\n\n{BLOCK}"),
        ("[users]\nalice = {}  # She.\n", f"[users]\nalice = {{tokens = {{new = {INLINE}}}}}  # She.\n"),
        ("users = { alice = { a = 1 } }\n", f"users = {{ alice = {{ a = 1, tokens = {{new = {INLINE}}} }} }}\n"),
        ("[users.alice]\ntokens = {x = {a = 1}}\n", f"[users.alice]\ntokens = {{x = {{a = 1}}, new = {INLINE}}}\n"),
        ("users.alice = {a = 1, b = 2}\n", f"users.alice = {{a = 1, b = 2, tokens = {{new = {INLINE}}}}}\n"),
        ("[users.alice]\ntokens = {}  # None.\n", f"[users.alice]\ntokens = {{new = {INLINE}}}  # None.\n"),
    ],
)
def test_how_a_token_is_written(before: str, after: str) -> None:
    at = ("users", "alice", "tokens", "new")
    assert add_table(before, at, NEW) == after
    assert remove(after, at) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[groups.a]\nb = 1\n\n[c]\n", '[groups.a]\nb = 1\nmembers = {alice = "guest"}\n\n[c]\n'),
        (
            '[groups.a]\nmembers = { bob = "owner" } # x\n',
            '[groups.a]\nmembers = { bob = "owner", alice = "guest" } # x\n',
        ),
        ('[groups.a.members]\nbob = "owner"\n\n[c]\n', '[groups.a.members]\nbob = "owner"\nalice = "guest"\n\n[c]\n'),
        (
            'groups.a.members.bob = "owner"\nb = 1\n',
            'groups.a.members.bob = "owner"\ngroups.a.members.alice = "guest"\nb = 1\n',
        ),
        ("[groups]\na.b = 1\nc.b = 1\n", '[groups]\na.b = 1\na.members = {alice = "guest"}\nc.b = 1\n'),
        ("[groups.a.b.c]\nd = 1\n", '[groups.a.b.c]\nd = 1\n\n[groups.a]\nmembers = {alice = "guest"}\n'),
        ("[groups]\na = {}\n", '[groups]\na = {members = {alice = "guest"}}\n'),
    ],
)
def test_how_a_member_is_written(before: str, after: str) -> None:
    if "members" in loads(before)["groups"]["a"]:
        assert add_value(before, ("groups", "a", "members", "alice"), "guest") == after
    else:
        assert add_value(before, ("groups", "a", "members"), {"alice": "guest"}) == after


def test_line_ends_are_those_of_the_file() -> None:
    dos = "\ufeff[groups.a]\r\n\r\n[users.alice]\r\n"
    assert add_table(dos, ("users", "alice", "tokens", "new"), NEW) == dos + "\r\n" + BLOCK.replace("\n", "\r\n")
    members = '[groups.a]\r\nmembers = {alice = "guest"}\r\n'
    assert add_value(dos, ("groups", "a", "members"), {"alice": "guest"}) == dos.replace("[groups.a]\r\n", members)
    assert add_table("[users.alice]", ("users", "bob"), {"a": 1}) == "[users.alice]\n\n[users.bob]\na = 1\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[a]\n\n[users.alice.tokens.new]\nb = 1\n", "[a]\n\n[users.alice]\n"),
        ("users.alice.tokens.new.b = 1\nc = 1\n", "users.alice = {}\nc = 1\n"),
        ("[users]\nalice.tokens.new.b = 1\n", "[users]\nalice = {}\n"),
        ("users.alice.tokens = {new = {b = 1}}\n", "users.alice.tokens = {}\n"),
        ("users = {alice = {tokens = {new = {b = 1}}}}\n", "users = {alice = {}}\n"),
    ],
)
def test_the_owner_of_the_last_token_stays(before: str, after: str) -> None:
    assert remove(before, ("users", "alice", "tokens", "new")) == after


def test_what_cannot_be_changed_without_a_loss_is_refused() -> None:
    text = "users = {alice.admin = true, alice.certificates = [\n  'a',  # Hers.\n]}\n"
    with pytest.raises(CannotEdit) as caught:
        add_table(text, ("users", "alice", "tokens", "new"), NEW)
    assert str(caught.value) == (
        "users.alice.tokens: is written in a way that this command cannot change; edit it by hand"
    )


@pytest.mark.parametrize("text", ["users = 3\n", "[users.alice]\ntokens = []\n", "[users.alice.tokens.new]\n"])
def test_what_would_be_wrong_afterwards_is_refused(text: str) -> None:
    with pytest.raises(CannotEdit):
        add_table(text, ("users", "alice", "tokens", "new"), NEW)


def test_a_large_file_is_split_as_well() -> None:
    networks = "".join(f'  "10.{number >> 8}.{number & 255}.0/24",\n' for number in range(20_000))
    text = f"[mirror]\nanonymous = [\n{networks}]\n" + "".join(f"[users.u{n}]\nadmin = true\n" for n in range(5_000))
    assert len(split(text)) == 2 + 2 * 5_000


@given(written())
def test_a_user_comes(drawn: tuple[dict[str, Any], Form]) -> None:
    document, form = drawn
    more = add_table(form.text, ("users", "new user"), {"admin": True})
    assert loads(more) == changed(document, ("users", "new user"), {"admin": True})
    assert comments(form, more) == comments(form, form.text)
