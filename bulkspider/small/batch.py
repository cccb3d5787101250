"""Several small files over one connection: a thread asks for them one after the other.

`Batch` takes only the expected answer: status 200, a known length, no coding, small enough for memory, the stated hash,
and all that `protocol/plan.py` demands. Such a file is finished from here. With every other answer (an error, a
redirect, another status, a large body, wrong bytes, a timeout) the entry is handed back and gets a request of its own
(`transfer.py`), and so do the entries after it if the connection cannot be used any more. `sharing.py` decides which
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
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.entries.entry import Entry, origin_of, without_userinfo
from bulkspider.errors import AttemptError, BulkError, DiskError
from bulkspider.hosts.limits import seconds_to_wait
from bulkspider.protocol.plan import Ask
from bulkspider.run.origins.outcome import Outcome
from bulkspider.small.file import hold, is_usual, proof_of
from bulkspider.transfer.asking.destinations import add_secrets
from bulkspider.wire import Conversation, SharedRequest

if TYPE_CHECKING:
    from scrapy import Request
    from twisted.internet.defer import Deferred

    from bulkspider.options import Options
    from bulkspider.protocol.heads.answerhead import AnswerHead
    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import RawConnection

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
        self._received = Received(run, origin_of(request.url))
        self._requests: Requests | None = None
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
        answers = Conversation(connection, answer_seconds(self._run.options))
        self._requests = self._requests or Requests(self._run, self._request, self.ASKED, connection.host)
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
        self._received.tell()

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
        if not download.part.finds_nothing():
            return False
        download.begun = time.monotonic()
        head = self.ask(download.entry, answers)
        if not is_usual(download, head, self.ASKED, self._run.options.max_size):
            return False
        body = self.read(head, answers)
        proof = proof_of(
            *(download, head, body),
            sniffs=self._run.downloads.sniffs,
            server_digest=self._run.options.server_digest,
        )
        if proof is None:
            return False
        self._run.downloads.doubt(download, proof)
        hold(download, head, body)
        download.came_at_once(len(body))
        commit = self._commits[download] = self._run.downloads.commit(download, proof)
        self._uncommitted.append(commit)
        commit.add_done_callback(partial(_note, download))
        return True

    def ask(self, entry: Entry, answers: Conversation) -> AnswerHead:
        """Raises as `Conversation.ask`."""
        assert self._requests is not None
        return answers.ask(entry.url, self._requests.of(entry))

    def read(self, head: AnswerHead, answers: Conversation) -> bytes:
        """The body of the answer. Raises as `Conversation.read`."""
        body = answers.read(head)
        self._to_rest = seconds_to_wait(head.status, head.fields, time.time())
        self._received.count += len(body)
        return body


class Received:
    """The bytes that a batch has brought, told to the run from time to time. count: so far. origin: of the batch."""

    def __init__(self, run: Run, origin: str) -> None:
        self.count = 0
        self._run = run
        self._origin = origin
        self._told = 0

    def tell(self) -> None:
        """Tells the run how many have come since the last call."""
        new = self.count - self._told
        if new:
            self._told += new
            self._run.origins[self._origin].record.received_bytes += new
            self._run.outcomes.count_bytes(new)


class Requests:
    """The requests for the entries of a batch: with the headers that the middlewares have made for the first of them,
    and the secrets of each. asked: of each. host: for the Host header."""

    def __init__(self, run: Run, request: Request, asked: Ask, host: bytes) -> None:
        self._run = run
        self._request = request
        self._asked = asked
        self._host = host
        self._made: dict[tuple[object, str | None], SharedRequest] = {}

    def of(self, entry: Entry) -> SharedRequest:
        key = entry.headers, userinfo(entry.url)
        if key not in self._made:
            headers = self._request.headers.copy()
            for name in ("Range", "If-Range"):
                headers.pop(name, None)
            headers.update(self._asked.headers())
            add_secrets(headers, entry, entry.url, without_userinfo(entry.url), self._run.trusted)
            self._made[key] = SharedRequest(headers, self._host)
        return self._made[key]


def answer_seconds(options: Options) -> float | None:
    """The time limit of a request with its answer, None for none."""
    return min([limit for limit in (options.headers_timeout, options.stall_timeout) if limit > 0], default=None)


def _note(download: Download, commit: Future[LedgerLine]) -> None:
    """Marks the download as finished as soon as it is, for the display and the status, before the whole batch has
    ended."""
    with suppress(BulkError):
        download.finished = commit.result()
