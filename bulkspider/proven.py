"""What earlier runs have done: entries that the ledger proves need no request.

They are counted, and told one by one only where somebody wants their rows. A file that was touched since, or for which
the list gives a hash that the ledger does not hold, is hashed here first. What is not proven is the spider's to fetch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future

from bulkspider.entry import Entry, origin_of, url_key
from bulkspider.errors import BulkError, Stopped
from bulkspider.finish import prove_again
from bulkspider.folder import Folder
from bulkspider.ledger import Ledger, LedgerLine, Proof, proves
from bulkspider.run import Run
from bulkspider.sources import Source

logger = logging.getLogger(__name__)


class Proven:
    """Asked about each entry before it is fetched. `checking`: how many are being hashed."""

    def __init__(
        self,
        run: Run,
        folder: Folder,
        ledger: Ledger,
        source: Source,
        *,
        tell: Callable[[Entry, LedgerLine], None] | None,
        refuted: Callable[[Entry], None],
    ) -> None:
        """tell: hears of each entry that is proven. refuted: of each that was hashed, and must be fetched."""
        self.checking = 0
        self._run = run
        self._folder = folder
        self._ledger = ledger
        self._source = source
        self._tell = tell
        self._refuted = refuted
        self._known: Counter[str] = Counter()
        self._known_bytes = 0
        self._served: set[str] = set()

    def has(self, entry: Entry) -> bool:
        """True when nothing is to be fetched for the entry, or that is being found out."""
        if self._source.taken_over(entry) and self._folder.lstat(entry.name) is not None:
            self._ledger.load()
        line = self._ledger.find(entry.name)
        found = self._folder.lstat(entry.name) if line is not None else None
        if line is None or found is None:
            return False
        proof = proves(line, key=url_key(entry.url), stat=found, size=entry.size, digests=dict(entry.digests))
        if proof is Proof.PROVEN:
            self._already(entry, line)
            return True
        if proof is Proof.KEY_DIFFERS:
            logger.warning("%s: the list has another URL for it now; it is compared with that one first", entry.name)
        wanted = {Proof.STALE: dict(line.digests), Proof.UNKNOWN_HASH: dict(entry.digests)}.get(proof)
        if not wanted:
            return False
        self.checking += 1
        deferred_from_coro(self._check_again(entry, line, wanted))
        return True

    def count(self) -> None:
        """Adds what was proven since the last time to the run's counters."""
        if self._known:
            self._run.count_known(self._known, self._known_bytes)
            self._known.clear()
            self._known_bytes = 0

    def _already(self, entry: Entry, line: LedgerLine) -> None:
        origin = origin_of(entry.url)
        if origin not in self._served:
            self._served.add(origin)
            self._run.pace.served(origin)
        self._source.ended(entry, line.status)
        if self._tell is not None:
            self._tell(entry, line)
        else:
            # Nobody would see the item: a million of them only cost time.
            self._known[line.status] += 1
            self._known_bytes += line.size

    async def _check_again(self, entry: Entry, line: LedgerLine, wanted: dict[str, str]) -> None:
        """Hashes the file here, and fetches nothing."""
        run = self._run
        renewed: LedgerLine | None = None
        try:
            task = (prove_again, self._folder, self._ledger, line, wanted, run.is_stopping)
            renewed = await maybe_deferred_to_future(run.in_thread(*task, hashing=True))
        except BulkError as error:
            if not isinstance(error, Stopped):
                logger.warning("%s: %s", entry.name, error)
        finally:
            self.checking -= 1
        if renewed is not None:
            self._already(entry, renewed)
            self.count()
        elif not run.stopping:
            self._refuted(entry)
        run.changed()
