"""Translates exceptions of Twisted and Scrapy into AttemptErrors: what went wrong, and whether the whole origin is
concerned."""

from __future__ import annotations

import errno
import re

from OpenSSL import SSL
from scrapy.exceptions import IgnoreRequest
from service_identity import VerificationError
from twisted.internet import error as net
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web._newclient import _WrapperException
from twisted.web.error import SchemeNotSupported

from bulkspider.codes import Kind
from bulkspider.entries.entry import redact
from bulkspider.errors import AttemptError, BulkError, proxy_auth
from bulkspider.regex import regex

# The text of an error may contain what a peer has sent, so it is cut.
TEXT_MAX_CHARACTERS = 300


# OpenSSL's errors for an answer that is not TLS.
_NO_TLS = regex(r"wrong version number|http request|packet length too long|record layer failure", re.IGNORECASE)
_NO_ROUTE = (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH)


def map_error(error: BaseException) -> BulkError:
    """The AttemptError for an exception of Twisted or Scrapy; a BulkError is returned as it is."""
    if isinstance(error, BulkError):
        return error
    if (refusal := find_refusal(error)) is not None:
        return refusal
    reasons = _reasons(error)
    text = "; ".join(dict.fromkeys(_say(reason) for reason in reasons))[:TEXT_MAX_CHARACTERS]
    for reason in reasons:
        if isinstance(reason, VerificationError) or (
            isinstance(reason, SSL.Error) and "certificate verify failed" in str(reason)
        ):
            return AttemptError(f"the certificate does not verify ({_say(reason)})", code="tls_verify")
    first = reasons[-1]
    if isinstance(first, NotImplementedError):
        # Scrapy cannot use such a proxy: permanent, unlike a tunnel that was refused.
        return AttemptError(text, code="proxy", kind=Kind.PERMANENT)
    if isinstance(first, SchemeNotSupported):
        return AttemptError(text, code="bad_url")
    if isinstance(first, net.DNSLookupError):
        return AttemptError(f"the host name was not found ({text})", code="dns", origin_wide=True)
    if isinstance(first, net.ConnectError) and _errno_of(first) in _NO_ROUTE:
        return AttemptError(f"no route to the host ({text})", code="no_route", origin_wide=True)
    if isinstance(first, net.ConnectionRefusedError):
        return AttemptError("the connection was refused", code="refused", origin_wide=True)
    if isinstance(first, net.ConnectError):
        return AttemptError(f"no connection ({text})", code="connect", origin_wide=True)
    if isinstance(first, SSL.Error) and _NO_TLS.search(text):
        return AttemptError(f"the port speaks no TLS ({text})", code="no_tls")
    if isinstance(first, SSL.Error):
        return AttemptError(f"TLS failed ({text})", code="tls", origin_wide=True)
    if type(first).__name__ == "TunnelError":
        # Scrapy shows the proxy's answer as a dict.
        status = re.search(r"'status': (\d{3})", text)
        if status is not None and status[1] == "407":
            return proxy_auth()
        why = f"it answered {status[1]}" if status is not None else text
        return AttemptError(f"the proxy opened no tunnel ({why})", code="proxy", origin_wide=True)
    if isinstance(first, (net.ConnectionLost, net.ConnectionDone, net.ConnectionAborted, CancelledError)):
        return AttemptError("the connection was lost before the answer", code="lost")
    return AttemptError(f"no valid answer ({text})", code="bad_answer")


def find_refusal(error: BaseException | None) -> AttemptError | None:
    """Our own refusal of an answer (`limits.py`), which Twisted has wrapped in one of its exceptions; None without
    one."""
    reasons = _reasons(error) if error is not None else []
    return next((reason for reason in reasons if isinstance(reason, AttemptError)), None)


def _reasons(error: BaseException) -> list[BaseException]:
    """The exception and those that Twisted has wrapped in it, innermost last."""
    found = [error]
    for failure in error.reasons if isinstance(error, _WrapperException) else ():
        value = failure.value if isinstance(failure, Failure) else failure
        if isinstance(value, BaseException):
            found += _reasons(value)
    return found


def _errno_of(error: net.ConnectError) -> int | None:
    return error.osError.errno if isinstance(error.osError, OSError) else error.osError


def _say(error: BaseException) -> str:
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        said = ", ".join(str(row[-1]) for row in error.args[0]) or "TLS alert"
        # OpenSSL says so of a chain of certificates that ends at none of the trusted ones, and of an expired one.
        return "not trusted, or expired" if said == "certificate verify failed" else said
    if isinstance(error, _WrapperException) and error.reasons:
        return "the exchange broke off"
    return str(error) or type(error).__name__


def middleware_error(error: BaseException | None, status: int | None) -> BulkError:
    """The error of a request that never reached our handler's outcome, because a middleware ended it.

    status: of the Response that came instead; None when `error` came.
    """
    if error is None:
        if status is not None and 300 <= status < 400:
            what = f"a redirect that cannot be followed ({status})"
            return AttemptError(what, code="redirect", http_status=status)
        return BulkError("another component answered the request in bulkspider's place", code="middleware")
    text = redact(str(error)) or type(error).__name__
    if isinstance(error, IgnoreRequest):
        if "robots.txt" in text:
            return BulkError("robots.txt forbids it (ROBOTSTXT_OBEY)", code="robots")
        if "redirect" in text:
            return AttemptError(f"too many redirects ({text})", code="redirect_loop")
        return BulkError(f"a middleware refused the request ({text})", code="ignored")
    return BulkError(f"a middleware failed ({type(error).__name__}: {text})", code="middleware")
