"""The rule of access: a token grants what its account may, and lets pass only for what it may still."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred

from depproxy.access.errors import Unauthenticated
from depproxy.access.gate import EVERYTHING, Gate
from depproxy.access.groups import Groups
from depproxy.access.hashing import Hashing
from depproxy.access.interface import ClientCertificate, Identity, Login
from depproxy.access.issuer import Issuer
from depproxy.access.keys import KeyRing
from depproxy.access.local import LocalAccounts
from depproxy.access.passwords import hash_token
from depproxy.access.portal import Accounts
from depproxy.access.throttle import Throttle
from depproxy.access.tokens import Tokens
from depproxy.config import AccessSettings, GroupSettings, MirrorSettings, Role, TokenSettings, UserSettings
from depproxy.oci.errors import Code, OCIError
from tests.access_cases import inline
from tests.fakes import MemoryIndex

NOW = 1_800_000_000.0
PATHS = ("acme", "acme/tools", "acme/tools/deep", "other", "local")
ASKED = (*PATHS, "acme/nowhere", "nowhere")
USERS = {
    name: UserSettings(name, tokens={"t": TokenSettings("t", hash_token(f"dpp_{name}"))}) for name in ("alice", "bob")
}
NOBODY = MirrorSettings(anonymous=())
INSIDE = "10.0.0.1"


@frozen
class Caller:
    """`ICaller`, at this address."""

    host: str
    authorization: bytes | None = None
    certificate: ClientCertificate | None = None

    @property
    def address(self) -> IPv4Address:
        return IPv4Address("TCP", self.host, 40000)


@st.composite
def groups(draw: st.DrawFn) -> dict[str, GroupSettings]:
    """Some of the paths, with some members, some turned off, some open to a network."""
    found = {}
    for path in draw(st.sets(st.sampled_from(PATHS))) | {"local"}:
        found[path] = GroupSettings(
            path,
            enabled=draw(st.integers(0, 3)) > 0,
            anonymous=(ip_network("10.0.0.0/8"),) if draw(st.booleans()) else (),
            members=draw(st.dictionaries(st.sampled_from(sorted(USERS)), st.sampled_from(Role))),
        )
    return found


def rules(found: Mapping[str, GroupSettings]) -> tuple[Groups, Accounts]:
    local = LocalAccounts(USERS, found, AccessSettings(), Hashing(inline), lambda: NOW)
    return Groups(found, NOBODY), Accounts([local])


def may(found: Mapping[str, GroupSettings], user: str | None, host: str, group: str) -> bool:
    """The rule by itself: a role here or above, or an open network; and all of the path is turned on."""
    lineage = [path for path in found if path == group or group.startswith(f"{path}/")]
    if group not in found or not all(found[path].enabled for path in lineage):
        return False
    if found[group].anonymous and host == INSIDE:
        return True
    return any(user in found[path].members for path in lineage)


def settled(awaitable: Any) -> Any:
    """What a coroutine gives that needs nobody else; raises what it raises."""
    results: list[Any] = []
    Deferred.fromCoroutine(awaitable).addBoth(results.append)
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


def passes(gate: Gate, caller: Caller, group: str) -> bool:
    try:
        settled(gate.admit(group, caller))
    except Unauthenticated:
        return False
    except OCIError as error:
        return error.code is not Code.DENIED
    return True


@given(
    before=groups(),
    after=groups(),
    user=st.sampled_from((None, *sorted(USERS))),
    asked=st.none() | st.lists(st.sampled_from(ASKED), min_size=1, max_size=4),
    asker=st.sampled_from((INSIDE, "192.0.2.1")),
    user_host=st.sampled_from((INSIDE, "192.0.2.1")),
)
def test_grants_are_never_more_than_rights(
    before: dict[str, GroupSettings],
    after: dict[str, GroupSettings],
    user: str | None,
    asked: list[str] | None,
    asker: str,
    user_host: str,
) -> None:
    """Whatever is asked for, and whatever becomes of the configuration after that."""
    with tempfile.TemporaryDirectory() as directory:
        keys = KeyRing(Path(directory, "keys"), "HS256", lambda: NOW)
        keys.load()
        tokens = Tokens(keys, "depproxy", 900.0, lambda: NOW)
        gate = Gate(*rules(before), tokens, now=lambda: NOW)
        refresh = Tokens(keys, "depproxy/refresh", 0.0, lambda: NOW)
        issuer = Issuer(*rules(before), tokens, refresh, Throttle(MemoryIndex(lambda: NOW), lambda: NOW))
        login = None if user is None else Login(user, f"dpp_{user}", asker)
        try:
            issued = settled(issuer.issue(login, Caller(asker), asked))
        except Unauthenticated:
            # Nobody, and not all is open.
            assert user is None
            assert not asked or not all(path in before and before[path].anonymous for path in asked) or asker != INSIDE
            return
        grants = tokens.verify(issued.token.encode()).grants
        assert (grants == {EVERYTHING}) == (asked is None)
        holds = settled(holds_rights(before, user, asker, grants - {EVERYTHING}))
        assert holds
        assert grants <= {*(asked or ()), EVERYTHING}
        caller = Caller(user_host, f"Bearer {issued.token}".encode())
        nobody = grants and tokens.verify(issued.token.encode()).identity.source == "anonymous"
        for found in (before, after):
            gate.replace(*rules(found))
            for group in ASKED:
                bearer = None if nobody else user
                open_ = group in found and bool(found[group].anonymous) and user_host == INSIDE
                expected = may(found, bearer, user_host, group) and (open_ or group in grants or EVERYTHING in grants)
                # Twice: the second answer comes from memory.
                assert [passes(gate, caller, group) for _ in range(2)] == [expected, expected], group


async def holds_rights(found: Mapping[str, GroupSettings], user: str | None, host: str, grants: frozenset[str]) -> bool:
    """Whether each grant is a group that is open to the host, or in which the user has a role."""
    for group in grants:
        lineage = [path for path in found if path == group or group.startswith(f"{path}/")]
        opened = group in found and bool(found[group].anonymous) and host == INSIDE
        if not opened and not (group in found and any(user in found[path].members for path in lineage)):
            return False
    return True


def test_a_check_under_way_remembers_nothing_by_old_rules() -> None:
    """A source that answers after a reload must not open what the new rules have closed."""

    class Slow:
        name = "slow"
        max_age = 60.0
        credentialInterfaces = ()

        def __init__(self) -> None:
            self.waiting: list[Deferred[Role]] = []

        async def role(self, identity: object, group: str) -> Role:
            self.waiting.append(Deferred())
            return await self.waiting[-1]

    with tempfile.TemporaryDirectory() as directory:
        keys = KeyRing(Path(directory, "keys"), "HS256", lambda: NOW)
        keys.load()
        tokens = Tokens(keys, "depproxy", 900.0, lambda: NOW)
        slow = Slow()
        accounts = Accounts([slow])  # type: ignore[list-item]  # All of the interface that is asked here.
        on = {"acme": GroupSettings("acme"), "local": GroupSettings("local")}
        gate = Gate(Groups(on, NOBODY), accounts, tokens, now=lambda: NOW)
        identity = Identity("slow", "alice", "c")
        caller = Caller("192.0.2.1", f"Bearer {tokens.issue(identity, ['acme']).token}".encode())
        asked = Deferred.fromCoroutine(gate.admit("acme", caller))
        off = on | {"acme": GroupSettings("acme", enabled=False)}
        gate.replace(Groups(off, NOBODY), accounts)
        slow.waiting[0].callback(Role.GUEST)
        asked.addErrback(lambda failure: failure.trap(OCIError))
        again = Deferred.fromCoroutine(gate.admit("acme", caller))
        slow.waiting[1].callback(Role.GUEST)
        failed: list[Any] = []
        again.addErrback(lambda failure: failed.append(failure.value))
        assert [error.code for error in failed] == [Code.DENIED]
