"""The token endpoint: a user name and a password in, a token out.

GET with Basic is distribution's "Token Authentication Specification", which docker and podman use; POST with a form is
its "OAuth2 Token Authentication", which containerd and BuildKit try first.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs

from twisted.python.failure import Failure
from twisted.web.http import Request

from depproxy.access.errors import Unauthenticated
from depproxy.access.interface import Login
from depproxy.access.issuer import Issuer
from depproxy.access.tokens import Issued
from depproxy.metrics import Metrics
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.scope import InvalidScope, parse_scopes
from depproxy.web.addresses import Addresses
from depproxy.web.caller import Caller
from depproxy.web.logins import from_basic, login_of
from depproxy.web.render import SERVICE, TOKEN_PATH, ask_login, fail
from depproxy.web.routing import Application

MOST_FIELDS = 200

Parameters = Mapping[str, Sequence[str]]


class Token:
    """Klein's handlers. `addresses` may be replaced at any time."""

    app = Application()

    def __init__(self, addresses: Addresses, issuer: Issuer, metrics: Metrics) -> None:
        self.addresses = addresses
        self._issuer = issuer
        self._metrics = metrics

    @app.route(TOKEN_PATH.decode())
    async def token(self, request: Request) -> bytes:
        """A token (200), or why not: 400, 401, 429, 504."""
        try:
            caller = Caller(request)
            posted = request.method == b"POST"
            parameters = _form(request) if posted else _parse(request.uri.partition(b"?")[2])
            groups = self._groups(parameters)
            if posted and parameters.get("grant_type") == ["refresh_token"]:
                issued = await self._issuer.renew(parameters.get("refresh_token", ("",))[0], groups)
            else:
                login = _from_form(request, parameters) if posted else from_basic(request)
                issued = await self._issuer.issue(login, caller, groups)
        except Unauthenticated as error:
            raise ask_login(error) from None
        self._metrics.tokens.labels("200").inc()
        offline = parameters.get("access_type") == ["offline"] or parameters.get("offline_token") == ["true"]
        return _answer(request, issued, self._issuer.refresh_token(issued) if offline else None)

    def _groups(self, parameters: Parameters) -> list[str] | None:
        """The groups of the repositories that a token is asked for; None without any scope. Raises OCIError."""
        service = parameters.get("service", (SERVICE,))[0]
        if service != SERVICE:
            raise OCIError(Code.UNSUPPORTED, f"tokens are issued for the service {SERVICE} alone", status=400)
        try:
            scopes = parse_scopes(parameters.get("scope", ()))
        except InvalidScope as error:
            raise OCIError(Code.UNSUPPORTED, str(error), status=400) from None
        return (
            list(dict.fromkeys(self.addresses.group(scope.name) for scope in scopes if scope.pulls)) if scopes else None
        )

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein types handlers by IRequest.
    def failed(self, request: Request, failure: Failure) -> None:
        """Every error that the handler raised."""
        fail(request, failure, None, self._metrics)
        self._metrics.tokens.labels(str(request.code)).inc()


def _parse(query: bytes) -> Parameters:
    try:
        return parse_qs(query.decode("utf-8"), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise OCIError(
            Code.UNSUPPORTED, f"the parameters are not UTF-8, or more than {MOST_FIELDS}", status=400
        ) from None


def _form(request: Request) -> Parameters:
    kind = (request.requestHeaders.getRawHeaders(b"Content-Type") or [b""])[0].partition(b";")[0].strip().lower()
    if kind != b"application/x-www-form-urlencoded" or request.content is None:
        raise OCIError(Code.UNSUPPORTED, "POST takes a form (application/x-www-form-urlencoded)", status=400)
    return _parse(request.content.read())


def _from_form(request: Request, form: Parameters) -> Login:
    grant = form.get("grant_type", ("",))[0]
    if grant != "password":
        # containerd and BuildKit then go on to GET.
        raise OCIError(Code.UNSUPPORTED, "grant_type must be password or refresh_token", status=400)
    return login_of(form.get("username", ("",))[0], form.get("password", ("",))[0], request)


def _answer(request: Request, issued: Issued, refresh: str | None) -> bytes:
    headers = request.responseHeaders
    document = {
        # Some clients read the one, some the other.
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in,
        "issued_at": datetime.fromtimestamp(issued.issued_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if refresh is not None:
        document["refresh_token"] = refresh
    body = json.dumps(document).encode("ascii")
    headers.setRawHeaders(b"Content-Type", [b"application/json"])
    headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    headers.setRawHeaders(b"Cache-Control", [b"no-store"])
    return body
