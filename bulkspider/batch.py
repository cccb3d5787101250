"""The batch: several small files of one origin, one after the other over one connection, by a thread of its own.

It fetches what comes in one go and as expected: status 200, one Content-Length, no coding, small enough for memory, and
whatever else `plan.py` says. Such a file goes from here to its name. Everything else (an error, a redirect, another
status, a large body, a silence) it does not judge: that entry, and those after it on a connection that is of no use any
more, are handed back and go the ordinary way, by a request of their own (`transfer.py`), which knows what to do. So it
speaks no more of HTTP than it must, and nothing that it leaves unread can get into the next file.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider import plan
from bulkspider.digest import from_headers
from bulkspider.entry import origin_of, redact, slot_of
from bulkspider.errors import BulkError, DiskError
from bulkspider.finish import Proof
from bulkspider.ledger import LedgerLine
from bulkspider.pace import Outcome
from bulkspider.plan import Answer, Ask, Do, Expected, join_headers
from bulkspider.pump import HELD_MAX
from bulkspider.secrecy import add_secrets

if TYPE_CHECKING:
    from scrapy import Request
    from twisted.internet.defer import Deferred

    from bulkspider.download import Download
    from bulkspider.run import Run
    from bulkspider.wire import Line

# A longer head is for somebody else to read.
HEAD_MAX = 16 * 1024
# Files of one batch that are in memory at once, on their way to their names: 64 batches have 32 MiB of them.
ON_THEIR_WAY = 4


class Batch:
    """One request for several downloads. `download` is the one that is being fetched."""

    def __init__(self, run: Run, downloads: Sequence[Download], request: Request) -> None:
        self.download = downloads[0]
        self.host = slot_of(request.url)
        self.asking = True
        self._run = run
        self._downloads = downloads
        self._request = request
        self._connecting: Deferred[Line] | None = None
        self._socket: socket.socket | None = None
        self._stopped = False
        self._received = 0
        self._told = 0
        self._request_fields = self._fields_of_requests()
        self._commits: dict[Download, Future[LedgerLine]] = {}
        self._awaited = 0

    @staticmethod
    def is_possible(run: Run, downloads: Sequence[Download], request: Request) -> bool:
        """What the middlewares made of the first entry's request is right for the others, too."""
        return (
            request.url == downloads[0].entry.url
            and not run.rates.limited
            and not request.meta.get("proxy")
            and "Cookie" not in request.headers
            and run.has_ample_room(downloads[0].folder)
        )

    async def perform(self) -> list[Outcome | None]:
        """What came of each, None for those that were handed back. Those that have their name already say so
        (`Download.finished`)."""
        run = self._run
        if run.stopping:
            return [None] * len(self._downloads)
        run.enter(self)
        refused: BulkError | None = None
        try:
            self._connecting = run.wire.connect(self._request)
            if self._connecting is not None:
                line = await maybe_deferred_to_future(self._connecting)
                self._socket, good = line.socket, False
                try:
                    good = await maybe_deferred_to_future(run.in_own_thread(self._fetch_all, line.socket))
                finally:
                    self._socket = None
                    if good:
                        run.wire.keep(line)
                    else:
                        line.close()
        except BulkError as error:
            # No connection. The first one tells of it; nobody has asked for the others yet.
            refused = error
        finally:
            run.leave(self)
            self.tick(time.monotonic())
        if self._commits:
            run.crawler.stats.inc_value("bulk/attempts", len(self._commits))
        outcomes = [self._outcome(download) for download in self._downloads]
        if refused is not None:
            outcomes[0] = outcomes[0] or Outcome(error=refused)
        return outcomes

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
            self._run.count_bytes(count)

    def hold(self, held: bool) -> None:
        """Nothing flows here while there is a rate limit."""

    # -- the thread's side -----------------------------------------------------------------------------------------

    def _fetch_all(self, sock: socket.socket) -> bool:
        """True when the connection may be used again."""
        self.asking = False
        options = self._run.options
        limits = [limit for limit in (options.headers_timeout, options.stall_timeout) if limit > 0]
        answers = _Answers(sock, min(limits, default=None))
        try:
            for download in self._downloads:
                if self._stopped or self._run.rates.limited or not answers.is_clean:
                    break
                self.download = download
                self._fetch(download, answers)
                self._await_commits(ON_THEIR_WAY)
        except OSError:
            # Lost or silent: for the ordinary way.
            pass
        finally:
            # Whoever hears of a file that is here hears of its name, too.
            self._await_commits(0)
        return answers.is_clean and not self._stopped

    def _await_commits(self, most: int) -> None:
        """Until no more than `most` are on their way."""
        for commit in list(self._commits.values())[self._awaited : max(0, len(self._commits) - most)]:
            commit.exception()
            self._awaited += 1

    def _fetch(self, download: Download, answers: _Answers) -> None:
        part, entry = download.part, download.entry
        if not part.finds_nothing():
            return
        download.begun = time.monotonic()
        url = urlsplit(entry.url)
        target = f"GET {url.path}?{url.query}" if url.query else f"GET {url.path}"
        found = answers.get(target.encode("ascii") + self._request_fields)
        if found is None:
            return
        fields, body = found
        answer = Answer.parse(200, fields, length=len(body))
        expected = Expected(name=entry.name, url_path=url.path, size=entry.size)
        verdict = plan.judge(part.state, Ask(), answer, expected)
        whole = not answer.has_content_range and verdict.first == 0 and verdict.end == len(body) > 0
        if verdict.do is not Do.WRITE or verdict.fresh or verdict.flags or not whole:
            return
        stated = from_headers(fields)
        download.expect({**stated.content, **stated.representation})
        if download.algorithms:
            # To be hashed, which is done elsewhere, when it says so again.
            download.expected = dict(entry.digests)
            return
        part.learn(total=len(body), validators=answer.validators, source=origin_of(entry.url))
        part.hold(body)
        download.attempts += 1
        download.connections = 1
        download.resumed_from = 0
        download.largest = download.bytes_received = len(body)
        download.final_url = redact(entry.url)
        self._received += len(body)
        commit = self._commits[download] = self._run.commit(download, Proof("complete", {}))
        commit.add_done_callback(partial(_note, download))

    def _fields_of_requests(self) -> bytes:
        """As the middlewares have made them for the first entry; none of the entries has any of its own."""
        first, headers = self._downloads[0], self._request.headers.copy()
        add_secrets(headers, first.entry, first.url, self._request.url)
        # A line break in a value would be a field of its own; Twisted makes it a blank, too.
        lines = [b"%b: %b" % (n, b" ".join(value.splitlines())) for n, values in headers.items() for value in values]
        if "Host" not in headers:
            lines.insert(0, b"Host: " + urlsplit(first.entry.url).netloc.encode("ascii"))
        return b"\r\n".join([b" HTTP/1.1", *lines, b"", b""])


def _note(download: Download, commit: Future[LedgerLine]) -> None:
    """For who looks on: it is done, while others of its batch are on their way."""
    if commit.exception() is None:
        download.finished = commit.result()


class _Answers:
    """The answers on one connection, as far as they are of the simplest form there is."""

    def __init__(self, sock: socket.socket, patience: float | None) -> None:
        """patience: seconds for each of them; who takes longer may be slow, which is not for us to judge."""
        self._patience = patience
        sock.settimeout(patience)
        self._socket = sock
        self._buffer = bytearray(HEAD_MAX + HELD_MAX)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._goes_on = True

    @property
    def is_clean(self) -> bool:
        """The next request may be sent: the last answer was read to its end, and nothing has come after it."""
        return self._goes_on and not self._poller.poll(0)

    def get(self, request: bytes) -> tuple[dict[str, str], bytes] | None:
        """Asks; the fields and the body of a 200 that is all here. None for whatever else comes, which ends the
        connection. Raises OSError, for a silence too."""
        self._goes_on = False
        ends = time.monotonic() + self._patience if self._patience is not None else float("inf")
        self._socket.sendall(request)
        view = memoryview(self._buffer)
        have, end = 0, -1
        while end < 0:
            count = self._socket.recv_into(view[have:])
            have += count
            end = self._buffer.find(b"\r\n\r\n", 0, min(have, HEAD_MAX))
            if end < 0 and (not count or have >= HEAD_MAX or time.monotonic() > ends):
                return None
        fields = parse_head(bytes(view[:end]))
        if fields is None:
            return None
        body = end + 4
        length = int(fields["content-length"])
        if length > len(view) - body:
            return None
        while have < body + length:
            count = self._socket.recv_into(view[have:])
            if not count or time.monotonic() > ends:
                return None
            have += count
        # More than was promised is not read (FAULTS 19).
        self._goes_on = have == body + length and fields.get("connection", "").lower() != "close"
        return fields, bytes(view[body : body + length])


def parse_head(head: bytes) -> dict[str, str] | None:
    """The fields of a 200 whose body is as long as one Content-Length says (RFC 9112 §6.3), names in lower case; None
    for every other head, and for one with a cookie, which Scrapy's middleware must see."""
    status, *lines = head.split(b"\r\n")
    if not (status + b" ").startswith(b"HTTP/1.1 200 ") or b"\n" in head.replace(b"\r\n", b"") or b"\0" in head:
        return None
    pairs = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.strip() != name:
            return None
        pairs.append((name.decode("latin-1"), value.strip().decode("latin-1")))
    fields = join_headers(pairs)
    length = fields.get("content-length", "")
    if not (length.isascii() and length.isdecimal() and len(length) < 16):
        return None
    if "transfer-encoding" in fields or "set-cookie" in fields:
        return None
    return fields
