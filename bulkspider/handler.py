"""The fork in the road: requests with meta["bulk"] are ours, all others go to Scrapy's own handler untouched.

A download handler for http and https. For ours it makes one Transfer and answers with a Response that has no body:
what became of the attempt is in `meta["bulk"]["result"]`, as plain data. The spider's requests end here with their
bytes in the part (its pipeline finishes them); other requests are finished before their callback runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
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
from scrapy.utils.misc import build_from_crawler, load_object

from bulkspider.entry import Entry
from bulkspider.errors import AttemptError, BulkError, DiskError, Stopped
from bulkspider.pace import Outcome
from bulkspider.run import Run
from bulkspider.transfer import Redirected, Transfer

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from typing_extensions import Self

META = "bulk"
FLAG = "bulk"

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
        self._fallbacks: dict[str, Any] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    async def download_request(self, request: Request) -> Response:
        """The Response of `request`: with its body from the fallback, without one when it is ours."""
        if META not in request.meta:
            return await self._fallback(request).download_request(request)  # type: ignore[no-any-return]
        return await self._download(request)

    async def close(self) -> None:
        for handler in self._fallbacks.values():
            await handler.close()

    def _fallback(self, request: Request) -> Any:
        scheme = urlsplit(request.url).scheme
        if scheme not in self._fallbacks:
            settings = self._crawler.settings
            path = self._run.options.fallback(scheme) or settings["DOWNLOAD_HANDLERS_BASE"].get(scheme)
            if path is None:
                raise NotSupported(f"Unsupported URL scheme '{scheme}': no download handler")
            self._fallbacks[scheme] = build_from_crawler(load_object(path), self._crawler)
        return self._fallbacks[scheme]

    async def _download(self, request: Request) -> Response:
        bulk = request.meta[META]
        entry = Entry.from_meta(bulk["entry"])
        download = self._run.download(entry, bulk["output"])
        _refuse_downgrade(request)
        transfer = Transfer(self._run, download, request)
        try:
            outcome = await transfer.perform()
        except Redirected:
            assert transfer.head is not None
            return _response(request, transfer)
        bulk["result"] = outcome.to_meta()
        if outcome.error is not None and outcome.error.http_status is None:
            raise _exception(outcome)
        return _response(request, transfer)


def _refuse_downgrade(request: Request) -> None:
    """A redirect from https to http would send the file, and what it is, in the clear (RFC 9110 §15.4)."""
    before = request.meta.get("redirect_urls", ())
    if urlsplit(request.url).scheme == "http" and any(urlsplit(url).scheme == "https" for url in before):
        error = AttemptError(
            "redirected from https to http; that is not followed", code="insecure_redirect", final=True
        )
        request.meta[META]["result"] = Outcome(error=error).to_meta()
        raise DownloadFailedError(str(error))


def _exception(outcome: Outcome) -> Exception:
    """One of Scrapy's documented exceptions for an error without an answer."""
    error: BulkError | None = outcome.error
    if isinstance(error, Stopped):
        return DownloadCancelledError(str(error))
    if isinstance(error, DiskError):
        # Not an OSError: Scrapy would retry that as if it were the network.
        return DownloadCancelledError(str(error))
    assert error is not None
    return _EXCEPTIONS.get(error.code, DownloadFailedError)(str(error))


def _response(request: Request, transfer: Transfer) -> Response:
    """No body, and no Content-Encoding: a middleware must not try to decode what is on disk."""
    head = transfer.head
    headers = Headers()
    status = 200
    if head is not None:
        status = head.status
        for name, value in head.pairs:
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding"):
                headers.appendlist(name, value)
    return Response(request.url, status=status, headers=headers, body=b"", flags=[FLAG])
