"""``depproxy backup``."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Final, TypeVar, cast

import click
from attrs import define
from twisted.internet.defer import Deferred, maybeDeferred

from depproxy.backup import archive
from depproxy.backup.archive import Heading, Writer, blob_name
from depproxy.backup.configuration import beside, named_files
from depproxy.backup.records import line, record
from depproxy.cli.client import Answer, Service, service_options
from depproxy.cli.command import Command, Refused, configured, example, service_environ
from depproxy.cli.meter import Meter
from depproxy.cli.output import size
from depproxy.config import ConfigError, load
from depproxy.plural import counted, plural
from depproxy.storage.files import FileStore
from depproxy.storage.interface import SHARDS, OpenBlob, StoredFile

T = TypeVar("T")
# Lines of the index go into members of about this size.
_PART: Final = 4 << 20
_KEYS: Final = ("signing-keys.json", "settings-key")


@define
class _Left:
    """What is not in the archive."""

    files: list[Path]
    blobs: int = 0


@click.command(
    cls=Command,
    epilog=example(
        "depproxy backup /var/backups/depproxy.tar",
        "depproxy backup --with-blobs - | ssh backups 'umask 077; cat > depproxy.tar'",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--with-blobs", is_flag=True, help="The stored blobs, too: as large as the cache.")
@service_options
def backup(service: Service, file: Path, with_blobs: bool) -> None:
    """Write what cannot be fetched again to the tar archive FILE, while the service runs; - is standard output.

    In it are the configuration, with accounts and those files beside it that it names, the keys, and the cache index
    with what owners of groups have set. These are secrets: FILE gets the mode 0600, and nobody else should ever be able
    to read it. FILE is whole, or it is not there.
    """
    context = click.get_current_context()
    config = configured(context, context.params["config"])
    files, left = _configuration(config)
    with closing(cast(Generator[Answer], service.follow("backup"))) as told, _opened(file) as write:
        first = next(told)
        data = Path(first["data"])
        writer = Writer(write, Heading(first["version"], first["schema"], int(time.time())))
        for name, path in (*files, *((f"{archive.KEYS}{key}", data / "keys" / key) for key in _KEYS)):
            _add(writer, name, path)
        _add_index(writer, told)
        if with_blobs:
            with Meter("blobs", first["bytes"]) as meter:
                left.blobs = _add_blobs(writer, data, meter.add)
        counts = writer.close()
    _say(file, counts, left)


def _configuration(config: Path | None) -> tuple[list[tuple[str, Path]], _Left]:
    """The configuration file and what it names, by their names in the archive. Raises Refused."""
    if config is None:
        return [], _Left([])
    try:
        settings = load(config, environ=service_environ(config))
    except ConfigError as error:
        raise Refused(str(error)) from None
    found, left = [(archive.CONFIGURATION, config)], _Left([])
    for path in named_files(settings):
        below = beside(config, path)
        if below is None:
            left.files.append(path)
        else:
            found.append((archive.BESIDE + below, path))
    return found, left


def _add(writer: Writer, name: str, path: Path) -> None:
    """A file as it is now; one that is not there is left out. Raises Refused."""
    try:
        with path.open("rb") as stream:
            content = stream.read(archive.LARGEST_FILE + 1)
        writer.add(name, content)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror}); run this as root") from None
    except ValueError as wrong:
        raise Refused(f"{path}: cannot be backed up: {wrong}") from None


def _add_index(writer: Writer, told: Iterator[Answer]) -> None:
    part, number = bytearray(), 0
    for answer in told:
        if answer.get("done") is not True:
            try:
                part += line(record(answer))
            except ValueError as wrong:
                raise Refused(f"the service told {wrong}; use its own version of this command") from None
        if part and (len(part) >= _PART or answer.get("done") is True):
            writer.add(f"{archive.INDEX}{number:08}.jsonl", bytes(part))
            part.clear()
            number += 1


def _add_blobs(writer: Writer, data: Path, told: Callable[[int], object]) -> int:
    """All that is stored; how many went meanwhile. Raises Refused."""
    store = FileStore(data, _at_once)
    gone = 0
    for number in range(SHARDS):
        stored: list[StoredFile] = []
        store.shard(number).addCallback(stored.extend)
        for found in stored:
            blob = store.open(found.digest)
            if blob is None:
                gone += 1
                continue
            try:
                writer.stream(blob_name(found.digest), blob.size, _chunks(blob, told))
            except ValueError as wrong:
                raise Refused(f"{wrong}: the disk, or somebody, has changed it; look by depproxy fsck") from None
            finally:
                blob.close()
    return gone


def _chunks(blob: OpenBlob, told: Callable[[int], object]) -> Iterator[bytes]:
    at = 0
    while chunk := os.pread(blob.fd, archive.CHUNK, at):
        yield chunk
        at += len(chunk)
        told(len(chunk))


def _at_once(function: Callable[..., T], *args: object) -> Deferred[T]:
    """Nobody else waits in a command."""
    return maybeDeferred(function, *args)


@contextmanager
def _opened(file: Path) -> Iterator[Callable[[bytes], object]]:
    """Where the archive goes, which is only there once all of it is. Raises Refused."""
    try:
        if os.fspath(file) == "-":
            if sys.stdout.isatty():
                raise Refused("standard output is a terminal; name a file, or send it on")
            yield sys.stdout.buffer.write
            sys.stdout.buffer.flush()
            return
        target = Path(os.path.realpath(file))
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise Refused(f"{file}: is no regular file; write to standard output by - for anything else")
        with _beside(target) as stream:
            yield stream.write
    except OSError as error:
        raise Refused(f"{file}: the backup cannot be written ({error.strerror})") from None


@contextmanager
def _beside(target: Path) -> Iterator[IO[bytes]]:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _say(file: Path, counts: archive.Counts, left: _Left) -> None:
    blobs = counts.members[archive.BLOBS]
    more = f", and {blobs:,} {plural(blobs, 'blob')} of {size(counts.size[archive.BLOBS])}" if blobs else ""
    configuration = "configuration, " if counts.members[archive.CONFIGURATION] else ""
    where = "standard output" if os.fspath(file) == "-" else os.fspath(file)
    click.echo(f"{where}: {configuration}keys and index ({size(counts.size[archive.INDEX])}){more}", err=True)
    for path in left.files:
        click.echo(f"{path} is not in it: it is not beside the configuration file", err=True)
    if left.blobs:
        click.echo(f"{counted(left.blobs, 'blob')} went meanwhile", err=True)
