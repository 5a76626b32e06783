"""Requests to a GitLab, and its answers as far as they can be understood."""

import base64
import json
from typing import Any, Final, NoReturn

from attrs import field, frozen
from twisted.logger import Logger

from depproxy.access.interface import AccountsUnavailable
from depproxy.upstream.errors import UpstreamError
from depproxy.upstream.interface import IFetcher

_SAYS_NO: Final = (400, 401, 403, 404)


@frozen
class Refused:
    """An answer that says no: its status, with GitLab's code and message, either of which may be empty."""

    status: int
    code: str
    message: str


@frozen
class Found:
    """An answer that says yes. Its methods raise `AccountsUnavailable` where it is not as GitLab's are."""

    http: "GitLabHTTP" = field(repr=False)
    content: dict[str, Any] = field(repr=False)

    def whole(self, key: str) -> int:
        """A whole number, as all ids are."""
        value = self.content.get(key)
        if type(value) is not int or value < 0:
            self.strange(key)
        return value

    def text(self, key: str) -> str:
        """A string that may stand in a message."""
        value = self.content.get(key)
        if not isinstance(value, str) or not value.isprintable():
            self.strange(key)
        return value

    def words(self, key: str) -> frozenset[str]:
        """A list of strings."""
        value = self.content.get(key)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.strange(key)
        return frozenset(value)

    def part(self, key: str) -> "Found | None":
        """An object within, None if there is none."""
        value = self.content.get(key)
        return Found(self.http, value) if isinstance(value, dict) else None

    def claims(self, key: str) -> "Found":
        """What the token (RFC 7519) in `key` says. Its signature is not looked at."""
        try:
            claims = _json(base64.urlsafe_b64decode(self.text(key).split(".")[1] + "=="))
        except (IndexError, ValueError):
            claims = None
        if not isinstance(claims, dict):
            self.strange(key)
        return Found(self.http, claims)

    def strange(self, key: str) -> NoReturn:
        """Raise for what `key` holds."""
        self.http.fail(f"its answer cannot be understood ({key})")


@frozen
class GitLabHTTP:
    """One instance, at `url`; messages call it `host`."""

    url: str
    host: str
    fetcher: IFetcher = field(repr=False)

    _log = Logger()

    async def ask(self, path: str, header: str, secret: str) -> Found | Refused:
        """What it says at `path` to whoever has this secret. Raises `AccountsUnavailable`."""
        try:
            answer = await self.fetcher.fetch("GET", self.url + path, {"Accept": "application/json", header: secret})
        except UpstreamError as error:
            self.fail(error.message)
        content = _json(answer.body)
        if isinstance(content, dict):
            if answer.status == 200:
                return Found(self, content)
            # Grape, which serves the API, says `error` alone where there is no such address.
            if answer.status in _SAYS_NO and content.keys() != {"error"}:
                return _refusal(answer.status, content)
        self.fail(_trouble(answer.status))

    def fail(self, why: str) -> NoReturn:
        """Raise, and tell the operator."""
        self._log.warn("access.gitlab: {host}: {why}", host=self.host, why=why)
        raise AccountsUnavailable(f"{self.host}: {why}")


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _refusal(status: int, content: dict[str, Any]) -> Refused:
    """The API says `message`, or `error` and `error_description` as OAuth does; the registry's login `errors`."""
    errors = content.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else content
    code = first.get("code", first.get("error", ""))
    message = first.get("error_description", first.get("message", ""))
    return Refused(status, code if isinstance(code, str) else "", message if isinstance(message, str) else "")


def _trouble(status: int) -> str:
    if status == 429:
        return "it wants to be asked less often"
    if status == 403:
        return "it lets nobody in from depproxy's address (status 403)"
    if 300 <= status < 400:
        return "it answers by a redirect: access.gitlab.url must be the address of the GitLab itself"
    if status >= 500:
        return f"it is out of order (status {status})"
    return f"its answer cannot be understood (status {status})"
