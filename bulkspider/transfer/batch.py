"""Several small files over one connection: a thread asks for them one after the other.

`Batch` takes only the expected answer: status 200, a known length, no coding, small enough for memory, the stated hash,
and all that `protocol/plan.py` demands. Such a file is finished from here. With every other answer (an error, a
redirect, another status, a large body, wrong bytes, a timeout) the entry is handed back and gets a request of its own
(`transfer.py`), and so do the entries after it if the connection cannot be used any more. `small.py` decides which
entries come together; the connection and HTTP are in `wire/lent/`.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.auth.credentials import userinfo
from bulkspider.disk.finished.hashing import IncrementalHasher
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import Proof, Refuted, prove
from bulkspider.entries.entry import Entry, origin_of, without_userinfo
from bulkspider.errors import AttemptError, BulkError, DiskError, too_large
from bulkspider.hosts.limits import seconds_to_wait
from bulkspider.protocol import plan
from bulkspider.protocol.plan import Ask, Write
from bulkspider.protocol.sniff import FIRST_BYTES, Content, look
from bulkspider.pumps.reactor import HELD_MAX_BYTES
from bulkspider.run.origins.outcome import Outcome
from bulkspider.transfer.asking.destinations import add_secrets
from bulkspider.transfer.asking.exchange import expected_of
from bulkspider.transfer.transfer import expect_digests
from bulkspider.wire import Conversation

if TYPE_CHECKING:
    from scrapy import Request
    from twisted.internet.defer import Deferred

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import AnswerHead, RawConnection, SharedRequest

# Files of one batch that may wait in memory for their commit: 64 batches have 64 MiB of them at most.
MOST_COMMITS = 8


class Batch:
    """One request for several downloads. `download` is the one that is being fetched. ASKED: what is asked for of
    each."""

    ASKED: ClassVar[Ask] = Ask()

    def __init__(self, run: Run, downloads: Sequence[Download], request: Request) -> None:
        self.download = downloads[0]
        self.asking = True
        self._run = run
        self._downloads = downloads
        self._left = deque(downloads)
        self._request = request
        self._connecting: Deferred[RawConnection] | None = None
        self._socket: socket.socket | None = None
        self._stopped = False
        self._received = 0
        self._told = 0
        self._requests: dict[tuple[object, str | None], SharedRequest] = {}
        self._commits: dict[Download, Future[LedgerLine]] = {}
        self._uncommitted: deque[Future[LedgerLine]] = deque()
        self._to_rest: float | None = None

    def is_possible(self) -> bool:
        """The request of the first entry, as the middlewares have changed it, fits the others, too."""
        run, request = self._run, self._request
        return (
            request.url == without_userinfo(self.download.url)
            and not run.rates.limited
            and run.wire.lends_connections(request)
            and "Cookie" not in request.headers
            and self.has_room()
        )

    def has_room(self) -> bool:
        """The disk has room for many small files."""
        return self._run.downloads.has_ample_room(self.download.folder)

    async def perform(self) -> list[Outcome | None]:
        """The outcome of each download, None for those that were handed back. `Download.finished` is set for those that
        have their final name."""
        run = self._run
        refused: BulkError | None = None
        run.transfers.enter(self)
        try:
            # A server may close a connection after a number of answers, and says so: then another one is made.
            goes_on = True
            while goes_on and self._left and not (self._stopped or run.stopping):
                self.download = self._left[0]
                self._connecting = run.wire.connect(self._request)
                goes_on = await self._use(await maybe_deferred_to_future(self._connecting))
        except BulkError as error:
            # No connection, or no thread: the error of the current download; the others have not been asked for yet.
            refused = error
        finally:
            run.transfers.leave(self)
            self.tick(time.monotonic())
        if self._to_rest is not None:
            run.origins[origin_of(self._request.url)].rest(self._to_rest, run.clock.now())
        if self._commits:
            run.crawler.stats.inc_value("bulk/attempts", len(self._commits))
        outcomes = {download: self.outcome_of(download) for download in self._downloads}
        if refused is not None:
            outcomes[self.download] = outcomes[self.download] or Outcome(error=refused)
        return list(outcomes.values())

    async def _use(self, connection: RawConnection) -> bool:
        """Fetches files over this connection. True when another connection should be made for the rest."""
        self._socket, kept, before = connection.socket, False, len(self._left)
        limits = [limit for limit in (self._run.options.headers_timeout, self._run.options.stall_timeout) if limit > 0]
        answers = Conversation(connection, min(limits, default=None))
        try:
            await maybe_deferred_to_future(self._run.threads.in_own_thread(self._fetch_all, answers))
            kept = answers.is_clean and not self._stopped
        finally:
            self._socket = None
            if kept:
                self._run.wire.keep(connection)
            else:
                connection.close()
        return answers.was_closed and before - len(self._left) > 1

    def outcome_of(self, download: Download) -> Outcome | None:
        """None: it was handed back."""
        commit = self._commits.get(download)
        if commit is None:
            return None
        error = commit.exception()
        if not isinstance(error, BulkError):
            download.finished = commit.result()
            return Outcome(fetched=True, grew=True)
        if isinstance(error, DiskError):
            self._run.disk_failed(error)
        return Outcome(error=error)

    # -- the run's side: in the reactor's thread -------------------------------------------------------------------

    def stop(self, error: BulkError) -> None:
        """Ends the batch at once; files that are not complete are handed back."""
        self._stopped = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        elif self._connecting is not None:
            self._connecting.cancel()

    def tick(self, now: float) -> None:
        count = self._received - self._told
        if count:
            self._told += count
            self._run.origins[origin_of(self._request.url)].record.received_bytes += count
            self._run.outcomes.count_bytes(count)

    # -- the thread's side -----------------------------------------------------------------------------------------

    def _fetch_all(self, answers: Conversation) -> None:
        self.asking = False
        try:
            while self._left and answers.is_clean and not (self._stopped or self._run.rates.limited):
                if self._to_rest is not None:
                    break
                self.download = self._left.popleft()
                if not self.fetch(self.download, answers):
                    self.download.alone = True
                self._await_commits(MOST_COMMITS)
        except (OSError, AttemptError):
            # Connection lost, timeout, or no valid HTTP: this download gets a request of its own.
            self.download.alone = True
        finally:
            # When the outcomes are reported, all files of the batch have their names.
            self._await_commits(0)

    def _await_commits(self, most: int) -> None:
        """Waits until at most `most` commits have not ended."""
        while len(self._uncommitted) > most:
            self._uncommitted.popleft().exception()

    def fetch(self, download: Download, answers: Conversation) -> bool:
        """Fetches one file. False when the answer is not the expected one: then nothing of it is kept."""
        part, entry = download.part, download.entry
        if not part.finds_nothing():
            return False
        download.begun = time.monotonic()
        head = self.ask(entry, answers)
        length = head.answer.length
        # Scrapy's middleware for cookies must see an answer with a cookie.
        if head.status != 200 or not length or length > HELD_MAX_BYTES or "set-cookie" in head.fields:
            return False
        verdict = plan.judge(part.state, self.ASKED, head.answer, expected_of(download))
        if verdict != Write(first=0, end=length, total=length) or head.answer.has_content_range:
            return False
        if too_large(length, None, self._run.options.max_size):
            return False
        body = self.read(head, answers)
        download.bytes_received += len(body)
        proof = self._prove(download, head, body)
        if proof is None:
            download.forget_expected()
            return False
        part.learn(total=len(body), validators=head.answer.validators, source=origin_of(entry.url))
        part.buffer(body)
        download.attempts += 1
        download.connections = 1
        download.largest = len(body)
        download.final_url = download.listed_final_url
        commit = self._commits[download] = self._run.downloads.commit(download, proof)
        self._uncommitted.append(commit)
        commit.add_done_callback(partial(_note, download))
        return True

    def _prove(self, download: Download, head: AnswerHead, body: bytes) -> Proof | None:
        """None when the bytes are not the file: a request of its own then fetches them once more, and sets them aside
        if they are wrong again."""
        if self._run.downloads.sniffs and download.needs_a_look:
            content = look(download.entry.name, body[:FIRST_BYTES], len(body), pages=download.takes_pages)
            if content is Content.ANSWER:
                return None
            if content is Content.OTHER_TYPE:
                download.flags.add("other-type")
        expect_digests(download, head)
        hasher = IncrementalHasher(download.algorithms) if download.algorithms else None
        if hasher is not None:
            hasher.take(body)
        try:
            proof = prove(
                download.part,
                total=len(body),
                expected=download.expected,
                length_proven=True,
                hasher=hasher,
                stop=self._run.stopping.is_set,
                server=self._run.options.server_digest,
            )
        except Refuted:
            return None
        self._run.downloads.doubt(download, proof)
        return proof

    def ask(self, entry: Entry, answers: Conversation) -> AnswerHead:
        """Raises as `Conversation.ask`."""
        return answers.ask(entry.url, self._request_for(entry, answers))

    def read(self, head: AnswerHead, answers: Conversation) -> bytes:
        """The body of the answer. Raises as `Conversation.read`."""
        body = answers.read(head)
        self._to_rest = seconds_to_wait(head.status, head.fields, time.time())
        self._received += len(body)
        return body

    def _request_for(self, entry: Entry, answers: Conversation) -> SharedRequest:
        """With the headers that the middlewares have made for the first entry, and the secrets of this one."""
        key = entry.headers, userinfo(entry.url)
        if key not in self._requests:
            headers = self._request.headers.copy()
            for name in ("Range", "If-Range"):
                headers.pop(name, None)
            headers.update(self.ASKED.headers())
            add_secrets(headers, entry, entry.url, without_userinfo(entry.url), self._run.trusted)
            self._requests[key] = answers.request_with(headers)
        return self._requests[key]


def _note(download: Download, commit: Future[LedgerLine]) -> None:
    """Marks the download as finished as soon as it is, for the display and the status, before the whole batch has
    ended."""
    with suppress(BulkError):
        download.finished = commit.result()
