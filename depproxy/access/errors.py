"""Why somebody does not get in."""

from depproxy.oci.errors import Code, OCIError


class Unauthenticated(Exception):
    """
    Nobody is known to ask, so the client is challenged. `str()` is for the person at the client.

    `error` is the code of RFC 6750 section 3.1: `invalid_token` or `insufficient_scope`, or "" where no token was sent.
    `scope` is what to ask a token for, where that is known.
    """

    def __init__(self, message: str, error: str = "", scope: str = "") -> None:
        super().__init__(message)
        self.error = error
        self.scope = scope


def no_role(name: str, group: str) -> OCIError:
    """For somebody without a role in a group, and for a group that is not there: nothing is learned from it."""
    return OCIError(Code.DENIED, f"group {group}: {name} has no role here; an owner of the group can give one")


def turned_off(group: str) -> OCIError:
    """The refusal for a group that is turned off, for those who may know that it is there."""
    return OCIError(
        Code.DENIED, f"group {group}: its dependency proxy is turned off; an owner or the operator can turn it on"
    )
