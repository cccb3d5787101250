"""Downloads: the entries under way, and how a file is finished.

A path has one download at a time, and one URL; two entries for the same file take turns (`turns.py`). `finish` proves
the bytes and gives the file its name; if a hash refutes them the entry is fetched once more. Here is also decided
whether the disk has room for a file, because the other downloads need their share. Other processes cannot write the
same part, because it is locked (`disk/files/partfile.py`). Coroutines here await Deferreds, so that they run with every
reactor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from bulkspider.disk.commit import Committer, commit_request
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import Proof, Refuted, prove
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.part import Part
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

# Space that is kept free for states and the ledger.
RESERVE_BYTES = 256 * 1024
# While at least AMPLE_BYTES were free within the last AMPLE_SECONDS, files up to SMALL_BYTES are not checked one by
# one.
AMPLE_BYTES = 4 << 30
SMALL_BYTES = 1 << 20
AMPLE_SECONDS = 0.25
# The bytes of a transfer are hashed at most this often while it runs.
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
        """Waits until no other entry uses the entry's path; see `Turns.turn`."""
        return self.turns.turn(folder.place(entry.name), entry.key, outside=outside)

    def begin(self, entry: Entry, folder: Folder, *, pages: bool = False) -> Download:
        """Makes the download of an entry, within its `turn`. `forget` ends it. pages: where BULK_HTML is not set, a web
        page may be the file."""
        part = Part(folder, entry.name, entry.key, checkpoint=self._options.checkpoint)
        download = Download(
            entry=entry,
            folder=folder,
            part=part,
            budget=Budget(limit=self._options.retry_times, entry=entry.name),
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
        """The entry has its outcome. A part that a restart set aside comes back if it holds more bytes than the new
        one."""
        del self._downloads[download.path]
        self.count_resumed(download)
        if not download.part.is_at_rest:
            await self._threads.in_thread(download.part.give_up)

    # -- its end ---------------------------------------------------------------------------------------------------

    async def finish(self, download: Download) -> LedgerLine | None:
        """All bytes are here: proves them, gives the file its name and its line in the ledger.

        None: a hash refuted them; they are set aside, and the entry must be fetched once more. Raises Refuted the
        second time, DiskError, Stopped, and BulkError `unproven` under BULK_REQUIRE_PROOF; the part stays as it was.
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
        """The bytes are wrong: sets them aside, marked as refuted. True when the entry may be fetched once more."""
        kept = "the refused bytes are kept as .part.old" if isinstance(error, Refuted) else "it was not published"
        if download.part.file.is_adopted:
            kept = "it stays where it was"
        again = not download.refuted_once and (isinstance(error, PartChanged) or error.may_pass)
        download.refuted_once = True
        # The last refusal is told as the failure of the entry.
        logger.log(logging.WARNING if again else logging.INFO, "%s: %s; %s", download.entry.name, error, kept)
        try:
            await self._threads.in_thread(download.begin_anew, error.found)
        except DiskError as failure:
            logger.error("%s: %s", download.entry.name, failure)
            return False
        return again

    @property
    def sniffs(self) -> bool:
        """BULK_SNIFF applies: always to a list, but to other spiders only where it is set, because Scrapy itself
        accepts every content."""
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
            # It must be on the disk to be set aside.
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
        """Notes the flags of a proof, and warns of hashes of the server that differ but do not refute the file."""
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
        """Gives proven bytes their name and their line in the ledger. May be called in any thread."""
        ledger, options = self._run.folders.ledger(download.folder), self._options
        return self.committer.submit(
            commit_request(
                *(download.part, proof, ledger),
                flags=download.flags,
                url=download.shown_url,
                remote_time=options.remote_time,
                owed=self._run.owes_items,
            )
        )

    # -- room on the disk ------------------------------------------------------------------------------------------

    def fits(self, download: Download, now: float) -> bool:
        """There is room on the disk for the rest of this file beside the rests of all files that have room."""
        remaining = download.remaining
        if remaining <= SMALL_BYTES and now < self._ample_until.get(download.folder, 0.0):
            return True
        others = sum(other.remaining for other in self._downloads.values() if other.has_room and other is not download)
        left = download.folder.free_space() - others - remaining
        self._ample_until[download.folder] = now + AMPLE_SECONDS if left >= AMPLE_BYTES else 0.0
        return left >= RESERVE_BYTES

    def find_room(self, download: Download, now: float) -> bool:
        """As `fits`; then the room is this download's until its transfers have ended. Only what has come so far counts:
        an attempt that waits for its answer, and is perhaps refused, takes no room from one whose bytes come."""
        download.has_room = self.fits(download, now)
        return download.has_room

    def has_ample_room(self, folder: Folder) -> bool:
        """There is so much room that small files need not be checked one by one."""
        return folder.free_space() >= AMPLE_BYTES

    def count_resumed(self, download: Download) -> None:
        """Updates the stat of bytes that were not fetched again; it may also become smaller."""
        if grown := download.resumed.uncounted():
            self._run.crawler.stats.inc_value("bulk/bytes_resumed", grown)

    # -- hashes beside the transfer --------------------------------------------------------------------------------

    def hash_beside(self, download: Download, now: float) -> None:
        """Called while bytes arrive; begins to hash at most once in HASH_EVERY_SECONDS."""
        if now - download.hashed_at < HASH_EVERY_SECONDS or not download.algorithms:
            return
        download.hashed_at = now
        # An error here comes again, and is reported, when the file is proven.
        task: Deferred[None] = self._threads.in_thread(download.hash_more, self._stopping.is_set, hashing=True)
        task.addErrback(lambda _: None)
