"""What holds for the names of client certificates, over all users."""

from __future__ import annotations

from collections.abc import Mapping

from depproxy.config.accounts import UserSettings
from depproxy.config.document import Source
from depproxy.config.errors import Wrong, dotted


def refuse_shared_certificates(source: Source, users: Mapping[str, UserSettings]) -> None:
    """Raise ConfigError where two users claim one name: a certificate shall mean one of them."""
    owners: dict[str, str] = {}
    for user in users.values():
        for index, name in enumerate(user.certificates):
            owner = owners.setdefault(name, user.name)
            if owner != user.name:
                wrong = Wrong(f"must mean one user, but means {dotted('users', owner)}, too", name, f"[{index}]")
                raise source.refusal(("users", user.name, "certificates"), wrong)
