"""``depproxy restore``."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThreadPool

from depproxy.backup.archive import NotWhole, Reader
from depproxy.backup.restore import CannotRestore, HalfRestored, Restored, Restorer, check
from depproxy.cli.command import Command, Refused, config_option, configured, example, service_environ
from depproxy.cli.meter import Meter
from depproxy.cli.owner import owner_of
from depproxy.cli.unpack import unpack
from depproxy.config import ConfigError, Settings, load
from depproxy.index import codec
from depproxy.index.address import InvalidAddress
from depproxy.index.factory import make_restoring
from depproxy.index.interface import IndexUnavailable
from depproxy.index.rundir import EmbeddedRedisError
from depproxy.plural import counted, plural
from depproxy.storage.files import FileStore, StoreInUse

T = TypeVar("T")
# Why it may end in a way that the operator can mend.
_MENDABLE = (OSError, CannotRestore, HalfRestored, IndexUnavailable, EmbeddedRedisError, InvalidAddress, NotWhole)


@click.command(
    cls=Command,
    epilog=example(
        "depproxy restore /var/backups/depproxy.tar",
        "depproxy restore --user depproxy depproxy.tar",
        more="Stop the service before: systemctl stop depproxy.socket depproxy.service",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace an index that is not empty, and the keys.")
@click.option(
    "--user",
    metavar="NAME",
    help="The user that depproxy runs as.  [default: whom the data directory belongs to]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="The service's data directory, in place of storage.path.",
)
@config_option
@click.pass_context
def restore(context: click.Context, file: Path, force: bool, user: str | None, data: Path | None, config: Path) -> None:
    """Put back what `depproxy backup` wrote to FILE, with the service stopped.

    All of FILE is read and checked before anything is changed. The cache index and the keys are replaced; blobs in FILE
    are written, each checked against its digest. Where there is no configuration file, that of FILE is put there, with
    the files beside it; what is there stays. What was interrupted is not taken for a whole: run this again.
    """
    with _opened(file) as stream:
        with Meter("checking", os.fstat(stream.fileno()).st_size) as meter:
            check(Reader(stream), codec.SCHEMA, codec.PREFIX.encode(), meter.add)
        stream.seek(0)
        environ = service_environ(config)
        owner = unpack(Reader(stream), config, lambda found: owner_of(user, data or found), environ)
        settings = _settings(context, config, data, environ)
        owner = owner or owner_of(user, settings.storage.path)
        owner.become(settings.storage.path)
        stream.seek(0)
        with Meter("restoring", os.fstat(stream.fileno()).st_size) as meter:
            work = partial(_restore, settings=settings, stream=stream, told=meter.add, force=force)
            done = _run(work)
    _say(file, done)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The archive, and what may be wrong with it. Raises Refused."""
    try:
        with file.open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise Refused(f"{file}: is no regular file; it is read several times, so store it first")
            yield stream
    except NotWhole as wrong:
        raise Refused(f"{file}: {wrong}") from None
    except _MENDABLE as error:
        raise Refused(str(error)) from None


def _settings(context: click.Context, config: Path, data: Path | None, environ: dict[str, str]) -> Settings:
    try:
        return load(configured(context, config), data=data, environ=environ)
    except ConfigError as error:
        raise Refused(str(error)) from None


async def _restore(
    reactor: Any, *, settings: Settings, stream: IO[bytes], told: Callable[[int], object], force: bool
) -> Restored:
    data = settings.storage.path
    store = FileStore(data, partial(deferToThreadPool, reactor, reactor.getThreadPool()))
    try:
        store.prepare()
    except StoreInUse:
        stop = "systemctl stop depproxy.socket depproxy.service"
        raise CannotRestore(f"{data} is in use: stop depproxy first ({stop})") from None
    try:
        index = make_restoring(reactor, settings.index, data, now=time.time, environ=os.environ)
        await index.start()
        try:
            return await Restorer(store, index, data / "keys").restore(Reader(stream), told, force=force)
        finally:
            await index.stop()
    finally:
        store.close()


def _run(work: Callable[[Any], Awaitable[T]]) -> T:
    """Do this on a reactor. Raises what it raises, and Refused where a signal has ended it."""
    outcome: list[T] = []
    errors: list[Exception] = []

    async def noted(reactor: Any) -> None:
        try:
            outcome.append(await work(reactor))
        except Exception as error:
            errors.append(error)

    # How it always ends.
    with suppress(SystemExit):
        react(lambda reactor: Deferred.fromCoroutine(noted(reactor)))
    for error in errors:
        raise error
    if not outcome:
        raise Refused("the restore was interrupted: run it again; depproxy does not start before")
    return outcome[0]


def _say(file: Path, done: Restored) -> None:
    blobs = f", {done.blobs:,} {plural(done.blobs, 'blob')}" if done.blobs else ""
    click.echo(f"{file}: restored {counted(done.keys, 'file')} of keys, {done.items:,} items of the index{blobs}")
    if done.damaged:
        click.echo(
            f"{counted(done.damaged, 'blob was', 'blobs were')} damaged already at the backup:"
            " left out, and fetched again",
            err=True,
        )
    click.echo("start the service: systemctl start depproxy.socket depproxy.service", err=True)
