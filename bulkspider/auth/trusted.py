"""Trusted hosts: which hosts may see what is for another one (BULK_TRUSTED_HOSTS).

The download host of an archive may need the token of its catalogue; whether a redirect carries it on is the user's to
say (RFC 9110 §15.4). Nobody is trusted by default.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from bulkspider.entries.urls import origin_of, same_origin, slot_of


class Trusted:
    """patterns: globs on `host` or `host:port`; `http://` before one allows plain http as well. listed: the origins
    that the list names."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.listed: Collection[str] = ()
        self._patterns = tuple(pattern.strip().lower() for pattern in patterns)

    def may_see(self, url: str, request_url: str) -> bool:
        """What is for the origin of `url` may go to `request_url`, whereto a redirect led. What was for https does not
        go over http."""
        if same_origin(url, request_url):
            return True
        plain = urlsplit(request_url).scheme == "http" and urlsplit(url).scheme != "http"
        return self._names(request_url, plain=plain)

    def allows_plain(self, url: str) -> bool:
        """The list, or the user's own setting, has said `http://` of this host."""
        # A port speaks http or https, so that an origin that the list names is asked as the list says.
        return origin_of(url) in self.listed or self._names(url, plain=True)

    def _names(self, url: str, *, plain: bool) -> bool:
        for pattern in self._patterns:
            scheme, _, name = pattern.rpartition("://")
            if matches(url, name) and (not plain or scheme == "http"):
                return True
        return False


def matches(url: str, pattern: str) -> bool:
    """The host of `url`, alone or with its port, is one of this glob."""
    return fnmatchcase(slot_of(url), pattern) or fnmatchcase(origin_of(url), pattern)
