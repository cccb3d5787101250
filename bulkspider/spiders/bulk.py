"""The spider: `scrapy crawl bulk -a list=FILE`.

`start()` yields every Request of every entry, so that Scrapy's scheduler, middlewares and settings see each; callback
and errback bring the outcomes back. `dispatch/dispatcher.py` decides which entry is next, `dispatch/fetch.py` what
follows from an outcome; `frontend.py` makes the Requests, `rows.py` the items.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from scrapy import Spider, signals
from scrapy.settings import BaseSettings
from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.entries.redaction import guard_logs
from bulkspider.errors import BulkError, UsageError
from bulkspider.items import BulkItem
from bulkspider.run.run import Run
from bulkspider.spiders.adjust import has_pipelines, introduce, leave_out_idle, set_components, set_values
from bulkspider.spiders.arguments.prepare import Prepared, prepare, prepare_given
from bulkspider.spiders.arguments.subclass import own_arguments
from bulkspider.spiders.frontend import SpiderFrontend
from bulkspider.spiders.given import GivenEntries
from bulkspider.spiders.listjob import ListJob
from bulkspider.spiders.passed import PassedItems
from bulkspider.spiders.rows import Earlier, Rows
from bulkspider.spiders.shortcut import Shortcut, is_possible
from bulkspider.wire import has_items, is_closing

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from twisted.python.failure import Failure
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# How often it is checked whether the last items are through the pipelines: soon at first, because mostly they are.
FIRST_ITEMS_SECONDS, ITEMS_SECONDS = 0.001, 0.02
# With one of these arguments the method `entries` is not used.
OF_A_LIST_OR_QUEUE = {"list", "queue"}


class BulkSpider(Spider):
    """docs/api.md says what a subclass may do. Names that begin with `bulk_` or `_bulk_` are reserved."""

    name = "bulk"
    bulk_job: ListJob
    _bulk_frontend: SpiderFrontend

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Sets what only this spider needs; a value of the user is never changed."""
        super().update_settings(settings)
        set_values(settings)

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        if not crawler.crawling and not kwargs:
            # `scrapy shell --spider=bulk` and the like: the spider is made, but not started.
            return super().from_crawler(crawler, *args)
        prepared = kwargs.pop("prepared", None)
        if prepared is None:
            guard_logs()
            try:
                prepared = cls._bulk_prepare(crawler, kwargs)
            except BulkError as error:
                # Logged, because some programs that run spiders do not show the exception.
                logger.error("%s", error)
                raise
        entries = kwargs.pop("entries", None)
        introduce(crawler.settings, kwargs.get("contact"))
        set_components(crawler.settings)
        if cls is BulkSpider:
            leave_out_idle(crawler.settings)
        if prepared.needs_sha256:
            crawler.settings.set("BULK_DIGEST", "sha256", "cmdline")
        job = ListJob(prepared)
        # Connected before the spider is made, so that the spider's own `closed` is called later.
        crawler.signals.connect(job.end, signals.spider_closed)
        try:
            spider = super().from_crawler(crawler, *args, **kwargs)
            if isinstance(prepared.source, GivenEntries):
                prepared.source.open(spider.entries if entries is None else entries)
        except BaseException as error:
            prepared.folder.close()
            if isinstance(error, BulkError):
                logger.error("%s", error)
            raise
        spider.bulk_job = job
        return spider

    @classmethod
    def _bulk_prepare(cls, crawler: Crawler, arguments: dict[str, Any]) -> Prepared:
        """Checks the arguments. Raises BulkError."""
        own = own_arguments(cls, BulkSpider)
        ours = {name: value if name in own else str(value) for name, value in arguments.items() if name != "entries"}
        settings: Any = crawler.settings
        if "entries" in arguments or (cls.entries is not BulkSpider.entries and not OF_A_LIST_OR_QUEUE & ours.keys()):
            return prepare_given(GivenEntries(), ours, settings, own=own, folder=cls.name)
        return prepare(ours, settings, own=own)

    def entries(self) -> Iterable[Any] | AsyncIterable[Any]:
        """For a subclass: the entries to fetch, dicts or BulkItems. Used where neither `list` nor `queue` is given."""
        return ()

    def parse_file(self, item: BulkItem) -> Any:
        """For a subclass: called for each finished file when its item has passed all item pipelines. item: its row. It
        may return or yield items and requests, and may be a coroutine or an async generator; they are treated as if
        `start()` had yielded them."""

    async def start(self) -> AsyncIterator[Any]:
        """Yields Requests and items when they are due; ends when every entry has its outcome, or the run is stopped."""
        run = self.crawler.get_extension(Run)
        if run is None:
            raise UsageError("bulkspider.run.run.Run is not among the extensions; add bulkspider.Addon to ADDONS")
        job = self.bulk_job
        parse = self.parse_file if type(self).parse_file is not BulkSpider.parse_file else None
        rows_for = run.options.items
        has_feed, has_hearers = bool(self.settings.getdict("FEEDS")), parse is not None or has_pipelines(self.settings)
        all_rows = job.every_row or (rows_for == "all" if rows_for else has_feed or job.report is not None)
        run.begin_list(job.source.origins, owes_items=has_hearers)
        earlier = Earlier.UNSEEN
        if all_rows:
            earlier = Earlier.ITEMS if has_feed or has_hearers or rows_for == "all" else Earlier.ROWS
        passed = PassedItems(run, job.folder, parse)
        is_short = not has_hearers and type(self).start is BulkSpider.start and is_possible(self.settings)
        shortcut = Shortcut(self.crawler, possible=is_short, ours=[passed])
        rows = Rows(run, job.folder, passed, earlier=earlier, shortcut=shortcut)
        self._bulk_frontend = job.frontend(run, rows, self.bulk_answered, self.bulk_failed)
        if await job.begin(self.crawler, rows, run):
            async for ready in job.verify() if job.verifying else job.work():
                yield ready
        seconds = FIRST_ITEMS_SECONDS
        while has_items(self.crawler) and not is_closing(self.crawler):
            await maybe_deferred_to_future(run.wakeup.wait(seconds))
            seconds = min(2 * seconds, ITEMS_SECONDS)

    def bulk_answered(self, response: Response) -> Iterator[BulkItem]:
        """Callback of every Request of an entry."""
        return self._bulk_frontend.answered(response)

    def bulk_failed(self, failure: Failure) -> Iterator[BulkItem]:
        """Errback of every Request of an entry."""
        return self._bulk_frontend.failed(failure)
