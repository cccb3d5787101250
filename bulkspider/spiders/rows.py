"""The rows of the spider `bulk`: each entry becomes one item, and BulkPipeline counts it.

A fetched file becomes an item with an empty status, which BulkPipeline finishes; then the item is its row. An entry
that ended without a file becomes a row at once. Items that another pipeline drops, and those that have not reached
BulkPipeline at the end of the crawl, are counted here, and so are rows that need not pass the pipelines
(`shortcut.py`). `frontend.py` makes the requests.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any

from scrapy import signals
from twisted.internet.defer import Deferred, succeed

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.verify import VerifyResult
from bulkspider.entries.entry import Entry
from bulkspider.entries.redaction import error_of
from bulkspider.errors import BulkError
from bulkspider.items import BulkItem
from bulkspider.run.download import Download
from bulkspider.run.row import row_of
from bulkspider.run.run import Run
from bulkspider.spiders.passed import PassedItems
from bulkspider.spiders.shortcut import Shortcut

if TYPE_CHECKING:
    from bulkspider.disk.folder.folder import Folder

# Rows of entries that earlier runs have done, gathered before Scrapy gets them one by one.
ROWS_AHEAD = 64


class Earlier(enum.Enum):
    """What becomes of the entries that an earlier run has done."""

    UNSEEN = "they are counted"
    ROWS = "they have rows for the report or a caller of `fetch`; nobody else wants them, so Scrapy does not see them"
    ITEMS = "their items pass through Scrapy"


class Rows:
    """One per crawl of the spider (`dispatch.underway.Listener`). passed: handles items that have passed all pipelines.
    shortcut: for rows that no pipeline of others gets. finishing: the downloads that BulkPipeline has not finished
    yet."""

    def __init__(
        self, run: Run, folder: Folder, passed: PassedItems, *, earlier: Earlier, shortcut: Shortcut | None = None
    ) -> None:
        self.passed = passed
        self._shortcut = shortcut or Shortcut(run.crawler)
        self.finishing: dict[Download, None] = {}
        self._run = run
        self._folder = folder
        self._earlier = earlier
        self._ready: deque[BulkItem] = deque()
        # Items that have not reached BulkPipeline, where they are counted; by line and name.
        self._uncounted: dict[tuple[int, str], BulkItem] = {}
        run.outcomes.on_outcome(self._counted)
        run.crawler.signals.connect(self._dropped, signals.item_dropped)
        run.crawler.signals.connect(self._dropped, signals.item_error)

    # -- for `frontend.py`, which gives them to Scrapy -------------------------------------------------------------

    def __len__(self) -> int:
        """How many items `take` can give."""
        return len(self._ready) + len(self.passed)

    def take(self) -> Any:
        """The next item that is ready, or what `parse_file` of a subclass has given; None when there is nothing."""
        return self._ready.popleft() if self._ready else self.passed.take()

    @property
    def waits(self) -> bool:
        """An item is in the pipelines or being parsed, and is waited for."""
        return self.passed.waits

    def are_all_through(self) -> None:
        """Called when Scrapy is idle."""
        self.passed.are_all_through()

    # -- the end of an entry ---------------------------------------------------------------------------------------

    def finish(self, download: Download) -> Deferred[LedgerLine | None]:
        """Fires when BulkPipeline has finished the file (`dispatch.fetch.Frontend.finish`). One of a batch is finished
        already."""
        line = download.finished
        if line is not None and self._run.handover is None and self._shortcut.is_open:
            self._give(row_of(download.entry, self._folder, download=download, line=line))
            return succeed(line)
        verdict = download.verdict = Deferred[LedgerLine | None]()
        download.item = row_of(download.entry, self._folder, download=download)
        self._put(download.item)
        self.finishing[download] = None
        verdict.addBoth(self._finished, download)
        return verdict

    def _finished(self, result: Any, download: Download) -> Any:
        self.finishing.pop(download, None)
        return result

    @property
    def busy(self) -> bool:
        return len(self._ready) >= ROWS_AHEAD

    def proven(self, entry: Entry, line: LedgerLine) -> bool:
        owed = line.owed and self._run.owes_items
        if self._earlier is Earlier.UNSEEN and not owed:
            return False
        item = row_of(entry, self._folder, line=line)
        item.already = True
        if owed or (self._earlier is Earlier.ITEMS and not self._shortcut.is_open):
            self._put(item)
            return True
        self._run.outcomes.tell(item)
        if self._earlier is Earlier.ITEMS:
            self._shortcut.give(item)
        return False

    def ended(self, entry: Entry, error: BulkError, download: Download | None) -> None:
        row = row_of(entry, self._folder, download=download, error=error)
        if download is not None and download.item is not None:
            # The unfinished item is in the pipelines already: it becomes the row.
            download.item.become(row)
        else:
            self._put(row)

    def verified(self, entry: Entry, found: VerifyResult) -> BulkItem:
        """The row of a file that was re-read."""
        item = row_of(entry, self._folder, found.status)
        item.error = error_of(found.error) if found.error is not None else None
        item.proof_by = found.proof_by
        item.size, item.flags, item.checksums = found.size, list(found.flags), dict(found.digests)
        item.sha256 = found.digests.get("sha256")
        return item

    def bad_line(self, line: int, name: str, error: BulkError) -> None:
        """Adds the row of a bad line of the list, which was skipped."""
        self._put(BulkItem(line=line, name=name, status="failed", error=error_of(error)))

    def _give(self, row: BulkItem) -> None:
        self._run.outcomes.count(row)
        self._shortcut.give(row)

    def _put(self, item: BulkItem) -> None:
        if item.status and self._shortcut.is_open:
            self._give(item)
            return
        self._uncounted[item.line, item.name] = item
        self._ready.append(item)
        self.passed.sent(item)
        self._run.wakeup.set()

    # -- items that never come to BulkPipeline -----------------------------------------------------------------------

    def _counted(self, item: BulkItem) -> None:
        self._uncounted.pop((item.line, item.name), None)

    def _dropped(self, item: Any) -> None:
        """Another pipeline dropped the item, or failed. Its file may not be finished yet, or its row not counted."""
        if not isinstance(item, BulkItem):
            return
        if item.status and (item.line, item.name) in self._uncounted:
            self._run.outcomes.count(item)
        elif not item.status and (download := self._run.downloads.at(item.path)) is not None:
            self.lose(download)

    def lose(self, download: Download) -> None:
        """The item of this download will not reach BulkPipeline: its file will not be finished."""
        if download.verdict is not None and not download.verdict.called:
            download.item = None
            download.verdict.errback(BulkError("another component dropped the item", code="dropped"))

    def count_rest(self) -> None:
        """At the end of the crawl: counts the rows that have not reached BulkPipeline."""
        for item in list(self._uncounted.values()):
            if item.status:
                self._run.outcomes.count(item)
