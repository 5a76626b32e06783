"""Every source of accounts that is configured, in the order in which a login is shown to them."""

import hashlib
import time
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from depproxy.access.certificates import CertificateAccounts
from depproxy.access.gitlab import GitLabAccounts
from depproxy.access.hashing import Hashing
from depproxy.access.htpasswd import HtpasswdAccounts, HtpasswdError, read_htpasswd
from depproxy.access.interface import IAccounts
from depproxy.access.jwks import KeySets
from depproxy.access.local import LocalAccounts
from depproxy.access.oidc import OidcAccounts
from depproxy.access.portal import Accounts
from depproxy.config import AccessSettings, GitLabSettings, Settings
from depproxy.metrics import Metrics
from depproxy.upstream.fetch import Fetcher, make_fetcher


@frozen
class _GitLab:
    settings: tuple[object, ...]
    accounts: GitLabAccounts
    fetchers: tuple[Fetcher, ...]


class Sources:
    """Makes the sources anew for each configuration. What those that live elsewhere know outlives a reload."""

    _log = Logger()

    def __init__(self, reactor: Any, hashing: Hashing, metrics: Metrics) -> None:
        self._reactor = reactor
        self._hashing = hashing
        self._metrics = metrics
        self._fetchers: list[Fetcher] = []
        self._key_sets = KeySets(self._fetcher_of_issuer, time.time)
        self._gitlab: _GitLab | None = None
        # As it was read last, by its path.
        self._htpasswd: dict[Path, dict[str, str]] = {}

    def accounts(self, settings: Settings) -> Accounts:
        """The accounts of this configuration. Raises HtpasswdError at the first time; later the users known stay."""
        access, groups, users = settings.access, settings.groups, settings.users
        sources: list[IAccounts] = []
        if access.oidc:
            # First: it knows its tokens by their form, and nobody else needs to see them.
            sources.append(OidcAccounts(access.oidc, self._key_sets.of, frozenset(groups), time.time))
        local = LocalAccounts(users, groups, access, self._hashing, time.time)
        if users or any(group.deploy_tokens or group.access_tokens for group in groups.values()):
            sources.append(local)
        if access.htpasswd is None:
            self._htpasswd = {}
        else:
            sources.append(self._htpasswd_accounts(access.htpasswd, settings))
        if access.gitlab is not None:
            sources.append(self._gitlab_accounts(access, settings.mirror.group))
        authority = fingerprint(settings.server.client_ca)
        certificates = CertificateAccounts(users, local.role_of_user, local.user_exists, authority, time.time)
        if certificates:
            sources.append(certificates)
        return Accounts(sources)

    def _htpasswd_accounts(self, path: Path, settings: Settings) -> HtpasswdAccounts:
        try:
            self._htpasswd = {path: read_htpasswd(path)}
        except HtpasswdError as error:
            # One wrong line must not keep what else has changed from counting, such as a token that was revoked.
            if path not in self._htpasswd:
                raise
            self._log.error("the users of the htpasswd file stay as they were: {error}", error=error)
        found = self._htpasswd[path]
        taken = {token.username for group in settings.groups.values() for token in group.deploy_tokens.values()}
        taken |= settings.users.keys()
        if twice := sorted(found.keys() & taken):
            self._log.warn(
                "{path}: {names} cannot log in by this file, for the configuration has these names",
                path=str(path),
                names=", ".join(twice[:20]),
            )
        own = {name: hashed for name, hashed in found.items() if name not in taken}
        return HtpasswdAccounts(own, settings.groups, self._hashing)

    async def close(self) -> None:
        """Close the connections to sources that live elsewhere."""
        for fetcher in self._fetchers:
            await fetcher.close()

    def _gitlab_accounts(self, access: AccessSettings, reserved: str) -> GitLabAccounts:
        assert access.gitlab is not None
        settings = access.gitlab, access.token_lifetime, access.require_write_registry, reserved
        # Its memory holds what no client sends twice, so it stays as long as it can.
        if self._gitlab is None or self._gitlab.settings != settings:
            for fetcher in self._gitlab.fetchers if self._gitlab else ():
                self._drop(fetcher)
            fetcher, logins = self._fetcher_of_gitlab(access.gitlab), self._fetcher_of_gitlab(access.gitlab)
            accounts = GitLabAccounts(
                access.gitlab,
                fetcher,
                time.time,
                lifetime=access.token_lifetime,
                strict=access.require_write_registry,
                logins=logins,
                reserved=reserved,
            )
            self._gitlab = _GitLab(settings, accounts, (fetcher, logins))
        return self._gitlab.accounts

    def _fetcher_of_gitlab(self, settings: GitLabSettings) -> Fetcher:
        return self._keep(
            make_fetcher(
                self._reactor,
                named=(settings.url,),
                ca_file=settings.ca_file,
                timeout=settings.timeout,
                first_byte_timeout=settings.timeout,
                silence_timeout=settings.timeout,
                metrics=self._metrics,
            )
        )

    def _drop(self, fetcher: Fetcher) -> None:
        self._fetchers.remove(fetcher)
        closed = Deferred.fromCoroutine(fetcher.close())
        closed.addErrback(lambda failure: self._log.failure("could not close connections to a GitLab", failure))

    def _fetcher_of_issuer(self, issuer: str, ca_file: Path | None) -> Fetcher:
        return self._keep(
            make_fetcher(self._reactor, named=(issuer,), ca_file=ca_file, timeout=5, metrics=self._metrics)
        )

    def _keep(self, fetcher: Fetcher) -> Fetcher:
        self._fetchers.append(fetcher)
        return fetcher


def fingerprint(client_ca: Path | None) -> str:
    """Stands for the authorities of client certificates; "" for none."""
    return "" if client_ca is None else hashlib.sha256(client_ca.read_bytes()).hexdigest()[:16]
