"""Proofs: is the entry done already? Only this module asks the ledger.

`look` compares the ledger's line with the file's size and time. Where that does not decide (the file was touched since,
or the list gives a hash that the ledger does not have), `renew` hashes the file in a worker thread. An entry that is
not proven must be fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from bulkspider.disk.finished.ledger import Ledger
from bulkspider.disk.finished.line import LedgerLine, LineVerdict, judge_line
from bulkspider.disk.finished.proof import claims_of, prove_again, stated_now
from bulkspider.disk.folder.folder import Folder
from bulkspider.entries.entry import Entry
from bulkspider.errors import DiskError
from bulkspider.protocol.digests import Claim
from bulkspider.pumps.threads import Threads
from bulkspider.run.stopping import Stopping

if TYPE_CHECKING:
    from bulkspider.run.run import Run

logger = logging.getLogger(__name__)


class Open(Struct, frozen=True):
    """Not decided: the file is right if it has these hashes."""

    line: LedgerLine
    wanted: Sequence[Claim]


class Proofs:
    """For one output folder. asker: who wants its files, for messages."""

    def __init__(
        self, folder: Folder, ledger: Ledger, threads: Threads, stopping: Stopping, *, asker: str = "the crawl"
    ) -> None:
        self._folder = folder
        self._ledger = ledger
        self._threads = threads
        self._stopping = stopping
        self._asker = asker

    def reload(self) -> None:
        """Reads the ledger again: others may have finished files meanwhile."""
        self._ledger.load()

    def look(self, entry: Entry, *, since: float | None = None) -> LedgerLine | Open | None:
        """The line that proves the entry; Open when it must be hashed; None when it must be fetched.

        since: an older proof (seconds since 1970) does not count.
        """
        line = self._ledger.find(entry.name)
        found = self._folder.lstat(entry.name) if line is not None else None
        if line is None or (found is None and not line.is_elsewhere) or (since is not None and line.time < since):
            return None
        digests = dict(entry.digests)
        match judge_line(line, key=entry.key, stat=found, size=entry.size, digests=digests):
            case LineVerdict.PROVEN:
                return stated_now(entry, line)
            case LineVerdict.STALE if line.digests:
                return Open(line, claims_of(entry, line))
            case LineVerdict.UNKNOWN_HASH if digests:
                return Open(line, claims_of(entry, line))
            case LineVerdict.KEY_DIFFERS:
                logger.warning(
                    "%s: %s has another URL for it now; it is compared with that one first", entry.name, self._asker
                )
        return None

    async def renew(self, found: Open) -> LedgerLine | None:
        """The new line of the file when it has the wanted hashes, None when it must be fetched. Raises Stopped."""
        task = (prove_again, self._folder, self._ledger, found.line, found.wanted, self._stopping.is_set)
        try:
            return await self._threads.in_thread(*task, hashing=True)
        except DiskError as error:
            logger.warning("%s: %s", found.line.name, error)
            return None


async def find_proof(run: Run, entry: Entry, folder: Folder, *, since: float | None = None) -> LedgerLine | None:
    """The line that proves an entry of a crawl that is no list, after hashing if need be; None when it is to be
    fetched. since: as for `look`. Raises Stopped."""
    ledger = run.folders.ledger(folder)
    proofs = Proofs(folder, ledger, run.threads, run.stopping)
    found = proofs.look(entry, since=since)
    if found is None and folder.lstat(entry.name) is not None:
        # Another crawl may have finished it meanwhile.
        await run.threads.in_thread(ledger.load_if_changed)
        found = proofs.look(entry, since=since)
    return await proofs.renew(found) if isinstance(found, Open) else found
