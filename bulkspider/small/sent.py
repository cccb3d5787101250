"""A batch that the second process works through, seen from the first one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.entries.entry import origin_of
from bulkspider.errors import BulkError
from bulkspider.protocol.plan import Validators
from bulkspider.run.origins.outcome import Outcome
from bulkspider.small.batch import Received

if TYPE_CHECKING:
    from bulkspider.run.download import Download
    from bulkspider.run.run import Run


class SentBatch:
    """As `Batch`: one request for several downloads. `download` is the first that is not done. number: of the batch.
    message: that sends it to the second process. send, stop: send it, and its end. was_stopped: by this process. Its
    methods are for the reactor's thread."""

    asking = False

    def __init__(
        self,
        run: Run,
        downloads: Sequence[Download],
        number: int,
        message: bytes,
        send: Callable[[SentBatch], None],
        stop: Callable[[SentBatch], None],
    ) -> None:
        self.download = downloads[0]
        self.downloads = downloads
        self.number = number
        self.message = message
        self.was_stopped = False
        self._run = run
        self._send = send
        self._stop = stop
        self._ended: Deferred[None] = Deferred()
        self._failed: dict[Download, BulkError] = {}
        self._origin = origin_of(self.download.url)
        self._received = Received(run, self._origin)
        self._rest: float | None = None

    async def perform(self) -> list[Outcome | None]:
        """As `Batch.perform`."""
        run = self._run
        run.transfers.enter(self)
        for download in self.downloads:
            download.begun = time.monotonic()
        try:
            self._send(self)
            await maybe_deferred_to_future(self._ended)
        finally:
            run.transfers.leave(self)
            self.tick(time.monotonic())
        if self._rest is not None:
            run.origins[self._origin].rest(self._rest, run.clock.now())
        fetched = sum(download.finished is not None for download in self.downloads)
        if fetched:
            run.crawler.stats.inc_value("bulk/attempts", fetched)
        return [self._outcome_of(download) for download in self.downloads]

    def _outcome_of(self, download: Download) -> Outcome | None:
        if download in self._failed:
            return Outcome(error=self._failed[download])
        return Outcome(fetched=True, grew=True) if download.finished is not None else None

    def stop(self, error: BulkError) -> None:
        """Ends the batch; what is not complete is handed back."""
        self.was_stopped = True
        self._stop(self)

    def tick(self, now: float) -> None:
        self._received.tell()
        if self._run.rates.limited and not self._ended.called:
            self.was_stopped = True
            self._stop(self)

    # -- what the second process tells -----------------------------------------------------------------------------

    def is_done(self, number: int, line: LedgerLine) -> None:
        """A file has its name and its line in the ledger."""
        download = self.downloads[number]
        download.part.learn(total=line.size, validators=Validators(line.etag, line.last_modified))
        download.came_at_once(line.size)
        download.bytes_received += line.size
        download.flags.update(line.flags)
        download.finished = line
        self._received.count += line.size
        if self.download.finished is not None:
            self.download = next((left for left in self.downloads if left.finished is None), self.download)

    def has_failed(self, number: int, error: BulkError) -> None:
        """A file has its name, but its line could not be written."""
        self._failed[self.downloads[number]] = error

    def is_handed_back(self, number: int, *, alone: bool, received: int) -> None:
        """alone: it gets a request of its own. received: bytes of it that came in vain."""
        download = self.downloads[number]
        download.alone |= alone
        download.bytes_received += received
        self._received.count += received

    def has_ended(self, rest: float | None = None) -> None:
        """rest: seconds for which the host wants no more requests."""
        self._rest = rest
        if not self._ended.called:
            self._ended.callback(None)
