"""Logins as requests carry them."""

from base64 import b64decode

from twisted.web.http import Request

from depproxy.access.interface import Login
from depproxy.access.networks import address_text
from depproxy.oci.errors import Code, OCIError
from depproxy.web.caller import Caller

LONGEST_NAME = 255
# An OIDC token may be the password.
LONGEST_PASSWORD = 16 << 10


def from_basic(request: Request) -> Login | None:
    """The login of a Basic header (RFC 7617); None without one. Raises OCIError."""
    values = request.requestHeaders.getRawHeaders(b"Authorization")
    if not values:
        return None
    scheme, _, encoded = values[0].partition(b" ")
    try:
        if scheme.lower() != b"basic":
            raise ValueError
        name, colon, password = b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
        if not colon:
            raise ValueError
    except ValueError:
        raise OCIError(
            Code.UNSUPPORTED, "Authorization must be Basic with a user name and a password", status=400
        ) from None
    return login_of(name, password, request)


def from_headers(request: Request) -> Login | None:
    """A login for the API: PRIVATE-TOKEN (GitLab's header), Bearer or Basic; None without one. Raises OCIError."""
    headers = request.requestHeaders
    token = (headers.getRawHeaders(b"PRIVATE-TOKEN") or [b""])[0]
    if not token:
        scheme, _, rest = (headers.getRawHeaders(b"Authorization") or [b""])[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return from_basic(request)
        token = rest
    # The token alone says whose it is.
    return login_of("", token.strip().decode("utf-8", "replace"), request)


def login_of(name: str, password: str, request: Request) -> Login:
    """The login of whoever sends this request. Raises OCIError where it is too long."""
    if len(name) > LONGEST_NAME or len(password) > LONGEST_PASSWORD:
        raise OCIError(Code.UNSUPPORTED, "user name or password are too long", status=400)
    return Login(name, password, address_text(Caller(request).address))
