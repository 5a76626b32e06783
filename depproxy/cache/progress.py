"""What a warming is asked for, and what it tells of its progress."""

from collections.abc import Callable

from attrs import frozen

from depproxy.oci.digest import Digest
from depproxy.oci.platform import Platform


@frozen
class Order:
    """What to bring in: `images` as users write them, for a `group`; without `platforms`, all that there are."""

    images: tuple[str, ...]
    group: str
    platforms: frozenset[Platform] | None


@frozen
class Resolving:
    """The image's turn has come: upstream is asked what it is."""

    image: str


@frozen
class Resolved:
    """
    The image is known: its digest, the platforms that are brought in (none where it is no image index), the number of
    its layers, configs included, and the sum of their sizes in bytes.
    """

    image: str
    digest: Digest
    platforms: tuple[str, ...]
    layers: int
    size: int


@frozen
class Layer:
    """
    So many bytes of a layer are `here`, of `size`; with all of them it is in the cache. `cached`: it was there before,
    and upstream is not asked for it.
    """

    image: str
    digest: Digest
    size: int
    here: int
    cached: bool


@frozen
class Done:
    """The image is in the cache. `fetched` are the bytes of layers that came from upstream for it."""

    image: str
    digest: Digest
    size: int
    fetched: int


@frozen
class Failed:
    """The image is not in the cache, or not all of it; bytes that came for it stay."""

    image: str
    reason: str
    fetched: int = 0


Ended = Done | Failed
Progress = Resolving | Resolved | Layer | Ended
Observer = Callable[[Progress], None]
"""Told of each step in the moment in which it is taken. It must not fail."""
