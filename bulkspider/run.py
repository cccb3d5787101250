"""The run: the one object per crawl that everybody shares.

A Scrapy extension, because handlers exist once per scheme and pipelines once per project, but open parts, patience,
threads, the stop flag and the counters must exist once. It decides nothing: `spiders/bulk.py` decides what is begun,
`transfer.py` moves bytes, `finish.py` ends files. It only holds what they have in common, and notices that the crawl
is closing before Scrapy tells anyone (Scrapy waits for every request in flight first; that may be a day).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, cast

from scrapy import signals
from scrapy.utils.asyncio import create_looping_call
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future

from bulkspider.claims import Claims
from bulkspider.download import Download
from bulkspider.entry import Entry, redact, url_key
from bulkspider.errors import BulkError, DiskError, Stopped, UsageError
from bulkspider.fallback import Fallback
from bulkspider.finish import Committer, Finished, Proof, Refuted, prove
from bulkspider.folder import Folder
from bulkspider.items import BulkItem
from bulkspider.ledger import Ledger, LedgerLine
from bulkspider.options import Options, human
from bulkspider.pace import Budget, Pace
from bulkspider.plan import Rung
from bulkspider.rates import INTERVAL, LIMITED_READ, ControlFile, Rates
from bulkspider.secrecy import guard_logs
from bulkspider.sink import Part
from bulkspider.threads import Threads
from bulkspider.wire import Wire, is_closing

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self

logger = logging.getLogger(__name__)

TICK = 0.25
# Room that is left for states and the ledger.
RESERVE = 256 * 1024
# With so much room to spare, files up to this size do not ask for it one by one.
AMPLE, SMALL = 4 << 30, 1 << 20
STATUSES = ("verified", "complete", "unproven", "failed", "interrupted")


class Active(Protocol):
    """A transfer under way, as the run sees it (`transfer.py`)."""

    download: Download
    host: str

    @property
    def asking(self) -> bool: ...
    def stop(self, error: BulkError) -> None: ...
    def tick(self, now: float) -> None: ...
    def hold(self, held: bool) -> None: ...


class Run:
    """What all parts of one crawl share. `crawler.get_extension(Run)` finds it."""

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.options = Options.from_settings(cast(Any, crawler.settings))
        self.pace = Pace(self.options)
        self.claims = Claims()
        self.entries: int | None = None
        # True in a crawl that does nothing but a list: the spider `bulk` says so.
        self.of_a_list = False
        self.finished = False
        self.stopping = False
        self.stop_reason: BulkError | None = None
        self.signal: int | None = None
        self.counts: Counter[str] = Counter()
        self.committer = Committer()
        self._wire: Wire | None = None
        self._fallback: Fallback | None = None
        self._threads = Threads()
        self.in_thread = self._threads.in_thread
        self.in_own_thread = self._threads.in_own_thread
        self.from_future = self._threads.from_future
        self._folders: dict[str, Folder] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._downloads: dict[str, Download] = {}
        self._rungs: dict[str, Rung] = {}
        self._active: set[Active] = set()
        self._followed: dict[Download, float] = {}
        self._watch = create_looping_call(self._tick)
        self.rates = Rates(self.options.rate_limit, self.options.rate_limit_per_host, time.monotonic())
        self._refill = create_looping_call(self._let_flow)
        self._held: deque[Active] = deque()
        self._ample: dict[Folder, float] = {}
        self._controls: list[ControlFile] = []
        self._controls_read = 0.0
        self.bytes_done = 0
        self._stop_callbacks: list[Callable[[], None]] = []
        # The spider's ear: a file has begun to flow, so that it may be divided.
        self.changed: Callable[[], None] = lambda: None
        self._outcome_callbacks: list[Callable[[BulkItem], None]] = []

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        try:
            run = cls(crawler)
        except UsageError:
            guard_logs()
            raise
        crawler.signals.connect(run._opened, signals.spider_opened)
        crawler.signals.connect(run._stopped, signals.engine_stopped)
        return run

    # -------------------------------------------------------------------------------------------- what is shared

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

    def use_folder(self, folder: Folder, writer: str | None = None) -> Ledger:
        """Makes an opened and locked folder known; the run closes it at its end. Before the first one a crawl has
        nothing to do with us, and nothing of it is changed."""
        if not self._folders:
            self.take_charge()
        root = str(folder.root)
        self._folders[root] = folder
        ledger = self._ledgers[root] = Ledger(folder.private, writer)
        ledger.load()
        if ledger.damaged:
            # What a crash leaves at the end of the last line it wrote.
            logger.info("%s: damaged lines of the ledger passed over: %d", folder.private, ledger.damaged)
        self._controls.append(ControlFile(folder.private / "control.json"))
        return ledger

    def take_charge(self) -> None:
        """From now on no secret gets into the crawl's log, and the signal that ends it is remembered."""
        guard_logs()
        if threading.current_thread() is threading.main_thread():
            self._listen_for_signals()

    def folder(self, root: str) -> Folder:
        """The output folder `root`; opened, and locked to share, at its first use. Raises DiskError, UsageError."""
        if root in self._folders:
            return self._folders[root]
        root = os.path.abspath(root)
        if root not in self._folders:
            folder = Folder(root)
            folder.lock(exclusive=False)
            self.use_folder(folder, writer=f"{os.uname().nodename}-{os.getpid()}")
        return self._folders[root]

    def ledger(self, folder: Folder) -> Ledger:
        return self._ledgers[str(folder.root)]

    def download(self, entry: Entry, root: str) -> Download:
        """The Download of an entry, made on its first attempt."""
        folder = self.folder(root)
        place = folder.place(entry.name)
        if place not in self._downloads:
            part = Part(folder, entry.name, url_key(entry.url), checkpoint=self.options.checkpoint)
            part.details["url"] = redact(entry.url)
            self._downloads[place] = Download(
                entry=entry,
                folder=folder,
                part=part,
                budget=Budget(limit=self.options.retry_times),
                expected=dict(entry.digests),
                policy=self.options.digest,
                url=entry.url,
            )
        return self._downloads[place]

    def at(self, path: str | None) -> Download | None:
        """The Download whose final path is `path`, if it is under way."""
        return self._downloads.get(path) if path else None

    async def finish(self, download: Download) -> LedgerLine:
        """Proves the part, gives it its name and its line in the ledger. Raises Refuted, DiskError, Stopped, and
        BulkError `unproven` under BULK_REQUIRE_PROOF; the part stays as it was."""
        total = download.part.state.total
        assert total is not None
        if download.algorithms:
            proof = await maybe_deferred_to_future(self.in_thread(self._prove, download, total, hashing=True))
        else:
            proof = Proof("complete" if download.length_proven else "unproven", {})
        if proof.status == "unproven" and self.options.require_proof:
            raise BulkError(
                "the origin gave no means to prove the length (BULK_REQUIRE_PROOF)", code="unproven", permanent=True
            )
        return await maybe_deferred_to_future(self.from_future(self.commit(download, proof)))

    def commit(self, download: Download, proof: Proof) -> Future[LedgerLine]:
        """Its bytes are proven: the name, and the line in the ledger. May be called in any thread."""
        validators = download.part.state.validators
        finished = Finished(
            part=download.part,
            ledger=self.ledger(download.folder),
            key=download.part.key,
            proof=proof,
            in_place=download.part.adopted,
            flags=tuple(sorted(download.flags)),
            url=redact(download.entry.url),
            etag=validators.etag,
            last_modified=validators.last_modified,
        )
        return self.committer.submit(finished)

    def _prove(self, download: Download, total: int) -> Proof:
        download.part.open()
        download.follow(self.is_stopping, until=total)
        return prove(
            download.part,
            total=total,
            expected=download.expected,
            length_proven=download.length_proven,
            follower=download.follower,
            stop=self.is_stopping,
        )

    async def refute(self, download: Download, refuted: Refuted) -> bool:
        """The bytes are wrong: they are kept aside, marked. True when the entry may be fetched once more."""
        logger.error("%s: %s; the refused bytes are kept as .part.old", download.entry.name, refuted)
        again = not download.refuted_once
        download.refuted_once = True
        await maybe_deferred_to_future(self.in_thread(download.begin_anew, refuted.found))
        return again

    def fits(self, download: Download) -> bool:
        """There is room for the rest of this file beside the rests of those that are under way (FAULTS 47)."""
        now, rest = time.monotonic(), download.rest
        if rest <= SMALL and now < self._ample.get(download.folder, 0.0):
            return True
        rests = {transfer.download: transfer.download.rest for transfer in self._active}
        rests[download] = rest
        left = download.folder.free_space() - sum(rests.values())
        self._ample[download.folder] = now + TICK if left >= AMPLE else 0.0
        return left >= RESERVE

    def has_ample_room(self, folder: Folder) -> bool:
        """Nobody need ask for the room of a small file."""
        return folder.free_space() >= AMPLE

    def rung(self, origin: str) -> Rung:
        """The strongest If-Range that this origin is known to answer rightly."""
        return self._rungs.get(origin, Rung.ETAG)

    def remember_rung(self, origin: str, rung: Rung) -> None:
        self._rungs[origin] = max(rung, self.rung(origin))

    async def forget(self, download: Download) -> None:
        """The entry has its outcome; what a restart set aside comes back if the new part did not overtake it."""
        del self._downloads[download.folder.place(download.entry.name)]
        self._followed.pop(download, None)
        if not download.part.is_at_rest:
            await maybe_deferred_to_future(self.in_thread(download.part.give_up))

    # -------------------------------------------------------------------------------------------- transfers, stopping

    def enter(self, transfer: Active) -> None:
        self._active.add(transfer)

    def leave(self, transfer: Active) -> None:
        self._active.discard(transfer)
        if transfer in self._held:
            self._held.remove(transfer)

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def transfers(self) -> Collection[Active]:
        """The transfers under way; a live view."""
        return self._active

    @property
    def downloads(self) -> Collection[Download]:
        """The entries that were begun and have no outcome yet; a live view."""
        return self._downloads.values()

    def is_stopping(self) -> bool:
        """For worker threads."""
        return self.stopping

    def on_stop(self, callback: Callable[[], None]) -> None:
        self._stop_callbacks.append(callback)

    def stop(self, reason: BulkError) -> None:
        """Ends every transfer now; each keeps its bytes and writes its state."""
        if self.stopping:
            return
        self.stopping = True
        self.stop_reason = reason
        for transfer in list(self._active):
            transfer.stop(reason)
        for callback in self._stop_callbacks:
            callback()

    def refuse(self, error: UsageError) -> None:
        """Something the user gave does not fit, found out too late to refuse it before the start. Exit status 1."""
        logger.error("%s", error)
        self.stop(error)

    def disk_failed(self, error: DiskError) -> None:
        """A file system that refuses everybody ends the run instead of failing every entry (FAULTS 47, 48). In the
        crawl of another spider only the files fail: it has pages to go on with."""
        if error.stops_run and self.of_a_list and not self.stopping:
            logger.error("Stopping: %s", error)
            self.stop(error)
            deferred_from_coro(self.crawler.engine.close_spider_async(reason=f"bulk_{error.code}"))

    def follow(self, download: Download) -> None:
        """Hashes beside the transfer; called while bytes arrive, works at most once per tick."""
        now = time.monotonic()
        if now - self._followed.get(download, 0.0) < TICK / 2 or not download.algorithms:
            return
        self._followed[download] = now
        # What goes wrong here goes wrong again, and is told, when the file is proven.
        self.in_thread(download.follow, self.is_stopping, hashing=True).addErrback(lambda _: None)

    def _tick(self) -> None:
        now = time.monotonic()
        self.crawler.stats.set_value("bulk/active", len(self._active))
        if not self.stopping and not self.finished and is_closing(self.crawler):
            self.stop(Stopped())
        for transfer in list(self._active):
            transfer.tick(now)
        if now - self._controls_read >= 1.0:
            self._controls_read = now
            self._read_controls(now)

    # -------------------------------------------------------------------------------------------- rate limits

    def count_bytes(self, count: int) -> None:
        self.crawler.stats.inc_value("bulk/bytes_received", count)

    def spend(self, transfer: Active, count: int) -> None:
        """`count` bytes have arrived for `transfer`; over the limit, it stops reading until the account is filled."""
        self.count_bytes(count)
        if not self.rates.limited:
            return
        now = time.monotonic()
        self.rates.spend(transfer.host, count, now)
        if not self.rates.allows(transfer.host, now):
            transfer.hold(True)
            if transfer not in self._held:
                self._held.append(transfer)
            if not self._refill.running:
                self._refill.start(INTERVAL, now=False)

    def pay(self, host: str, count: int) -> float:
        """For threads that read by themselves: `count` bytes have arrived; seconds to wait before reading on."""
        if not self.rates.limited:
            return 0.0
        now = time.monotonic()
        self.rates.spend(host, count, now)
        return 0.0 if self.rates.allows(host, now) else INTERVAL

    def _let_flow(self) -> None:
        """Lets as many stopped transfers read as the account pays for, in turn."""
        now = time.monotonic()
        promised: Counter[str] = Counter()
        everybody = ""
        for _ in range(len(self._held)):
            transfer = self._held.popleft()
            host = transfer.host
            if self.rates.allows(host, now, promised=promised[everybody], promised_host=promised[host]):
                promised[host] += LIMITED_READ
                promised[everybody] += LIMITED_READ
                transfer.hold(False)
            else:
                self._held.append(transfer)
        if not self._held:
            self._refill.stop()

    def _read_controls(self, now: float) -> None:
        for control in self._controls:
            limits = control.read()
            if limits is not None:
                limit = limits.get("rate_limit", self.options.rate_limit)
                per_host = limits.get("rate_limit_per_host", self.options.rate_limit_per_host)
                told = [f"{human(rate)}/s" if rate else "none" for rate in (limit, per_host)]
                logger.info("%s: rate limit %s, per host %s", control.path, *told)
                self.rates.set(limit, per_host, now)

    # -------------------------------------------------------------------------------------------- counting

    def on_outcome(self, callback: Callable[[BulkItem], None]) -> None:
        """Calls back with the item of every entry that has its outcome."""
        self._outcome_callbacks.append(callback)

    def count_known(self, statuses: Counter[str], size: int) -> None:
        """An earlier run has done these entries, of `size` bytes together, and nobody asked for their items."""
        stats = self.crawler.stats
        for status, times in statuses.items():
            self.counts[status] += times
            self.counts["already"] += times
            stats.inc_value(f"bulk/files/{status}", times)
            stats.inc_value("bulk/already", times)
        self.bytes_done += size

    def count(self, item: BulkItem) -> None:
        """One entry has its outcome."""
        stats = self.crawler.stats
        self.counts[item.status] += 1
        stats.inc_value(f"bulk/files/{item.status}")
        if item.already:
            self.counts["already"] += 1
            stats.inc_value("bulk/already")
        if item.error is not None and item.status == "failed":
            stats.inc_value(f"bulk/failed/{item.error['code']}")
            self.counts["permanent" if item.error["permanent"] else "retryable"] += 1
        elif item.status != "interrupted":
            self.bytes_done += item.size or 0
        for callback in self._outcome_callbacks:
            callback(item)

    @property
    def exit_status(self) -> int:
        """DESIGN, "Exit status"."""
        if self.signal is not None and not self.finished:
            return 128 + self.signal
        if self.entries is None:
            return 1  # the spider never began
        if isinstance(self.stop_reason, UsageError):
            return 1
        counts = self.counts
        if counts["retryable"] or counts["interrupted"] or counts["left"] or self.stop_reason is not None:
            return 3
        if sum(counts[status] for status in STATUSES) < self.entries:
            return 3  # something lost an entry; that is never success
        if counts["permanent"]:
            return 4
        return 5 if counts["unproven"] else 0

    # -------------------------------------------------------------------------------------------- Scrapy's signals

    def _opened(self) -> None:
        from twisted.internet import reactor

        cast(Any, reactor).addSystemEventTrigger("before", "shutdown", self._shut_down)
        self._watch.start(TICK, now=False)

    def _listen_for_signals(self) -> None:
        """Remembers which signal ends us, and makes a lost terminal (SIGHUP) an orderly stop as well."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            previous = signal.getsignal(number)
            if number == signal.SIGHUP and previous == signal.SIG_DFL:
                previous = signal.getsignal(signal.SIGTERM)
            elif previous in (signal.SIG_DFL, signal.SIG_IGN):
                continue
            if callable(previous):
                signal.signal(number, self._remember(previous))

    def _remember(self, previous: Callable[[int, Any], Any]) -> Callable[[int, Any], None]:
        def received(number: int, frame: Any) -> None:
            if self.signal is None:
                self.signal = number
            previous(number, frame)

        return received

    def _shut_down(self) -> None:
        """Ctrl-C twice ends the reactor without another word: no thread may stay behind that would keep the process."""
        if not self.finished:
            self.stop(Stopped())
        self.committer.close()

    async def _stopped(self) -> None:
        self.crawler.stats.set_value("bulk/active", len(self._active))
        for loop in (self._watch, self._refill):
            if loop.running:
                loop.stop()
        if self._wire is not None:
            await self._wire.close()
        await maybe_deferred_to_future(self.in_thread(self.committer.close))
        self._threads.shut_down()
        for ledger in self._ledgers.values():
            ledger.close()
        for folder in self._folders.values():
            folder.close()
