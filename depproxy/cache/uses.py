"""Which blobs are in use."""

from twisted.internet.defer import DeferredLock

from depproxy.oci.digest import Digest


class Uses:
    """
    What is open for reading, being filled or being written now: that stays, however cold it is.

    `removing` is held by who compares files with entries, or takes one of them away: eviction between two looks of
    the sweep would make it adopt a file that is about to go.
    """

    def __init__(self) -> None:
        self.removing = DeferredLock()
        self._counts: dict[Digest, int] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._counts

    def hold(self, digest: Digest) -> None:
        """One more use, until the matching release()."""
        self._counts[digest] = self._counts.get(digest, 0) + 1

    def release(self, digest: Digest) -> None:
        """Undo one hold()."""
        left = self._counts.pop(digest) - 1
        if left:
            self._counts[digest] = left
