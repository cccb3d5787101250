"""The middlewares: for requests with meta["bulk"] (BulkMiddleware), and for items and their pages (PagesMiddleware).

BulkMiddleware sees requests with meta["bulk"] before all other downloader middlewares, and their responses and errors
after all others. So it does what `handler.py` cannot:

* HttpCache must not answer them: what it has for their URL is a page, not the file.
* The robots.txt of the target of a redirect follows the same rules as the file.
* Without a reactor they are refused, because Scrapy would load the file into memory.
* A failure is counted when it is final, even if our handler has not seen it, so that there is always a result.
* With JOBDIR, requests that the end of a crawl interrupts go back into Scrapy's queue.

Other requests, and those of the spider and of BulkFilesPipeline, are not changed.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from scrapy import Request, signals
from scrapy.exceptions import NotSupported

from bulkspider.components.identity import (
    ALL_BY_ANOTHER,
    check_request,
    choose_slot,
    forget_direct,
    go_directly,
    identify,
    is_bare,
    is_told,
    tell,
)
from bulkspider.components.meta import NOTE, RESULT
from bulkspider.dispatch.places import Limits
from bulkspider.entries.entry import EntryError, redact
from bulkspider.entries.redaction import error_of
from bulkspider.errors import NEEDS_REACTOR, BulkError, UsageError
from bulkspider.items import BulkItem
from bulkspider.run.run import Run
from bulkspider.wire.failures import middleware_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# Items between the spider and BulkFilesPipeline; Scrapy has far fewer at once.
MOST_ITEMS = 10_000
# Codes of requests that were refused and do not count as entries.
IMPROPER = ("bad_line", "bad_url", "usage")


class BulkMiddleware:
    """See the module."""

    def __init__(self, crawler: Crawler) -> None:
        self._run = crawler.get_extension(Run)
        self._has_queue = bool(crawler.settings["JOBDIR"])
        self._put_back: set[Request] = set()
        self._obeys_robots = crawler.settings.getbool("ROBOTSTXT_OBEY")
        self._all_by_another = crawler.settings.getbool(ALL_BY_ANOTHER)
        self._said_direct = False
        # A setting with which requests would wait in Scrapy's downloader for ever.
        self._obstacle: UsageError | None = None
        try:
            Limits.of(crawler.settings)
        except UsageError as error:
            self._obstacle = error

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        middleware = cls(crawler)
        crawler.signals.connect(middleware._scheduled, signals.request_scheduled)
        return middleware

    def _scheduled(self, request: Request) -> None:
        """Sets the slot before the request is in Scrapy's queue, so that a queue that knows slots can prefer pages to
        files."""
        if is_bare(request):
            choose_slot(request)

    def process_request(self, request: Request) -> None:
        if "bulk" not in request.meta:
            return
        identify(request)
        if self._run is None:
            self._refuse(UsageError(NEEDS_REACTOR))
        if urlsplit(request.url).scheme not in ("http", "https"):
            self._refuse(BulkError(f"{redact(request.url)}: only http and https", code="bad_url"))
        if self._obstacle is not None:
            self._refuse(self._obstacle)
        if is_bare(request):
            # Checked here, too: another handler may be configured before ours.
            try:
                check_request(request)
            except EntryError as error:
                raise NotSupported(f'meta["bulk"]: {error}') from error
        if self._all_by_another and go_directly(request):
            self._say_direct()
        # HttpCache must neither answer it, nor store the Response without a body.
        request.meta["dont_cache"] = True
        if self._obeys_robots and self._run is not None and request.meta.get("redirect_urls"):
            self._run.fallback.note_redirect(request)

    def _say_direct(self) -> None:
        if not self._said_direct:
            self._said_direct = True
            logger.warning(
                "%s does not hold for files: their hosts are asked directly, from this machine's address. To say that "
                'this is meant: meta["zyte_api_automap"] = False',
                ALL_BY_ANOTHER,
            )

    def _refuse(self, error: BulkError) -> NoReturn:
        raise NotSupported(f'meta["bulk"]: {error}') from error

    def process_response(self, request: Request, response: Response) -> Response:
        if is_bare(request):
            forget_direct(request)
            self._tell_unseen(request, None)
            self._count_failure(request)
            if response.request is not None and response.request is not request:
                # A middleware's own answer belongs to another request, whose meta the callback sees.
                response.request.meta.setdefault("bulk", dict(request.meta["bulk"]))
        return response

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        if not is_bare(request):
            return None
        forget_direct(request)
        self._tell_unseen(request, exception)
        status = self._count_failure(request)
        if status != "interrupted" or not self._has_queue or request in self._put_back:
            return None
        # A request that comes back once more was never in the queue: its sender awaits it. It is not put back again.
        again = request.replace(dont_filter=True)
        again.meta["bulk"] = {key: value for key, value in again.meta["bulk"].items() if key != RESULT}
        self._put_back.add(again)
        return again

    def _tell_unseen(self, request: Request, exception: Exception | None) -> None:
        """Writes a result for a request whose end our handler did not see."""
        if NOTE not in request.meta["bulk"]:
            identify(request)
        if is_told(request):
            return
        cause = exception.__cause__ if exception is not None else None
        if isinstance(cause, EntryError):
            error = BulkError(str(cause), code="bad_line")
        elif isinstance(cause, BulkError):
            error = cause
        else:
            error = middleware_error(exception, None)
            if self._run is not None and RESULT not in request.meta["bulk"]:
                self._run.crawler.stats.inc_value("bulk/entries")
        tell(request, BulkItem(status="failed", error=error_of(error)))

    def _count_failure(self, request: Request) -> str | None:
        """Counts a bare request that has failed finally, and returns its status. Refused requests (IMPROPER) do not
        count."""
        bulk: Any = request.meta["bulk"]
        result = bulk.get(RESULT)
        if self._run is None or result["status"] not in ("failed", "interrupted"):
            return None
        if result["error"]["code"] in IMPROPER:
            return None
        self._run.outcomes.count(BulkItem(name=str(bulk.get("path") or ""), url=redact(request.url), **result))
        return str(result["status"])


class PagesMiddleware:
    """Remembers which page an item came from, until BulkFilesPipeline asks. A spider middleware next to the engine, so
    that it sees the items that the pipelines get. Items that another pipeline has dropped or replaced are never asked
    for, so only the newest MOST_ITEMS are kept."""

    def __init__(self, crawler: Crawler) -> None:
        self._requests: OrderedDict[int, Request] = OrderedDict()
        crawler.signals.connect(self._gone, signals.item_dropped)
        crawler.signals.connect(self._gone, signals.item_error)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    def process_spider_output(self, response: Response, result: Iterable[Any]) -> Iterator[Any]:
        for output in result:
            self._remember(output, response)
            yield output

    async def process_spider_output_async(self, response: Response, result: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for output in result:
            self._remember(output, response)
            yield output

    def _remember(self, output: object, response: Response) -> None:
        if response.request is None or output is None or isinstance(output, Request):
            return
        self._requests[id(output)] = response.request
        if len(self._requests) > MOST_ITEMS:
            self._requests.popitem(last=False)

    def take(self, item: object) -> Request | None:
        """The request of the page that the item came from; None for items of `start()`."""
        return self._requests.pop(id(item), None)

    def _gone(self, item: object) -> None:
        self._requests.pop(id(item), None)
