"""The middleware: requests with meta["bulk"] pass it before any other of the project's.

What cannot wait until `handler.py` has the request: whatever HttpCache holds for its URL is a page, never the file.
And where no reactor is, the file must not be loaded into memory as if it were a page. Other requests pass untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy.exceptions import NotSupported

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from typing_extensions import Self

NEEDS_REACTOR = "bulkspider needs Twisted's reactor; remove TWISTED_REACTOR_ENABLED=False"


class BulkMiddleware:
    """See the module."""

    def __init__(self, crawler: Crawler) -> None:
        self._has_reactor = crawler.settings.getbool("TWISTED_REACTOR_ENABLED", True)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    def process_request(self, request: Request) -> None:
        if "bulk" not in request.meta:
            return
        if not self._has_reactor:
            raise NotSupported(f'meta["bulk"]: {NEEDS_REACTOR}')
        # Neither answered from there, nor stored there without its body.
        request.meta["dont_cache"] = True
