"""Become redis-server. Run by its path, as ``python -I -S launch.py PARENT COMMAND...``, with nothing else
imported.

Between fork and exec it does what a child of this reactor cannot be told to do: it leaves the terminal's
session, where Ctrl-C would stop Redis under a depproxy that still needs it; it asks for SIGTERM when depproxy
(process PARENT) dies; and it lets nobody else read the files that it makes.
"""

import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # prctl(2)


def ask_for_signal(number: int) -> None:
    """Have the kernel send this process `number` when its parent ends."""
    import ctypes  # noqa: PLC0415 - it may be missing

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    os.setsid()
    os.umask(0o077)
    # Where that cannot be had (a Python without ctypes), the next start finds what this one left.
    with suppress(ImportError, OSError, AttributeError):
        ask_for_signal(signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("depproxy ended before its redis-server began")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
