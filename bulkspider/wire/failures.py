"""What Twisted and Scrapy raise, said as an AttemptError: what went wrong, and whether the whole origin is meant."""

from __future__ import annotations

import re

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error as net
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.error import SchemeNotSupported

from bulkspider.errors import AttemptError, BulkError


def map_error(error: BaseException) -> BulkError:
    """The AttemptError for an exception of Twisted or Scrapy; BulkErrors pass."""
    if isinstance(error, BulkError):
        return error
    reasons = _reasons(error)
    text = "; ".join(dict.fromkeys(_say(reason) for reason in reasons))
    for reason in reasons:
        if isinstance(reason, VerificationError) or (
            isinstance(reason, SSL.Error) and "certificate verify failed" in str(reason)
        ):
            return AttemptError(f"the certificate does not verify ({text})", code="tls_verify", permanent=True)
    first = reasons[-1]
    if isinstance(first, NotImplementedError):
        return AttemptError(text, code="proxy", permanent=True)
    if isinstance(first, SchemeNotSupported):
        return AttemptError(text, code="bad_url", permanent=True)
    if isinstance(first, net.DNSLookupError):
        return AttemptError(f"the host name was not found ({text})", code="dns", origin_wide=True)
    if isinstance(first, net.ConnectionRefusedError):
        return AttemptError("the connection was refused", code="refused", origin_wide=True)
    if isinstance(first, net.ConnectError):
        return AttemptError(f"no connection ({text})", code="connect", origin_wide=True)
    if isinstance(first, SSL.Error):
        return AttemptError(f"TLS failed ({text})", code="tls", origin_wide=True)
    if type(first).__name__ == "TunnelError":
        # Scrapy shows the proxy's answer as a dict.
        status = re.search(r"'status': (\d{3})", text)
        why = f"it answered {status[1]}" if status is not None else text
        return AttemptError(f"the proxy opened no tunnel ({why})", code="proxy", origin_wide=True)
    if isinstance(first, (net.ConnectionLost, net.ConnectionDone, net.ConnectionAborted, CancelledError)):
        return AttemptError("the connection was lost before the answer", code="lost")
    return AttemptError(f"no valid answer ({text})", code="bad_answer")


def _reasons(error: BaseException) -> list[BaseException]:
    """The exception and what Twisted packed into it, innermost last."""
    found = [error]
    for failure in getattr(error, "reasons", None) or []:
        value = failure.value if isinstance(failure, Failure) else failure
        if isinstance(value, BaseException):
            found += _reasons(value)
    return found


def _say(error: BaseException) -> str:
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return ", ".join(str(row[-1]) for row in error.args[0]) or "TLS alert"
    if getattr(error, "reasons", None):
        return "the exchange broke off"
    return str(error) or type(error).__name__
