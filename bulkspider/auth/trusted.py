"""Trusted hosts: hosts that may see the credentials of other hosts (BULK_TRUSTED_HOSTS).

The download host of an archive may need the token of its catalogue. The user decides whether a redirect carries it on
(RFC 9110 §15.4); by default no host is trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from bulkspider.entries.urls import origin_of, same_origin, slot_of


class Trusted:
    """patterns: globs for `host` or `host:port`; `http://` before one allows plain http as well."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._listed: Collection[str] = ()
        self._patterns = tuple(pattern.strip().lower() for pattern in patterns)

    def list_names(self, origins: Collection[str]) -> None:
        """The list names these origins."""
        self._listed = origins

    def may_see(self, url: str, request_url: str) -> bool:
        """Credentials for the origin of `url` may be sent to `request_url`, to which a redirect led. Those for https
        are not sent over http."""
        if same_origin(url, request_url):
            return True
        plain = urlsplit(request_url).scheme == "http" and urlsplit(url).scheme != "http"
        return self._names(request_url, plain=plain)

    def allows_plain(self, url: str) -> bool:
        """The list, or BULK_TRUSTED_HOSTS, names this host with `http://`."""
        # A port speaks either http or https, so for an origin that the list names the list has decided which.
        return origin_of(url) in self._listed or self._names(url, plain=True)

    def _names(self, url: str, *, plain: bool) -> bool:
        for pattern in self._patterns:
            scheme, _, name = pattern.rpartition("://")
            if matches(url, name) and (not plain or scheme == "http"):
                return True
        return False


def matches(url: str, pattern: str) -> bool:
    """The host of `url`, with or without its port, matches this glob."""
    return fnmatchcase(slot_of(url), pattern) or fnmatchcase(origin_of(url), pattern)
