"""Whom the service's data belongs to."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from attrs import frozen

from depproxy.cli.command import Refused


@frozen
class Owner:
    """A user of this host."""

    uid: int
    gid: int
    name: str | None

    def become(self, data: Path) -> None:
        """Be this user from now on: whatever is made belongs to it, and no link of its own leads us elsewhere. Before
        that its data directory is made, if there is none. Raises OSError."""
        if os.geteuid() != 0 or self.uid == 0:
            return
        if not data.exists():
            data.mkdir(mode=0o700, parents=True)
            os.chown(data, self.uid, self.gid)
        if self.name is None:
            os.setgroups(())
        else:
            os.initgroups(self.name, self.gid)
        os.setgid(self.gid)
        os.setuid(self.uid)


def owner_of(user: str | None, data: Path) -> Owner:
    """Who owns the data, or is to own it. Raises Refused."""
    if user is not None:
        try:
            found = pwd.getpwnam(user)
        except KeyError:
            raise Refused(f"--user: there is no user {user[:100]!r} on this host") from None
        if os.geteuid() not in (0, found.pw_uid):
            raise Refused(f"--user: run this as root, or as {user}")
        return Owner(found.pw_uid, found.pw_gid, user)
    if os.geteuid() != 0:
        return Owner(os.geteuid(), os.getegid(), None)
    try:
        state = data.stat()
    except FileNotFoundError:
        raise Refused(f"{data}: is not there; name the user that it shall belong to by --user") from None
    try:
        return Owner(state.st_uid, state.st_gid, pwd.getpwuid(state.st_uid).pw_name)
    except KeyError:
        return Owner(state.st_uid, state.st_gid, None)
