"""The dry run: works as a run, but asks for one byte of each file and writes nothing.

The same dispatcher, fetch, slots and origins work through the list, and the same exchange judges the answers, so that
the result is what a run would meet. Three things differ: each request asks for the first byte only (`Probe`); each URL
is asked once, and an origin that does not answer is given up soon; the results go to `survey.py` instead of the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Collection, Iterator
from typing import TYPE_CHECKING, Any

from scrapy import Spider
from scrapy.settings import BaseSettings
from twisted.internet.defer import Deferred, succeed

from bulkspider.commands.survey import Survey
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.untouched import UntouchedFolder
from bulkspider.disk.leftovers.held import bytes_held
from bulkspider.dispatch.proofs import Open, Proofs
from bulkspider.entries.entry import Entry, origin_of
from bulkspider.errors import AttemptError, BulkError, DiskError, Stopped, UsageError
from bulkspider.items import BulkItem
from bulkspider.options import human
from bulkspider.run.download import Download
from bulkspider.run.run import Run
from bulkspider.spiders.adjust import introduce, leave_out_idle
from bulkspider.spiders.arguments.prepare import Prepared
from bulkspider.spiders.bulk import BulkSpider
from bulkspider.spiders.frontend import SpiderFrontend
from bulkspider.spiders.listjob import ListJob

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from twisted.python.failure import Failure
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# An origin that has not answered this many requests in a row is not asked for its other entries.
TRIES = 3


class DryRunSpider(Spider):
    """`scrapy bulk LIST --dry-run`. No BulkSpider: it has no items, no display and no summary."""

    name = "bulk-dry-run"
    survey: Survey
    _job: DryRunJob
    _frontend: SpiderFrontend

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        BulkSpider.update_settings(settings)

    @classmethod
    def from_crawler(
        cls, crawler: Crawler, *args: Any, prepared: Prepared, survey: Survey, contact: str | None = None
    ) -> Self:
        introduce(crawler.settings, contact)
        leave_out_idle(crawler.settings)
        spider = super().from_crawler(crawler, *args)
        spider._job = DryRunJob(prepared)
        spider.survey = survey
        return spider

    async def start(self) -> AsyncIterator[Any]:
        run = self.crawler.get_extension(Run)
        assert run is not None  # the command has installed the add-on
        run.take_charge()
        run.origins.give_up_after(TRIES)
        job = self._job
        run.begin_list(job.source.origins, owes_items=False)
        findings = Findings(self.survey, run)
        self._frontend = job.frontend(run, findings, self.answered, self.failed)
        await job.look(self.crawler, findings, run)
        interval = self.settings.getfloat("LOGSTATS_INTERVAL")
        told = time.monotonic()
        async for ready in job.work():
            yield ready
            if interval and time.monotonic() - told >= interval:
                told = time.monotonic()
                asked, entries = job.source.entries - job.source.waiting, job.source.entries
                logger.info("%d of %d asked, %s so far", asked, entries, human(self.survey.to_fetch))

    def answered(self, response: Response) -> Iterator[BulkItem]:
        """Callback of every Request."""
        return self._frontend.answered(response)

    def failed(self, failure: Failure) -> Iterator[BulkItem]:
        """Errback of every Request."""
        return self._frontend.failed(failure)

    async def closed(self, reason: str) -> None:
        """Scrapy calls this at the end."""
        await self._job.end()


class DryRunJob(ListJob):
    """A list that is only asked for."""

    once = True

    async def look(self, crawler: Crawler, findings: Findings, run: Run) -> None:
        """The crawl has begun. Notes what would prevent the start of a run, and asks for the entries all the same."""
        survey, folder = findings.survey, self.folder
        assert isinstance(folder, UntouchedFolder)
        obstacles = []
        try:
            ledger = run.folders.look_into(folder)
        except DiskError as error:
            ledger = run.folders.ledger(folder)
            obstacles.append(str(error))
        proofs = Unproven(survey, folder, ledger, run.threads, run.stopping, asker="the list")
        self._build(crawler, findings, run, proofs)
        try:
            if self._prepared.remote_sums is not None:
                self._sums = await self._prepared.remote_sums.fetch(crawler)
        except UsageError as error:
            obstacles.append(str(error))
        try:
            self._dispatcher.begin(self._sums)
        except UsageError as error:
            obstacles.append(str(error))
        # One obstacle is enough to stop a run.
        survey.obstacles = survey.obstacles or obstacles[:1]

    async def end(self) -> None:
        if self.slots is not None:
            self._dispatcher.abandon()
        await self.source.end()


class Unproven(Proofs):
    """Where only a hash can decide whether a file is right, notes that, and does not read the file."""

    def __init__(self, survey: Survey, *args: Any, asker: str) -> None:
        super().__init__(*args, asker=asker)
        self._survey = survey

    async def renew(self, found: Open) -> LedgerLine | None:
        self._survey.is_hashed_first()
        return found.line


class Findings:
    """Tells the survey how entries end. There are no items (`spiders.frontend.Items`)."""

    busy = False
    finishing: Collection[Download] = ()

    def __init__(self, survey: Survey, run: Run) -> None:
        self.survey = survey
        self._run = run

    def __len__(self) -> int:
        return 0

    def take(self) -> BulkItem | None:
        return None

    waits = False

    def are_all_through(self) -> None:
        """There are no items."""

    def bad_line(self, line: int, name: str, error: BulkError) -> None:
        """Nothing to do: the check of the list has reported it."""

    def lose(self, download: Download) -> None:
        """Nothing to do: there are no items."""

    def finish(self, download: Download) -> Deferred[LedgerLine | None]:
        """The origin would send the file. Returns the ledger line that a run might write."""
        entry = download.entry
        size = download.part.state.total
        held = bytes_held(download.path)
        self.survey.hashed += bool(entry.digests)
        profile = self._run.origins[download.origin].profile
        self.survey.has_answered(
            *(entry, download.origin, size, download.ranges),
            held=held.bytes,
            foreign=held.foreign,
            in_pieces=download.range_max is not None,
            asks=f"{profile} ({profile.source or profile.file})" if str(profile) != "no limit" else "",
        )
        return succeed(
            LedgerLine(
                name=entry.name,
                key=download.part.key,
                size=size or 0,
                mtime_ns=0,
                digests={},
                flags=(),
                status="complete",
                time=time.time(),
            )
        )

    def proven(self, entry: Entry, line: LedgerLine) -> bool:
        self.survey.hashed += bool(entry.digests)
        self.survey.is_done(line.size)
        return True

    def ended(self, entry: Entry, error: BulkError, download: Download | None) -> None:
        if isinstance(error, Stopped):
            return
        self.survey.hashed += bool(entry.digests)
        silent = self._run.origins[origin_of(download.url if download is not None else entry.url)].outage.error
        if error.code == "origin_down" and isinstance(silent, AttemptError):
            error = silent
            if download is None or not download.attempts:
                self.survey.would_fail_too(entry, error)
                return
        self.survey.has_failed(entry, error)
