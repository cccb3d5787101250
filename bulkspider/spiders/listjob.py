"""The list's job: the work of one crawl of the spider `bulk`.

It is made with the spider, from checked arguments. `begin` builds the dispatcher and what it needs, `work` yields
Requests and items until every entry has its outcome, `verify` re-reads the output instead, `end` counts what is left.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider.disk.commit import GROUP_MAX_FILES
from bulkspider.disk.finished.verify import VerifyResult, verify
from bulkspider.dispatch.dispatcher import LOOK_EVERY_SECONDS, Dispatcher
from bulkspider.dispatch.fetch import Fetcher
from bulkspider.dispatch.freshurl import FreshUrls
from bulkspider.dispatch.places import Limits, Places
from bulkspider.dispatch.proofs import Proofs
from bulkspider.dispatch.segments import Segments
from bulkspider.dispatch.slots import Slots
from bulkspider.dispatch.underway import Listener
from bulkspider.entries.entry import Entry
from bulkspider.errors import BulkError, DiskError, Stopped, UsageError
from bulkspider.handover.manifests import Manifest
from bulkspider.handover.stage import StagedFolder
from bulkspider.handover.writing import ManifestWriter
from bulkspider.items import BulkItem
from bulkspider.options import human
from bulkspider.pumps.descriptors import commits_at_once, transfers_at_once
from bulkspider.run.download import Download
from bulkspider.run.run import Run
from bulkspider.small.sharing import SECOND_FROM_ENTRIES, SmallFiles, allows_batches
from bulkspider.spiders.arguments.prepare import Prepared
from bulkspider.spiders.frontend import Items, SpiderFrontend
from bulkspider.spiders.rows import Rows
from bulkspider.text import visible

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from twisted.python.failure import Failure

logger = logging.getLogger(__name__)

# Files that a verify hashes at the same time.
VERIFY_AHEAD = 8


class ListJob:
    """source: the entries. folder: the output folder, opened and locked. report: the page to write, None for none.
    every_row: every entry gets a row. verifying: the output is only re-read. writer: the name of this shard or worker,
    None otherwise. slots: None before `begin`. once: one attempt for each URL, in a dry run (`commands/dryrun.py`)."""

    once = False

    def __init__(self, prepared: Prepared) -> None:
        self.source = prepared.source
        self.folder = prepared.folder
        self.report = prepared.report
        self.every_row = prepared.every_row
        self.verifying = prepared.verify
        self.writer = prepared.writer
        self.slots: Slots | None = None
        self._prepared = prepared
        self._sums = prepared.sums
        self._manifest: ManifestWriter | None = None
        self._stage: StagedFolder | None = None
        self._run: Run | None = None
        self._at_end: list[Callable[[], None]] = []

    def on_end(self, subscriber: Callable[[], None]) -> None:
        """Calls `subscriber` when every entry has its outcome, while list, ledger and folder are still open."""
        self._at_end.append(subscriber)

    def frontend(
        self,
        run: Run,
        items: Items,
        callback: Callable[[Response], Iterator[BulkItem]],
        errback: Callable[[Failure], Iterator[BulkItem]],
    ) -> SpiderFrontend:
        """Makes the frontend of the crawl. callback, errback: of its Requests."""
        source, settings = self.source, run.crawler.settings
        batches = not source.shared and not self._stage_max and allows_batches(settings)
        self._small = SmallFiles(
            run.options.batch if batches else 1,
            left=lambda: source.waiting,
            limited=lambda: run.rates.limited,
            on_small=lambda: self._begin_second(run),
            probing=self.once,
        )
        self._frontend = SpiderFrontend(
            *(run, self.folder, items, self._small), callback=callback, errback=errback, probing=self.once
        )
        return self._frontend

    def _begin_second(self, run: Run) -> None:
        """Small files come: starts a second process for them when many entries are left."""
        if run.second is None and self._small.shares and self.source.waiting >= SECOND_FROM_ENTRIES:
            # Only here: most lists have no use for it, and its import takes long.
            from bulkspider.small.second import second_process

            run.second = second_process(run, self.folder, self._ledger, self.writer)

    async def begin(self, crawler: Crawler, rows: Rows, run: Run) -> bool:
        """Called when the crawl has begun. False: an error, which was logged, ends it."""
        self._run, self._rows = run, rows
        prepared, source = self._prepared, self.source
        run.outcomes.count_entries(source.entries)
        self._warn_of_space()
        try:
            ledger = self._ledger = run.use_folder(self.folder, prepared.writer)
        except DiskError as failure:
            run.disk_failed(failure)
            return False
        if prepared.manifest is not None:
            manifest = Manifest(prepared.manifest, self.folder, ledger)
            shared = not self.folder.is_ours_alone
            self._manifest = ManifestWriter(manifest, run.threads, run.stopping.is_set, shared=shared)
        if self._stage_max:
            self._stage = StagedFolder(self.folder, self._stage_max)
        proofs = Proofs(self.folder, ledger, run.threads, run.stopping, asker="the list")
        self._build(crawler, rows, run, proofs)
        if source.duplicates:
            crawler.stats.set_value("bulk/duplicates", source.duplicates)
        if source.ignored is not None:
            crawler.stats.set_value("bulk/ignored_first_line", source.ignored.name)
        if source.introduction:
            logger.info("%s", source.introduction)
        for warning in source.warnings:
            logger.warning("%s", warning)
        for bad in source.bad:
            error = BulkError(str(bad.problem), code="bad_line")
            rows.bad_line(bad.line, visible(bad.name or ""), error)
        if prepared.walked is not None:
            for warning in prepared.walked.warnings:
                logger.warning("%s", warning)
            for page in prepared.walked.unread:
                rows.bad_line(0, visible(page.name), page.error)
        try:
            if prepared.then is not None and not self.verifying:
                lock_name = "then.lock" if prepared.writer is None else f"then.{prepared.writer}.lock"
                waiting = run.begin_handover(prepared.then, self.folder, ledger, lock_name)
                await maybe_deferred_to_future(Deferred.fromCoroutine(waiting))
            if prepared.remote_sums is not None:
                self._sums = await prepared.remote_sums.fetch(crawler)
            self._dispatcher.begin(self._sums)
        except UsageError as refusal:
            run.refuse(refusal)
            return False
        except Stopped:
            pass  # `work` ends at once
        return True

    @property
    def _stage_max(self) -> int:
        """Bytes that may lie in the output folder, 0 for no limit."""
        then = self._prepared.then
        return 0 if then is None or self.verifying else then.stage_max

    def _build(self, crawler: Crawler, listener: Listener, run: Run, proofs: Proofs) -> None:
        self._run, frontend, small = run, self._frontend, self._small
        options, settings, source = run.options, crawler.settings, self.source
        limits = Limits.of(settings)
        limits = replace(limits, total=transfers_at_once(limits.total))
        run.downloads.committer.limit_group(commits_at_once(limits.total, GROUP_MAX_FILES))
        stage = self._stage
        places = Places(run.origins, run.clock, limits)
        if stage is None:
            self.slots = Slots(places, run.stopping, fits=run.downloads.fits, small=small)
        else:
            fits = partial(_fits, stage, run.downloads.fits)
            self.slots = Slots(places, run.stopping, fits=fits, admits=partial(_admits, stage))
        # With other workers a free place is better used for another file, unless the user has set BULK_SEGMENTS.
        alone = source.shared and settings.getpriority("BULK_SEGMENTS") is None
        segments = Segments(
            places,
            run.origins,
            most=1 if alone else options.segments,
            smallest=options.segment_min,
            held_back=run.rates.hold_back,
            may_connect=source.may_connect,
        )
        fresh_urls = FreshUrls(self._prepared.list_path, options.fresh_url, run.threads.in_own_thread, source.reading)
        fetcher = Fetcher(
            *(run, frontend, self.slots),
            source=source,
            segments=segments,
            fresh_urls=fresh_urls,
            small=small,
            once=self.once,
        )
        self._dispatcher = Dispatcher(
            run,
            source,
            self.folder,
            fetcher,
            listener,
            slots=self.slots,
            segments=segments,
            proofs=proofs,
            stage=stage,
        )

    def _warn_of_space(self) -> None:
        """Warns before the first byte when the list does not fit on the disk. Each file is checked again when it
        begins."""
        then = self._prepared.then
        if self.verifying or (then is not None and then.stage_max):
            return  # nothing is written; or files are moved away during the run
        free = self.folder.free_space()
        if self.source.known_bytes > free:
            needed = self.source.known_bytes - self.folder.used_space()
            if needed > free:
                logger.warning(
                    "%s: the list still needs about %s, and only %s are free; the run will stop when the disk is full",
                    *(self.folder.root, human(needed), human(free)),
                )

    async def work(self) -> AsyncIterator[Any]:
        """Yields Requests and items when they are due."""
        run, frontend, dispatcher = self._run, self._frontend, self._dispatcher
        assert run is not None
        while True:
            for ready in frontend.yield_ready():
                yield ready
            if self.source.grows:
                run.outcomes.count_entries(self.source.owed)
            if run.stopping:
                break
            if dispatcher.is_done and not frontend.has_ready and not frontend.waits:
                run.outcomes.finished = await maybe_deferred_to_future(Deferred.fromCoroutine(self._write_manifest()))
                break
            if self._manifest is not None:
                self._manifest.begin_if_due()
            frontend.find_lost()
            if dispatcher.is_done:
                await maybe_deferred_to_future(run.wakeup.wait(LOOK_EVERY_SECONDS))
            else:
                await maybe_deferred_to_future(Deferred.fromCoroutine(dispatcher.step()))

    async def verify(self) -> AsyncIterator[BulkItem]:
        """Re-reads the output, several files at once, without requests."""
        run = self._run
        assert run is not None
        run.outcomes.verifying = True
        pending: deque[tuple[Entry, Deferred[VerifyResult]]] = deque()
        while not run.stopping:
            while len(pending) < VERIFY_AHEAD and (entry := self._dispatcher.take()) is not None:
                task = (verify, entry, self.folder, self._ledger, run.stopping.is_set)
                pending.append((entry, run.threads.in_thread(*task, hashing=True)))
            if not pending:
                run.outcomes.finished = await maybe_deferred_to_future(Deferred.fromCoroutine(self._write_manifest()))
                break
            entry, result = pending.popleft()
            try:
                found = await maybe_deferred_to_future(result)
            except BulkError as error:
                found = VerifyResult(error.status, error=error)
            yield self._rows.verified(entry, found)

    async def _write_manifest(self) -> bool:
        """At the end. False when the run was stopped meanwhile."""
        run = self._run
        assert run is not None
        if self._manifest is not None and not await self._manifest.finish() and not run.stopping:
            run.outcomes.count_unwritten()
        return not run.stopping

    def is_done(self, name: str) -> bool:
        """The ledger has the file, the file is there or was moved away by the command, and it need not be handed on any
        more."""
        run = self._run
        line = self._ledger.find(name) if run is not None else None
        if run is None or line is None or (run.handover is not None and run.handover.wants(line)):
            return False
        return line.is_elsewhere or self.folder.lstat(name) is not None

    async def end(self) -> None:
        """Called when the crawl has ended. Entries that were never begun count as left, not as failed."""
        run, source = self._run, self.source
        if run is None or self.slots is None:
            self.folder.close()
            return
        if not run.outcomes.finished and not run.stopping:
            # Scrapy closed while nothing was under way: mark the run as stopped.
            run.stopping.stop(Stopped())
        if self._sums is not None and (gaps := self._sums.gaps):
            logger.warning("%s", gaps)
        if source.duplicates:
            run.crawler.stats.set_value("bulk/duplicates", source.duplicates)
        if run.stopping:
            await maybe_deferred_to_future(Deferred.fromCoroutine(self._write_manifest()))
        self._dispatcher.abandon()
        self._rows.count_rest()
        await self._rows.passed.acknowledge_rest()
        run.outcomes.count_entries(source.owed)
        if left := source.waiting + self._dispatcher.unchecked:
            run.outcomes.count_left(left)
        run.outcomes.count_given_up(source.given_up)
        for subscriber in self._at_end:
            subscriber()
        await source.end()


def _fits(stage: StagedFolder, on_disk: Callable[[Download, float], bool], download: Download, now: float) -> bool:
    if on_disk(download, now):
        return True
    return stage.make_room_on_disk(download.entry.name) and on_disk(download, now)


def _admits(stage: StagedFolder, download: Download) -> bool:
    return stage.admits(download.entry.name, lambda: download.size)
