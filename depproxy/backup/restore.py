"""From an archive back to a store, an index and keys."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import define

from depproxy.backup.archive import BLOBS, INDEX, KEYS, Member, NotWhole, Reader, blob_digest
from depproxy.backup.records import records
from depproxy.index.interface import IIndexRestore, IndexUnavailable
from depproxy.oci.digest import Digest
from depproxy.storage.interface import IBlobStore, IGrowingFile


class CannotRestore(Exception):
    """Nothing was changed. The text says why, and what to do."""


class HalfRestored(Exception):
    """What is there is not whole, and no service takes it for that. The text says why, and what to do."""


@define
class Restored:
    """What a restore has done: items of the index, keys, blobs that were written or were there, and those whose bytes
    did not have their digest, which were left out."""

    items: int = 0
    keys: int = 0
    blobs: int = 0
    damaged: int = 0


def check(archive: Reader, schema: int, prefix: bytes, told: Callable[[int], object]) -> None:
    """Read all of an archive, and change nothing; `told` gets the numbers of bytes that were read.

    Raises NotWhole, also for records of keys that do not begin with `prefix`; CannotRestore for an index of another
    `schema`.
    """
    found = archive.heading
    if found.schema != schema:
        raise CannotRestore(
            f"its index has schema {found.schema}, and this version of depproxy knows {schema}: restore it by depproxy"
            f" {found.version}, and upgrade then"
        )
    for member in archive:
        if member.name.startswith(INDEX):
            _check_records(member, prefix)
            told(member.size)
        else:
            for chunk in member.chunks:
                told(len(chunk))


def _check_records(member: Member, prefix: bytes) -> None:
    # What cannot be a record may be damage, which the sum will tell of: that comes last.
    data = member.read()
    try:
        if any(not record.key.startswith(prefix) for record in records(data)):
            raise ValueError("a key of somebody else's")
    except ValueError as wrong:
        raise NotWhole(f"is damaged, or no backup of depproxy: {member.name} has {wrong}") from None


class Restorer:
    """Puts archives back. Nobody else uses store, index and keys meanwhile.

    An index that was not restored to its end is not taken for a whole one, and the next restore begins anew: blobs that
    are there already are not written again.
    """

    def __init__(self, store: IBlobStore, index: IIndexRestore, keys: Path) -> None:
        self._store = store
        self._index = index
        self._keys = keys

    async def restore(self, archive: Reader, told: Callable[[int], object], *, force: bool) -> Restored:
        """Put everything in place of what is there; `told` gets the numbers of bytes that were done.

        The archive has been checked. Raises CannotRestore for an index that is not empty, unless it may be replaced by
        `force`, HalfRestored where it could not go on, IndexUnavailable where it could not begin.
        """
        # Asked in any case: where there is no answer, nothing was begun.
        if not await self._index.vacant() and not force:
            raise CannotRestore("the cache index is not empty: give --force to replace it, and the keys with it")
        try:
            await self._index.begin()
            done = Restored()
            for member in archive:
                await self._take(member, told, done)
            await self._index.end()
        except (OSError, IndexUnavailable) as error:
            raise HalfRestored(f"{error}: mend that, and restore again; depproxy does not start before") from error
        return done

    async def _take(self, member: Member, told: Callable[[int], object], done: Restored) -> None:
        if member.name.startswith(BLOBS):
            await self._blob(member, told, done)
            return
        if member.name.startswith(KEYS):
            self._write_key(member)
            done.keys += 1
        elif member.name.startswith(INDEX):
            for record in records(member.read()):
                await self._index.put(record)
                done.items += len(record.items)
        told(member.size)

    def _write_key(self, member: Member) -> None:
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keys.chmod(0o700)
        replace(self._keys / member.name.removeprefix(KEYS), member.read())

    async def _blob(self, member: Member, told: Callable[[int], object], done: Restored) -> None:
        digest = blob_digest(member.name)
        if self._store.contains(digest) == member.size:
            told(member.size)
            done.blobs += 1
            return
        file = await self._grow(digest)
        try:
            for chunk in member.chunks:
                file.append(chunk)
                await file.idle()
                if file.error is not None:
                    raise file.error
                told(len(chunk))
            if file.matches():
                await file.commit()
                done.blobs += 1
            else:
                await file.discard()
                done.damaged += 1
        finally:
            file.release()

    async def _grow(self, digest: Digest) -> IGrowingFile:
        """A growing file that is empty, whatever a download or another restore has left."""
        file = await self._store.grow(digest)
        if not file.written:
            return file
        try:
            await file.discard()
        finally:
            file.release()
        return await self._store.grow(digest)


def replace(path: Path, data: bytes, mode: int = 0o600, *, group: int | None = None) -> None:
    """Write a file as a whole, in place of what is there, and durably; of this group, if one is named. Raises
    OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            if group is not None:
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
