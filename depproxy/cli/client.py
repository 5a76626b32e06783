"""Asks the running service, over its admin socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click
from attrs import frozen

from depproxy import __version__
from depproxy.cli.command import Refused, config_option, configured, service_environ
from depproxy.config import ConfigError, find_admin_socket
from depproxy.config.errors import one_line

# Seconds until an answer begins, and between its parts: an operation that takes longer sends empty lines meanwhile.
PATIENCE: Final = 60.0
_LARGEST_ANSWER: Final = 64 << 20
_LONGEST_LINE: Final = 4 << 20
_OURS: Final = "depproxy/"

Answer = dict[str, Any]


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


@frozen
class Service:
    """The running service behind an admin socket. Raises Refused for what it does not do, with what to do about it."""

    socket: Path
    patience: float = PATIENCE

    def get(self, command: str, **arguments: str | None) -> Answer:
        """What the service knows. Arguments that are None are left out."""
        query = urlencode({name: value for name, value in arguments.items() if value is not None})
        with self._asked("GET", f"/v1/{command}{'?' if query else ''}{query}", None) as response:
            return self._understood(self._read(response))

    def post(self, command: str, **arguments: object) -> Answer:
        """What the service says when it has done something. Arguments that are None are left out."""
        with self._asked("POST", f"/v1/{command}", arguments) as response:
            return self._understood(self._read(response))

    def follow(self, command: str, **arguments: object) -> Iterator[Answer]:
        """What the service tells while it does something that takes longer; the last one has ``"done": true``.

        Who closes the iterator cancels the operation.
        """
        with self._asked("POST", f"/v1/{command}", arguments) as response:
            done = False
            while not done:
                line = response.readline(_LONGEST_LINE)
                if not line.endswith(b"\n"):
                    raise self._refused(_TOO_EARLY)
                if line.strip():
                    told = self._understood(line)
                    done = told.get("done") is True
                    yield told

    @contextmanager
    def _asked(self, method: str, target: str, arguments: dict[str, object] | None) -> Iterator[HTTPResponse]:
        body = None
        if arguments is not None:
            body = json.dumps({name: value for name, value in arguments.items() if value is not None}).encode()
        with closing(_UnixConnection(self.socket, self.patience)) as connection:
            try:
                connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
                response = connection.getresponse()
                self._check(response)
                yield response
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                raise self._refused(_NOT_RUNNING) from None
            except PermissionError:
                raise self._refused(_NOT_PERMITTED) from None
            except TimeoutError:
                raise self._refused(f"no answer within {self.patience:g} s; the service's log may say why") from None
            except (HTTPException, ConnectionError):
                raise self._refused(_TOO_EARLY) from None
            except OSError as error:
                raise self._refused(f"cannot be used ({error.strerror or error}); --socket names another") from None

    def _check(self, response: HTTPResponse) -> None:
        """Raise Refused for an answer that is an error, or none of a depproxy's."""
        server = response.getheader("Server", "")
        if not server.startswith(_OURS):
            raise self._refused(_NOT_OURS)
        if response.status == 200:
            return
        # Raises for what is told as an error.
        self._understood(self._read(response), server.removeprefix(_OURS))
        raise self._refused(_NOT_UNDERSTOOD)

    def _read(self, response: HTTPResponse) -> bytes:
        text = response.read(_LARGEST_ANSWER)
        if response.length:
            raise self._refused(_TOO_EARLY if len(text) < _LARGEST_ANSWER else _NOT_UNDERSTOOD)
        return text

    def _understood(self, text: bytes, version: str = __version__) -> Answer:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._refused(_NOT_UNDERSTOOD)
        if "error" in found:
            hint = "" if version == __version__ else f"; it is depproxy {version}, this is {__version__}: {_RESTART}"
            raise Refused(one_line(str(found["error"])) + hint)
        return found

    def _refused(self, why: str) -> Refused:
        return Refused(f"{self.socket}: {why}")


_NOT_RUNNING: Final = (
    "no depproxy is running there; start it (systemctl start depproxy), or name its admin socket by --socket"
)
_NOT_PERMITTED: Final = "permission denied; run this as root, or as the user that depproxy runs as"
_TOO_EARLY: Final = "the service ended its answer too early; it may be stopping, and its log says more"
_NOT_OURS: Final = "what answers there is no depproxy; name its admin socket by --socket"
_NOT_UNDERSTOOD: Final = f"the answer is not one that depproxy {__version__} understands; use the service's own version"
_RESTART: Final = "restart the service after an upgrade"


def _at(context: click.Context, config: Path, path: Path | None) -> Path:
    """Where the admin socket is. Raises Refused."""
    if path is not None:
        return path
    found = configured(context, config)
    try:
        return find_admin_socket(found, service_environ(found))
    except ConfigError as error:
        raise Refused(str(error)) from None


def service_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that find the service: the command gets it as its argument ``service``."""

    @config_option
    @click.option(
        "--socket",
        "path",
        type=click.Path(path_type=Path, readable=False),
        envvar="DEPPROXY_SOCKET",
        show_envvar=True,
        metavar="PATH",
        help="The service's admin socket, in place of the one in the configuration.",
    )
    @click.pass_context
    @wraps(command)
    def found(context: click.Context, /, config: Path, path: Path | None, **arguments: Any) -> None:
        command(service=Service(_at(context, config, path)), **arguments)

    return found
