"""The download handler for http and https: requests with meta["bulk"] are ours, all others go to Scrapy's own handler.

For one of ours it makes a Transfer, or a Batch where the request is for several small files, and answers with a
Response without a body. For a request of the spider or of BulkFilesPipeline the bytes are then in the part, and the
outcome is in the Attempt; the sender finishes the file (a batch finishes its own files). For a bare request (`meta.py`)
the file is then finished, and `meta["bulk"]["result"]` describes it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import scrapy.exceptions
from scrapy.exceptions import DownloadCancelledError, IgnoreRequest, NotConfigured, NotSupported
from scrapy.http import Headers, Response
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

from bulkspider.codes import Kind, look_up
from bulkspider.components.identity import (
    check_request,
    first_of,
    identify,
    is_another_request,
    is_redirected,
    is_told,
    keys_of_others,
    linked_of,
    tell,
)
from bulkspider.components.meta import RESULT, entry_of, store
from bulkspider.dispatch.proofs import find_proof
from bulkspider.entries.entry import Entry, EntryError, redact
from bulkspider.entries.redaction import error_of
from bulkspider.errors import AttemptError, BulkError, Stopped
from bulkspider.items import FINISHED, BulkItem
from bulkspider.protocol.plan import REDIRECTS
from bulkspider.run.download import Attempt
from bulkspider.run.origins.outcome import Outcome
from bulkspider.run.row import row_of
from bulkspider.run.run import Run
from bulkspider.small.batch import Batch
from bulkspider.small.probing import ProbeBatch
from bulkspider.transfer.asking.exchange import Redirected
from bulkspider.transfer.probe import Probe
from bulkspider.transfer.segment import Segment
from bulkspider.transfer.transfer import Transfer
from bulkspider.wire import map_error
from bulkspider.wire.exchange import refuse_downgrade
from bulkspider.wire.fallback import OWN_PAGE, is_robots_txt

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from typing_extensions import Self

    from bulkspider.disk.folder.folder import Folder
    from bulkspider.wire import Head

logger = logging.getLogger(__name__)

META = "bulk"
FLAG = "bulk"

OF_THE_BODY = ("content-encoding", "content-length", "content-range", "transfer-encoding")


class BulkDownloadHandler:
    """See the module."""

    lazy = False

    def __init__(self, crawler: Crawler) -> None:
        run = crawler.get_extension(Run)
        if run is None:
            raise NotConfigured("bulkspider.run.run.Run is missing from EXTENSIONS; add bulkspider.Addon to ADDONS")
        self._run = run
        self._crawler = crawler
        self._fallback = run.fallback
        self._ignored: set[str] = set()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    async def download_request(self, request: Request) -> Response:
        """The Response of `request`: with its body from the fallback, without one when it is ours."""
        if META not in request.meta:
            if self._fallback.is_led_by_redirect(request):
                return await self._robots(request)
            if request.meta.get(OWN_PAGE) or self._run.guards_pages:
                return await self._fallback.download_own(request, self._run.wire)
            if self._run.of_a_list and is_robots_txt(request):
                return await self._robots_of_list(request)
            return await self._fallback.download_request(request)
        bulk = request.meta[META]
        if isinstance(bulk, dict) and "entry" in bulk:
            return await self._attempt(request)
        return await maybe_deferred_to_future(Deferred.fromCoroutine(self._deliver(request)))

    async def close(self) -> None:
        await self._fallback.close()

    async def _robots(self, request: Request) -> Response:
        """The robots.txt of a host that a redirect of a file leads to. It follows the same rules as the file; where it
        is refused, the file's own request, which comes next, is refused with the reason."""
        try:
            return await self._fallback.download_own(request, self._run.wire)
        except AttemptError as error:
            raise IgnoreRequest(str(error)) from error

    async def _robots_of_list(self, request: Request) -> Response:
        """The robots.txt of a host of the list. Where it can never be read (a certificate that does not
        verify), the middleware asks for the files all the same: one sentence says why, instead of several tries and a
        traceback."""
        try:
            return await self._fallback.download_request(request)
        except Exception as error:
            known = map_error(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            if known.kind is not Kind.PERMANENT:
                raise
            logger.warning("%s cannot be read: %s", redact(request.url), known)
            raise IgnoreRequest(str(known)) from error

    async def _attempt(self, request: Request) -> Response:
        bulk = request.meta[META]
        entry = Entry.from_meta(bulk["entry"])
        folder = self._run.folder(bulk["output"])
        attempts = [
            self._attempt_of(folder.place(name), number)
            for name, number in [(entry.name, bulk["attempt"]), *bulk.get("others", ())]
        ]
        attempt = attempts[0]
        if attempt is None:
            # For example from a queue on disk (JOBDIR): the run that sent it is over, and this one asks by itself for
            # what is missing.
            raise DownloadCancelledError(f"{entry.name}: this request belongs to an earlier run")
        if len(attempts) > 1:
            return await self._batch(request, list(filter(None, attempts)), complete=all(attempts))
        kind = Probe if bulk.get("probe") else Segment if attempt.further else Transfer
        transfer = kind(self._run, attempt.download, request, attempt.range)
        try:
            refuse_downgrade(request)
            if is_another_request(request, entry.asked):
                what = f"a middleware has made another request of it: {request.method} {redact(request.url)}"
                raise AttemptError(what, code="middleware")
            outcome = await transfer.perform()
        except AttemptError as error:
            outcome = Outcome(error=error)
        except Redirected:
            assert transfer.head is not None
            return _response(request, transfer, follow=True)
        attempt.outcome = outcome
        self._say_ignored(request)
        if outcome.error is not None and outcome.error.http_status is None:
            raise _exception(outcome.error)
        # A success is 200, also after a 206 or 416: AutoThrottle, for example, treats all but 200 as trouble.
        return _response(request, transfer, status=200 if outcome.error is None else None)

    def _say_ignored(self, request: Request) -> None:
        """Warns once of a meta key for another download handler: files of a list are always fetched by ours."""
        for key in keys_of_others(request):
            if key not in self._ignored:
                self._ignored.add(key)
                logger.warning('meta["%s"] of a middleware changes nothing for the files of a list', key)

    def _attempt_of(self, path: str, number: int) -> Attempt | None:
        download = self._run.downloads.at(path)
        return download.running.get(number) if download is not None else None

    async def _batch(self, request: Request, attempts: list[Attempt], *, complete: bool) -> Response:
        """Several small files by one request; those without an outcome then get requests of their own."""
        kind = ProbeBatch if request.meta[META].get("probe") else Batch
        batch = kind(self._run, [attempt.download for attempt in attempts], request)
        if complete and not is_another_request(request, None) and batch.is_possible():
            second = None if kind is ProbeBatch else self._run.second
            elsewhere = second and second.take(request, [attempt.download for attempt in attempts])
            for attempt, outcome in zip(attempts, await (elsewhere or batch).perform(), strict=True):
                attempt.outcome = outcome
        else:
            request.meta[META]["alone"] = True
        return Response(request.url, flags=[FLAG])

    async def _deliver(self, request: Request) -> Response:
        """Answers a bare request when its file is finished; or fails as Scrapy's own handler would.

        One attempt: Scrapy's RetryMiddleware decides whether and when there is another.
        """
        settings = self._crawler.settings
        identify(request)
        try:
            check_request(request)
            url, asked = first_of(request)
            entry = entry_of(request.meta[META], url, asked=asked)
        except EntryError as error:
            raise NotSupported(f'meta["bulk"]: {error}') from error
        # Replaces what a middleware has set: the file itself is wanted, not an encoded form or a web page.
        request.headers["Accept-Encoding"] = "identity"
        if request.headers.get("Accept") == Headers(settings["DEFAULT_REQUEST_HEADERS"]).get("Accept"):
            request.headers["Accept"] = "*/*"
        root = store(self._run.options.store, settings["FILES_STORE"])
        bulk = request.meta[META]
        if RESULT not in bulk:
            self._crawler.stats.inc_value("bulk/entries")
        try:
            if self._run.patience.begun:
                raise Stopped
            folder = self._run.folder(root)
            async with self._run.downloads.turn(entry, folder, outside=False):
                line = await find_proof(self._run, entry, folder)
                if line is None:
                    return await self._fetch(request, entry, folder)
        except BulkError as error:
            refused = BulkItem(name=entry.name, url=redact(entry.url), status="failed", error=error_of(error))
            if not is_told(request):
                tell(request, refused)
            raise _exception(error) from error
        self._run.downloads.turns.has_finished(folder.place(entry.name), entry.key)
        item = row_of(entry, folder, line=line)
        item.already = True
        self._run.outcomes.count(item)
        tell(request, item)
        return Response(request.url, flags=[FLAG])

    async def _fetch(self, request: Request, entry: Entry, folder: Folder) -> Response:
        """Fetches the file of a bare request. Raises Scrapy's exceptions, or BulkError."""
        run, meta = self._run, request.meta
        download = run.downloads.begin(entry, folder)
        download.is_linked(*linked_of(request))
        transfer = Transfer(run, download, request)
        try:
            earlier = meta[META].get(RESULT)
            refuse_downgrade(request)
            if earlier and earlier["status"] not in FINISHED:
                # Tried again, or redirected: its result counts all attempts together.
                await run.threads.in_thread(download.part.open)
                download.largest = download.part.state.have.count
                download.attempts, download.bytes_received = earlier["attempts"], earlier["bytes_received"]
                download.resumed.go_on_from(earlier["resumed_from"])
            line = None
            while line is None:
                outcome = await deferred_from_coro(transfer.perform())
                if outcome.error is not None:
                    if outcome.grew and not download.part.state.restarts:
                        # RETRY_TIMES shall limit only attempts that bring no bytes.
                        meta["retry_times"] = 0
                    raise outcome.error
                if outcome.fetched:
                    line = await run.downloads.finish(download)
                if line is None:
                    transfer = Transfer(run, download, request)
        except Redirected:
            is_redirected(request, download.linked, download.linked_size)
            tell(request, row_of(entry, folder, download=download))
            return _response(request, transfer, follow=True)
        except BulkError as error:
            tell(request, row_of(entry, folder, download=download, error=error))
            if error.http_status is not None and not 200 <= error.http_status < 300:
                return _response(request, transfer)
            if error.kind in (Kind.FINAL, Kind.PERMANENT, Kind.USAGE):
                meta["dont_retry"] = True
            raise
        finally:
            await run.downloads.forget(download)
        item = row_of(entry, folder, download=download, line=line)
        run.outcomes.count(item)
        tell(request, item)
        return _response(request, transfer, status=200)


def _exception(error: BulkError) -> Exception:
    """One of Scrapy's documented exceptions for an error without an answer."""
    exception: type[Exception] = getattr(scrapy.exceptions, look_up(error.code).exception)
    return exception(str(error))


def _response(
    request: Request, transfer: Transfer | Probe, status: int | None = None, *, follow: bool = False
) -> Response:
    """No body, and no Content-Encoding: a middleware must not try to decode what is on disk.

    status: replaces that of the last answer, which may be 206 or 416. follow: Scrapy's middleware shall follow the
    redirect; else the Response has no Location.
    """
    head = transfer.head
    headers = _headers(head) if head is not None else Headers()
    if head is not None and head.status in REDIRECTS and not follow:
        headers.pop("Location", None)
    status = status or (head.status if head is not None else 200)
    return Response(request.url, status=status, headers=headers, body=b"", flags=[FLAG])


def _headers(head: Head) -> Headers:
    # As they were received: a Location may hold bytes of any encoding.
    pairs = [(name, value.encode("latin-1")) for name, value in head.pairs if name.lower() not in OF_THE_BODY]
    return Headers(pairs)
