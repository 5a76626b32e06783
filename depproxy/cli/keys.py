"""``depproxy keys``: the keys that sign the tokens of logged-in clients."""

from __future__ import annotations

from pathlib import Path

import click

from depproxy.access.keys import KeyRing, KeyRingError
from depproxy.cli.command import Command, Refused, config_option, environ, example
from depproxy.config import ConfigError, load


@click.group("keys", epilog=example("sudo -u depproxy depproxy keys rotate"))
def keys() -> None:
    """Look after the keys that sign tokens."""


@keys.command(
    cls=Command,
    epilog=example("sudo -u depproxy depproxy keys rotate --data /var/lib/depproxy"),
)
@config_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="The service's data directory, in place of storage.path.",
)
def rotate(config: Path, data: Path | None) -> None:
    """Make a new signing key.

    Tokens that the old one signed are good for another day, if they do not end before. Run this as the user that
    depproxy runs as. Where the configuration leaves storage.path to systemd, --data names the directory.
    """
    try:
        # The directory alone is enough where there is no file, as after a start without one.
        found = config if data is None or config.exists() else None
        settings = load(found, data=data, environ=environ())
    except ConfigError as error:
        raise Refused(str(error)) from None
    directory = settings.storage.path / "keys"
    ring = KeyRing(directory, settings.access.algorithm)
    try:
        # Elsewhere it would make keys that nothing reads, and say that all is well.
        ring.path.lstat()
        ring.rotate()
    except FileNotFoundError:
        raise Refused(f"{ring.path}: is not there; name the service's data directory by --data") from None
    except OSError as error:
        raise Refused(f"{ring.path}: {error.strerror}; run this as the user that depproxy runs as") from None
    except KeyRingError as error:
        raise Refused(str(error)) from None
    click.echo(f"{ring.path}: {ring.current.kid} signs from now on. Reload: systemctl reload depproxy", err=True)
