"""The run: the object that all parts of one crawl share.

It is a Scrapy extension: Scrapy makes one handler for each scheme and several pipelines, but open parts, origins,
threads, the stop and the counters must exist once. It owns objects of other classes and leaves the decisions to them:
`dispatch/` decides what is begun, `transfer/` moves bytes, `downloads` finishes files. It also checks whether the crawl
is closing, because Scrapy's signal comes only when every request in flight has ended, which may take a day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from scrapy import signals
from scrapy.utils.asyncio import create_looping_call
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future

from bulkspider.auth.grants import Grants
from bulkspider.auth.named import function_of
from bulkspider.auth.trusted import Trusted
from bulkspider.clock import Clock, ReactorClock, Wakeup
from bulkspider.codes import Kind
from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.folder.folder import Folder
from bulkspider.entries.entry import redact
from bulkspider.entries.redaction import guard_logs
from bulkspider.errors import BulkError, DiskError, Stopped, UsageError
from bulkspider.handover.handing import Handover, Then
from bulkspider.items import FINISHED, BulkItem, Result
from bulkspider.options import Options, human, plural
from bulkspider.pumps.ratelimit import RateLimits, Rates, Stoppable, Throttle
from bulkspider.pumps.threads import Threads
from bulkspider.pumps.visits import Visits
from bulkspider.run.download import Download
from bulkspider.run.downloads import Downloads
from bulkspider.run.folders import Folders
from bulkspider.run.origins.origins import Origins
from bulkspider.run.origins.outcome import Outcome
from bulkspider.run.outcomes import Outcomes
from bulkspider.run.stopping import Patience, Stopping, listen
from bulkspider.signals import bulk_file_failed, bulk_file_finished, bulk_origin_paused, connections_of
from bulkspider.wire import Head, Wire, end_scraping, is_closing
from bulkspider.wire.fallback import Fallback

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from typing_extensions import Self

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
# How long calls of the file system may take after a stop, and after a second signal.
HANG_SECONDS = 30.0
SHUT_DOWN_SECONDS = 2.0
CONTROLS_EVERY_SECONDS = 1.0


class Active(Protocol):
    """A transfer under way (`transfer/transfer.py`)."""

    download: Download

    @property
    def asking(self) -> bool: ...
    def stop(self, error: BulkError) -> None: ...
    def tick(self, now: float) -> None: ...


class Performs(Protocol):
    """Works through a batch of small files (`small/`)."""

    async def perform(self) -> list[Outcome | None]: ...


class SecondProcess(Protocol):
    """The second process of a crawl, which fetches small files (`small/second.py`)."""

    def learn(self, request: Request, head: Head) -> None: ...
    def take(self, request: Request, downloads: Sequence[Download]) -> Performs | None: ...
    async def close(self) -> None: ...


class Transfers:
    """The transfers under way. most: the largest number of them at once."""

    def __init__(self) -> None:
        self.most = 0
        self._active: set[Active] = set()

    def __len__(self) -> int:
        return len(self._active)

    def __iter__(self) -> Iterator[Active]:
        """Those of this moment; each may end during the iteration."""
        return iter(list(self._active))

    def enter(self, transfer: Active) -> None:
        self._active.add(transfer)
        self.most = max(self.most, len(self._active))

    def leave(self, transfer: Active) -> None:
        self._active.discard(transfer)


class Run:
    """What all parts of one crawl share. `crawler.get_extension(Run)` finds it. One class, because Scrapy makes one
    object per extension and sends it all signals of the crawl.

    of_a_list: the crawl fetches a list and nothing else (spider `bulk`). owes_items: each item must be yielded at least
    once, even if a run is killed; the ledger knows which still have to be. wakeup: of the dispatcher's loop.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.options = Options.from_settings(cast(Any, crawler.settings))
        self.of_a_list = False
        self.owes_items = False
        # All pages of the crawl are our own requests, so the rules for redirects of files apply to them.
        self.guards_pages = False
        self.clock: Clock = ReactorClock()
        self.wakeup = Wakeup(self.clock)
        self.stopping = Stopping()
        self.patience = Patience(self.options.stop_patience)
        self.outcomes = Outcomes(crawler.stats, self.stopping)
        self.origins = Origins(self.options)
        self.folders = Folders()
        self.threads = Threads(self.disk_failed)
        self.visits = Visits(self.threads, self.options.stall_timeout)
        self.transfers = Transfers()
        self.downloads = Downloads(self)
        self.grants = Grants(function_of(self.options, crawler), self.clock, self.threads.in_own_thread)
        self.trusted = Trusted(self.options.trusted_hosts or ())
        self._limits = RateLimits(self.options, datetime.now)
        self.rates = Rates(*self._limits.now(), self.clock.now())
        self.throttle = Throttle(self.rates, self.clock)
        # Hands proven files to a command (`--then`).
        self.handover: Handover | None = None
        # None where it can be of no use, and in crawls that are not of a list.
        self.second: SecondProcess | None = None
        self._wire: Wire | None = None
        self._fallback: Fallback | None = None
        self._watch = create_looping_call(self._tick)
        self._controls_read = 0.0
        # Called at the end, to undo changes to the process: signal handlers, the reactor's trigger.
        self._give_back: list[Callable[[], object]] = []
        self.stopping.on_stop(self._stop_transfers)
        self.outcomes.on_outcome(self._tell_outcome)
        self.origins.on_pause(self._tell_pause)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        try:
            run = cls(crawler)
        except UsageError:
            guard_logs()
            raise
        crawler.signals.connect(run._opened, signals.spider_opened)
        crawler.signals.connect(run._closed, signals.spider_closed)
        crawler.signals.connect(run._stopped, signals.engine_stopped)
        return run

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            self._wire = Wire(self.crawler, self.options)
        return self._wire

    @property
    def fallback(self) -> Fallback:
        if self._fallback is None:
            self._fallback = Fallback(self.crawler, self.options)
        return self._fallback

    def begin_list(self, origins: Collection[str], *, owes_items: bool) -> None:
        """The crawl fetches a list and nothing else. origins: those that the list names, as far as they are known."""
        self.of_a_list = True
        self.owes_items = owes_items
        self.trusted.list_names(origins)

    async def begin_handover(self, then: Then, folder: Folder, ledger: Ledger, lock_name: str) -> None:
        """From now on proven files are handed to the command. Waits for commands of an earlier run. Raises Stopped."""
        self.handover = Handover(then, folder, ledger, self.threads, self.stopping.is_set, lock_name)
        await self.handover.begin()

    def use_folder(self, folder: Folder, writer: str | None = None) -> Ledger:
        """Adds an opened and locked folder. Before the first folder the crawl has no files of ours, and nothing in it
        is changed."""
        if not self.folders:
            self.take_charge()
        return self.folders.use(folder, writer)

    def folder(self, root: str) -> Folder:
        """The output folder `root`; opened, and locked to share, at its first use. Raises DiskError, UsageError."""
        if not self.folders:
            self.take_charge()
        return self.folders.get(root)

    def take_charge(self) -> None:
        """From now on secrets are kept out of the crawl's log, and the signal that ends it is noted."""
        guard_logs()
        self._give_back.append(listen(self._heard))

    def _heard(self, number: int) -> bool:
        self.stopping.heard(number)
        return self.patience.interrupt()

    def spend(self, transfer: Stoppable, count: int) -> None:
        """`count` bytes have arrived for `transfer`."""
        self.outcomes.count_bytes(count)
        self.throttle.spend(transfer, count)

    # -- our own signals -------------------------------------------------------------------------------------------

    def _tell_outcome(self, item: BulkItem) -> None:
        if item.status in FINISHED:
            signal = bulk_file_finished
        elif item.status == "failed":
            signal = bulk_file_failed
        else:
            return
        if connections_of(signal, self.crawler.signals.sender):
            # A copy of each row takes long, and most crawls need none.
            self._send(signal, result=Result.of(item), name=item.name, url=item.url)

    def _tell_pause(self, origin: str, seconds: float, reason: str) -> None:
        self._send(bulk_origin_paused, origin=origin, seconds=seconds, reason=redact(reason))

    def _send(self, signal: object, **told: Any) -> None:
        self.crawler.signals.send_catch_log(signal, spider=self.crawler.spider, **told)

    # -- its end ---------------------------------------------------------------------------------------------------

    def refuse(self, error: UsageError) -> None:
        """Stops the run for a mistake of the user that was found only after the start. Exit status 1."""
        logger.error("%s", error)
        self.stopping.stop(error)

    def disk_failed(self, error: DiskError) -> None:
        """An error that every file would meet (Kind.STOP) ends the run of a list instead of failing every entry. In the
        crawl of another spider only the files fail, and its pages go on."""
        if error.kind is Kind.STOP and self.of_a_list and not self.stopping:
            logger.error("Stopping: %s", error)
            self.stopping.stop(error)
            # Later, so that items in the pipelines come through first (see `ListJob.work`).
            self.clock.call_later(TICK_SECONDS, self._close_spider, f"bulk_{error.code}")

    def _close_spider(self, reason: str) -> None:
        closing = deferred_from_coro(self.crawler.engine.close_spider_async(reason=reason))
        closing.addErrback(lambda failure: logger.error("The spider could not be closed: %s", failure.value))

    def _require_folders(self) -> None:
        """Stops the run when an output folder was deleted."""
        for folder in self.folders:
            try:
                folder.require_there()
            except DiskError as gone:
                self.disk_failed(gone)

    def _stop_transfers(self, reason: BulkError) -> None:
        for transfer in self.transfers:
            transfer.stop(reason)
        self.wakeup.set()

    # -- Scrapy's signals, and the work of every TICK_SECONDS --------------------------------------------------------

    def _opened(self) -> None:
        from twisted.internet import reactor

        trigger = cast(Any, reactor).addSystemEventTrigger("before", "shutdown", self._shut_down)
        self._give_back.append(partial(_remove_trigger, trigger))
        self._watch.start(TICK_SECONDS, now=False)

    def _tick(self) -> None:
        now = self.clock.now()
        if self.folders:
            self.crawler.stats.set_value("bulk/active", len(self.transfers))
        if not self.stopping and not self.outcomes.finished and is_closing(self.crawler):
            self._end_soon(now)
        if self.stopping:
            end_scraping(self.crawler)
        for transfer in self.transfers:
            transfer.tick(now)
        if self.stopping and self.threads.under_way and now - self.stopping.since >= HANG_SECONDS:
            self._leave_hanging_threads()
        if now - self._controls_read >= CONTROLS_EVERY_SECONDS:
            self._controls_read = now
            self._require_folders()
            self._read_controls()

    def _end_soon(self, now: float) -> None:
        """The crawl is closing: stops all transfers except those of files of items, while their time lasts."""
        if not self.patience.lasts(now, len(self.crawler.engine.downloader.active)):
            self.stopping.stop(Stopped())
            return
        for transfer in self.transfers:
            if not transfer.download.of_an_item:
                transfer.stop(Stopped())

    def _leave_hanging_threads(self) -> None:
        """The run must end although a file system, or a FIFO at one of our names, does not answer."""
        logger.error(
            "%s of the file system did not end within %d s of the stop; the run ends without waiting for it, and what "
            "is on disk is kept",
            *(plural(self.threads.under_way, "call", "calls"), HANG_SECONDS),
        )
        self.threads.give_up(self.stopping.error)

    def _read_controls(self) -> None:
        for control, limits in self.folders.changed_controls():
            self._limits.control(limits)
            self._limits.changed()
            self._set_limits(str(control.path), *self._limits.now())
        if (changed := self._limits.changed()) is not None:
            self._set_limits("BULK_RATE_LIMIT", *changed)

    def _set_limits(self, who: str, limit: int | None, per_host: int | None) -> None:
        told = [f"{human(rate)}/s" if rate else "none" for rate in (limit, per_host)]
        logger.info("%s: rate limit %s, per host %s", who, *told)
        self.throttle.set(limit, per_host)

    def _shut_down(self) -> None:
        """A second Ctrl-C ends the reactor at once, without Scrapy's signals: ends the threads that would keep the
        process alive."""
        if not self.outcomes.finished:
            self.stopping.stop(Stopped())
        self.downloads.committer.close(SHUT_DOWN_SECONDS)

    def _closed(self) -> None:
        """Scrapy dumps its stats after this signal."""
        if not self.folders:
            return  # a crawl without files of ours
        self.crawler.stats.set_value("bulk/active", len(self.transfers))

    async def _stopped(self) -> None:
        if self._watch.running:
            self._watch.stop()
        self.throttle.close()
        if self.second is not None:
            await self.second.close()
        if self._wire is not None:
            await self._wire.close()
        committer = self.downloads.committer
        try:
            await maybe_deferred_to_future(self.threads.in_thread(committer.close, HANG_SECONDS, aside=True))
        except BulkError:
            # No thread can be started, or it does not end.
            committer.close(SHUT_DOWN_SECONDS)
        self.threads.shut_down()
        if self.handover is not None:
            self.handover.close()
        self.folders.close()
        # A process may run many crawls, so each undoes its changes.
        while self._give_back:
            self._give_back.pop()()


def _remove_trigger(trigger: Any) -> None:
    from twisted.internet import reactor

    with suppress(ValueError):  # the reactor is being stopped, and calls it just now
        cast(Any, reactor).removeSystemEventTrigger(trigger)
