"""Last uses that wait to be written: `touch` costs a dict entry, and Redis hears of many at once."""

from collections.abc import Mapping
from itertools import islice

from depproxy.index.interface import Home
from depproxy.oci.digest import Digest

Use = tuple[Home, Digest]


class LastUse:
    """At most `limit` blobs by home, each with the Unix time of its latest use in whole seconds.

    Above the limit the one that was told the longest ago is dropped: it only looks colder than it is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: dict[Use, int] = {}
        # How many homes each digest waits for.
        self._waiting: dict[Digest, int] = {}

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, digest: object) -> bool:
        return digest in self._waiting

    def touch(self, home: Home, digest: Digest, when: int) -> None:
        # Taken out first, so that the order of the dict is the order of telling.
        self._pop((home, digest))
        self._put((home, digest), when)
        if len(self._times) > self._limit:
            self._pop(next(iter(self._times)))

    def take(self, count: int) -> dict[Use, int]:
        """Up to `count` of them, the ones told the longest ago first; they are gone from here."""
        return {use: self._pop(use) or 0 for use in list(islice(self._times, count))}

    def put_back(self, batch: Mapping[Use, int]) -> None:
        """Undo a `take`, as far as there is room and nothing newer was told since."""
        for use, when in batch.items():
            if len(self._times) < self._limit and use not in self._times:
                self._put(use, when)

    def _put(self, use: Use, when: int) -> None:
        self._times[use] = when
        self._waiting[use[1]] = self._waiting.get(use[1], 0) + 1

    def _pop(self, use: Use) -> int | None:
        when = self._times.pop(use, None)
        if when is not None:
            left = self._waiting.pop(use[1]) - 1
            if left:
                self._waiting[use[1]] = left
        return when
