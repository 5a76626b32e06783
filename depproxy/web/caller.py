"""Who sends a request, as far as the connection and its headers tell."""

from typing import TYPE_CHECKING, cast

from twisted.internet.interfaces import IAddress
from twisted.web.http import Request

from depproxy.access.interface import ClientCertificate
from depproxy.web.tls import client_certificate

if TYPE_CHECKING:
    from depproxy.web.channel import BoundedChannel


class Caller:
    """`depproxy.access.gate.ICaller` of a request: each is looked for when it is asked for."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def authorization(self) -> bytes | None:
        """The Authorization header."""
        values = self._request.requestHeaders.getRawHeaders(b"Authorization")
        return values[0] if values else None

    @property
    def address(self) -> IAddress:
        """The client's address, which a trusted proxy may have told."""
        return cast("BoundedChannel", self._request.channel).site.origin.address(self._request)

    @property
    def certificate(self) -> ClientCertificate | None:
        """The certificate that the client proved to have; read once for a connection."""
        channel = cast("BoundedChannel", self._request.channel)
        if channel.certificate is None and self._request.isSecure():
            channel.certificate = client_certificate(self._request) or NO_CERTIFICATE
        return None if channel.certificate is NO_CERTIFICATE else channel.certificate


NO_CERTIFICATE = ClientCertificate((), 0.0)
