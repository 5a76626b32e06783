"""The keys of issuers of ID tokens: found by discovery, remembered, and looked at again before they are old."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.logger import Logger

from depproxy.access.interface import AccountsUnavailable
from depproxy.access.public_keys import Keys, public_key
from depproxy.coalesce import Coalescer
from depproxy.config import OidcSettings
from depproxy.upstream.errors import UpstreamError
from depproxy.upstream.interface import IFetcher

FRESH: Final = 30.0
"""Seconds for which keys count without another look: half of the time within which one that is gone must be noticed."""

LOOK_AGAIN: Final = 60.0
"""Seconds between looks at the keys for the sake of one that is not known: anybody can make one up."""

PATIENCE: Final = 10.0
LONG_PATIENCE: Final = 60.0
"""Seconds for which an issuer that did not answer is left alone, without known keys and with them."""

LAST_KNOWN: Final = 24 * 3600.0
"""Seconds for which keys count while their issuer does not answer."""

DISCOVERED: Final = 3600.0
"""Seconds for which an issuer is not asked where its keys are."""

MAX_KEYS: Final = 100


class KeySet:
    """The keys of one issuer.

    Its methods raise `AccountsUnavailable` where no keys are known that could still count. Cancelling is safe.
    """

    _log = Logger()

    def __init__(self, issuer: str, fetcher: IFetcher, now: Callable[[], float]) -> None:
        self._issuer = issuer
        self._host = issuer.partition("://")[2].rstrip("/")
        self._fetcher = fetcher
        self._now = now
        self._loading: Coalescer[str, Keys] = Coalescer()
        self._known: Keys | None = None
        # When what is known was asked for, a key was looked for, asking failed: all Unix time.
        self._since = self._looked = self._failed = -math.inf
        self._trouble = ""
        self._uri: str | None = None
        self._discovered = -math.inf

    async def current(self) -> Keys:
        """The keys, not older than `FRESH`; while the issuer does not answer, not older than `LAST_KNOWN`."""
        if self._known is not None and self._within(self._since, FRESH):
            return self._known
        if not self._within(self._failed, PATIENCE if self._known is None else LONG_PATIENCE):
            try:
                return await self._loading.join(self._issuer, self._load)
            except AccountsUnavailable:
                pass
        if self._known is not None and self._within(self._since, LAST_KNOWN):
            return self._known
        raise AccountsUnavailable(self._trouble)

    async def look_again(self) -> Keys:
        """The keys, asked for anew because one is missing; those that are known, if that was done just now."""
        if not self._within(self._looked, LOOK_AGAIN):
            self._looked = self._now()
            try:
                return await self._loading.join(self._issuer, self._load)
            except AccountsUnavailable:
                pass
        return await self.current()

    def _within(self, since: float, seconds: float) -> bool:
        """What lies in the future is not: the clock was set back."""
        return 0 <= self._now() - since < seconds

    async def _load(self) -> Keys:
        since = self._now()
        try:
            keys = self._read(await self._ask(await self._discover(), "its keys"))
        except AccountsUnavailable as error:
            self._failed, self._trouble, self._uri = self._now(), str(error), None
            self._log.warn("access.oidc: {error}", error=error)
            raise
        self._known, self._since = keys, since
        return keys

    async def _discover(self) -> str:
        """Where the keys are (OpenID Connect Discovery 1.0, section 4)."""
        if self._uri is not None and self._within(self._discovered, DISCOVERED):
            return self._uri
        since = self._now()
        what = "its configuration"
        document = await self._ask(self._issuer.rstrip("/") + "/.well-known/openid-configuration", what)
        if document.get("issuer") != self._issuer:
            raise self._unusable(f"{what} is that of another issuer")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str) or not (uri.startswith("https://") or _origin(uri) == _origin(self._issuer)):
            raise self._unusable(f"{what} has no jwks_uri that is https")
        self._uri, self._discovered = uri, since
        return uri

    async def _ask(self, url: str, what: str) -> dict[str, Any]:
        try:
            answer = await self._fetcher.fetch("GET", url, {"Accept": "application/json"})
        except UpstreamError as error:
            raise self._unusable(f"{what} cannot be had: {error.message}") from None
        if answer.status != 200:
            raise self._unusable(f"{what} cannot be had: status {answer.status}")
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self._unusable(f"{what} cannot be understood")
        return document

    def _read(self, document: dict[str, Any]) -> Keys:
        found = document.get("keys")
        if not isinstance(found, list):
            raise self._unusable("its keys cannot be understood")
        if len(found) > MAX_KEYS:
            raise self._unusable(f"it has {len(found)} keys, more than {MAX_KEYS}")
        return Keys(tuple(key for key in map(public_key, found) if key is not None))

    def _unusable(self, why: str) -> AccountsUnavailable:
        return AccountsUnavailable(f"{self._host}: {why}")


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


class KeySets:
    """The key sets of all issuers, which outlive a reload. ``fetcher`` (issuer, CA file) makes what asks one."""

    def __init__(self, fetcher: Callable[[str, Path | None], IFetcher], now: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._now = now
        self._sets: dict[tuple[str, Path | None], KeySet] = {}

    def of(self, settings: OidcSettings) -> KeySet:
        """That of this issuer."""
        place = settings.issuer, settings.ca_file
        if place not in self._sets:
            self._sets[place] = KeySet(settings.issuer, self._fetcher(*place), self._now)
        return self._sets[place]
