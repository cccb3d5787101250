"""The fallback: handles the requests that are not ours as if bulkspider were not installed.

There is one per crawl, while Scrapy makes one handler of ours for each scheme. It treats the handlers that the project
has configured as Scrapy would: it makes them before the crawl begins, because some wait for its first signal, or at
their first request if they are lazy. Handlers of the style before Scrapy 2.14 work, too, and a handler that cannot be
made fails only its own requests.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit

from scrapy.exceptions import NotConfigured, NotSupported
from scrapy.http import Headers
from scrapy.responsetypes import responsetypes
from scrapy.utils.defer import deferred_from_coro, ensure_awaitable, maybe_deferred_to_future
from scrapy.utils.misc import build_from_crawler, load_object
from twisted.internet.defer import CancelledError

from bulkspider.entries.urls import origin_of
from bulkspider.errors import BulkError, Stopped
from bulkspider.wire.exchange import refuse_downgrade

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response

    from bulkspider.options import Options
    from bulkspider.wire.exchange import Wire

# A key of meta: bulkspider itself makes this request.
OWN_PAGE = "bulk_own_page"

logger = logging.getLogger(__name__)


def is_robots_txt(request: Request) -> bool:
    """Scrapy's middleware asks for it."""
    return bool(request.meta.get("dont_obey_robotstxt")) and urlsplit(request.url).path == "/robots.txt"


class Fallback:
    """The download handlers for http and https that were configured, else Scrapy's own."""

    def __init__(self, crawler: Crawler, options: Options) -> None:
        self._crawler = crawler
        self._paths = {**crawler.settings.getdict("DOWNLOAD_HANDLERS_BASE"), **options.fallbacks}
        self._handlers: dict[str, Any] = {}
        self._unusable: dict[str, str] = {}
        self._cancelled_by: Callable[[], BulkError | None] | None = None
        self._running: set[Any] = set()
        # URL of a robots.txt at the target of a redirect -> the URLs that led there.
        self._led_to: dict[str, list[str]] = {}
        for scheme in ("http", "https"):
            self._make(scheme, lazy=False)

    async def download_own(self, request: Request, wire: Wire) -> Response:
        """The page of a request that bulkspider itself makes: a checksum file, an index page. Redirects follow the
        rules for files: none from https to http, none from a public to a private address. Raises AttemptError."""
        if not request.meta.get("redirect_urls"):
            response = await self.download_request(request)
            if response.ip_address is not None and not request.meta.get("proxy"):
                wire.note_address(origin_of(request.url), str(response.ip_address))
            return response
        refuse_downgrade(request)
        return await self._may_be_cancelled(self._follow(request, wire))

    def note_redirect(self, request: Request) -> None:
        """A file's request follows a redirect: before it Scrapy's middleware will request the robots.txt of that
        host."""
        self._led_to[urljoin(request.url, "/robots.txt")] = request.meta["redirect_urls"]

    def is_led_by_redirect(self, request: Request) -> bool:
        """True for the request of such a robots.txt, which then gets the `redirect_urls` of the file's request."""
        before = self._led_to.pop(request.url, None) if request.meta.get("dont_obey_robotstxt") else None
        if before is not None:
            request.meta["redirect_urls"] = before
        return before is not None

    async def _follow(self, request: Request, wire: Wire) -> Response:
        settings = self._crawler.settings
        head = await maybe_deferred_to_future(wire.exchange(request, Headers(request.headers)))
        most = request.meta.get("download_maxsize", settings.getint("DOWNLOAD_MAXSIZE"))
        seconds = request.meta.get("download_timeout", settings.getfloat("DOWNLOAD_TIMEOUT"))
        body = await maybe_deferred_to_future(head.read_whole(most, seconds))
        headers = Headers([(name, value.encode("latin-1")) for name, value in head.pairs])
        kind = responsetypes.from_args(headers=headers, url=request.url, body=body)
        return kind(url=request.url, status=head.status, headers=headers, body=body)

    async def download_request(self, request: Request) -> Response:
        """The answer of the configured handler. Raises NotSupported when there is none."""
        scheme = urlsplit(request.url).scheme
        if scheme not in self._handlers:
            self._make(scheme, lazy=True)
        if scheme in self._unusable:
            raise NotSupported(f"Unsupported URL scheme '{scheme}': {self._unusable[scheme]}")
        download = self._handlers[scheme].download_request
        # Handlers of the style before Scrapy 2.14 want the spider too.
        arguments = () if inspect.iscoroutinefunction(download) else (self._crawler.spider,)
        return await self._may_be_cancelled(ensure_awaitable(download(request, *arguments)))

    async def _may_be_cancelled(self, downloading: Awaitable[Response]) -> Response:
        if self._cancelled_by is None:
            return await downloading
        running = deferred_from_coro(downloading)
        self._running.add(running)
        try:
            return cast("Response", await maybe_deferred_to_future(running))
        except (asyncio.CancelledError, CancelledError):
            raise self._cancelled_by() or Stopped() from None
        finally:
            self._running.discard(running)

    def make_cancellable(self, why: Callable[[], BulkError | None]) -> None:
        """From now on `cancel` ends downloads under way, which fail with `why`. Used for our own spiders only: other
        crawls wait for their pages, as Scrapy does."""
        self._cancelled_by = why

    def cancel(self) -> None:
        for running in list(self._running):
            running.cancel()

    async def close(self) -> None:
        """Closes all handlers, once."""
        while self._handlers:
            _, handler = self._handlers.popitem()
            if hasattr(handler, "close"):
                await ensure_awaitable(handler.close())

    def _make(self, scheme: str, *, lazy: bool) -> None:
        """lazy: makes the handler even if it is one that is made at its first request."""
        path = self._paths.get(scheme)
        if scheme in self._unusable:
            return
        try:
            if path is None:
                raise NotConfigured("no download handler")
            handler = load_object(path)
            if lazy or not getattr(handler, "lazy", True):
                self._handlers[scheme] = build_from_crawler(handler, self._crawler)
        except Exception as error:
            if not isinstance(error, NotConfigured):
                logger.error('Loading "%s" for scheme "%s"', path, scheme, exc_info=True)
            self._unusable[scheme] = str(error)
