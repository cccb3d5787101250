"""Under way: the entries that have begun, each with a task that ends with its outcome.

A task waits for the entry's turn at its path and calls `fetch.py`. An entry whose failure may be temporary waits for
the last pass: an origin that was down is often up again at the end of a long list. A shared queue has no last pass, it
gives such an entry to another worker; a dry run has none either. Whatever ends a task (a file, a failure, a stop,
another worker that has the entry now, a bug), the source and the Listener are told once. `dispatcher.py` decides which
entry begins.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Coroutine, Iterator
from typing import Any, Protocol

from scrapy.utils.log import failure_to_exc_info
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.folder import Folder
from bulkspider.dispatch.fetch import Fetcher
from bulkspider.dispatch.slots import Slots
from bulkspider.entries.entry import Entry, origin_of, redact
from bulkspider.errors import AttemptError, BulkError, DiskError, Stopped, too_large_for_stage
from bulkspider.handover.stage import StagedFolder
from bulkspider.lists.source import Source
from bulkspider.run.download import Download
from bulkspider.run.origins.origins import Origins
from bulkspider.run.run import Run

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Is told how entries end, in the reactor's thread."""

    @property
    def busy(self) -> bool:
        """It has enough rows to yield: no more entries are skipped until it has yielded some."""

    def proven(self, entry: Entry, line: LedgerLine) -> bool:
        """An earlier run did it. False: it is not counted yet."""

    def ended(self, entry: Entry, error: BulkError, download: Download | None) -> None:
        """It ends without a file: failed, or interrupted (Stopped)."""

    def bad_line(self, line: int, name: str, error: BulkError) -> None:
        """The source gave a bad entry."""


class UnderWay:
    """Of one list. Its length: how many entries have begun and have no outcome yet. stage: limits the bytes in the
    folder."""

    def __init__(
        self,
        run: Run,
        source: Source,
        folder: Folder,
        fetcher: Fetcher,
        listener: Listener,
        *,
        slots: Slots,
        stage: StagedFolder | None = None,
    ) -> None:
        self.last_pass = LastPass(run.origins)
        self._run = run
        self._source = source
        self._folder = folder
        self._fetcher = fetcher
        self._listener = listener
        self._slots = slots
        self._stage = stage
        self._stopping = run.stopping
        # By name of the entry; None while `start` does not know yet whether the task has ended at once.
        self._tasks: dict[str, Deferred[None] | None] = {}
        self._downloads: dict[str, Download] = {}
        self._told_of: set[str] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def active(self) -> int:
        """Those that do not wait for the last pass."""
        return len(self._tasks) - self.last_pass.waiting

    # -- tasks -----------------------------------------------------------------------------------------------------

    def start(self, entry: Entry, task: Coroutine[Any, Any, None]) -> None:
        """Begins an entry. task: `fetch`, or a coroutine that calls it."""
        self._tasks[entry.name] = None
        running = Deferred.fromCoroutine(task)
        if not running.called:
            self._tasks[entry.name] = running
        running.addBoth(self._over, entry)

    def _over(self, result: Any, entry: Entry) -> None:
        """A task has ended. An unexpected error is logged, and the entry has failed."""
        del self._tasks[entry.name]
        if isinstance(result, Failure) and not result.check(CancelledError):
            logger.error("%s: %s", entry.name, result.getErrorMessage(), exc_info=failure_to_exc_info(result))
            self._end(entry, BulkError(result.getErrorMessage()), None)
        self._run.wakeup.set()

    # -- one entry -------------------------------------------------------------------------------------------------

    async def fetch(self, entry: Entry, *, first_error: BulkError | None = None) -> None:
        """An entry from its turn to its outcome. first_error: why it failed in the first pass; this is then its last
        attempt."""
        downloads = self._run.downloads
        try:
            if error := too_large_for_stage(entry.size, self._folder.stage_max):
                raise error
            async with downloads.turn(entry, self._folder, outside=True):
                download = downloads.begin(entry, self._folder)
                download.first_error = first_error
                self._downloads[entry.name] = download
                try:
                    await self._bring(download)
                finally:
                    del self._downloads[entry.name]
                    await self._forget(download)
                    self._leave_stage(entry)
        except BulkError as error:
            self._end(entry, error, None)

    async def _forget(self, download: Download) -> None:
        try:
            await self._run.downloads.forget(download)
        except DiskError as error:
            logger.warning("%s: %s", download.entry.name, error)

    async def _bring(self, download: Download) -> None:
        """Fetches its file; or it fails, or waits for the last pass."""
        entry = download.entry
        while True:
            try:
                line = await self._fetcher.fetch(download)
            except BulkError as error:
                if not self._has_last_pass or not self.last_pass.may_have(download, error):
                    # If the host is still down, the first error says more.
                    told = download.first_error if error.code == "origin_down" else None
                    self._end(entry, told or error, download)
                elif not download.attempts:
                    self._tell_of(origin_of(entry.url), error)
                    self.last_pass.add(entry, error)
                else:
                    logger.info(
                        "%s: %s; it is tried once more when all others are done", entry.name, redact(str(error))
                    )
                    if self._stage is not None:
                        # Where room is limited, entries that wait for the last pass give theirs back.
                        self.last_pass.add(entry, error)
                        return
                    download.first_error = error
                    download.url, download.mirrors = entry.url, list(entry.mirrors)
                    if await self._is_last_pass(download):
                        continue
                    self._end(entry, self._stopping.error, download)
            else:
                self._source.ended(entry, line.status)
            return

    async def hand_on(self, entry: Entry, line: LedgerLine) -> LedgerLine | None:
        """Hands a file of an earlier run to the command. None when that failed: the entry has ended then."""
        assert self._run.handover is not None
        try:
            return await self._run.handover.hand_on(line, entry.url)
        except BulkError as error:
            self._end(entry, error, None)
            return None
        finally:
            self._leave_stage(entry)

    def _leave_stage(self, entry: Entry) -> None:
        if self._stage is not None:
            self._stage.leave(entry.name)
            self._slots.look()

    def is_lost(self, entry: Entry, first_error: BulkError | None = None) -> bool:
        """True when its origin was given up: the entry ends at once, without a request."""
        origins = self._run.origins
        origin = origins[origin_of(entry.url)]
        error = origins.given_up(origin, self._run.clock.now())
        if error is None or entry.mirrors:
            return False
        self._tell_of(origin.name, error)
        if first_error is None and self._has_last_pass and not error.permanent:
            self.last_pass.add(entry, error)
        else:
            self._end(entry, first_error or error, None)
        return True

    def _tell_of(self, origin: str, error: BulkError) -> None:
        """Warns once for all entries of an origin, or of all origins."""
        about = "" if error.code == "no_network" else origin
        if about not in self._told_of:
            self._told_of.add(about)
            later = "; what is left of it is asked for once more, when all others are through"
            logger.warning("%s%s", error, later if self._has_last_pass and not error.permanent else "")

    @property
    def _has_last_pass(self) -> bool:
        """Failed entries are tried once more at the end: not with a shared queue, nor in a dry run."""
        return not self._source.shared and not self._fetcher.once

    async def _is_last_pass(self, download: Download) -> bool:
        """Waits for the last pass; False when the run is stopped first."""
        begins = self.last_pass.wait(download)
        self._run.wakeup.set()
        await begins
        return not self._stopping

    def _end(self, entry: Entry, error: BulkError, download: Download | None) -> None:
        """An entry ends without a file, or another worker goes on with it."""
        if not isinstance(error, Stopped) and self._source.take_back(entry, error):
            if error.code == "lease_lost":
                logger.warning("%s: %s", entry.name, error)
            return  # another worker will end the entry: it has no row here
        self._source.ended(entry, error.status, error)
        self._listener.ended(entry, error, download)

    # -- ended from outside ----------------------------------------------------------------------------------------

    def lose(self, name: str) -> None:
        """Another worker has the entry now. Its transfers end; nothing more is written."""
        download = self._downloads.get(name)
        if download is None:
            return
        error = BulkError("its lease has ended; another worker goes on with it", code="lease_lost")
        if not self._slots.withdraw(download, error):
            download.stop_transfers(error)

    def interrupt(self) -> None:
        """The run stops: entries that wait for the last pass end as interrupted, with a row."""
        for entry in self.last_pass.close():
            self._end(entry, self._stopping.error, None)

    def abandon(self) -> None:
        """At the end of the crawl: cancels what is still under way."""
        for name, running in list(self._tasks.items()):
            download = self._downloads.get(name)
            if download is not None:
                download.item = None
                self._end(download.entry, self._stopping.error, download)
            if running is not None:
                running.cancel()
        self._slots.close()


class LastPass:
    """Entries whose failure may be temporary get one more attempt when everything else is through.

    An entry for which no request was ever made (its origin was down) waits here as an Entry; one that has made attempts
    waits as a Download and keeps its part. Outages of the first pass are forgotten.
    """

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._begun = False
        # Entries without a request, by origin, each with its first error.
        self._entries: dict[str, deque[tuple[Entry, BulkError]]] = {}
        self._downloads: dict[Download, Deferred[None]] = {}

    @property
    def waiting(self) -> int:
        """Downloads that wait for it."""
        return len(self._downloads)

    @property
    def has_entries(self) -> bool:
        """Entries without a request wait for it, or are still to be taken."""
        return bool(self._entries)

    def may_have(self, download: Download, error: BulkError) -> bool:
        """The error may be temporary, and the entry has not been in the last pass yet."""
        return isinstance(error, AttemptError) and not error.permanent and download.first_error is None

    def add(self, entry: Entry, error: BulkError) -> None:
        """Adds an entry without a request; `take` gives it back."""
        self._entries.setdefault(origin_of(entry.url), deque()).append((entry, error))

    def wait(self, download: Download) -> Deferred[None]:
        """Fires when the last pass begins, or the run is stopped."""
        begins = self._downloads[download] = Deferred[None]()
        return begins

    def begin(self) -> None:
        """Everything else is through: the last pass begins."""
        if self._begun or not (self._entries or self._downloads):
            return
        self._begun = True
        for name in {*self._entries, *(download.origin for download in self._downloads)}:
            self._origins[name].forgive(last_pass=True)
        self._let_go()

    def take(self, blocked: Collection[str]) -> tuple[Entry, BulkError] | None:
        """The next entry without a request, and its first error; None when there is none, or the last pass has not
        begun."""
        if not self._begun:
            return None
        for origin, entries in self._entries.items():
            if origin not in blocked:
                found = entries.popleft()
                if not entries:
                    del self._entries[origin]
                return found
        return None

    def close(self) -> Iterator[Entry]:
        """The run is stopped: ends all waits. Returns the entries without a request."""
        self._let_go()
        entries, self._entries = self._entries, {}
        return (entry for waiting in entries.values() for entry, _ in waiting)

    def _let_go(self) -> None:
        downloads, self._downloads = self._downloads, {}
        for begins in downloads.values():
            begins.callback(None)
