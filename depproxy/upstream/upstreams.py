"""All upstreams, each with the credential in use for a group: `Upstreams`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import frozen
from zope.interface import implementer

from depproxy.oci.digest import Digest
from depproxy.oci.reference import Name, Reference
from depproxy.upstream.client import RegistryClient
from depproxy.upstream.errors import Refused, Throttled
from depproxy.upstream.interface import (
    Credential,
    Document,
    IBlobStream,
    IGroupCredentials,
    IUpstream,
    IUpstreams,
    IUpstreamStates,
    Manifest,
    ManifestHead,
    RateLimit,
    UpstreamState,
)

# Each costs some hundred bytes; whoever is forgotten only is asked for once more what is remembered for him.
MAX_ACTING = 1000


@implementer(IUpstreams, IUpstreamStates)
class Upstreams:
    """The clients of all upstreams by their names, and those that act with a credential of a group. To be closed."""

    def __init__(self, clients: Mapping[str, RegistryClient], own: IGroupCredentials) -> None:
        self._clients = clients
        self._own = own
        self._acting: dict[tuple[str, Credential], RegistryClient] = {}

    def of(self, upstream: str, group: str) -> IUpstream:
        """See `IUpstreams`."""
        try:
            credential = self._own.find(upstream, group)
        except Refused as error:
            return Barred(upstream, error.message)
        if credential is None:
            return self._clients[upstream]
        acting = self._acting.get((upstream, credential))
        if acting is None:
            if len(self._acting) >= MAX_ACTING:
                self._drop(next(iter(self._acting)))
            acting = self._acting[upstream, credential] = self._clients[upstream].acting_as(credential)
        return acting

    def retain(self, credentials: Collection[Credential]) -> None:
        """These are all the credentials that groups have now. Of others nothing is kept; whoever asks with one at the
        moment goes on."""
        for key in [key for key in self._acting if key[1] not in credentials]:
            self._drop(key)

    def states(self) -> list[UpstreamState]:
        """See `IUpstreamStates`."""
        return [client.state for client in self._clients.values()]

    async def ask_rate_limit(self, upstream: str, repository: Name, reference: Reference) -> Mapping[str, RateLimit]:
        """See `IUpstreamStates`."""
        client = self._clients[upstream]
        try:
            said = await client.head_rate_limit(repository, reference)
        except Throttled:
            # What it said with that was noted.
            return client.rate_limits
        return {} if said is None else dict((said,))

    async def close(self) -> None:
        """Close every client."""
        for client in self._clients.values():
            await client.close()

    def _drop(self, key: tuple[str, Credential]) -> None:
        del self._acting[key]
        upstream, credential = key
        self._clients[upstream].forget(credential)


@implementer(IUpstream)
@frozen
class Barred:
    """An upstream that is not asked, because the credential to ask with is not usable. Everything raises `Refused`."""

    name: str
    message: str

    async def head_manifest(self, repository: Name, reference: Reference) -> ManifestHead:
        raise self._refusal()

    async def get_manifest(self, repository: Name, reference: Reference) -> Manifest:
        raise self._refusal()

    async def head_blob(self, repository: Name, digest: Digest) -> int | None:
        raise self._refusal()

    async def open_blob(self, repository: Name, digest: Digest, offset: int = 0, *, retry: bool = True) -> IBlobStream:
        raise self._refusal()

    async def get_document(self, repository: Name, path: str, query: str) -> Document:
        raise self._refusal()

    def _refusal(self) -> Refused:
        return Refused(self.name, self.message)
