"""The fork in the road: requests with meta["bulk"] are ours, all others go to Scrapy's own handler untouched.

A download handler for http and https. For ours it makes one Transfer, or a Batch where the request brings several
small files, and answers with a Response that has no body: what became of the attempt is in `meta["bulk"]["result"]`
(of a batch: `["results"]`), as plain data. The requests of the spider and of BulkFilesPipeline end here with their
bytes in the part (they finish their files; a batch has finished its own); a bare request (`bare.py`) is answered when
its file is finished, or is known to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    NotConfigured,
    NotSupported,
    ResponseDataLossError,
)
from scrapy.http import Headers, Response
from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider import bare
from bulkspider.batch import Batch
from bulkspider.delivery import Delivery, error_of
from bulkspider.entry import Entry, EntryError, redact, without_userinfo
from bulkspider.errors import AttemptError, BulkError, DiskError, Stopped, UsageError
from bulkspider.items import BulkItem
from bulkspider.pace import Outcome
from bulkspider.plan import REDIRECTS
from bulkspider.probe import Prober, to_meta
from bulkspider.run import Run
from bulkspider.segment import Segment
from bulkspider.spans import Span
from bulkspider.transfer import Redirected, Transfer

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from typing_extensions import Self

    from bulkspider.wire import Head

META = "bulk"
FLAG = "bulk"

FINISHED = ("verified", "complete", "unproven")
OF_THE_BODY = ("content-encoding", "content-length", "content-range", "transfer-encoding")
# What another attempt at once cannot cure, beside all that the disk says.
NOT_TO_BE_RETRIED = ("no_space", "two_urls", "two_ways")

_EXCEPTIONS: dict[str, type[Exception]] = {
    "connect": DownloadTimeoutError,
    "headers_timeout": DownloadTimeoutError,
    "stall": DownloadTimeoutError,
    "slow": DownloadTimeoutError,
    "refused": DownloadConnectionRefusedError,
    "dns": CannotResolveHostError,
    "lost": ResponseDataLossError,
}


class BulkDownloadHandler:
    """See the module."""

    lazy = False

    def __init__(self, crawler: Crawler) -> None:
        run = crawler.get_extension(Run)
        if run is None:
            raise NotConfigured("bulkspider.run.Run is missing from EXTENSIONS; add bulkspider.Addon to ADDONS")
        self._run = run
        self._crawler = crawler
        self._fallback = run.fallback
        self._prober: Prober | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    async def download_request(self, request: Request) -> Response:
        """The Response of `request`: with its body from the fallback, without one when it is ours."""
        if META not in request.meta:
            return await self._fallback.download_request(request)
        bulk = request.meta[META]
        if isinstance(bulk, dict) and "entry" in bulk:
            return await self._attempt(request)
        if isinstance(bulk, dict) and "probe" in bulk:
            return await self._probe(request)
        return await self._deliver(request)

    async def close(self) -> None:
        await self._fallback.close()

    async def _attempt(self, request: Request) -> Response:
        bulk = request.meta[META]
        entry = Entry.from_meta(bulk["entry"])
        download = self._run.download(entry, bulk["output"])
        if mates := bulk.get("mates"):
            # The spider has made them; nobody else makes such requests.
            downloads = [download, *filter(None, (self._run.at(download.folder.place(name)) for name in mates))]
            bulk["results"] = [None] * (1 + len(mates))
            if len(downloads) > len(mates) and Batch.is_possible(self._run, downloads, request):
                outcomes = await Batch(self._run, downloads, request).perform()
                bulk["results"] = [outcome and outcome.to_meta() for outcome in outcomes]
            else:
                bulk["impossible"] = True
            return Response(request.url, flags=[FLAG])
        span = download.spans.get(bulk.get("piece", 0))
        kind = Segment if span is not None and bulk.get("segment") else Transfer
        transfer = kind(self._run, download, request, span or Span())
        try:
            _refuse_downgrade(request)
            outcome = await transfer.perform()
        except AttemptError as error:
            outcome = Outcome(error=error)
        except Redirected:
            assert transfer.head is not None
            return _response(request, transfer)
        bulk["result"] = outcome.to_meta()
        if outcome.error is not None and outcome.error.http_status is None:
            raise _exception(outcome.error)
        # 206 or 416 for what is a success: AutoThrottle, for one, takes anything but 200 for trouble.
        return _response(request, transfer, status=200 if outcome.error is None else None)

    async def _probe(self, request: Request) -> Response:
        """Answers a dry run's question: the head alone, in `meta["bulk"]["answer"]`."""
        bulk = request.meta[META]
        self._prober = self._prober or Prober(self._run)
        try:
            _refuse_downgrade(request)
            head = await self._prober.ask(request, Entry.from_meta(bulk["probe"]))
        except BulkError as error:
            bulk["error"] = error_of(error)
            raise _exception(error) from error
        if head.status not in REDIRECTS:
            bulk["answer"] = to_meta(head)
        return Response(request.url, status=head.status, headers=_headers(head), flags=[FLAG])

    async def _deliver(self, request: Request) -> Response:
        """Answers a bare request: with its finished file, or as Scrapy's own handler would tell of the failure."""
        settings = self._crawler.settings
        if request.method != "GET":
            raise NotSupported(f'meta["bulk"]: {request.method} {request.url}: only a GET can fetch a file')
        try:
            url = request.meta.get("redirect_urls", [request.url])[0]
            entry = bare.entry_of(request.meta[META], url)
        except EntryError as error:
            raise NotSupported(f'meta["bulk"]: {error}') from error
        # Whatever a middleware has set: the file is wanted, not an encoding or a page about it.
        request.headers["Accept-Encoding"] = "identity"
        if request.headers.get("Accept") == Headers(settings["DEFAULT_REQUEST_HEADERS"]).get("Accept"):
            request.headers["Accept"] = "*/*"
        root = bare.store(self._run.options.store, settings["FILES_STORE"])
        bulk = request.meta[META]
        if bare.RESULT not in bulk:
            self._crawler.stats.inc_value("bulk/entries")
        try:
            delivery = Delivery(self._run, entry, root)
            async with delivery.turn():
                item = await delivery.find_finished()
                if item is None:
                    return await self._fetch(request, delivery)
        except BulkError as error:
            refused = BulkItem(name=entry.name, url=redact(entry.url), status="failed", error=error_of(error))
            bulk.setdefault(bare.RESULT, bare.result_of(refused))
            raise _exception(error) from error
        self._run.count(item)
        bulk[bare.RESULT] = bare.result_of(item)
        return Response(request.url, flags=[FLAG])

    async def _fetch(self, request: Request, delivery: Delivery) -> Response:
        """Fetches the file of a bare request. Raises Scrapy's exceptions, or BulkError."""
        meta = request.meta
        async with delivery.download() as download:
            earlier = meta[META].get(bare.RESULT)
            try:
                _refuse_downgrade(request)
                if earlier and earlier["status"] not in FINISHED:
                    # Tried again, or redirected: one request to those who sent it.
                    await maybe_deferred_to_future(self._run.in_thread(download.part.open))
                    download.largest = download.part.state.have.count
                    download.attempts, download.bytes_received = earlier["attempts"], earlier["bytes_received"]
                    download.resumed_from = earlier["resumed_from"]
                item = None
                while item is None:
                    transfer = Transfer(self._run, download, _without_userinfo(request))
                    outcome = await transfer.perform()
                    if outcome.error is not None:
                        if outcome.grew and not download.part.state.restarts:
                            # RETRY_TIMES is meant for attempts that bring nothing.
                            meta["retry_times"] = 0
                        raise outcome.error
                    if outcome.fetched:
                        item = await delivery.finish(download)
            except Redirected:
                meta[META][bare.RESULT] = bare.result_of(delivery.item(download))
                return _response(request, transfer)
            except BulkError as error:
                meta[META][bare.RESULT] = bare.result_of(delivery.item(download, error))
                if error.http_status is not None and not 200 <= error.http_status < 300:
                    return _response(request, transfer)
                if error.permanent or getattr(error, "final", False):
                    meta["dont_retry"] = True
                raise
        self._run.count(item)
        meta[META][bare.RESULT] = bare.result_of(item)
        return _response(request, transfer, status=200)


def _without_userinfo(request: Request) -> Request:
    """The transfer sends userinfo as a header, to whom it belongs (`secrecy.py`)."""
    url = without_userinfo(request.url)
    return request if url == request.url else request.replace(url=url)


def _refuse_downgrade(request: Request) -> None:
    """A redirect from https to http would send the file, and what it is, in the clear (RFC 9110 §15.4)."""
    before = request.meta.get("redirect_urls", ())
    if urlsplit(request.url).scheme == "http" and any(urlsplit(url).scheme == "https" for url in before):
        raise AttemptError("redirected from https to http; that is not followed", code="insecure_redirect", final=True)


def _exception(error: BulkError) -> Exception:
    """One of Scrapy's documented exceptions for an error without an answer."""
    if isinstance(error, (Stopped, DiskError, UsageError)) or error.code in NOT_TO_BE_RETRIED:
        # Not an OSError: Scrapy would retry that as if it were the network.
        return DownloadCancelledError(str(error))
    return _EXCEPTIONS.get(error.code, DownloadFailedError)(str(error))


def _response(request: Request, transfer: Transfer, status: int | None = None) -> Response:
    """No body, and no Content-Encoding: a middleware must not try to decode what is on disk.

    status: instead of the last answer's, which was for a part of the file only (206) or for none of it (416).
    """
    head = transfer.head
    headers = _headers(head) if head is not None else Headers()
    status = status or (head.status if head is not None else 200)
    return Response(request.url, status=status, headers=headers, body=b"", flags=[FLAG])


def _headers(head: Head) -> Headers:
    return Headers([(name, value) for name, value in head.pairs if name.lower() not in OF_THE_BODY])
