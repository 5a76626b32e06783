"""Last uses that wait to be written: `touch` costs a dict entry, and Redis hears of many at once."""

from collections.abc import Mapping

from depproxy.oci.digest import Digest


class LastUse:
    """At most `limit` digests, each with the Unix time of its latest use in whole seconds.

    Above the limit the one that was told the longest ago is dropped: it only looks colder than it is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: dict[Digest, int] = {}

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, digest: object) -> bool:
        return digest in self._times

    def touch(self, digest: Digest, when: int) -> None:
        # Taken out first, so that the order of the dict is the order of telling.
        self._times.pop(digest, None)
        self._times[digest] = when
        if len(self._times) > self._limit:
            del self._times[next(iter(self._times))]

    def take(self, count: int) -> dict[Digest, int]:
        """Up to `count` of them, the ones told the longest ago first; they are gone from here."""
        digests = [digest for digest, _ in zip(self._times, range(count), strict=False)]
        return {digest: self._times.pop(digest) for digest in digests}

    def put_back(self, batch: Mapping[Digest, int]) -> None:
        """Undo a `take`, as far as there is room and nothing newer was told since."""
        for digest, when in batch.items():
            if len(self._times) < self._limit:
                self._times.setdefault(digest, when)
