"""The requests of one attempt and the heads of their answers, each judged by `protocol/plan.py`; the transfer carries
the verdict out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from twisted.internet.defer import CancelledError

from bulkspider.codes import Kind
from bulkspider.entries.entry import origin_of
from bulkspider.entries.redaction import hider
from bulkspider.entries.urls import same_origin
from bulkspider.errors import AttemptError, BulkError, Meaning, VersionConflict, too_large, too_large_for_stage
from bulkspider.hosts.limits import seconds_to_wait
from bulkspider.protocol import plan
from bulkspider.protocol.digests import linked
from bulkspider.protocol.plan import Ask, Complete, Expected, Fail, PartState, Verdict, Write
from bulkspider.protocol.servertext import MAY_HAVE_EXPIRED, READ_BYTES, excerpt, meaning_of, quote
from bulkspider.transfer.asking.destinations import check_redirect
from bulkspider.transfer.asking.sender import Sender

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head

# How long the body of a refusal is waited for.
HEAR_SECONDS = 2.0
# Statuses that mean one file, not its host, even with a Retry-After (RFC 9110 §15.5; RFC 7725).
ONE_FILE_STATUSES = (400, 401, 404, 405, 410, 451)
# Statuses from here on are refusals, whose bodies give a reason (RFC 9110 §15.5, §15.6).
FIRST_REFUSAL_STATUS = 400


class Redirected(Exception):
    """The answer is a redirect: Scrapy's middleware follows it with a new Request, for which our handler is called
    again."""


class Reply(Struct, frozen=True):
    """What was asked, the head of the answer, and the verdict on it. The body is still to be read, or dropped."""

    asked: Ask
    head: Head
    verdict: Verdict


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
        self._served = False
        self._sender = Sender(run, download.entry, download.url, request)

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
        self._served = self._served or isinstance(verdict, Write)
        match verdict:
            case Write(total=total) | Complete(total):
                folder = self._download.folder
                error = too_large(total, folder.capacity, self._run.options.max_size)
                if error := error or too_large_for_stage(total, folder.stage_max):
                    verdict = Fail(error)
            case Fail(error) if error.http_status in self._run.origins[self.source].profile.busy:
                # At this host, the status means that it is busy (its profile says so).
                error.kind, error.origin_wide = Kind.RETRY, True
        refused = isinstance(verdict, Fail) and (verdict.error.http_status or 0) >= FIRST_REFUSAL_STATUS
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
        return self._download.wanted

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
            if (
                head.status < FIRST_REFUSAL_STATUS
                and (wait := seconds_to_wait(head.status, head.fields, time.time())) is not None
            ):
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
        if self._request.meta.get("redirect_urls") and self._link_has_expired(error):
            # The next attempt begins at the listed URL, which leads to a fresh link.
            error.kind = Kind.RETRY

    def _link_has_expired(self, error: AttemptError) -> bool:
        """The refusal says so, or the link has served in this attempt."""
        return error.meaning is Meaning.EXPIRED or (self._served and error.http_status in MAY_HAVE_EXPIRED)


def with_retry_after(error: AttemptError, head: Head) -> AttemptError:
    """The error, with the pause that its answer asks for (`hosts/limits.py`). A status with a pause is retried even if
    it is final otherwise; a status that means one file pauses only that file."""
    if error.http_status is not None:
        error.retry_after = seconds_to_wait(head.status, head.fields, time.time())
    if error.retry_after is not None and error.code == f"http_{error.http_status}":
        error.kind = Kind.RETRY
        error.origin_wide = error.http_status not in ONE_FILE_STATUSES
    return error


def _reason(head: Head, body: bytes, secrets: Sequence[str], urls: Sequence[str]) -> str | None:
    """The text of a refusal, without the secrets of the request."""
    return excerpt(body, head.fields.get("content-type"), hider(secrets, tuple(urls)))
