"""What the owners of one group have chosen, how it is written, and how groups inherit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from attrs import field, frozen

from depproxy.access.roles import lineage
from depproxy.access.sealing import Sealer, Unsealable
from depproxy.upstream.interface import Credential

T = TypeVar("T")
Choice = bool | int | Credential

ENABLED: Final = "enabled"
CREDENTIAL: Final = "credential"
TTL_ENABLED: Final = "ttl_policy_enabled"
TTL_DAYS: Final = "ttl_days"

# As GitLab has it where an owner turns the policy on and says no more.
DEFAULT_TTL_DAYS: Final = 90
MOST_TTL_DAYS: Final = 36500
# What stands for the configuration where a group could stand.
CONFIGURATION: Final = "configuration"

_SWITCHES: Final = {b"0": False, b"1": True}
_DAY: Final = 24 * 60 * 60.0


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
    ttl_enabled: bool | None = None
    ttl_days: int | None = None


NO_CHOICES: Final = Choices()


@frozen
class TTLPolicy:
    """
    Whether what nobody pulls any more goes from the cache, and after how many days; each with the group that chose it,
    or `CONFIGURATION` (None: nobody has).
    """

    enabled: bool
    enabled_by: str | None
    days: int
    days_by: str | None

    @property
    def seconds(self) -> float | None:
        """The TTL; None: for ever."""
        return self.days * _DAY if self.enabled else None


def encode(group: str, choice: Choice | None, sealer: Sealer) -> bytes | None:
    """A choice as the cache index holds it, None for none. Another group cannot read the secret in it."""
    if isinstance(choice, Credential):
        return sealer.seal(choice.password, _place(group, choice.username)) + b" " + choice.username.encode()
    return None if choice is None else b"%d" % choice


def decode(group: str, values: Mapping[str, bytes], sealer: Sealer) -> Choices:
    """What `encode` wrote; no choice where it cannot have written it."""
    return Choices(
        _SWITCHES.get(values.get(ENABLED, b"")),
        _credential(group, values.get(CREDENTIAL, b""), sealer),
        _SWITCHES.get(values.get(TTL_ENABLED, b"")),
        _days(values.get(TTL_DAYS, b"")),
    )


def nearest(table: Mapping[str, Choices], group: str, of: Callable[[Choices], T | None]) -> tuple[str, T] | None:
    """The group that is nearest to `group`, which is itself or one that it is in, and has chosen; and its choice."""
    for path in lineage(group):
        choices = table.get(path)
        choice = None if choices is None else of(choices)
        if choice is not None:
            return path, choice
    return None


def ttl_policy(table: Mapping[str, Choices], configured: Mapping[str, float], group: str) -> TTLPolicy:
    """
    What is in force for `group`. `configured` is the configuration's TTL (seconds) of each group that has one: it turns
    the policy on for the group and those below, and counts where no owner has chosen, in the group or above it.
    """
    nearest_configured = next((configured[path] for path in lineage(group) if path in configured), None)
    enabled: tuple[str | None, bool] = None, False
    days: tuple[str | None, int] = None, DEFAULT_TTL_DAYS
    if nearest_configured is not None:
        enabled, days = (CONFIGURATION, True), (CONFIGURATION, int(nearest_configured // _DAY))
    enabled = nearest(table, group, lambda choices: choices.ttl_enabled) or enabled
    days = nearest(table, group, lambda choices: choices.ttl_days) or days
    return TTLPolicy(enabled[1], enabled[0], days[1], days[0])


def _credential(group: str, value: bytes, sealer: Sealer) -> OwnCredential | None:
    sealed, space, name = value.partition(b" ")
    if not space:
        return None
    identity = name.decode("utf-8", "replace")
    try:
        return OwnCredential(identity, Credential(identity, sealer.unseal(sealed, _place(group, identity))))
    except Unsealable:
        return OwnCredential(identity, None)


def _days(value: bytes) -> int | None:
    days = int(value) if value.isdigit() and len(value) <= len(str(MOST_TTL_DAYS)) else 0
    return days if 1 <= days <= MOST_TTL_DAYS else None


def _place(group: str, identity: str) -> str:
    # No group has a line end in its path.
    return f"{group}\n{identity}"
