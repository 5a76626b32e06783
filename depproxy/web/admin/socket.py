"""The admin socket. Whoever can open it may do everything, so only root and the service's own user can."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

MODE = 0o600
BACKLOG = 64


class AdminSocketError(Exception):
    """The admin socket cannot be made; the text says why, and what to do."""


def listen(reactor: Any, path: Path, factory: IProtocolFactory) -> IListeningPort:
    """
    Listen on a Unix socket of mode 0600. The file of a dead process is replaced, and ours goes when the port is closed.

    Raises AdminSocketError.
    """
    try:
        _remove_stale(path)
        # Between bind and chmod nobody else may connect either.
        before = os.umask(0o777 & ~MODE)
        try:
            port: IListeningPort = reactor.listenUNIX(os.fspath(path), factory, backlog=BACKLOG, mode=MODE)
        finally:
            os.umask(before)
    except OSError as error:
        raise _cannot(path, error.strerror or str(error)) from None
    except CannotListenError as error:
        # Twisted has started it by then, and leaves it so.
        factory.doStop()
        raise _cannot(path, str(error.socketError)) from None
    return port


def _cannot(path: Path, why: str) -> AdminSocketError:
    return AdminSocketError(f"{path}: the admin socket cannot be made ({why}); server.admin_socket names another path")


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AdminSocketError(f"{path}: is there and is no socket; remove it, or set server.admin_socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            # Its queue is full: somebody listens.
            pass
    raise AdminSocketError(f"{path}: is in use by another process; stop it, or set server.admin_socket")
