"""The spider: the only maker of Requests.

`start()` is one loop: take the next piece of work that is due and whose origin has a free slot, yield one Request,
else wait for an event. A waiting entry is no Request and holds no slot, so a busy origin never starves the others, and
a list of 100,000 lines never becomes 100,000 Requests. Callback and errback hand each outcome back; what it leads to
(done, again not before a time, given up) is `pace.py`'s to say. The Range it writes is what the disk says then; what a
part is worth, and what an answer means, is `plan.py`'s to say, when the exchange really starts.
"""

from __future__ import annotations

import errno
import gc
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from scrapy import Request, Spider, signals
from scrapy.downloadermiddlewares.offsite import OffsiteMiddleware
from scrapy.settings import BaseSettings
from scrapy.spidermiddlewares.depth import DepthMiddleware
from scrapy.spidermiddlewares.httperror import HttpError
from scrapy.spidermiddlewares.start import StartSpiderMiddleware
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider.arguments import Prepared, prepare
from bulkspider.bell import Bell, breathe
from bulkspider.delivery import error_of, middleware_error
from bulkspider.entry import Entry, redact, without_userinfo
from bulkspider.errors import AttemptError, BulkError, Stopped, UsageError, disk_error
from bulkspider.freshurl import EXPIRED, FreshUrls
from bulkspider.items import BulkItem
from bulkspider.ledger import LedgerLine
from bulkspider.options import human
from bulkspider.pace import Again, GiveUp, Outcome
from bulkspider.pipelines import BulkPipeline
from bulkspider.proven import Proven
from bulkspider.run import Run
from bulkspider.schedule import Piece, Schedule, Work
from bulkspider.secrecy import guard_logs
from bulkspider.small import SmallFiles, may_travel, nobody_minds
from bulkspider.sums import fetch_sums
from bulkspider.verify import Finding, verify
from bulkspider.versions import META_COPY_DETECTION
from bulkspider.wire import is_idle

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from twisted.python.failure import Failure
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# Skipping what the ledger proves must not keep the reactor from its other work.
SLICE_SECONDS = 0.01
# Items of what earlier runs have done, gathered before Scrapy is given one after the other.
ITEMS_AHEAD = 64
# Scrapy hands a request from one component to the next within milliseconds.
LOST_SECONDS = 2.0
# Files that are hashed, or wait for it, while the list is read on.
VERIFY_AHEAD = 8
# These have nothing to do: what they set is set in our one kind of Request, no callback yields another, and this spider
# has no allowed_domains. Each costs a tiny file several steps. The user's own setting for one of them stands.
IDLE_MIDDLEWARES: dict[str, list[type]] = {
    "SPIDER_MIDDLEWARES": [StartSpiderMiddleware, DepthMiddleware, *META_COPY_DETECTION],
    "DOWNLOADER_MIDDLEWARES": [OffsiteMiddleware],
}
# By path: they are imported where there is a feed.
EXPORTERS = {
    "json": "bulkspider.exporters.JsonRows",
    **dict.fromkeys(("jsonlines", "jsonl", "jl"), "bulkspider.exporters.JsonLinesRows"),
}
# Answers that must reach our callback. Not 3xx: those are the redirect middleware's.
STATUSES = [304, *range(400, 600)]


class BulkSpider(Spider):
    """`scrapy crawl bulk -a list=FILE`: see README."""

    name = "bulk"

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """What only this spider needs; a user's own value always stands."""
        super().update_settings(settings)
        for key, value in {
            # Presigned URLs are longer than 2,083 bytes, and would vanish with one INFO line.
            "URLLENGTH_LIMIT": 0,
            # Scrapy starts this many tasks for every response, and ours gives one item.
            "CONCURRENT_ITEMS": 1,
        }.items():
            if settings.getpriority(key) == 0:
                settings.set(key, value, "spider")
        if settings.getpriority("SCHEDULER_PRIORITY_QUEUE") == 0 and not settings["JOBDIR"]:
            # Fairness between origins is our own schedule's, which gives Scrapy no more than it may begin at once.
            settings.set("SCHEDULER_PRIORITY_QUEUE", "scrapy.pqueues.ScrapyPriorityQueue", "spider")

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        prepared = kwargs.pop("prepared", None)
        if prepared is None:
            guard_logs()
            prepared = prepare({name: str(value) for name, value in kwargs.items()}, cast(Any, crawler.settings))
        # Not in update_settings: Scrapy merges the user's own values over that once more.
        crawler.settings.setdefault_in_component_priority_dict("ITEM_PIPELINES", BulkPipeline, 100)
        for setting, middlewares in IDLE_MIDDLEWARES.items():
            for middleware in middlewares:
                crawler.settings.setdefault_in_component_priority_dict(setting, middleware, None)
        exporters: Any = crawler.settings["FEED_EXPORTERS"]
        for feed_format, exporter in EXPORTERS.items():
            if feed_format not in exporters:
                exporters.set(feed_format, exporter, "spider")
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider._take_over(prepared)
        crawler.signals.connect(spider._request_scheduled, signals.request_scheduled)
        crawler.signals.connect(spider._request_dropped, signals.request_dropped)
        return spider

    def _take_over(self, prepared: Prepared) -> None:
        self.folder = prepared.folder
        self.source = prepared.source
        self.list_path = prepared.list_path
        self._aria2 = prepared.aria2
        self._sums = prepared.sums
        self._sums_url = prepared.sums_url
        self.verifying = prepared.verify
        self.report = prepared.report
        self._writer = prepared.writer
        self._ready: deque[BulkItem] = deque()
        self._yielding: Piece | None = None
        self._idle_since: float | None = None
        self._bell = Bell()

    # ------------------------------------------------------------------------------------------------- the loop

    async def start(self) -> AsyncIterator[Any]:
        """Yields one Request at a time, whenever one is due and its origin has a free slot."""
        self._set_up()
        # What is there now stays; the collector need not look through it again and again.
        gc.freeze()
        try:
            self.source.begin(self._bell.ring, self._lose, self.run.pace.forgive, self.run.stop)
        except UsageError as refusal:
            self.run.refuse(refusal)
            return
        if self._sums_url is not None and not await self._fetch_sums(self._sums_url):
            return
        if self.verifying:
            async for item in self._verify():
                yield item
            return
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self.run.stopping:
                break
            if self._is_done():
                self.run.finished = True
                break
            now = time.monotonic()
            for work, error in self.schedule.outlasted(now):
                self._ready.extend(self._give_up(work, error))
            if self._ready:
                continue
            if self.source.exhausted and not self.proven.checking:
                self.schedule.begin_last_pass(now)
            begun = self._begin(self.schedule.due(now) or await self._next_new(now))
            begun = begun or (None if self._ready else self._begin_further(now))
            if begun is not None:
                self._yielding, request = begun
                yield request
                piece, self._yielding = self._yielding, None
                if not piece.scheduled:
                    self._dropped(piece)
            elif self.schedule.stuck:
                self.run.disk_failed(disk_error(OSError(errno.ENOSPC, ""), self.folder.root))
            elif not self._ready and not self._is_done():
                self._find_lost(now)
                await self._event(now)

    def _set_up(self) -> None:
        run = self.crawler.get_extension(Run)
        if run is None:
            raise UsageError("bulkspider.run.Run is not among the extensions; add bulkspider.Addon to ADDONS")
        self.run = run
        run.entries = self.source.entries
        run.of_a_list = True
        self._warn_of_space()
        self.ledger = run.use_folder(self.folder, self._writer)
        run.on_stop(self._bell.ring)
        settings = self.settings
        per_slot = settings.getint("CONCURRENT_REQUESTS_PER_IP") or settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN")
        # Beside other workers a free slot is better used for another file, unless the user says otherwise.
        segments = run.options.segments
        if self.source.shared and settings.getpriority("BULK_SEGMENTS") is None:
            segments = 1
        self.schedule = Schedule(
            run.pace,
            total=settings.getint("CONCURRENT_REQUESTS"),
            per_slot=per_slot,
            slot_limits={
                slot: int(values.get("concurrency", per_slot))
                for slot, values in settings.getdict("DOWNLOAD_SLOTS").items()
            },
            fits=run.fits,
            segments=segments,
            segment_min=run.options.segment_min,
            held_back=run.rates.hold_back,
            may_connect=self.source.may_connect,
        )
        self.small = SmallFiles(run.options.batch if not self.source.shared and nobody_minds(settings) else 1)
        run.changed = self._bell.ring
        self.fresh_urls = FreshUrls(self.list_path, run.options.fresh_url, run.in_thread, aria2=self._aria2)
        rows = bool(settings.getdict("FEEDS")) or self.report is not None
        self.proven = Proven(
            run,
            self.folder,
            self.ledger,
            self.source,
            tell=self._tell_proven if rows else None,
            refuted=self._fetch_after_all,
        )
        stats = self.crawler.stats
        stats.set_value("bulk/entries", self.source.entries)
        if self.source.duplicates:
            stats.set_value("bulk/duplicates", self.source.duplicates)
        for warning in self.source.warnings:
            logger.warning("%s", warning)
        for bad in self.source.bad:
            error = BulkError(str(bad.problem), code="bad_line", permanent=True)
            self._ready.append(self._item(Entry(line=bad.line, name=bad.name or "", url=""), "failed", error=error))

    def _warn_of_space(self) -> None:
        """Before the first byte: will what the list still needs fit (FAULTS 47)? Each file is asked at its own time."""
        free = self.folder.free_space()
        if self.source.known_bytes > free:
            needed = self.source.known_bytes - self.folder.used_space()
            if needed > free:
                logger.warning(
                    "%s: the list still needs about %s, and only %s are free; the run will stop when the disk is full",
                    self.folder.root,
                    human(needed),
                    human(free),
                )

    def _is_done(self) -> bool:
        return self.source.exhausted and self.schedule.empty and not self._ready and not self.proven.checking

    async def _next_new(self, now: float) -> Work | None:
        """The next entry of the list that the ledger does not prove."""
        if not self.schedule.has_room:
            return None
        slice_ends = now + SLICE_SECONDS
        blocked = self.schedule.blocked(now)
        try:
            while len(self._ready) < ITEMS_AHEAD and not self.run.stopping:
                entry = self._take(blocked)
                if entry is None:
                    return None
                if not self.proven.has(entry):
                    work = Work.on(entry)
                    self.schedule.add(work)
                    if self.schedule.may_begin(work, now):
                        return work
                    self.schedule.wait(work, now)
                    blocked = self.schedule.blocked(now)
                if time.monotonic() > slice_ends:
                    self.proven.count()
                    await breathe()
                    slice_ends = time.monotonic() + SLICE_SECONDS
            return None
        finally:
            self.proven.count()

    def _take(self, blocked: set[str]) -> Entry | None:
        """The next entry, with what a checksum file says of it."""
        entry = self.source.take(blocked)
        return entry if entry is None or self._sums is None else self._sums.add_to(entry)

    async def _fetch_sums(self, url: str) -> bool:
        """Gets the checksum file before the first entry; without it nothing is begun."""
        try:
            self._sums = await fetch_sums(self.crawler, url)
        except UsageError as error:
            self.run.refuse(error)
            return False
        return True

    async def _verify(self) -> AsyncIterator[BulkItem]:
        """Re-reads the output, several files at once, and asks nobody."""
        pending: deque[tuple[Entry, Deferred[Finding]]] = deque()
        while not self.run.stopping:
            while len(pending) < VERIFY_AHEAD and (entry := self._take(set())) is not None:
                task = (verify, entry, self.folder, self.ledger, self.run.is_stopping)
                pending.append((entry, self.run.in_thread(*task, hashing=True)))
            if not pending:
                self.run.finished = True
                break
            entry, finding = pending.popleft()
            try:
                found = await maybe_deferred_to_future(finding)
            except BulkError as error:
                found = Finding("interrupted" if isinstance(error, Stopped) else "failed", error=error)
            item = self._item(entry, found.status, error=found.error)
            item.size, item.flags, item.checksums = found.size, list(found.flags), dict(found.digests)
            item.sha256 = found.digests.get("sha256")
            yield item

    async def _event(self, now: float) -> None:
        """Waits for an outcome, a stop, or the next time at which something may be due; a second at most."""
        at = self.schedule.next_time(now)
        delay = 1.0 if at is None else min(max(at - now, 0.01), 1.0)
        await self._bell.wait(delay)

    # ------------------------------------------------------------------------------------------------- requests

    def _begin(self, work: Work | None) -> tuple[Piece, Request] | None:
        """A request for an entry that no other request is filling, maybe for some more small ones as well."""
        if work is None:
            return None
        wanted, mates = None, []
        if self._finds_nothing(work):
            mates = self._mates(work)
        else:
            part = self.folder.lstat(work.entry.name + ".part")
            if part is not None and part.st_size:
                # What the disk says now; the handler asks the plan again when the exchange really starts.
                wanted = f"bytes={part.st_size}-"
        piece = self.schedule.begin(work, mates=mates)
        return piece, self._request(piece, wanted)

    def _finds_nothing(self, work: Work) -> bool:
        """Makes it ready for an attempt. True when nothing of it lies on the disk."""
        work.download = self.run.download(work.entry, str(self.folder.root))
        work.download.url = work.url
        self.source.begun(work.entry, work.download.part)
        return work.download.part.finds_nothing()

    def _mates(self, work: Work) -> list[Work]:
        """The next entries of the list that its request may bring as well, where files are small."""
        slots = self.schedule.requests_at_once(work)
        most = self.small.batch(work.origin, self.source.waiting, slots) - 1
        mates: list[Work] = []
        if (
            most < 1
            or work.numbered
            or self.run.rates.limited
            or not may_travel(work.entry, work.url, self.run.options)
        ):
            return mates
        now = time.monotonic()
        blocked = self.schedule.blocked(now)
        for _ in range(most):
            entry = self._take(blocked)
            if entry is None:
                break
            if self.proven.has(entry):
                continue
            mate = Work.on(entry)
            self.schedule.add(mate)
            alike = mate.origin == work.origin and may_travel(entry, mate.url, self.run.options)
            if not (alike and self._finds_nothing(mate)):
                self.schedule.wait(mate, now)
                break
            mates.append(mate)
        self.proven.count()
        if mates:
            logger.debug("%s: its request brings %d more small files", work.entry.name, len(mates))
        return mates

    def _begin_further(self, now: float) -> tuple[Piece, Request] | None:
        """A further connection for a file under way, in a slot that no entry can use."""
        found = self.schedule.further(now)
        if found is None:
            return None
        work, span = found
        self.source.connect(work.entry)
        logger.debug("%s: a further connection for the bytes from %d to %s", work.entry.name, span.at, span.end)
        piece = self.schedule.begin(work, span)
        return piece, self._request(piece, f"bytes={span.at}-{(span.end or 0) - 1}")

    def _request(self, piece: Piece, wanted: str | None) -> Request:
        work = piece.work
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if wanted is not None:
            headers["Range"] = wanted
        bulk = {
            "entry": work.entry.to_meta(),
            "output": str(self.folder.root),
            "piece": piece.number,
            "segment": piece.segment,
        }
        if piece.mates:
            bulk["mates"] = [mate.entry.name for mate in piece.mates]
        return Request(
            without_userinfo(work.url),
            callback=self._answered,
            errback=self._failed,
            dont_filter=True,
            headers=headers,
            meta={
                "bulk": bulk,
                "is_start_request": True,
                "depth": 0,
                "dont_retry": True,
                "dont_cache": True,
                "allow_offsite": True,
                "referrer_policy": "no-referrer",
                "handle_httpstatus_list": STATUSES,
                "download_maxsize": 0,
                "download_warnsize": 0,
            },
        )

    def _request_scheduled(self, request: Request) -> None:
        if piece := self._piece_of(request):
            piece.scheduled = True

    def _request_dropped(self, request: Request) -> None:
        if piece := self._piece_of(request):
            piece.scheduled = False
            if piece is not self._yielding:
                self._dropped(piece)

    def _piece_of(self, request: Request) -> Piece | None:
        bulk = request.meta.get("bulk")
        return self.schedule.piece(bulk["entry"]["name"], bulk["piece"]) if bulk and "piece" in bulk else None

    def _dropped(self, piece: Piece) -> None:
        """Nobody will call us back for this request."""
        self._land(piece)
        error = BulkError("a middleware or the scheduler dropped the request", code="dropped")
        self._ready.extend(self._settle(piece, Outcome(error=error)))
        self._hand_back(piece.mates)

    def _find_lost(self, now: float) -> None:
        """A middleware may put another request in the place of ours, which then ends without a word. When Scrapy has
        had nothing in hand for a while and we still wait, we wait for nobody."""
        if not self.schedule.flying or not is_idle(self.crawler):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= LOST_SECONDS:
            for piece in self.schedule.flying:
                self._dropped(piece)

    def _answered(self, response: Response) -> Iterator[BulkItem]:
        assert response.request is not None
        if "Set-Cookie" in response.headers:
            # Which requests it goes with is for Scrapy's middleware to say.
            self.small.never()
        return self._take_back(response.request, None)

    def _failed(self, failure: Failure) -> Iterator[BulkItem]:
        return self._take_back(cast(Any, failure).request, failure)

    def _take_back(self, request: Request, failure: Failure | None) -> Iterator[BulkItem]:
        """An attempt has ended, somehow; every way of ending comes through here."""
        bulk, piece = request.meta["bulk"], self._piece_of(request)
        if piece is None:
            return
        self._land(piece)
        results = bulk.pop("results", None)
        if bulk.pop("impossible", False):
            self.small.never()
        if results is not None:
            yield from self._settle_batch(piece, results)
        else:
            told = bulk.pop("result", None)
            outcome = Outcome.from_meta(told) if told is not None else Outcome(error=_stray(failure))
            yield from self._settle(piece, outcome)
            self._hand_back(piece.mates)
        if self.run.stopping:
            yield from self._interrupt_waiting()
        self._bell.ring()

    def _land(self, piece: Piece) -> None:
        self.schedule.end(piece)
        if piece.segment:
            self.source.disconnect(piece.work.entry)

    def _settle(self, piece: Piece, outcome: Outcome) -> Iterator[BulkItem]:
        """What follows from an outcome: an item, or another attempt later."""
        work, error = piece.work, outcome.error
        assert work.download is not None
        if work.flying:
            # The last one to land speaks for all; what this one has not brought is nobody's now.
            self._one_of_several(piece, outcome)
            return
        if getattr(error, "retry_after", None) is None:
            outcome = replace(outcome, grew=outcome.grew or work.grew)
        if work.whole and error is None and not work.download.undivided:
            outcome = replace(outcome, fetched=True)
        work.grew = work.whole = False
        if error is not None and error.code == "lease_lost":
            logger.warning("%s: %s", work.entry.name, error)
            self.source.take_back(work.entry, error)
            self._hand_on(work)
            return
        if isinstance(error, Stopped) or (self.run.stopping and not outcome.fetched):
            yield self._done(work, "interrupted", self.run.stop_reason or error)
            return
        if work.first_error is not None and _fruitless(outcome):
            yield self._done(work, "failed", _more_telling(work.first_error, error))
            return
        now = time.monotonic()
        if error is not None:
            self.small.odd(work.origin)
        if outcome.grew:
            work.refreshed_in_vain = False
        next_step = self.run.pace.after(work.origin, outcome, work.download.budget, now)
        if error is not None and error.http_status in EXPIRED and not (work.refreshed_in_vain or piece.segment):
            deferred_from_coro(self._refresh(work, error))
        elif next_step is None:
            download = work.download
            plain = download.attempts == 1 and download.final_url == redact(work.entry.url) and not download.algorithms
            self.small.seen(work.origin, download.part.state.total, plain=plain)
            # All bytes are here. BulkPipeline proves and names them; the status is empty until then.
            yield self._item(work.entry, "", work=work)
        elif isinstance(next_step, Again):
            if error is not None:
                wait = next_step.at - now
                when = f"in {wait:.1f} s" if wait > 0 else "at once"
                logger.info("%s: %s; trying again %s", work.entry.name, redact(str(error)), when)
                work.needs_space = error.code == "no_space"
                if getattr(error, "retry_after", None) is not None:
                    self.source.origin_closed(work.origin, wait)
            self.schedule.wait(work, next_step.at)
        elif isinstance(next_step, GiveUp):
            yield from self._give_up(work, next_step.error)

    def _settle_batch(self, piece: Piece, results: list[dict[str, Any] | None]) -> Iterator[BulkItem]:
        """What follows for the entries of one request; None: it was handed back."""
        for work, told in zip((piece.work, *piece.mates), results, strict=True):
            assert work.download is not None
            if told is None:
                self._hand_back([work])
            elif line := work.download.finished:
                self.run.pace.served(work.origin)
                self.small.seen(work.origin, line.size, plain=True)
                self.finished(work.entry.name, line.status)
                yield self._item(work.entry, line.status, work=work, line=line, already=False)
            else:
                yield from self._settle(replace(piece, work=work, mates=()), Outcome.from_meta(told))

    def _hand_back(self, mates: Iterable[Work]) -> None:
        """Each has a request of its own next; what else is small there is seen anew."""
        for mate in mates:
            self.small.odd(mate.origin)
            self.schedule.wait(mate, time.monotonic())

    def _one_of_several(self, piece: Piece, outcome: Outcome) -> None:
        work, error = piece.work, outcome.error
        work.whole = work.whole or outcome.fetched
        if outcome.grew:
            work.grew = True
            self.run.pace.served(piece.origin)
        if isinstance(error, Stopped):
            return
        if error is not None:
            logger.info("%s: one of its connections ended (%s)", work.entry.name, redact(str(error)))
        self.schedule.segment_ended(piece, error, grew=outcome.grew, now=time.monotonic())

    async def _refresh(self, work: Work, error: BulkError) -> None:
        """The link has expired, it seems: the entry goes on from a fresh one, or ends as it would have."""
        try:
            url = await self.fresh_urls.find(work.entry, work.url)
        except Exception as failure:
            logger.error("%s: no fresh URL (%s: %s)", work.entry.name, type(failure).__name__, redact(str(failure)))
            url = None
        if url is None:
            self._ready.extend(self._give_up(work, error))
        else:
            logger.info("%s: %s; going on from a fresh URL", work.entry.name, redact(str(error)))
            # A fresh link that is refused as well is not renewed again before it has brought some bytes.
            work.refreshed_in_vain = True
            work.url = url
            self.schedule.wait(work, time.monotonic())
        self._bell.ring()

    def _give_up(self, work: Work, error: BulkError) -> Iterator[BulkItem]:
        """The next mirror, one more pass at the end of the list, or a failed item."""
        if work.mirrors and isinstance(error, AttemptError):
            work.url = work.mirrors.pop(0)
            logger.warning("%s: %s; trying its mirror %s", work.entry.name, redact(str(error)), redact(work.url))
            self.schedule.wait(work, time.monotonic())
        elif self.source.take_back(work.entry, error):
            self._hand_on(work)
        elif not (error.permanent or work.first_error or self.source.shared) and isinstance(error, AttemptError):
            self.schedule.put_last(work, error)
        else:
            yield self._done(work, "failed", error)

    def _hand_on(self, work: Work) -> None:
        """Whoever takes the entry next ends it: it has no row here."""
        self.schedule.remove(work.entry.name)
        if work.download is not None:
            deferred_from_coro(self.run.forget(work.download))
        self._bell.ring()

    def _lose(self, name: str) -> None:
        """The source: somebody else has the entry now. What is under way ends; no more of it is written."""
        work = self.schedule.get(name)
        if work is None or work.download is None:
            return
        error = BulkError("its lease has ended; another worker goes on with it", code="lease_lost")
        if self.schedule.withdraw(work):
            self.source.take_back(work.entry, error)
            self._hand_on(work)
        else:
            for attempt in list(work.download.attempting):
                attempt.stop(error)

    def _interrupt_waiting(self) -> Iterator[BulkItem]:
        """The run stops: entries that were begun and wait for their next attempt have a row too."""
        for work in self.schedule.interrupt():
            yield self._done(work, "interrupted", self.run.stop_reason)

    def _done(self, work: Work, status: str, error: BulkError | None) -> BulkItem:
        self.schedule.remove(work.entry.name)
        self.source.ended(work.entry, status, error)
        self._bell.ring()
        return self._item(work.entry, status, work=work, error=error)

    # ------------------------------------------------------------------------------------- the pipeline's answers

    def finished(self, name: str, status: str) -> None:
        """BulkPipeline: the file has its name."""
        self.source.ended(self.schedule[name].entry, status)
        self.schedule.remove(name)
        self._bell.ring()

    def not_finished(self, name: str, error: BulkError, *, begun_anew: bool) -> BulkItem | None:
        """BulkPipeline: the bytes were refused. None: the entry is fetched again; else its failed item."""
        work = self.schedule[name]
        if isinstance(error, Stopped):
            return self._done(work, "interrupted", error)
        if begun_anew:
            self.schedule.wait(work, time.monotonic())
            self._bell.ring()
            return None
        if self.source.take_back(work.entry, error):
            self._hand_on(work)
            return None
        return self._done(work, "failed", error)

    # ------------------------------------------------------------------------------- what earlier runs have proven

    def _tell_proven(self, entry: Entry, line: LedgerLine) -> None:
        self._ready.append(self._item(entry, line.status, line=line))

    def _fetch_after_all(self, entry: Entry) -> None:
        work = Work.on(entry)
        self.schedule.add(work)
        self.schedule.wait(work, time.monotonic())

    # ----------------------------------------------------------------------------------------------------- items

    def _item(
        self,
        entry: Entry,
        status: str,
        *,
        work: Work | None = None,
        line: LedgerLine | None = None,
        already: bool = True,
        error: BulkError | None = None,
    ) -> BulkItem:
        item = BulkItem(
            line=entry.line,
            name=entry.name,
            url=redact(entry.url),
            path=self.folder.place(entry.name) if entry.name else None,
            status=status,
        )
        if work is not None and work.download is not None:
            work.download.describe(item)
        if line is not None:
            item.already = already
            line.describe(item)
        if error is not None:
            item.error = error_of(error)
        return item

    async def closed(self, reason: str) -> None:
        """Scrapy calls this at the end: entries never begun are left, not failed."""
        run = cast("Run | None", getattr(self, "run", None))
        if run is None:
            self.folder.close()
            return
        if self._sums is not None and (gaps := self._sums.gaps):
            logger.warning("%s", gaps)
        for item in self._ready:
            run.count(item)
        for work in self.schedule.abandon():
            run.count(self._item(work.entry, "interrupted", work=work, error=run.stop_reason))
        run.entries = self.source.owed
        self.crawler.stats.set_value("bulk/entries", run.entries)
        if left := self.source.waiting + self.proven.checking:
            run.counts["left"] = left
            self.crawler.stats.set_value("bulk/left", left)
        await self.source.end()


def _fruitless(outcome: Outcome) -> bool:
    """The last pass ends with the first attempt that brings nothing, unless the origin told us to come back later."""
    error = outcome.error
    return error is not None and not outcome.grew and getattr(error, "retry_after", None) is None


def _more_telling(first: BulkError, last: BulkError | None) -> BulkError:
    return first if last is None or first.code == "origin_down" else last


def _stray(failure: Failure | None) -> BulkError:
    """The error of a request whose end the handler has not seen."""
    error = failure.value if failure is not None else None
    if isinstance(error, HttpError):
        return middleware_error(None, error.response.status)
    return middleware_error(error, None)
