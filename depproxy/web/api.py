"""The API: the settings of a group, and its cache to purge. Addresses and logins are those of GitLab's."""

import json
from collections.abc import Mapping
from typing import Any

from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import NotFound

from depproxy.access.administration import Administration, Shown
from depproxy.access.choices import CONFIGURATION, CREDENTIAL, ENABLED, MOST_TTL_DAYS, TTL_DAYS, TTL_ENABLED, Choice
from depproxy.access.errors import Unauthenticated
from depproxy.cache.purge import Purges
from depproxy.config.errors import Wrong
from depproxy.config.names import group_path
from depproxy.config.values import username
from depproxy.index.interface import Home, IndexUnavailable
from depproxy.metrics import Metrics
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.image import split_image
from depproxy.oci.reference import Reference
from depproxy.upstream.interface import Credential
from depproxy.web.addresses import Addresses
from depproxy.web.caller import Caller
from depproxy.web.logins import from_headers
from depproxy.web.render import ask_login, fail
from depproxy.web.routing import Application

API = b"/api/v4/"
SETTINGS_METHODS = (b"GET", b"HEAD", b"PATCH")
CACHE_METHODS = (b"DELETE",)
KEYS = (ENABLED, "identity", "secret", TTL_ENABLED, TTL_DAYS)
LONGEST_SECRET = 255

Choices = Mapping[str, Choice | None]


ADDRESSES = (
    "there are GET and PATCH of /api/v4/groups/<group>/dependency_proxy/settings,"
    " and DELETE of /api/v4/groups/<group>/dependency_proxy/cache"
)


def methods(path: bytes) -> tuple[bytes, ...]:
    """What may be asked of an address of the API."""
    return CACHE_METHODS if path.endswith(b"/dependency_proxy/cache") else SETTINGS_METHODS


class Api:
    """Klein's handlers. `addresses` may be replaced at any time."""

    app = Application()

    def __init__(self, administration: Administration, purges: Purges, addresses: Addresses, metrics: Metrics) -> None:
        self._administration = administration
        self._purges = purges
        self.addresses = addresses
        self._metrics = metrics

    @app.route("/api/v4/groups/<path:group>/dependency_proxy/settings")
    async def settings(self, request: Request, group: str) -> bytes:
        """What is in force for the group (200), after a change by PATCH; or why not: 400, 401, 403, 415, 429, 504."""
        try:
            path, login, caller = _group(group), from_headers(request), Caller(request)
            if request.method == b"PATCH":
                shown = await self._administration.change(login, caller, path, _choices(_body(request)))
            else:
                shown = await self._administration.show(login, caller, path)
        except Unauthenticated as error:
            raise ask_login(error) from None
        return _answer(request, _document(shown))

    @app.route("/api/v4/groups/<path:group>/dependency_proxy/cache")
    async def cache(self, request: Request, group: str) -> bytes:
        """
        Begin to purge what the group has (202), all of it or the `image` of the query, a repository or one tag or
        digest of it; or why not: 400, 401, 403, 404, 429, 504.
        """
        try:
            path, login, caller = _group(group), from_headers(request), Caller(request)
            who = await self._administration.may_purge(login, caller, path)
        except Unauthenticated as error:
            raise ask_login(error) from None
        image = _image(request)
        home, reference = (None, None) if image is None else self._home(path, image)
        try:
            if not await self._purges.order(who, path, home, reference):
                what = "it has nothing" if image is None else f"{image} is not"
                raise OCIError(Code.NAME_UNKNOWN, f"group {path}: {what} in the cache")
        except IndexUnavailable:
            raise OCIError(Code.UNAVAILABLE, f"group {path}: the cache index does not answer: try again") from None
        request.setResponseCode(202)
        return _answer(request, {"group": path, "image": image})

    def _home(self, group: str, image: str) -> tuple[Home, Reference | None]:
        try:
            name, reference = split_image(image)
        except ValueError as error:
            raise OCIError(Code.NAME_INVALID, f"image: {error}") from None
        return self.addresses.image(group, name), reference

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein types handlers by IRequest.
    def failed(self, request: Request, failure: Failure) -> None:
        """Every error that the handler raised, and an address that there is not."""
        if failure.check(NotFound):
            failure = Failure(OCIError(Code.NAME_UNKNOWN, f"no such address; {ADDRESSES}"))
        fail(request, failure, None, self._metrics)


def _group(text: str) -> str:
    try:
        return group_path(text)
    except Wrong as wrong:
        raise OCIError(Code.NAME_INVALID, f"{text[:100]!r} {wrong}") from None


def _image(request: Request) -> str | None:
    """The one image that the query names. Raises OCIError (400)."""
    query: dict[bytes, list[bytes]] = request.args or {}
    for key in query:
        if key != b"image":
            raise _mistake(f"{key[:100].decode('latin-1')!r} is no parameter of a purge; there is image")
    given = query.get(b"image", [])
    if not given:
        return None
    try:
        (image,) = given
        return image.decode("ascii")
    except ValueError:
        raise _mistake("image must be one name of an image, such as alpine or alpine:3.19") from None


def _body(request: Request) -> dict[str, Any]:
    kind = (request.requestHeaders.getRawHeaders(b"Content-Type") or [b""])[0].partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise _mistake("PATCH takes JSON (Content-Type: application/json)", 415)
    try:
        body = json.loads(b"" if request.content is None else request.content.read())
    except (ValueError, RecursionError):
        raise _mistake("the body is not JSON") from None
    if not isinstance(body, dict):
        raise _mistake("the body must be a JSON object with some of " + ", ".join(KEYS))
    return body


def _choices(body: dict[str, Any]) -> Choices:
    """What is to be set, by the keys of the settings. Raises OCIError (400)."""
    for key in body:
        if key not in KEYS:
            raise _mistake(f"{key[:100]!r} is no setting of a group; there are {', '.join(KEYS)}")
    choices: dict[str, Choice | None] = {}
    for key in (ENABLED, TTL_ENABLED):
        if key in body:
            if not isinstance(body[key], bool | None):
                raise _mistake(f"{key} must be true or false, or null for what the group above has")
            choices[key] = body[key]
    if TTL_DAYS in body:
        days = body[TTL_DAYS]
        # A bool is an int in Python, but not in JSON.
        if days is not None and (type(days) is not int or not 1 <= days <= MOST_TTL_DAYS):
            raise _mistake(f"{TTL_DAYS} must be a whole number from 1 to {MOST_TTL_DAYS}, or null")
        choices[TTL_DAYS] = days
    if "identity" in body or "secret" in body:
        choices[CREDENTIAL] = _credential(body.get("identity", ...), body.get("secret", ...))
    return choices


def _credential(identity: object, secret: object) -> Credential | None:
    if identity is None and secret is None:
        return None
    if not isinstance(identity, str) or not isinstance(secret, str):
        raise _mistake("identity and secret are set together, as strings, and taken back together, by null for both")
    try:
        username(identity)
    except Wrong as wrong:
        raise _mistake(f"identity {wrong}") from None
    if not 1 <= len(secret) <= LONGEST_SECRET or not secret.isprintable():
        raise _mistake(f"secret must have 1 to {LONGEST_SECRET} characters, and no control characters among them")
    return Credential(identity, secret)


def _document(shown: Shown) -> dict[str, object]:
    found = shown.effective
    own = found.credential
    return {
        "group": shown.group,
        "enabled": shown.configured_on and found.enabled,
        "enabled_by": found.enabled_by if shown.configured_on else CONFIGURATION,
        "identity": None if own is None else own.identity,
        "identity_by": found.credential_by,
        "secret_set": own is not None,
        "secret_usable": own is not None and own.credential is not None,
        TTL_ENABLED: shown.ttl.enabled,
        f"{TTL_ENABLED}_by": shown.ttl.enabled_by,
        TTL_DAYS: shown.ttl.days,
        f"{TTL_DAYS}_by": shown.ttl.days_by,
    }


def _mistake(message: str, status: int = 400) -> OCIError:
    return OCIError(Code.UNSUPPORTED, message, status=status)


def _answer(request: Request, document: Mapping[str, object]) -> bytes:
    body = json.dumps(document).encode("ascii")
    headers = request.responseHeaders
    headers.setRawHeaders(b"Content-Type", [b"application/json"])
    headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    headers.setRawHeaders(b"Cache-Control", [b"no-store"])
    return body
