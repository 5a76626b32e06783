"""What an image consists of."""

from collections.abc import Mapping

from depproxy.index.interface import Home, ICacheIndex
from depproxy.oci.digest import Digest
from depproxy.oci.manifest import MAX_MANIFEST, Descriptor, InvalidManifest, is_manifest, platforms
from depproxy.oci.platform import Platform
from depproxy.oci.reference import Reference
from depproxy.storage.interface import IBlobStore


class Contents:
    """Reads manifests that are in the store; upstream is not asked."""

    def __init__(self, store: IBlobStore, index: ICacheIndex) -> None:
        self._store = store
        self._index = index

    async def root(self, home: Home, reference: Reference) -> Descriptor | None:
        """The manifest, or image index, that `reference` is known to mean; None where nothing is known. Raises
        IndexUnavailable."""
        if isinstance(reference, Digest):
            link = await self._index.get_link(home, reference)
            return None if link is None else Descriptor(link.media_type, reference, link.size)
        record = await self._index.get_tag(home, reference)
        return None if record is None else Descriptor(record.media_type, record.digest, record.size)

    async def below(self, root: Descriptor) -> Mapping[Digest, Descriptor]:
        """`root` and all that it names, directly or not, as far as the manifests are here."""
        found: dict[Digest, Descriptor] = {}
        waiting = [root]
        while waiting:
            descriptor = waiting.pop()
            if descriptor.digest not in found:
                found[descriptor.digest] = descriptor
                waiting += await self.children(descriptor)
        return found

    async def children(self, manifest: Descriptor) -> tuple[Descriptor, ...]:
        """What a manifest names; nothing for what is none, is not here or cannot be read."""
        return tuple(child for child, _ in await self.platforms(manifest))

    async def platforms(self, manifest: Descriptor) -> tuple[tuple[Descriptor, Platform | None], ...]:
        """The same, each with the platform that an image index says it is for."""
        if not is_manifest(manifest.media_type):
            return ()
        size = self._store.contains(manifest.digest)
        if size is None or size > MAX_MANIFEST:
            return ()
        body = await self._store.read(manifest.digest)
        try:
            return () if body is None else platforms(manifest.media_type, body)
        except InvalidManifest:
            return ()
