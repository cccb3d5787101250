"""Where a request may go, and which secrets it carries there.

Secrets: the headers of a list and those of BULK_AUTH are sent to the origin that they are for, and to hosts that
BULK_TRUSTED_HOSTS names. `user:password@` of a URL and the netrc file become an Authorization for exactly the host that
they were written for, newly chosen for each redirect (RFC 9110 §15.4: a redirect must not carry them on).

Redirects: Scrapy's RedirectMiddleware follows them by making the next Request. A target that cannot be requested is
refused here before, with an error that names the target: the middleware would raise an error itself, and would be
reported as broken, and a host name that is too long to be looked up would keep its slot for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urljoin, urlsplit

from scrapy.http import Headers
from w3lib.url import safe_url_string

from bulkspider.auth.credentials import from_netrc, userinfo
from bulkspider.auth.trusted import Trusted
from bulkspider.entries.entry import Entry, slot_of
from bulkspider.entries.names import EntryError, show
from bulkspider.entries.urls import has_site, normal_url, redact, same_origin
from bulkspider.errors import AttemptError
from bulkspider.regex import regex

# The longest URL in a message (characters).
SHOWN_MAX = 200
_USERINFO = regex(r"//.*@")
_SECRET_FIELDS = ("Authorization", "Proxy-Authorization", "Cookie")


def add_secrets(
    headers: Headers,
    entry: Entry,
    listed_url: str,
    request_url: str,
    trusted: Trusted,
    granted: Mapping[str, str] | None = None,
) -> None:
    """Adds to `headers` what `request_url` may see of an entry's secrets.

    listed_url: the URL or mirror of the list that led to this request. granted: the fields of BULK_AUTH for its origin.
    An Authorization that another component has set, such as Scrapy's HttpAuthMiddleware, is replaced only by one of the
    list or of BULK_AUTH.
    """
    if granted and trusted.may_see(listed_url, request_url):
        for name, value in granted.items():
            headers[name] = value
    if trusted.may_see(entry.url, request_url):
        for name, value in entry.headers:
            headers[name] = value
    if "Authorization" not in headers:
        # Credentials in the URL of a redirect are for the host of that URL; those in the list's URL, for the host of
        # the list's URL.
        credentials = userinfo(request_url)
        if credentials is None and same_origin(listed_url, request_url):
            credentials = userinfo(listed_url)
        if credentials is None and _may_use_netrc(request_url, (listed_url, entry.url), trusted):
            credentials = from_netrc(slot_of(request_url))
        if credentials:
            headers["Authorization"] = credentials


def _may_use_netrc(request_url: str, listed: Sequence[str], trusted: Trusted) -> bool:
    """A netrc file does not say whether a host uses http or https. Its password must not be sent unencrypted because of
    a redirect to http; only where the list or BULK_TRUSTED_HOSTS names the host with http."""
    if urlsplit(request_url).scheme == "https":
        return True
    said = any(urlsplit(url).scheme == "http" and slot_of(url) == slot_of(request_url) for url in listed)
    return said or trusted.allows_plain(request_url)


def secrets_of(headers: Headers, entry: Entry, granted: Mapping[str, str] | None = None) -> list[str]:
    """The secrets in a request with these headers; the server may repeat them in its answer."""
    sent = [value.decode("latin-1") for name in _SECRET_FIELDS for value in headers.getlist(name)]
    return [*sent, *(value for _, value in entry.headers), *(granted or {}).values()]


_S3 = regex(r"(?:.+\.)?s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?")
_SIGNED = regex(r"[?&](?:X-Amz-Signature|Signature)=", re.IGNORECASE)


def states_checksums(headers: Headers, url: str) -> bool:
    """S3 states the checksum of an object only if the request has a certain header. A signed link must not get that
    header: S3 refuses a request with a field that was not signed."""
    anonymous = "Authorization" not in headers and not _SIGNED.search(url)
    return anonymous and _S3.fullmatch(slot_of(url)) is not None


def check_redirect(url: str, status: int, location: str) -> None:
    """Raises AttemptError when the redirect from `url` to `location` (latin-1, as received) cannot be followed."""
    try:
        # As RedirectMiddleware computes it (RFC 9110 §10.2.2: it may be relative).
        target = urljoin(url, safe_url_string(location.encode("latin-1")))
        if urlsplit(target).scheme not in ("http", "https"):
            raise _not_followed(status, location, "only http and https are")
        if not has_site(normal_url(target)):
            raise ValueError("its host name is too long")
    except EntryError as error:
        raise _not_followed(status, location, error.what) from None
    except (ValueError, UnicodeError):
        raise _not_followed(status, location, "the URL has no valid host or port") from None


def _not_followed(status: int, location: str, why: str) -> AttemptError:
    # A password may hold a slash: all up to the last @ is hidden.
    target = show(redact(_USERINFO.sub("//***@", location)), SHOWN_MAX)
    return AttemptError(
        f"a redirect that cannot be followed ({status}, to {target}: {why})",
        code="redirect",
        http_status=status,
    )
