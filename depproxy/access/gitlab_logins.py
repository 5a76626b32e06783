"""Which logins may be one of a GitLab, and what tokens of ours call the credentials behind them."""

import re
from typing import Final

from attrs import frozen
from twisted.cred.error import UnauthorizedLogin

from depproxy.access.gitlab_api import KINDS, Kind, Proof
from depproxy.access.interface import ILogin, Withdrawn
from depproxy.config.accounts import JOB_TOKEN_USER

LOG_IN_AGAIN: Final = "this login has to be checked again: log in again, or let the client ask for a new token"

# What GitLab's tokens are made of, with any prefix that an instance may have. Anything else is not shown to it.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_.:=+/@~-]{8,4096}")
_DEPLOY_USER: Final = re.compile(r"[A-Za-z0-9_.+-]{1,255}")
# Tokens of our own, and the ID tokens of OIDC.
_NOT_ITS: Final = re.compile(r"dp[pdg]_.*|eyJ[^.]*\.[^.]*\.[^.]*")
_CREDENTIAL: Final = re.compile(r"([a-z]{1,10})/([0-9]{1,19})/([0-9]{1,19})/([0-9]{1,15})")


def kind_of(login: ILogin) -> Kind:
    """What to ask GitLab for. Raises `UnauthorizedLogin` for what cannot be a credential of GitLab."""
    if not _TOKEN.fullmatch(login.password) or _NOT_ITS.fullmatch(login.password):
        raise UnauthorizedLogin
    if login.username == JOB_TOKEN_USER:
        return "job"
    # An instance may have a prefix of its own before "gldt-"; tokens from before GitLab 16.7 have none.
    if "gldt-" in login.password or login.username.startswith("gitlab+deploy-token-"):
        if not _DEPLOY_USER.fullmatch(login.username):
            raise UnauthorizedLogin
        return "deploy"
    return "token"


@frozen
class Credential:
    """A credential by its kind and number, with its user's number, and when it was proved (Unix time)."""

    kind: Kind
    id: int
    user: int
    since: float

    @classmethod
    def of(cls, proof: Proof) -> "Credential":
        """The credential that was proved."""
        return cls(proof.kind, proof.id, proof.user, proof.since)

    @classmethod
    def read(cls, text: str) -> "Credential":
        """What `str` made of a credential. Raises `Withdrawn`."""
        found = _CREDENTIAL.fullmatch(text)
        kind = None if found is None else KINDS.get(found[1])
        if found is None or kind is None:
            raise Withdrawn(LOG_IN_AGAIN)
        return cls(kind, int(found[2]), int(found[3]), int(found[4]) / 1000)

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}/{self.user}/{int(self.since * 1000)}"
