"""The entries of a dry run that share a request: one byte of each is asked for over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bulkspider.entries.urls import origin_of
from bulkspider.errors import too_large, too_large_for_stage
from bulkspider.protocol.plan import PartState, judge
from bulkspider.run.origins.outcome import Outcome
from bulkspider.small.batch import Batch
from bulkspider.transfer.probe import PROBE, understand

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Conversation, RawConnection


class ProbeBatch(Batch):
    """One request for several entries of a dry run, whose origin answers ranges. An answer other than one byte of a
    file whose size it says is left to a Probe."""

    ASKED = PROBE

    def __init__(self, run: Run, downloads: Sequence[Download], request: Request) -> None:
        super().__init__(run, downloads, request)
        self._pieces = run.origins[origin_of(request.url)].pieces
        self._answered: set[Download] = set()
        self._max_size = run.options.max_size

    def has_room(self) -> bool:
        """Nothing is written."""
        return True

    def fetch(self, download: Download, answers: Conversation) -> bool:
        head = self.ask(download.entry, answers)
        if head.status != 206 or head.answer.length != 1 or "set-cookie" in head.fields:
            return False
        found = understand(head.answer, lambda asked: judge(PartState(), asked, head.answer, download.wanted))
        folder, size = download.folder, found.size
        if size is None or not found.ranges or self._pieces.asks_for_all(size):
            return False
        if too_large(size, folder.capacity, self._max_size) or too_large_for_stage(size, folder.stage_max):
            return False
        self.read(head, answers)
        download.attempts += 1
        download.final_url = download.listed_final_url
        found.note(download)
        self._answered.add(download)
        return True

    def _has_served(self, connection: RawConnection, answers: Conversation) -> None:
        """The second process is for files."""

    def outcome_of(self, download: Download) -> Outcome | None:
        return Outcome(fetched=True) if download in self._answered else None
