"""What the owners of one group have chosen, how it is written, and how groups inherit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from attrs import field, frozen

from depproxy.access.roles import lineage
from depproxy.access.sealing import Sealer, Unsealable
from depproxy.upstream.interface import Credential

T = TypeVar("T")

ENABLED: Final = "enabled"
CREDENTIAL: Final = "credential"


@frozen
class OwnCredential:
    """A user name at Docker Hub with its secret; `credential` is None where the secret cannot be read any more."""

    identity: str
    credential: Credential | None = field(repr=False)


@frozen
class Choices:
    """The choices of one group. None: it has made none, so that of the group above counts."""

    enabled: bool | None = None
    credential: OwnCredential | None = None


NO_CHOICES: Final = Choices()


def encode(group: str, key: str, choice: bool | Credential | None, sealer: Sealer) -> bytes | None:
    """A choice as the cache index holds it, None for none. Another group cannot read the secret in it."""
    if isinstance(choice, Credential):
        return sealer.seal(choice.password, _place(group, choice.username)) + b" " + choice.username.encode()
    return None if choice is None else b"%d" % choice


def decode(group: str, values: Mapping[str, bytes], sealer: Sealer) -> Choices:
    """What `encode` wrote; no choice where it cannot have written it."""
    enabled = {b"0": False, b"1": True}.get(values.get(ENABLED, b""))
    sealed, space, name = values.get(CREDENTIAL, b"").partition(b" ")
    identity = name.decode("utf-8", "replace")
    if not space:
        return Choices(enabled)
    try:
        secret = sealer.unseal(sealed, _place(group, identity))
    except Unsealable:
        return Choices(enabled, OwnCredential(identity, None))
    return Choices(enabled, OwnCredential(identity, Credential(identity, secret)))


def nearest(table: Mapping[str, Choices], group: str, of: Callable[[Choices], T | None]) -> tuple[str, T] | None:
    """The group that is nearest to `group`, which is itself or one that it is in, and has chosen; and its choice."""
    for path in lineage(group):
        choices = table.get(path)
        choice = None if choices is None else of(choices)
        if choice is not None:
            return path, choice
    return None


def _place(group: str, identity: str) -> str:
    # No group has a line end in its path.
    return f"{group}\n{identity}"
