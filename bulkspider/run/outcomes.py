"""Outcomes: counts how the entries ended, and computes the exit status.

Every entry is counted once, by its item (`count`) or, when an earlier run did it and its item does not pass through
Scrapy, together with others (`count_known`). `on_outcome` calls a function for each item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from bulkspider.codes import Kind
from bulkspider.disk.finished.line import HANDED_ON
from bulkspider.items import BulkItem
from bulkspider.run.stopping import Stopping

STATUSES = ("verified", "complete", "unproven", "failed", "interrupted")


class Outcomes:
    """One per run. stats: Scrapy's. entries: of the run, None before the number is known. finished: the run ended by
    itself. bytes_done: of the files that are done. verifying: the output is only read again. handed_on: files that a
    verify did not read because the command of `--then` has moved them away, by the status that they had; they are also
    in `counts`.
    """

    def __init__(self, stats: Any, stopping: Stopping) -> None:
        self.entries: int | None = None
        self.finished = False
        self.counts: Counter[str] = Counter()
        self.bytes_done = 0
        self.verifying = False
        self.handed_on: Counter[str] = Counter()
        self._stats = stats
        self._inc_value = stats.inc_value  # Scrapy's stats take long to find their own methods
        self._stopping = stopping
        self._subscribers: list[Callable[[BulkItem], None]] = []

    def on_outcome(self, subscriber: Callable[[BulkItem], None]) -> None:
        """Calls `subscriber(item)` for every entry that has its outcome."""
        self._subscribers.append(subscriber)

    def count_known(self, statuses: Counter[str], size: int) -> None:
        """Counts entries that an earlier run has done, of `size` bytes together."""
        for status, times in statuses.items():
            self.counts[status] += times
            self.counts["already"] += times
            self._stats.inc_value(f"bulk/files/{status}", times)
            self._stats.inc_value("bulk/already", times)
        self.bytes_done += size

    def count(self, item: BulkItem) -> None:
        """Counts one entry that has its outcome."""
        self.counts[item.status] += 1
        status = item.status
        if self.verifying and HANDED_ON in item.flags:
            self.handed_on[status] += 1
            status = HANDED_ON
        self._inc_value(f"bulk/files/{status}")
        if item.already:
            self.counts["already"] += 1
            self._inc_value("bulk/already")
        if item.error is not None and item.status == "failed":
            self._stats.inc_value(f"bulk/failed/{item.error['code']}")
            self.counts["permanent" if item.error["permanent"] else "retryable"] += 1
        elif item.status != "interrupted":
            self.bytes_done += item.size or 0
        self.tell(item)

    def tell(self, item: BulkItem) -> None:
        """Tells the subscribers of an entry. Called alone for one that is counted together with others."""
        for subscriber in self._subscribers:
            subscriber(item)

    def count_left(self, entries: int) -> None:
        """Counts the entries that were never begun."""
        self.counts["left"] = entries
        self._stats.set_value("bulk/left", entries)

    def count_unwritten(self) -> None:
        """A file that the run writes besides its entries (a manifest) could not be written; the next run may
        succeed."""
        self.counts["unwritten"] += 1

    def count_given_up(self, entries: int) -> None:
        """Counts entries of the job that other workers have given up permanently."""
        self.counts["permanent"] += entries

    def count_entries(self, entries: int) -> None:
        """Sets the number of entries of the run."""
        self.entries = entries
        self._stats.set_value("bulk/entries", entries)

    def count_bytes(self, count: int) -> None:
        """Counts bytes that have arrived."""
        self._inc_value("bulk/bytes_received", count)

    @property
    def exit_status(self) -> int:
        """As documented in docs/command.md, "Exit status"."""
        if self._stopping.signal is not None and not self.finished:
            return 128 + self._stopping.signal
        if self.entries is None:
            return 1  # the spider never began
        if self._stopping.reason is not None and self._stopping.reason.kind is Kind.USAGE:
            return Kind.USAGE.exit_status
        counts = self.counts
        if counts["retryable"] or counts["interrupted"] or counts["unwritten"] or counts["left"] or self._stopping:
            return Kind.RETRY.exit_status
        if sum(counts[status] for status in STATUSES) < self.entries:
            return 3  # an entry was lost; that is never success
        if counts["permanent"]:
            return Kind.PERMANENT.exit_status
        return 5 if counts["unproven"] else 0
