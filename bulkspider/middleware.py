"""The middleware: requests with meta["bulk"] pass it before any other of the project's, and their failures after all.

It decides what `handler.py` cannot, which has the request too late or for the last time: whatever HttpCache holds for
its URL is a page, never the file; where no reactor is, the file must not be loaded into memory as if it were a page;
and with JOBDIR, what the end of a crawl interrupts goes back into its queue. Other requests pass untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy.exceptions import NotSupported

from bulkspider.bare import RESULT
from bulkspider.errors import Stopped

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from typing_extensions import Self

NEEDS_REACTOR = "bulkspider needs Twisted's reactor; remove TWISTED_REACTOR_ENABLED=False"


class BulkMiddleware:
    """See the module."""

    def __init__(self, crawler: Crawler) -> None:
        self._has_reactor = crawler.settings.getbool("TWISTED_REACTOR_ENABLED", True)
        self._has_queue = bool(crawler.settings["JOBDIR"])
        self._put_back: set[Request] = set()

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

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        """The pipeline's attempts are none of the queue's business; and what comes back at once was never in it."""
        interrupted = isinstance(exception.__cause__, Stopped)
        if not (interrupted and self._has_queue) or "entry" in request.meta["bulk"] or request in self._put_back:
            return None
        bulk = {key: value for key, value in request.meta["bulk"].items() if key != RESULT}
        again = request.replace(dont_filter=True, meta={**request.meta, "bulk": bulk})
        self._put_back.add(again)
        return again
