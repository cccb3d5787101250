"""Cookies without a download of the public suffix list.

Scrapy's middleware refuses cookies for a whole suffix such as `co.uk`, and downloads the list of these suffixes at the
first cookie: in the reactor's thread and without a timeout, so that a firewall that drops the packets would block every
transfer for ever. For our requests the copy of the list in tldextract is used. Nothing changes for the requests of a
project's own spiders.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from scrapy.downloadermiddlewares.cookies import CookiesMiddleware
from tldextract import TLDExtract

from bulkspider.run.run import Run
from bulkspider.wire.compat import judged_by

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from typing_extensions import Self


class BulkCookiesMiddleware(CookiesMiddleware):
    """Scrapy's own middleware, but without the download for requests for files, and for all requests of a list's run or
    a walk."""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        middleware = super().from_crawler(crawler)
        middleware._run = crawler.get_extension(Run)
        return middleware

    def process_request(self, request: Request) -> Request | Response | None:  # type: ignore[override]
        with self._judge(request):
            return super().process_request(request)

    def process_response(self, request: Request, response: Response) -> Request | Response:  # type: ignore[override]
        with self._judge(request):
            return super().process_response(request, response)

    def _judge(self, request: Request) -> AbstractContextManager[None]:
        run = self._run
        ours = "bulk" in request.meta or (run is not None and (run.of_a_list or run.guards_pages))
        return judged_by(suffixes()) if ours else nullcontext()

    _run: Run | None = None


@lru_cache(maxsize=1)
def suffixes() -> Any:
    """Splits host names by the list in tldextract: no request, and no cache in the home folder, whose file system may
    hang."""
    return cast(Any, TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True))
