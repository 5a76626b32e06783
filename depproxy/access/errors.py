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
    return OCIError(Code.DENIED, f"group {group}: {name} has no role here; only members of the group may pull")


def turned_off(group: str, above: str | None) -> OCIError:
    """For a group that is turned off, to those who may know that it is there: by the configuration in `above`, which
    is the group or one that it is in, "" for all; by owners for None."""
    if above is None:
        why = "its dependency proxy is turned off by an owner, who can turn it on again"
    elif not above:
        why = "this dependency proxy is turned off in the configuration; the operator can turn it on"
    elif above == group:
        why = "its dependency proxy is turned off in the configuration; the operator can turn it on"
    else:
        why = f"the dependency proxy of {above}, which it is in, is turned off in the configuration"
    return OCIError(Code.DENIED, f"group {group}: {why}")
