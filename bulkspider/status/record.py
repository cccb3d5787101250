"""Writes the files that `--status` reads: a Scrapy extension.

Every two seconds it writes what the run is doing to `.bulkspider/status.json`, which is removed when the run ends. At
the end it writes the entries that failed to a list, `.bulkspider/failed.list`, with the lines of the user's list. Both
have mode 600, because lists hold signed URLs.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import structs
from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.asyncio import create_looping_call

from bulkspider.errors import DiskError
from bulkspider.failures import Failed, FailureJournal, file_name, load_failures, write_private
from bulkspider.lists.listsource import ListSource
from bulkspider.reporting.snapshot import Sampler
from bulkspider.run.run import Run
from bulkspider.spiders.bulk import BulkSpider

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self

    from bulkspider.items import BulkItem

logger = logging.getLogger(__name__)

LIVE = "status.json"
EVERY_SECONDS = 2.0
HEADING = b"# failed last time; this line is ignored, as the first line of a list always is\n"


class StatusRecord:
    """Of the spider `bulk` with a list; others have none, nor has a program that gives the entries itself: there is no
    list whose lines could be written again."""

    def __init__(self, crawler: Crawler, spider: BulkSpider) -> None:
        self._crawler = crawler
        self._spider = spider
        self._journal: FailureJournal | None = None
        source = spider.bulk_job.source
        self._extent = structs.asdict(source.extent) if isinstance(source, ListSource) else None
        self._writing = False
        self._look = create_looping_call(self._write_live)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        spider = crawler.spider
        if not isinstance(spider, BulkSpider) or spider.bulk_job.source.shared or spider.bulk_job.source.grows:
            raise NotConfigured
        record = cls(crawler, spider)
        crawler.signals.connect(record._opened, signals.spider_opened)
        spider.bulk_job.on_end(record._ended)
        return record

    def _opened(self) -> None:
        run = self._crawler.get_extension(Run)
        assert run is not None
        self._run = run
        job = self._spider.bulk_job
        before: dict[str, Failed] = {}
        with suppress(DiskError, OSError):
            before = load_failures(job.folder.root, job.writer)
        self._journal = FailureJournal(job.folder.private_fd, job.writer, before)
        run.outcomes.on_outcome(self._outcome)
        self._sampler = Sampler(run, self._spider, time.monotonic())
        if job.writer is None and not job.verifying:
            self._look.start(EVERY_SECONDS)

    def _outcome(self, item: BulkItem) -> None:
        assert self._journal is not None
        if item.status == "interrupted" or not item.name:
            return
        error = item.error if item.status == "failed" else None
        failed = Failed(error["code"], error["permanent"]) if error is not None else None
        self._journal.note(item.name, failed)

    # -- what it is doing ------------------------------------------------------------------------------------------

    def _write_live(self) -> None:
        if self._writing:
            return  # the disk does not answer
        assert self._journal is not None
        view = self._sampler.look(time.monotonic())
        live = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "time": time.time(),
            "running": [running.name for running in view.running],
            "waiting": [[waiting.origin, round(waiting.seconds), waiting.why] for waiting in view.waiting],
            "speed": round(view.speed),
            "seconds_left": None if view.seconds_left is None else round(view.seconds_left),
            "extent": self._extent,
            "failures_start": self._journal.start,
        }
        self._writing = True
        folder = self._spider.bulk_job.folder.private_fd
        written = self._run.threads.in_thread(write_private, LIVE, [json.dumps(live).encode()], folder, aside=True)
        written.addErrback(lambda failure: logger.debug("%s: %s", LIVE, failure.value))
        written.addBoth(self._written)

    def _written(self, _: Any) -> None:
        self._writing = False

    # -- its end ---------------------------------------------------------------------------------------------------

    def _ended(self) -> None:
        if self._look.running:
            self._look.stop()
        job, journal = self._spider.bulk_job, self._journal
        if journal is None or job.folder.is_gone:
            return
        folder = job.folder.private_fd
        with suppress(OSError):
            os.unlink(LIVE, dir_fd=folder)
        for name in [name for name in journal.failures if job.is_done(name)]:
            journal.failures.pop(name)  # an earlier run has done it, and nobody asked for its row
        journal.close()
        name = file_name(job.writer, "list")
        try:
            if journal.failures:
                write_private(name, self._lines(journal.failures), folder)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        except OSError as error:
            logger.warning("%s: the list of what failed could not be written: %s", name, error.strerror)

    def _lines(self, failures: dict[str, Failed]) -> Iterator[bytes]:
        heading, lines = self._spider.bulk_job.source.lines_of(failures)
        yield heading or HEADING
        yield from lines
