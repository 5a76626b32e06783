"""URLs kept byte for byte, and where a redirect leads.

CDN URLs are signed: a library that escapes, unescapes or drops one character of them makes them worthless. So
what comes in a Location goes onto the wire as it came, and only its origin is taken apart.
"""

from __future__ import annotations

import re
from typing import Self

from attrs import frozen

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_PORTS = {"http": 80, "https": 443}
_split = re.compile(rb"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE).match
_split_authority = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::([0-9]{0,5}))?"
).fullmatch
_has_scheme = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:").match
# RFC 9112 section 3.2 allows visible ASCII in a request line; the rest is escaped, as browsers do it.
_not_visible = re.compile(rb"[^\x21-\x7e]")


class BadUrl(ValueError):
    """The text is no http or https URL with a host."""


@frozen
class Url:
    """An absolute http or https URL. ``target`` is what the request line carries: path and query, verbatim.

    ``host`` is in lower case, without the brackets of an IPv6 address.
    """

    scheme: str
    host: str
    port: int
    target: bytes

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """User information and fragment are dropped. Raises BadUrl."""
        match = _split(text.strip())
        if match is None:
            raise BadUrl("it is not an absolute http or https URL")
        scheme = match[1].decode().lower()
        authority = _split_authority(match[2])
        if authority is None:
            raise BadUrl("it has no valid host")
        port = int(authority[2] or _PORTS[scheme])
        if not 0 < port < 65536:
            raise BadUrl("it has no valid port")
        target = _not_visible.sub(lambda found: b"%%%02X" % ord(found[0]), match[3])
        if not target.startswith(b"/"):
            target = b"/" + target
        return cls(scheme, authority[1].decode().lower().strip("[]"), port, target)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what credentials are bound to (RFC 9110 section 4.3.1)."""
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host and port as a Host header has them: no port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def raw(self) -> bytes:
        """The whole URL."""
        return f"{self.scheme}://{self.netloc}".encode() + self.target

    def join(self, location: bytes) -> Url:
        """The URL that a Location in the answer of this one means (RFC 3986 section 5.2). Raises BadUrl.

        Dot segments are left to the server, except where this URL's own path has to be cut for them.
        """
        location = location.strip()
        if _has_scheme(location):
            return Url.parse(location)
        if location.startswith(b"//"):
            return Url.parse(self.scheme.encode() + b":" + location)
        location = location.partition(b"#")[0]
        base = f"{self.scheme}://{self.netloc}".encode()
        path = self.target.partition(b"?")[0]
        if location.startswith(b"/"):
            return Url.parse(base + location)
        if location.startswith(b"?"):
            return Url.parse(base + path + location)
        if not location:
            return self
        relative, mark, query = location.partition(b"?")
        return Url.parse(base + _merge(path, relative) + mark + query)


def _merge(path: bytes, relative: bytes) -> bytes:
    """RFC 3986 sections 5.2.3 and 5.2.4, for a relative path."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:-1] + relative.split(b"/")
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
