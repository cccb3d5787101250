"""Delivery: one file for somebody who is not the spider, from what the ledger says to the finished file.

What `handler.py` (bare requests) and `filespipeline.py` (items) have in common: two that want one name take turns, a
file that an earlier run proved is not fetched again, what was fetched is proven and named, and a hash that refutes it
is worth one more attempt. Who makes the attempts, and when, is theirs to decide.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from scrapy.exceptions import IgnoreRequest
from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.download import Download
from bulkspider.entry import Entry, redact, url_key
from bulkspider.errors import AttemptError, BulkError, DiskError, Stopped
from bulkspider.finish import Refuted, prove_again
from bulkspider.items import BulkItem
from bulkspider.ledger import LedgerLine, Proof, proves
from bulkspider.run import Run

logger = logging.getLogger(__name__)


class Delivery:
    """One file, wanted by one request. root: the folder that its name is relative to."""

    def __init__(self, run: Run, entry: Entry, root: str) -> None:
        self._run = run
        self.entry = entry
        self.folder = run.folder(root)
        self.path = str(self.folder.path(entry.name))

    @asynccontextmanager
    async def turn(self, *, outside: bool = False) -> AsyncIterator[None]:
        """Waits until nobody else works on this name. Raises BulkError when that cannot be waited for (`claims.py`)."""
        claims = self._run.claims
        await claims.enter(self.path, url_key(self.entry.url), outside=outside)
        try:
            yield
        finally:
            claims.leave(self.path, outside=outside)

    async def find_finished(self, since: float | None = None) -> BulkItem | None:
        """The item of a file that is here already, proven; None when it is to be fetched.

        since: a proof older than this (seconds since 1970) does not count any more.
        """
        entry, run = self.entry, self._run
        ledger = run.ledger(self.folder)
        line = ledger.find(entry.name)
        found = self.folder.lstat(entry.name) if line is not None else None
        if line is None or found is None or (since is not None and line.time < since):
            return None
        digests = dict(entry.digests)
        proof = proves(line, key=url_key(entry.url), stat=found, size=entry.size, digests=digests)
        if proof is Proof.PROVEN:
            return self._already(line)
        if proof is Proof.KEY_DIFFERS:
            logger.warning("%s: it came from another URL; it is compared with this one first", entry.name)
        wanted = {Proof.STALE: dict(line.digests), Proof.UNKNOWN_HASH: digests}.get(proof)
        if not wanted:
            return None
        task = (prove_again, self.folder, ledger, line, wanted, run.is_stopping)
        try:
            renewed = await maybe_deferred_to_future(run.in_thread(*task, hashing=True))
        except DiskError as error:
            logger.warning("%s: %s", entry.name, error)
            renewed = None
        return self._already(renewed) if renewed is not None else None

    def _already(self, line: LedgerLine) -> BulkItem:
        item = self.item()
        item.already = True
        line.describe(item)
        return item

    @asynccontextmanager
    async def download(self) -> AsyncIterator[Download]:
        """What this run knows of the file while it is fetched; afterwards it is the disk's to remember."""
        download = self._run.download(self.entry, str(self.folder.root))
        try:
            yield download
        finally:
            await self._run.forget(download)

    async def finish(self, download: Download) -> BulkItem | None:
        """All bytes are here: proves and names them. None: a hash refuted them and they are to be fetched once more.

        Raises BulkError.
        """
        try:
            line = await self._run.finish(download)
        except Refuted as error:
            if await self._run.refute(download, error):
                return None
            raise
        item = self.item(download)
        line.describe(item)
        return item

    def item(self, download: Download | None = None, error: BulkError | None = None) -> BulkItem:
        """The item of this file; with `error`, of its failure."""
        item = BulkItem(name=self.entry.name, url=redact(self.entry.url), path=self.path)
        if download is not None:
            download.describe(item)
        if error is not None:
            item.status = "interrupted" if error.code == Stopped().code else "failed"
            item.error = error_of(error)
        return item


def error_of(error: BulkError) -> dict[str, Any]:
    """An error as plain data."""
    return {
        "code": error.code,
        "message": redact(error.message),
        "http_status": error.http_status,
        "permanent": error.permanent,
    }


def middleware_error(error: BaseException | None, status: int | None) -> BulkError:
    """The error of a request that never came to an outcome: a middleware ended it.

    status: of the Response that came instead, None when `error` did.
    """
    if error is None:
        if status is not None and 300 <= status < 400:
            what = f"a redirect that cannot be followed ({status})"
            return AttemptError(what, code="redirect", http_status=status, final=True)
        return BulkError("another component answered the request in bulkspider's place", code="middleware")
    text = redact(str(error)) or type(error).__name__
    if isinstance(error, IgnoreRequest):
        if "robots.txt" in text:
            return BulkError("robots.txt forbids it (ROBOTSTXT_OBEY)", code="robots", permanent=True)
        if "redirect" in text:
            return AttemptError(f"too many redirects ({text})", code="redirect_loop", final=True)
        return BulkError(f"a middleware refused the request ({text})", code="ignored")
    return BulkError(f"a middleware failed ({type(error).__name__}: {text})", code="middleware")
