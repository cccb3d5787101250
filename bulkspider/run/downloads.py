"""Downloads: the entries under way, whose turn it is at a path, and how each of them ends.

A path has one download at a time, and one URL; two that want the same file take turns. `finish` proves what was fetched
and gives it its name; a hash that refutes it is worth one more attempt. Whether there is room on the disk for one more
is asked here too, because the others under way have their share of it. Other processes are kept off by the lock on
each part (`disk/part.py`). Its coroutines await Deferreds, so that every reactor can drive them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from bulkspider.disk.commit import CommitRequest, Committer, remote_time
from bulkspider.disk.folder import Folder
from bulkspider.disk.ledger import LedgerLine
from bulkspider.disk.part import Part
from bulkspider.disk.proof import Proof, Refuted, prove
from bulkspider.entries.entry import Entry
from bulkspider.entries.redaction import hider
from bulkspider.errors import BulkError, DiskError, PartChanged
from bulkspider.hosts.budget import Budget
from bulkspider.protocol.digests import SERVER_DIGEST
from bulkspider.protocol.servertext import excerpt, quote
from bulkspider.protocol.sniff import FIRST_BYTES, Content, look
from bulkspider.run.download import Download
from bulkspider.run.turns import Turns

if TYPE_CHECKING:
    from bulkspider.run.run import Run

logger = logging.getLogger(__name__)

# Room that is left for states and the ledger, bytes.
RESERVE_BYTES = 256 * 1024
# With so much room to spare, files up to this size do not ask for it one by one for a while.
AMPLE_BYTES = 4 << 30
SMALL_BYTES = 1 << 20
AMPLE_SECONDS = 0.25
# What has arrived is hashed beside the transfer so often, at most.
HASH_EVERY_SECONDS = 0.125


class Downloads:
    """One per run."""

    def __init__(self, run: Run) -> None:
        self.committer = Committer()
        self.turns = Turns()
        self._run = run
        self._options = run.options
        self._threads = run.threads
        self._stopping = run.stopping
        self._downloads: dict[str, Download] = {}
        self._ample_until: dict[Folder, float] = {}

    def __iter__(self) -> Iterator[Download]:
        return iter(self._downloads.values())

    def at(self, path: str | None) -> Download | None:
        """The download whose file will be at `path`, if it is under way."""
        return self._downloads.get(path) if path else None

    # -- its turn --------------------------------------------------------------------------------------------------

    def turn(self, entry: Entry, folder: Folder, *, outside: bool) -> AbstractAsyncContextManager[None]:
        """Waits until nobody else works at the entry's path; see `Turns.turn`."""
        return self.turns.turn(folder.place(entry.name), entry.key, outside=outside)

    def begin(self, entry: Entry, folder: Folder, *, pages: bool = False) -> Download:
        """The download of an entry whose turn it is. `forget` ends it. pages: unless BULK_HTML says otherwise, a web
        page may be the file."""
        part = Part(folder, entry.name, entry.key, checkpoint=self._options.checkpoint)
        download = Download(
            entry=entry,
            folder=folder,
            part=part,
            budget=Budget(limit=self._options.retry_times),
            policy=self._options.digest,
            takes_pages=pages if self._options.html is None else self._options.html == "accept",
            server_digest=self._options.server_digest,
            url=entry.url,
            mirrors=list(entry.mirrors),
        )
        part.checkpoints.details["url"] = download.shown_url
        self._downloads[download.path] = download
        return download

    async def forget(self, download: Download) -> None:
        """The entry has its outcome; what a restart set aside comes back if the new part did not overtake it."""
        del self._downloads[download.path]
        self.count_resumed(download)
        if not download.part.is_at_rest:
            await self._threads.in_thread(download.part.give_up)

    # -- its end ---------------------------------------------------------------------------------------------------

    async def finish(self, download: Download) -> LedgerLine | None:
        """All bytes are on disk: proves them, gives the file its name and its line in the ledger.

        None: a hash refuted them; they are kept aside, and the entry is to be fetched once more. Raises Refuted when it
        was before, DiskError, Stopped, and BulkError `unproven` under BULK_REQUIRE_PROOF; the part stays as it was.
        """
        if download.finished is not None:
            return download.finished
        try:
            await self._sniff(download)
            proof = await self._prove(download)
            self.doubt(download, proof)
            download.finished = await self._threads.from_future(self.commit(download, proof))
        except (Refuted, PartChanged) as error:
            if not await self._refute(download, error):
                raise
            return None
        self.turns.has_finished(download.path, download.part.key)
        return download.finished

    async def _refute(self, download: Download, error: Refuted | PartChanged) -> bool:
        """The bytes are wrong: they are kept aside, marked. True when the entry may be fetched once more."""
        kept = "the refused bytes are kept as .part.old" if isinstance(error, Refuted) else "it was not published"
        if download.part.file.is_adopted:
            kept = "it stays where it was"
        logger.error("%s: %s; %s", download.entry.name, error, kept)
        again = not download.refuted_once and (isinstance(error, PartChanged) or error.may_pass)
        download.refuted_once = True
        try:
            await self._threads.in_thread(download.begin_anew, error.found)
        except DiskError as failure:
            logger.error("%s: %s", download.entry.name, failure)
            return False
        return again

    @property
    def sniffs(self) -> bool:
        """BULK_SNIFF holds: always for a list; for pages and files of other spiders, which Scrapy takes as they come,
        only where it is set."""
        return self._options.sniff and (self._run.of_a_list or "BULK_SNIFF" in self._run.crawler.settings)

    async def _sniff(self, download: Download) -> None:
        """The first bytes must not be the text of an answer where the name says binary. Raises Refuted, DiskError."""
        part, entry = download.part, download.entry
        if not self.sniffs or not download.needs_a_look:
            return
        assert part.state.total is not None
        if part.buffered:
            first = part.beginning(FIRST_BYTES)
        else:
            first = await self._threads.in_thread(part.beginning, FIRST_BYTES)
        content = look(entry.name, first, part.state.total, pages=download.takes_pages)
        if content is Content.OTHER_TYPE:
            download.flags.add("other-type")
        elif content is Content.ANSWER:
            # To be kept aside it must be on the disk.
            await self._threads.in_thread(part.write_buffered)
            error = Refuted(
                "the origin sent a text (an error, a page?) where the name says binary data",
                code="not_the_file",
                may_pass=False,
                http_status=200,
            )
            hide = hider((value for _, value in entry.headers), (entry.url, download.url))
            quote(error, excerpt(first, None, hide))
            raise error

    async def _prove(self, download: Download) -> Proof:
        if download.algorithms:
            return await self._threads.in_thread(self._hash, download, hashing=True)
        if download.length_proven:
            return Proof("complete", {})
        return self._if_allowed(Proof("unproven", {}))

    def doubt(self, download: Download, proof: Proof) -> None:
        """A hash of the server differs from that of the file, which stands all the same."""
        download.flags |= proof.flags
        for doubt in proof.doubts:
            download.flags.add(SERVER_DIGEST)
            logger.warning("%s: %s; the file stands", download.entry.name, doubt)

    def _if_allowed(self, proof: Proof) -> Proof:
        if proof.status == "unproven" and self._options.require_proof:
            raise BulkError("the origin gave no means to prove the length (BULK_REQUIRE_PROOF)", code="unproven")
        return proof

    def _hash(self, download: Download) -> Proof:
        total = download.part.state.total
        assert total is not None
        download.part.open()
        download.hash_more(self._stopping.is_set, until=total)
        return self._if_allowed(
            prove(
                download.part,
                total=total,
                expected=download.expected,
                length_proven=download.length_proven,
                hasher=download.hasher,
                stop=self._stopping.is_set,
                server=self._options.server_digest,
            )
        )

    def commit(self, download: Download, proof: Proof) -> Future[LedgerLine]:
        """Its bytes are proven: the name, and the line in the ledger. May be called in any thread."""
        validators = download.part.state.validators
        return self.committer.submit(
            CommitRequest(
                part=download.part,
                ledger=self._run.folders.ledger(download.folder),
                key=download.part.key,
                proof=proof,
                in_place=download.part.file.is_adopted,
                mtime=remote_time(validators.last_modified) if self._options.remote_time else None,
                flags=tuple(sorted(download.flags)),
                url=download.shown_url,
                etag=validators.etag,
                last_modified=validators.last_modified,
                owed=self._run.owes_items,
            )
        )

    # -- room on the disk ------------------------------------------------------------------------------------------

    def fits(self, download: Download, now: float) -> bool:
        """There is room for the rest of this file beside the rests of those that are under way (FAULTS 47)."""
        remaining = download.remaining
        if remaining <= SMALL_BYTES and now < self._ample_until.get(download.folder, 0.0):
            return True
        others = sum(other.remaining for other in self._downloads.values() if other.transfers and other is not download)
        left = download.folder.free_space() - others - remaining
        self._ample_until[download.folder] = now + AMPLE_SECONDS if left >= AMPLE_BYTES else 0.0
        return left >= RESERVE_BYTES

    def has_ample_room(self, folder: Folder) -> bool:
        """Nobody need ask for the room of a small file."""
        return folder.free_space() >= AMPLE_BYTES

    def count_resumed(self, download: Download) -> None:
        """Keeps the count of bytes that were not fetched again right, also when it turns out that they were."""
        if grown := download.resumed.uncounted():
            self._run.crawler.stats.inc_value("bulk/bytes_resumed", grown)

    # -- hashes beside the transfer --------------------------------------------------------------------------------

    def hash_beside(self, download: Download, now: float) -> None:
        """Called while bytes arrive; works at most some times a second."""
        if now - download.hashed_at < HASH_EVERY_SECONDS or not download.algorithms:
            return
        download.hashed_at = now
        # What goes wrong here goes wrong again, and is told, when the file is proven.
        task: Deferred[None] = self._threads.in_thread(download.hash_more, self._stopping.is_set, hashing=True)
        task.addErrback(lambda _: None)
