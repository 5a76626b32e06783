"""Why a connection failed, in words for an operator."""

from __future__ import annotations

from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.error import ConnectionDone, ConnectionLost, DNSLookupError
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed


def explain(failure: Failure | BaseException) -> str:
    """One line; no credentials and no URL, of which the query may be one."""
    error = failure.value if isinstance(failure, Failure) else failure
    reasons = getattr(error, "reasons", None)
    if reasons and isinstance(reasons, list):
        # The first reason is the transport's, a second one only says that the body is not whole.
        return explain(reasons[0])
    if isinstance(error, DNSLookupError):
        return f"the host is not known ({error})"
    if isinstance(error, VerificationError):
        return "its TLS certificate is for another host"
    if isinstance(error, TLSError):
        return f"TLS failed ({_openssl(error)})"
    if isinstance(error, ConnectionDone | ConnectionLost | ResponseFailed):
        return "the connection was closed too early"
    return str(error) or type(error).__name__


def _openssl(error: TLSError) -> str:
    details = error.args[0] if error.args else None
    if not isinstance(details, list | tuple):
        return "no reason given"
    texts = [str(detail[-1]) for detail in details if isinstance(detail, tuple) and detail]
    return ", ".join(texts) or "no reason given"
