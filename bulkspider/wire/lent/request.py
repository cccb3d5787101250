"""Writes the requests of a batch. They differ only in their first line, so the rest is written once."""

from __future__ import annotations

from typing import Any, cast

from scrapy.http import Headers
from twisted.web._newclient import Request
from twisted.web.http_headers import Headers as TxHeaders

from bulkspider.entries.urls import path_and_query

_BEGINNING = b"GET "


class SharedRequest:
    """A GET request that is sent for several URLs. Twisted writes it, so all are as it would send them.

    request: Twisted's own for one of the URLs, which its parser wants to have.
    """

    def __init__(self, headers: Headers, host: bytes) -> None:
        """headers: of all of these requests, as Scrapy's agent would get them. host: for the Host header, where they
        have none. Raises what Twisted does for unusable ones."""
        self._headers = TxHeaders(dict(headers))
        if not self._headers.hasHeader(b"host"):
            self._headers.addRawHeader(b"host", host)
        self.request = self._made("/")
        self._rest = _written(self.request).removeprefix(_BEGINNING + b"/")

    def to(self, url: str) -> bytes:
        """The request for this URL, in bytes. Raises ValueError for a URL that cannot be asked for."""
        path, query = path_and_query(url)
        target = f"{path or '/'}?{query}" if query else path or "/"
        if target.isascii() and target.isprintable() and " " not in target:
            return _BEGINNING + target.encode("ascii") + self._rest
        return _written(self._made(target))  # raises what Twisted does for such a target

    def _made(self, target: str) -> Any:
        return Request(b"GET", target.encode("ascii"), self._headers, None, persistent=True)


def _written(request: Any) -> bytes:
    to = _Bytes()
    request.writeTo(cast(Any, to))
    return b"".join(to.pieces)


class _Bytes:
    """Takes what Twisted writes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def writeSequence(self, pieces: list[bytes]) -> None:
        self.pieces += pieces
