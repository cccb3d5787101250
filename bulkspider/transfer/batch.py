"""Small files: several of one origin by one request, one after the other over one connection, by a thread of its own.

A request costs Scrapy and us more than the bytes of a small file. Where an origin has given nothing but small files for
a while, each in one go, downloads that wait for a place there share one (`dispatch/slots.py`), and so one request of
the spider. `SmallFiles` decides how many, and `may_travel` and `allows_batches` which downloads, in which crawls: who
wants to see each request, or time between them, keeps one request for each file.

`Batch` fetches what comes in one go and as expected: status 200, a known length, no coding, small enough for memory,
the hash that was stated, and whatever else `protocol/plan.py` says. Such a file goes from here to its name. Everything
else (an error, a redirect, another status, a large body, other bytes, a silence) it does not judge: that entry, and
those after it on a connection that is of no use any more, are handed back and go the ordinary way, by a request of
their own (`transfer.py`), which knows what to do. The connection and all that is HTTP is `wire/connection.py`'s.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.auth.credentials import userinfo
from bulkspider.disk.ledger import LedgerLine
from bulkspider.disk.proof import IncrementalHasher, Proof, Refuted, prove
from bulkspider.entries.entry import Entry, origin_of, without_userinfo
from bulkspider.errors import AttemptError, BulkError, DiskError, too_large
from bulkspider.hosts.limits import seconds_to_wait
from bulkspider.protocol import plan
from bulkspider.protocol.plan import Ask, Write
from bulkspider.protocol.sniff import FIRST_BYTES, Content, look
from bulkspider.pumps.reactor import HELD_MAX_BYTES
from bulkspider.run.origins import Origin, Outcome
from bulkspider.transfer.destinations import add_secrets
from bulkspider.transfer.exchange import expected_of
from bulkspider.transfer.transfer import expect_digests
from bulkspider.wire import Conversation

if TYPE_CHECKING:
    from scrapy import Request
    from twisted.internet.defer import Deferred
    from twisted.web.http_headers import Headers

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head, RawConnection

# So many in a row before the first batch: short lists, and files of all sizes, never come to one.
TELLING = 32
# Towards the end they get smaller, so that all places are busy as long as there is something to do, but not smaller
# than this: each request costs Scrapy as much as several small files.
SMALLEST = 4

MIDDLEWARES = ("DOWNLOADER_MIDDLEWARES", "SPIDER_MIDDLEWARES")
# What waits between two requests, asks before each, or keeps them.
WATCHFUL = ("AUTOTHROTTLE_ENABLED", "JOBDIR", "ROBOTSTXT_OBEY", "BULK_AUTH", "BULK_OAUTH2")
# Files of one batch that are in memory at once, on their way to their names: 64 batches have 32 MiB of them.
ON_THEIR_WAY = 4


class SmallFiles:
    """Says how many entries one request may bring. most: BULK_BATCH; with 1 there is no batch. left: how many entries
    are not begun. limited: a rate limit holds now."""

    def __init__(
        self, most: int = 1, *, left: Callable[[], int] = lambda: 0, limited: Callable[[], bool] = lambda: False
    ) -> None:
        self._most = most
        self._left = left
        self._limited = limited

    def seen(self, origin: Origin, size: int | None, *, plain: bool) -> None:
        """A file of `size` bytes is here. plain: one answer brought it, from where the list says."""
        if plain and size is not None and size <= HELD_MAX_BYTES:
            origin.small_in_a_row += 1
        else:
            self.odd(origin)

    def odd(self, origin: Origin) -> None:
        """Something was not as with a small file that comes in one go."""
        origin.small_in_a_row = 0

    def never(self) -> None:
        """Something in this crawl sets requests apart after all."""
        self._most = 1

    def together(self, origin: Origin, waiting: int, places: int) -> int:
        """How many entries of an origin may share a request. waiting: those that wait for a place. places: requests at
        once."""
        if self._most == 1 or origin.small_in_a_row < TELLING or self._limited():
            return 1
        if origin.profile.interval_seconds or origin.pieces.limit is not None:
            return 1  # it wants time between two requests, or gives a file in pieces only
        left = self._left() + waiting
        return max(1, min(self._most, left, max(SMALLEST, left // max(1, places))))


def may_travel(download: Download) -> bool:
    """It may be one of a batch: as far as is known, one small answer from the listed URL brings it."""
    entry = download.entry
    return (
        download.url == entry.url
        and not (download.alone or download.attempts or download.first_error or entry.segments)
        and (entry.size is None or entry.size <= HELD_MAX_BYTES)
    )


def allows_batches(settings: Any) -> bool:
    """Nothing in this crawl is to see every request, or waits between them: its middlewares are Scrapy's and ours."""
    slots: Mapping[str, Mapping[str, Any]] = settings.getdict("DOWNLOAD_SLOTS")
    if settings.getfloat("DOWNLOAD_DELAY") or any(float(slot.get("delay") or 0) for slot in slots.values()):
        return False
    if any(settings[name] and str(settings[name]).lower() not in ("false", "0") for name in WATCHFUL):
        return False
    used = (
        component if isinstance(component, str) else component.__module__
        for name in MIDDLEWARES
        for component, order in settings.getwithbase(name).items()
        if order is not None
    )
    return all(path.startswith(("scrapy.", "bulkspider.")) for path in used)


class Batch:
    """One request for several downloads. `download` is the one that is being fetched."""

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
        self._headers: dict[tuple[object, str | None], Headers] = {}
        self._commits: dict[Download, Future[LedgerLine]] = {}
        self._awaited = 0
        self._to_rest: float | None = None

    @staticmethod
    def is_possible(run: Run, downloads: Sequence[Download], request: Request) -> bool:
        """What the middlewares made of the first entry's request is right for the others, too."""
        return (
            request.url == without_userinfo(downloads[0].url)
            and not run.rates.limited
            and run.wire.lends_connections(request)
            and "Cookie" not in request.headers
            and run.downloads.has_ample_room(downloads[0].folder)
        )

    async def perform(self) -> list[Outcome | None]:
        """What came of each, None for those that were handed back. Those that have their name already say so
        (`Download.finished`)."""
        run = self._run
        refused: BulkError | None = None
        run.transfers.enter(self)
        try:
            # A server may end a connection after so many answers, and says so: then there is a next one.
            goes_on = True
            while goes_on and self._left and not (self._stopped or run.stopping):
                self.download = self._left[0]
                self._connecting = run.wire.connect(self._request)
                goes_on = await self._use(await maybe_deferred_to_future(self._connecting))
        except BulkError as error:
            # No connection, or no thread. This one tells of it; nobody has asked for the others yet.
            refused = error
        finally:
            run.transfers.leave(self)
            self.tick(time.monotonic())
        if self._to_rest is not None:
            run.origins[origin_of(self._request.url)].rest(self._to_rest, run.clock.now())
        if self._commits:
            run.crawler.stats.inc_value("bulk/attempts", len(self._commits))
        outcomes = {download: self._outcome(download) for download in self._downloads}
        if refused is not None:
            outcomes[self.download] = outcomes[self.download] or Outcome(error=refused)
        return list(outcomes.values())

    async def _use(self, line: RawConnection) -> bool:
        """All that one connection brings. True when another one is worth it."""
        self._socket, kept, before = line.socket, False, len(self._left)
        limits = [limit for limit in (self._run.options.headers_timeout, self._run.options.stall_timeout) if limit > 0]
        answers = Conversation(line, min(limits, default=None))
        try:
            await maybe_deferred_to_future(self._run.threads.in_own_thread(self._fetch_all, answers))
            kept = answers.is_clean and not self._stopped
        finally:
            self._socket = None
            if kept:
                self._run.wire.keep(line)
            else:
                line.close()
        return answers.was_closed and before - len(self._left) > 1

    def _outcome(self, download: Download) -> Outcome | None:
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
        """Ends it at once; what is not here as a whole is handed back."""
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
                if not self._fetch(self.download, answers):
                    self.download.alone = True
                self._await_commits(ON_THEIR_WAY)
        except (OSError, AttemptError):
            # Lost, silent or no HTTP: for the ordinary way.
            self.download.alone = True
        finally:
            # Whoever hears of a file that is here hears of its name, too.
            self._await_commits(0)

    def _await_commits(self, most: int) -> None:
        """Until no more than `most` are on their way."""
        for commit in list(self._commits.values())[self._awaited : max(0, len(self._commits) - most)]:
            commit.exception()
            self._awaited += 1

    def _fetch(self, download: Download, answers: Conversation) -> bool:
        """False when it is no whole file of the simplest kind: then nothing of it is kept."""
        part, entry = download.part, download.entry
        if not part.finds_nothing():
            return False
        download.begun = time.monotonic()
        head = answers.ask(entry.url, self._headers_for(entry, answers))
        length = head.answer.length
        # A cookie must be seen by Scrapy's middleware.
        if head.status != 200 or not length or length > HELD_MAX_BYTES or "set-cookie" in head.fields:
            return False
        verdict = plan.judge(part.state, Ask(), head.answer, expected_of(download))
        if verdict != Write(first=0, end=length, total=length) or head.answer.has_content_range:
            return False
        if too_large(length, None, self._run.options.max_size):
            return False
        body = answers.read(head)
        self._to_rest = seconds_to_wait(200, head.fields, time.time())
        self._received += len(body)
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
        commit.add_done_callback(partial(_note, download))
        return True

    def _prove(self, download: Download, head: Head, body: bytes) -> Proof | None:
        """None when the bytes are not the file: the ordinary way fetches them once more, and keeps them aside if they
        are wrong again."""
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

    def _headers_for(self, entry: Entry, answers: Conversation) -> Headers:
        """As the middlewares have made them for the first entry, with the secrets of this one."""
        key = entry.headers, userinfo(entry.url)
        if key not in self._headers:
            headers = self._request.headers.copy()
            for name in ("Range", "If-Range"):
                headers.pop(name, None)
            add_secrets(headers, entry, entry.url, without_userinfo(entry.url), self._run.trusted)
            self._headers[key] = answers.headers_of(headers)
        return self._headers[key]


def _note(download: Download, commit: Future[LedgerLine]) -> None:
    """For who looks on: it is done, while others of its batch are on their way."""
    if commit.exception() is None:
        download.finished = commit.result()
