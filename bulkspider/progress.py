"""Progress: what a person sees of a run. Only reads the run; never changes it.

One line every LOGSTATS_INTERVAL while it goes on, and a summary at its end: what became of the entries, each failure
with its reason, and the command that goes on. The same numbers are in Scrapy's stats under `bulk/`.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.asyncio import create_looping_call

from bulkspider.listcopy import shown
from bulkspider.options import human
from bulkspider.run import STATUSES, Run
from bulkspider.spiders.bulk import BulkSpider

if TYPE_CHECKING:
    from scrapy import Spider
    from scrapy.crawler import Crawler
    from typing_extensions import Self

logger = logging.getLogger(__name__)


class Progress:
    """Reports on the spider `bulk`; silent for others."""

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._began = time.monotonic()
        self._last = (self._began, 0)
        self._line = create_looping_call(self._log_line)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        if not isinstance(crawler.spider, BulkSpider):
            raise NotConfigured
        progress = cls(crawler)
        crawler.signals.connect(progress._opened, signals.spider_opened)
        crawler.signals.connect(progress._closed, signals.spider_closed)
        return progress

    @property
    def _run(self) -> Run:
        run = self._crawler.get_extension(Run)
        assert run is not None
        return run

    def _stat(self, name: str) -> int:
        return int(self._crawler.stats.get_value(f"bulk/{name}", 0) or 0)

    def _opened(self, spider: BulkSpider) -> None:
        self._began = time.monotonic()
        interval = self._crawler.settings.getfloat("LOGSTATS_INTERVAL")
        logger.info("%s: %s", shown(spider.list_path), plural(spider.source.entries, "entry", "entries"))
        if interval:
            self._line.start(interval, now=False)

    def _log_line(self) -> None:
        now, received = time.monotonic(), self._stat("bytes_received")
        then, before = self._last
        self._last = (now, received)
        counts = self._run.counts
        done = sum(counts[status] for status in STATUSES)
        logger.info(
            "%d of %d done (%d failed), %d running, %s fetched, %s/s",
            done,
            self._stat("entries"),
            counts["failed"],
            self._run.active,
            human(received),
            human((received - before) / max(now - then, 0.001)),
        )

    def _closed(self, spider: Spider, reason: str) -> None:
        if self._line.running:
            self._line.stop()
        run = self._run
        for line in self._summary(run, spider):
            logger.info("%s", line)
        if isinstance(spider, BulkSpider):
            for warning in spider.source.warnings:
                logger.warning("%s", warning)

    def _summary(self, run: Run, spider: Spider) -> list[str]:
        counts = run.counts
        told = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
        if counts["left"]:
            told.append(f"{counts['left']} left")
        seconds = max(time.monotonic() - self._began, 0.001)
        received, resumed = self._stat("bytes_received"), self._stat("bytes_resumed")
        total = plural(self._stat("entries"), "entry", "entries")
        lines = [f"{total}: {', '.join(told) or 'nothing to do'}"]
        if counts["already"]:
            lines.append(f"{counts['already']} of them were done by an earlier run: nothing was asked for")
        if received:
            lines.append(f"{human(received)} fetched in {seconds:.1f} s ({human(received / seconds)}/s)")
        if resumed:
            lines.append(f"{human(resumed)} were on disk already and were not fetched again")
        for item in run.failures:
            error: dict[str, Any] = item.error or {}
            lines.append(f"failed: {item.name}: {error['message']} [{error['code']}]")
        if counts["failed"] > len(run.failures):
            lines.append(f"… and {counts['failed'] - len(run.failures)} more failures; -O report.jsonl lists all")
        if isinstance(spider, BulkSpider) and spider.verifying:
            if counts["failed"]:
                lines.append("to fetch what is missing or was refused, run the same without verify=1")
        elif run.exit_status not in (0, 1, 4, 5):
            lines.append(f"to go on, run the same again: {command_line()}")
        return lines


def command_line() -> str:
    """What the user typed, as well as it can be known."""
    # Scrapy takes the command's name out of sys.argv.
    arguments = sys.orig_argv
    for at, word in enumerate(arguments):
        if word.rpartition("/")[2] == "scrapy":
            return shlex.join(["scrapy", *arguments[at + 1 :]])
    return shlex.join(arguments)


def plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
