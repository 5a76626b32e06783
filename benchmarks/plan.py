"""How large and how long: the sizes, counts and limits of one run."""

from attrs import frozen

MIB = 1024 * 1024


class BenchError(Exception):
    """The run cannot go on; the text says what to do about it."""


@frozen
class Plan:
    """Sizes in bytes, rates in bytes per second for each upstream connection, times in seconds."""

    name: str
    rounds: int
    seconds: int
    clients: int
    blob: int
    layers: tuple[int, ...]
    crowd: int
    large: int
    rate: int
    crowd_rate: int
    crowd_pace: int
    cold_limit: float
    crowd_limit: float
    connections: int = 32
    threads: int = 2
    small_blobs: int = 8
    slow_every: int = 10
    # Blobs in the index; how often, and for how long, requests are watched beside each work on them.
    scale: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    scale_watches: int = 6
    scale_seconds: int = 2


FULL = Plan(
    name="full",
    rounds=3,
    seconds=10,
    clients=100,
    blob=50 * MIB,
    layers=(30 * MIB, 16 * MIB, 8 * MIB, 4 * MIB, 2 * MIB, MIB, 32 * 1024),
    crowd=500,
    large=500 * MIB,
    # Slow enough that a hundred followers of one fill stay below what two cores can carry.
    rate=10_000_000,
    crowd_rate=25_000_000,
    crowd_pace=2 * MIB,
    cold_limit=120,
    crowd_limit=75,
)
QUICK = Plan(
    name="quick",
    rounds=1,
    seconds=2,
    clients=50,
    blob=10 * MIB,
    layers=(6 * MIB, 4 * MIB, 2 * MIB, MIB, 32 * 1024),
    crowd=200,
    large=50 * MIB,
    rate=10_000_000,
    crowd_rate=25_000_000,
    crowd_pace=2 * MIB,
    cold_limit=15,
    crowd_limit=8,
    scale=(1_000, 10_000),
    scale_watches=1,
)
