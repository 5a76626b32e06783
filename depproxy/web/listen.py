"""Where we listen."""

import re

# net.core.somaxconn caps it; a thousand jobs may start at once.
BACKLOG = 4096


def with_backlog(description: str) -> str:
    """The endpoint string with our backlog where it can have one and names none: Twisted's 50 is too few."""
    kind = description.partition(":")[0]
    # A colon behind a backslash is part of a value.
    if kind in ("tcp", "ssl", "unix") and ":backlog=" not in re.sub(r"\\.", "", description):
        return f"{description}:backlog={BACKLOG}"
    return description


def described(address: object) -> str:
    """An address for the log: `127.0.0.1:5000`."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
