"""BulkPipeline: finishes the files of the spider `bulk` and counts its items.

It is the first item pipeline. For a BulkItem without a status, whose bytes are all here, it has the file proven and
named (`run/downloads.py`) and returns the item with its status. If the bytes were refused it drops the item;
`dispatch/fetch.py` decides whether the file is fetched again. Every outcome is counted here, and only here.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from scrapy.exceptions import DropItem, NotConfigured
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider.errors import BulkError, DiskError
from bulkspider.items import BulkItem
from bulkspider.run.download import Download
from bulkspider.run.run import Run

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self


# The row that passes the item pipelines now, in the context of their task (asyncio only). Needed because another
# pipeline may replace the item.
passing: ContextVar[BulkItem | None] = ContextVar("passing", default=None)


class BulkPipeline:
    """Finishes the spider's entries."""

    def __init__(self, crawler: Crawler) -> None:
        run = crawler.get_extension(Run)
        if run is None:
            raise NotConfigured("bulkspider.run.run.Run is missing from EXTENSIONS; add bulkspider.Addon to ADDONS")
        self._run = run

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    async def process_item(self, item: Any) -> Any:
        """Items that are not BulkItems pass untouched."""
        if not isinstance(item, BulkItem):
            return item
        if not item.status:
            download = self._run.downloads.at(item.path)
            if download is None or download.verdict is None:
                raise DropItem("its entry has ended meanwhile", log_level="DEBUG")
            await maybe_deferred_to_future(Deferred.fromCoroutine(self._finish(item, download, download.verdict)))
        self._run.outcomes.count(item)
        passing.set(item)
        return item

    async def _finish(self, item: BulkItem, download: Download, verdict: Deferred[Any]) -> None:
        try:
            line = await self._run.downloads.finish(download)
            if line is not None and self._run.handover is not None:
                line = await self._run.handover.hand_on(line, download.entry.url)
        except BulkError as error:
            if isinstance(error, DiskError):
                self._run.disk_failed(error)
            verdict.errback(error)
            if item.status:
                return  # the item has become the row of a failure or of a stop, and is not dropped
            download.item = None
            raise DropItem("its bytes were refused", log_level="DEBUG") from error
        if line is not None:
            download.describe(item)
            line.describe(item)
        download.item = None
        verdict.callback(line)
        if line is None:
            raise DropItem("its bytes were refused, it is fetched again", log_level="DEBUG")
