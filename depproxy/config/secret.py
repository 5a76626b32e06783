"""Password files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from depproxy.config.errors import ConfigError, Wrong
from depproxy.config.values import read_regular

_LARGEST_SECRET: Final = 64 << 10


def read_secret(path: Path) -> str:
    """What a password file holds: UTF-8, at most 64 KiB, without its last line end. Raises ConfigError."""
    try:
        secret = read_regular(path, _LARGEST_SECRET).decode()
        secret = secret.removesuffix("\r\n" if secret.endswith("\r\n") else "\n")
        if not secret:
            raise Wrong("must hold a password, but is empty")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be UTF-8 text") from None
    except Wrong as wrong:
        raise ConfigError(f"{path}: {wrong}") from None
    return secret
