"""Pipelines: where an entry becomes an item that others may see.

BulkPipeline stands first among the item pipelines of the spider `bulk`: it takes every BulkItem whose bytes are all on
disk, has the file proven and named (`finish.py`), and lets the item go on with its status. What was refused goes back
to the spider. Every outcome is counted here, and only here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from scrapy.exceptions import DropItem, NotConfigured

from bulkspider.download import Download
from bulkspider.errors import BulkError, DiskError
from bulkspider.finish import Refuted
from bulkspider.items import BulkItem
from bulkspider.run import Run

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self

    from bulkspider.spiders.bulk import BulkSpider


class BulkPipeline:
    """Finishes the spider's entries."""

    def __init__(self, crawler: Crawler) -> None:
        run = crawler.get_extension(Run)
        if run is None:
            raise NotConfigured("bulkspider.run.Run is missing from EXTENSIONS; add bulkspider.Addon to ADDONS")
        self._run = run
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    async def process_item(self, item: Any) -> Any:
        """Items that are not BulkItems pass untouched."""
        if not isinstance(item, BulkItem):
            return item
        download = self._run.at(item.path)
        if download is not None:
            if not item.status:
                await self._finish(item, download)
            await self._run.forget(download)
        self._run.count(item)
        return item

    async def _finish(self, item: BulkItem, download: Download) -> None:
        spider = cast("BulkSpider", self._crawler.spider)
        try:
            line = await self._run.finish(download)
        except BulkError as error:
            failed = await self._refused(download, error)
            if failed is None:
                raise DropItem("its bytes were refused, it is fetched again", log_level="DEBUG") from error
            item.status, item.error = failed.status, failed.error
        else:
            spider.finished(item.name, line.status)
            line.describe(item)

    async def _refused(self, download: Download, error: BulkError) -> BulkItem | None:
        spider = cast("BulkSpider", self._crawler.spider)
        begun_anew = False
        if isinstance(error, Refuted):
            begun_anew = await self._run.refute(download, error)
        if isinstance(error, DiskError):
            self._run.disk_failed(error)
        return spider.not_finished(download.entry.name, error, begun_anew=begun_anew)
