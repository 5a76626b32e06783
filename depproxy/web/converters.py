"""URL segments as domain types.

A converter that fails in werkzeug's own way makes the route not match, and the client reads 404. What stands at
the place of a tag or a digest and is none is the client's error, so it is said: 400 and its code.
"""

from werkzeug.routing import BaseConverter

from depproxy.oci.digest import Digest, InvalidDigest
from depproxy.oci.errors import Code, OCIError
from depproxy.oci.reference import InvalidTag, Reference, parse_reference


class PathConverter(BaseConverter):
    """Any number of segments; `Addresses` says what they mean."""

    # Line ends, too: what stands there is a bad name, not an unknown address.
    regex = "(?s:.+)"
    part_isolating = False


class ReferenceConverter(BaseConverter):
    """A tag or a digest."""

    def to_python(self, value: str) -> Reference:
        try:
            return parse_reference(value)
        except InvalidDigest as error:
            raise OCIError(Code.DIGEST_INVALID, str(error)) from None
        except InvalidTag as error:
            raise OCIError(Code.TAG_INVALID, str(error)) from None


class DigestConverter(BaseConverter):
    """A digest."""

    def to_python(self, value: str) -> Digest:
        try:
            return Digest(value)
        except InvalidDigest as error:
            raise OCIError(Code.DIGEST_INVALID, str(error)) from None
