"""One request to an origin and the head of its answer, as every request of ours needs it, whatever follows with the
body.

`Exchange` sends the requests of a transfer and judges each answer by `protocol/plan.py`; the transfer carries the
verdict out. `Bound` decides how many bytes a request asks for at most. `Probe` is the attempt of a dry run: one
exchange, of which only the head counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from scrapy.http import Headers
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import CancelledError, Deferred

from bulkspider.entries.entry import Entry, origin_of, redact
from bulkspider.entries.redaction import hider
from bulkspider.entries.urls import same_origin
from bulkspider.errors import AttemptError, BulkError, Kind, VersionConflict, too_large, too_large_for_stage
from bulkspider.hosts.limits import seconds_to_wait
from bulkspider.hosts.pieces import PIECES
from bulkspider.hosts.pieces import REFUSALS as PIECES_REFUSALS
from bulkspider.options import human
from bulkspider.protocol import plan
from bulkspider.protocol.byteranges import ByteRange
from bulkspider.protocol.digests import linked
from bulkspider.protocol.plan import Answer, Ask, Complete, Expected, Fail, PartState, Verdict, Write
from bulkspider.protocol.servertext import READ_BYTES, excerpt, meaning_of, quote
from bulkspider.run.origins import Outcome
from bulkspider.transfer.destinations import add_secrets, check_redirect, secrets_of, states_checksums

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.auth.grants import Grant
    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head

logger = logging.getLogger(__name__)

# How long the body of a refusal is waited for.
HEAR_SECONDS = 2.0
# Statuses that mean one file, not its host, even with a Retry-After (RFC 9110 §15.5; RFC 7725).
OF_ONE_FILE = (400, 401, 404, 405, 410, 451)
# Statuses from here on are refusals, whose bodies give a reason (RFC 9110 §15.5, §15.6).
REFUSALS = 400
UNAUTHORIZED = 401


class Redirected(Exception):
    """The answer is a redirect: Scrapy's middleware follows it with a new Request, for which our handler is called
    again."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What was asked, the head of the answer, and the verdict on it. The body is still to be read, or dropped."""

    asked: Ask
    head: Head
    verdict: Verdict


class _Sender:
    """Sends a request, as often as needed, with the secrets that its host may see; after a 401 once more with new
    credentials.

    listed_url: the URL or mirror of the list that led to the request. granted: the last fields from BULK_AUTH for it.
    pending: the Deferred that is awaited now, for `cancel`.
    """

    def __init__(self, run: Run, entry: Entry, listed_url: str, request: Request) -> None:
        self.granted: Grant | None = None
        self.pending: Deferred[Any] | None = None
        self._run = run
        self._entry = entry
        self._listed_url = listed_url
        self._request = request
        self._origin = run.origins[origin_of(request.url)]
        # The first request at the origin of the list need not wait: its turn came with the place of the attempt
        # (`dispatch/slots.py`).
        self._may_ask = not request.meta.get("redirect_urls")

    async def send(self, asked: Ask, method: str = "GET") -> Head:
        """The head of the answer. Raises AttemptError."""
        origin, grants = origin_of(self._listed_url), self._run.grants
        granted = self.granted = await self.wait(grants.get(origin))
        head = await self._send(asked, method)
        if granted is None or not self.shows_granted:
            return head
        if head.status != UNAUTHORIZED:
            granted.worked = True
            return head
        renewed = await self.wait(grants.get(origin, granted))
        if renewed is None or renewed is granted:
            return head
        head.drop()
        self.granted = renewed
        head = await self._send(asked, method)
        renewed.worked = renewed.worked or head.status != UNAUTHORIZED
        return head

    @property
    def shows_granted(self) -> bool:
        """The request's host may see the credentials for the origin of the list."""
        return self._run.trusted.may_see(self._listed_url, self._request.url)

    async def _send(self, asked: Ask, method: str) -> Head:
        await self._wait_for_turn()
        request = self._request if method == "GET" else self._request.replace(method=method)
        try:
            return cast("Head", await self.wait(self._run.wire.exchange(request, self.headers(asked))))
        except AttemptError as error:
            source = origin_of(request.url)
            if source != origin_of(self._listed_url):
                error.redirected_to = source
            if source not in error.message and source != origin_of(self._listed_url):
                error.message += f" ({source}, to which a redirect led)"
            raise

    async def _wait_for_turn(self) -> None:
        """Waits where an origin wants time between any two requests, also those of one attempt."""
        at_once, self._may_ask = self._may_ask, False
        if not at_once and (seconds := self._origin.reserve(self._run.clock.now())) > 0:
            turn: Deferred[None] = Deferred()
            timer = self._run.clock.call_later(seconds, turn.callback, None)
            try:
                await self.wait(turn)
            finally:
                timer.cancel()

    async def wait(self, pending: Deferred[Any]) -> Any:
        self.pending = pending
        try:
            return await maybe_deferred_to_future(pending)
        finally:
            self.pending = None

    def headers(self, asked: Ask) -> Headers:
        """The request's own headers, with what the plan asks for and the secrets that its host may see."""
        headers, url = Headers(), self._request.url
        dict.update(headers, self._request.headers)  # names and values are normalised already
        for name in ("Range", "If-Range"):
            headers.pop(name, None)
        fields = self.granted.fields if self.granted is not None else None
        add_secrets(headers, self._entry, self._listed_url, url, self._run.trusted, fields)
        for name, value in asked.headers().items():
            headers[name] = value
        if states_checksums(headers, url):
            headers["x-amz-checksum-mode"] = "ENABLED"
        return headers

    @property
    def secrets(self) -> list[str]:
        """The secrets in the request; the host may repeat them in its answer."""
        fields = self.granted.fields if self.granted is not None else None
        return secrets_of(self.headers(Ask()), self._entry, fields)

    def cancel(self) -> None:
        if self.pending is not None:
            self.pending.cancel()


class Exchange:
    """The requests of one transfer, one after the other.

    source: the origin that is asked, `host:port`. head: of the last answer that was judged. stopped: the error that
    ended the transfer; no more requests are sent then.
    """

    def __init__(self, run: Run, download: Download, request: Request) -> None:
        self.source = origin_of(request.url)
        self.head: Head | None = None
        self.stopped: BulkError | None = None
        self._run = run
        self._download = download
        self._request = request
        self._sender = _Sender(run, download.entry, download.url, request)

    def stop(self, error: BulkError) -> None:
        """Ends the wait for an answer at once."""
        if self.stopped is None or not isinstance(error, VersionConflict):
            self.stopped = error
        self._sender.cancel()

    async def ask(self, asked: Ask, known: PartState) -> Reply:
        """Asks, and judges the answer by what is `known` of the object. Raises Redirected, AttemptError."""
        head = self.head = await self.send(asked)
        if head.status in plan.REDIRECTS and head.answer.location:
            head.drop()
            check_redirect(self._request.url, head.status, head.answer.location)
            self._note_link(head)
            raise Redirected
        self._note_link(head)
        return self.judge(asked, head, known)

    def _note_link(self, head: Head) -> None:
        """Notes the hash and size that the entry's own host states in a redirect; they count although another host
        sends the file. The last answer of this attempt that states any counts."""
        digests, size = linked(head.fields) if head.status in plan.REDIRECTS else ({}, None)
        is_first = not self._request.meta.get("redirect_urls")
        if is_first or ((digests or size is not None) and same_origin(self._download.url, self._request.url)):
            self._download.is_linked(digests, size)

    def judge(self, asked: Ask, head: Head, known: PartState) -> Reply:
        """The verdict on an answer, as if it were the answer to `asked`."""
        verdict = plan.judge(known, asked, head.answer, self.expected)
        match verdict:
            case Write(total=total) | Complete(total):
                folder = self._download.folder
                error = too_large(total, folder.capacity, self._run.options.max_size)
                if error := error or too_large_for_stage(total, folder.stage_max):
                    verdict = Fail(error)
            case Fail(error) if error.http_status in self._run.origins[self.source].profile.busy:
                # At this host, the status means that it is busy (its profile says so).
                error.kind, error.origin_wide = Kind.RETRY, True
        refused = isinstance(verdict, Fail) and (verdict.error.http_status or 0) >= REFUSALS
        if isinstance(verdict, Fail) and refused and self.source != origin_of(self._download.url):
            verdict.error.message += f" ({self._behind_redirect(head.status)})"
        return Reply(asked, head, verdict)

    def _behind_redirect(self, status: int) -> str:
        """For messages: the host that refused, which is not the one of the list, and a possible reason."""
        where = f"{self.source}, to which a redirect led"
        has_secrets = self._download.entry.headers or self._sender.granted is not None
        if status in (401, 403) and has_secrets and not self._sender.shows_granted:
            where += "; it is not in BULK_TRUSTED_HOSTS, so it got no header of the list and none of BULK_AUTH"
        return where

    @property
    def expected(self) -> Expected:
        """What the list says of the entry."""
        return expected_of(self._download)

    async def send(self, asked: Ask, method: str = "GET") -> Head:
        """The head of the answer, without a verdict. Raises AttemptError, or `stopped`."""
        if self.stopped is not None:
            raise self.stopped
        began = time.monotonic()
        try:
            head = await self._sender.send(asked, method)
            # For AutoThrottle: the time until the head came, as Scrapy's own handlers set it.
            self._request.meta["download_latency"] = time.monotonic() - began
            if head.status not in plan.REDIRECTS:
                self._tell_origin(head.status)
            if head.status < REFUSALS and (wait := seconds_to_wait(head.status, head.fields, time.time())) is not None:
                self._run.origins[self.source].rest(wait, self._run.clock.now())
            return head
        except (BulkError, CancelledError):
            if self.stopped is not None:
                raise self.stopped from None
            raise

    def _tell_origin(self, status: int) -> None:
        """The host has answered, so it works; so does the list's own host if it sent us there."""
        for name in {self.source, self._download.origin}:
            self._run.origins[name].heard(status, self._run.clock.now(), by=self.source)

    async def hear(self, head: Head, error: AttemptError) -> None:
        """Adds the server's reason, from the body, to the error of a refusal; the body is read or dropped."""
        if not plan.explains(error):
            head.drop()
            return
        body = await self._sender.wait(head.read_beginning(READ_BYTES, HEAR_SECONDS))
        self._run.outcomes.count_bytes(len(body))
        said = None
        if head.answer.encoding is None:
            entry = self._download.entry
            urls = (self._request.url, self._download.url, entry.url)
            said = _reason(head, body, self._sender.secrets, urls)
            quote(error, said)
        plan.learn_meaning(error, meaning_of(head.status, head.fields, said))


def expected_of(download: Download) -> Expected:
    """What the list says of its entry."""
    entry = download.entry
    return Expected(
        name=entry.name,
        url_path=urlsplit(entry.url).path,
        size=entry.size if entry.size is not None else download.linked_size,
        size_by="the list" if entry.size is not None else "the redirect",
        has_digest=download.has_listed_hash,
        pages=download.takes_pages,
    )


class Bound:
    """How many bytes one transfer asks its origin for at once (`hosts/pieces.py`)."""

    def __init__(self, run: Run, download: Download, source: str) -> None:
        self._source = source
        self._pieces = run.origins[source].pieces
        self._chosen = run.options.range_max or None
        self._may_renew = run.options.fresh_url is not None
        self._download = download
        self._tried: int | None = None
        self._has_piece = False

    @property
    def most(self) -> int:
        """Bytes; 0 for no limit, as for a POST, for which no Range can be asked."""
        if self._download.entry.asked is not None:
            return 0
        limits = (self._chosen, self._pieces.limit, self._tried or self._download.range_max)
        return min((limit for limit in limits if limit is not None), default=0)

    def lower(self, asked: Ask, error: AttemptError) -> bool:
        """After a refusal: whether to ask again for fewer bytes, which `most` then returns."""
        download, pieces = self._download, self._pieces
        if download.entry.asked is not None or self._has_piece or download.refused_whole_and_in_pieces == self._source:
            return False
        if error.http_status == 403 and self._may_renew and not download.refreshed_in_vain:
            return False  # the link may have expired: a fresh one comes first
        lengths = [length for length in (asked.length, self._tried) if length is not None]
        piece = pieces.next_try(error, min(lengths, default=None), self._rest(asked))
        if piece is None:
            if asked.bounded:
                pieces.all_refused()
                download.refused_whole_and_in_pieces = self._source
            return False
        if error.http_status == 403 and pieces.gives_all:
            # It sends other files as a whole, so this refusal may mean that it is busy: one more try now, and a still
            # shorter piece only at the entry's next attempt.
            download.range_max = piece
            if self._tried is not None:
                return False
        self._tried = piece
        download.part.state.without_range = False
        logger.info("%s: %s; asking for no more than %s at once", download.entry.name, redact(str(error)), human(piece))
        return True

    def lower_after_416(self, reply: Reply) -> bool:
        """As `lower`, after a 416. RFC 9110 §15.5.17 says that the bytes do not exist; some hosts answer 416 when the
        range is too long. A short file is asked for as a whole instead."""
        rest = self._rest(reply.asked)
        if reply.head.status != 416 or (self._tried is None and (rest is None or rest <= PIECES[-1])):
            return False
        return self.lower(reply.asked, AttemptError("the origin answered 416", code="bad_range", http_status=416))

    def answered(self, asked: Ask, *, piece: bool) -> None:
        """The bytes that were asked for come. piece: `most` limited the request."""
        if piece:
            self._has_piece = True
            # Where the origin sends other files as a whole, only the longest piece is remembered, which does not slow
            # down the next file.
            if self._tried is not None and (not self._pieces.gives_all or self._tried == PIECES[0]):
                self._pieces.found(self._tried)
        elif asked.length is None:
            self._pieces.gives_all = True

    def _rest(self, asked: Ask) -> int | None:
        total = self._download.part.state.total
        if total is None:
            total = self._download.entry.size
        return None if total is None else total - asked.want


def with_retry_after(error: AttemptError, head: Head) -> AttemptError:
    """The error, with the pause that its answer asks for (`hosts/limits.py`). A status with a pause is retried even if
    it is final otherwise; a status that means one file pauses only that file."""
    if error.http_status is not None:
        error.retry_after = seconds_to_wait(head.status, head.fields, time.time())
    if error.retry_after is not None and error.code == f"http_{error.http_status}":
        error.kind = Kind.RETRY
        error.origin_wide = error.http_status not in OF_ONE_FILE
    return error


def _reason(head: Head, body: bytes, secrets: Sequence[str], urls: Sequence[str]) -> str | None:
    """The text of a refusal, without the secrets of the request."""
    return excerpt(body, head.fields.get("content-type"), hider(secrets, tuple(urls)))


# ------------------------------------------------------------------------------------------------------- a dry run

# A GET, because a signed link refuses HEAD; for one byte, because without Range the server may send ten gigabytes.
PROBE = Ask(first=0, end=1)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one answer says of a file. size: bytes, None when it does not say. ranges: a download could be resumed; None
    for an empty file."""

    size: int | None = None
    ranges: bool | None = False
    error: AttemptError | None = None


def understand(answer: Answer, judge: Callable[[Ask], Verdict]) -> ProbeResult:
    """What the answer to PROBE says of the whole file. judge: the verdict on it, as if it were the answer to the given
    Ask."""
    if answer.status == 416:
        # An empty file, which cannot satisfy a Range; or a server that knows no ranges and answers wrongly.
        total = answer.content_range.total if answer.content_range is not None else None
        return ProbeResult(total, ranges=None if total == 0 else False)
    ranges = answer.content_range is not None
    verdict = judge(PROBE if ranges else Ask())
    match verdict:
        case Fail(error):
            return ProbeResult(error=error)
        case Write(total=total) | Complete(total):
            size = None if answer.encoding else total
        case _:
            size = None
    return ProbeResult(size, ranges=None if size == 0 else ranges and isinstance(verdict, Write))


class Probe:
    """The attempt of a dry run: sends requests as a transfer does, and uses only the head of the answer. Afterwards the
    size is in the part's state, and `ranges` in the download."""

    asking = True

    def __init__(self, run: Run, download: Download, request: Request, span: ByteRange) -> None:
        self.download = download
        self._run = run
        self._exchange = Exchange(run, download, request)
        self._pieces = run.origins[self._exchange.source].pieces

    @property
    def head(self) -> Head | None:
        return self._exchange.head

    async def _ask_for_all(self, size: int) -> None:
        """Some hosts send the first byte although they refuse the whole file: asks once for the whole of a larger file,
        and drops the body (`hosts/pieces.py`)."""
        head = await self._exchange.send(Ask())
        head.drop()
        if head.status in PIECES_REFUSALS:
            self._pieces.found(PIECES[0])

    async def perform(self) -> Outcome:
        """As `Transfer.perform`."""
        run, download, exchange = self._run, self.download, self._exchange
        run.transfers.enter(self)
        download.attempts += 1
        try:
            if run.stopping:
                raise run.stopping.error
            head = (await exchange.ask(PROBE, PartState())).head
            found = understand(head.answer, lambda asked: exchange.judge(asked, head, PartState()).verdict)
            if found.error is not None:
                await exchange.hear(head, found.error)
                raise with_retry_after(found.error, head)
            head.drop()
            if found.ranges and (rest := found.size) is not None and self._pieces.asks_for_all(rest):
                await self._ask_for_all(rest)
        except Redirected:
            download.attempts -= 1
            raise
        except BulkError as error:
            return Outcome(error=error)
        finally:
            run.transfers.leave(self)
        download.part.learn(total=found.size)
        download.ranges = found.ranges
        download.range_max = self._pieces.limit
        return Outcome(fetched=True)

    def stop(self, error: BulkError) -> None:
        """Ends the wait for the answer at once."""
        self._exchange.stop(error)

    def tick(self, now: float) -> None:
        """Nothing to do: there is no body."""
