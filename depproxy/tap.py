"""`twistd depproxy`: its options, and the service that they make."""

import gc
import os
import sys
from pathlib import Path

from twisted.application.service import IService
from twisted.python import usage

from depproxy import __version__
from depproxy.config import ConfigError, Settings, load, upstream_option
from depproxy.index.address import InvalidAddress


class Options(usage.Options):
    """The command line. Everything else is in the configuration file."""

    synopsis = "[options]"
    longdesc = (
        "A pull-through cache for container images. With no options at all it mirrors Docker Hub for clients on this"
        " machine: docker pull 127.0.0.1:5000/library/alpine"
    )
    optParameters = [
        ["config", "c", None, "Configuration file (TOML); `depproxy check-config FILE` checks one."],
        ["data", "d", None, "Directory for cache and index, in place of storage.path."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["upstreams"] = {}

    def opt_listen(self, endpoint: str) -> None:
        """Twisted endpoint string to listen on, in place of server.listen; may be given several times."""
        self["listen"].append(endpoint)

    def opt_upstream(self, value: str) -> None:
        """NAME=URL: an upstream registry, on top of the configured ones; may be given several times."""
        try:
            name, url = upstream_option(value)
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        self["upstreams"][name] = url

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"depproxy {__version__}")
        sys.exit(0)

    def settings(self) -> Settings:
        """The configuration with the command line on top. Raises ConfigError."""
        return load(
            Path(self["config"]) if self["config"] else None,
            listen=self["listen"],
            data=Path(self["data"]) if self["data"] else None,
            upstreams=self["upstreams"],
            environ=os.environ,
        )


def settle() -> None:
    """
    Tell Python that what there is now will stay. Otherwise it goes through all modules again and again, looking for
    garbage, while every request waits.
    """
    gc.collect()
    gc.freeze()


def makeService(options: Options) -> IService:
    """The service for these options; a wrong configuration ends twistd with one line."""
    # twistd may install another reactor before it comes here; both imports would settle for the default one.
    from twisted.internet import reactor  # noqa: PLC0415

    from depproxy.service import Depproxy  # noqa: PLC0415

    def fatal(message: str) -> None:
        """End the process with an error that its supervisor sees; a Twisted reactor ends with success."""
        # twistd has turned sys.stderr into a part of the log by now.
        print(message, file=sys.__stderr__, flush=True)
        reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        # The start may fail before the reactor runs, when there is nothing to stop yet.
        reactor.callWhenRunning(reactor.stop)

    try:
        return Depproxy(options.settings(), options.settings, reactor, os.environ, fatal, settle)
    except (ConfigError, InvalidAddress) as error:
        sys.exit(f"depproxy: {error}")
