"""The middleware: requests with meta["bulk"] pass it before any other of the project's, and their ends after all.

It decides what `handler.py` cannot, which has the request too late and its end too early: whatever HttpCache holds for
its URL is a page, never the file; where no reactor is, the file must not be loaded into memory as if it were a page; a
failure counts when nobody tries again; and with JOBDIR, what the end of a crawl interrupts goes back into its queue.
Other requests, and those of the spider and of BulkFilesPipeline, pass untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy.exceptions import NotSupported

from bulkspider.bare import RESULT
from bulkspider.errors import NEEDS_REACTOR
from bulkspider.items import BulkItem
from bulkspider.run import Run

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from typing_extensions import Self


class BulkMiddleware:
    """See the module."""

    def __init__(self, crawler: Crawler) -> None:
        self._run = crawler.get_extension(Run)
        self._has_queue = bool(crawler.settings["JOBDIR"])
        self._put_back: set[Request] = set()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    def process_request(self, request: Request) -> None:
        if "bulk" not in request.meta:
            return
        if self._run is None:
            raise NotSupported(f'meta["bulk"]: {NEEDS_REACTOR}')
        if urlsplit(request.url).scheme not in ("http", "https"):
            raise NotSupported(f'meta["bulk"]: {request.url}: only http and https')
        # Neither answered from there, nor stored there without its body.
        request.meta["dont_cache"] = True

    def process_response(self, request: Request, response: Response) -> Response:
        self._count_failure(request)
        return response

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        status = self._count_failure(request)
        if status != "interrupted" or not self._has_queue or request in self._put_back:
            return None
        # What is in `_put_back` never was in the queue: whoever asks for it waits for it, and it came back at once.
        again = request.replace(dont_filter=True)
        again.meta["bulk"] = {key: value for key, value in again.meta["bulk"].items() if key != RESULT}
        self._put_back.add(again)
        return again

    def _count_failure(self, request: Request) -> str | None:
        """The status of a bare request that has failed for good."""
        bulk: Any = request.meta.get("bulk")
        result = bulk.get(RESULT) if isinstance(bulk, dict) and "entry" not in bulk else None
        if self._run is None or not result or result["status"] not in ("failed", "interrupted"):
            return None
        self._run.count(BulkItem(name=bulk["path"], status=result["status"], error=result["error"]))
        return str(result["status"])
