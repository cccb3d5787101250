"""The spider of a walk: requests the index pages below the start, and adds the files that they link to to the record.

Every page is an ordinary Scrapy Request, so that a project's proxies, logins and limits hold for pages as for files.
robots.txt is obeyed, for pages and files, unless the command line says ROBOTSTXT_OBEY=False: unlike a list, a walk may
find files that the user did not choose. A page that fails is tried again as files are, with BULK_RETRY_TIMES,
BULK_RETRY_DELAY and Retry-After.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct
from scrapy import Request, Spider
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import HtmlResponse
from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings
from scrapy.spidermiddlewares.httperror import HttpError
from scrapy.utils.defer import maybe_deferred_to_future
from w3lib.http import basic_auth_header
from w3lib.url import safe_url_string

from bulkspider.clock import Wakeup
from bulkspider.codes import Kind
from bulkspider.entries.entry import redact, without_userinfo
from bulkspider.entries.redaction import unexpected
from bulkspider.errors import AttemptError, BulkError, DiskError, UsageError
from bulkspider.hosts.limits import parse_retry_after
from bulkspider.options import plural
from bulkspider.protocol.plan import REDIRECTS
from bulkspider.run.run import Run
from bulkspider.transfer.asking.destinations import check_redirect
from bulkspider.walk.bucket import is_listing, is_refusal, listing_below, read_listing, whole_question
from bulkspider.walk.links import read_links
from bulkspider.walk.record import Record
from bulkspider.walk.start import Plan, Start
from bulkspider.wire.failures import map_error, middleware_error

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from twisted.python.failure import Failure
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# Settings of a project that do not fit a walk, which requests each page once and has no items.
SETTINGS: dict[str, Any] = {
    "FEEDS": {},
    "JOBDIR": None,
    "DEPTH_LIMIT": 0,
    "URLLENGTH_LIMIT": 0,
    "DOWNLOAD_WARNSIZE": 0,
    "BULK_METRICS_PORT": 0,
    "SCHEDULER": "scrapy.core.scheduler.Scheduler",
    "DUPEFILTER_CLASS": "scrapy.dupefilters.RFPDupeFilter",
}
FORBIDDEN = "links were left out because robots.txt forbids them (-s ROBOTSTXT_OBEY=False takes them all the same)"
# A page with very many links blocks the reactor no longer than this at a time.
SLICE_SECONDS = 0.05
# Tries for the first page: if it fails its URL is probably wrong, and a person waits for the answer.
START_TRIES = 3
# Scrapy's exceptions for those of Twisted, and our errors for them.
_OF_SCRAPY = {
    "CannotResolveHostError": AttemptError("the host name was not found", code="dns"),
    "DownloadConnectionRefusedError": AttemptError("the connection was refused", code="refused"),
    "DownloadTimeoutError": AttemptError("no answer within DOWNLOAD_TIMEOUT", code="headers_timeout"),
    "ResponseDataLossError": AttemptError("the connection broke in the middle of the page", code="lost"),
}
# Loggers with long messages about a robots.txt that cannot be fetched; the error of the page that follows says it
# better.
TOO_LOUD = ("scrapy.downloadermiddlewares.retry", "scrapy.downloadermiddlewares.robotstxt")


class Walk(Struct):
    """A walk under way. start: changed by redirects of the first page. error: why it was given up, None otherwise.
    finished: it ended by itself. signal: number of the signal that ended it, None without one."""

    plan: Plan
    record: Record
    start: Start
    error: BulkError | None = None
    finished: bool = False
    signal: int | None = None

    @property
    def so_far(self) -> str:
        pages = plural(self.record.pages, "page", "pages")
        return f"{redact(self.start.url)}: {pages} read, {plural(self.record.files, 'file', 'files')} found"


class WalkSpider(Spider):
    """See the module."""

    name = "bulk-walk"
    walk: Walk

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        super().update_settings(settings)
        for name, value in SETTINGS.items():
            settings.set(name, value, SETTINGS_PRIORITIES["cmdline"])
        if (settings.getpriority("ROBOTSTXT_OBEY") or 0) < SETTINGS_PRIORITIES["cmdline"]:
            settings.set("ROBOTSTXT_OBEY", True, "cmdline")

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, walk: Walk) -> Self:
        spider = super().from_crawler(crawler, *args)
        spider.walk = walk
        return spider

    async def start(self) -> AsyncIterator[Any]:
        run = self._run = cast(Run, self.crawler.get_extension(Run))
        run.take_charge()
        run.guards_pages = True
        # A stopped walk has no result, so its pages are not waited for.
        run.fallback.make_cancellable(lambda: run.stopping.reason)
        run.stopping.on_stop(lambda _: self._stop_waiting())
        if self.settings["LOG_LEVEL"] != "DEBUG":
            for name in TOO_LOUD:
                logging.getLogger(name).setLevel(logging.CRITICAL)
        self._pauses: set[Wakeup] = set()
        self._robots = self.crawler.get_downloader_middleware(RobotsTxtMiddleware)
        self._agent = self.settings["ROBOTSTXT_USER_AGENT"] or self.settings["USER_AGENT"]
        self._told = time.monotonic()
        yield self._request(self.walk.start.url, is_start=True)

    async def closed(self, reason: str) -> None:
        """Scrapy calls this at the end."""
        stopping = self._run.stopping
        self.walk.signal = stopping.signal
        # Not `stopping` itself: the run also sets it when it notices that the crawl is closing.
        self.walk.finished = reason == "finished" and stopping.signal is None

    def _request(self, url: str, *, is_start: bool = False, tries: int = 0, redirects: int = 0) -> Request:
        headers: dict[str, Any] = {"Accept": "text/html,application/xml,*/*;q=0.8"}
        if (credentials := self.walk.start.credentials) is not None:
            headers["Authorization"] = basic_auth_header(*credentials)
        return Request(
            without_userinfo(url),
            callback=self.read,
            errback=self.failed,
            headers=headers,
            meta={
                "dont_retry": True,
                "dont_cache": True,
                "allow_offsite": True,
                "referrer_policy": "no-referrer",
                "dont_redirect": True,
                "handle_httpstatus_list": list(REDIRECTS),
            },
            cb_kwargs={"is_start": is_start, "tries": tries, "redirects": redirects},
        )

    # -- pages -----------------------------------------------------------------------------------------------------

    async def read(self, response: Response, is_start: bool, tries: int, redirects: int) -> AsyncIterator[Request]:
        """Callback: a page has come, or a redirect. tries: how many requests for it have failed. redirects: how many
        led here."""
        walk = self.walk
        try:
            if response.status in REDIRECTS:
                yield self._redirected(response, is_start, redirects)
                return
            reader = self._read_bucket if is_listing(response.body) else self._read_index
            async for request in reader(response):
                yield request
            walk.record.pages += 1
            self._say_how_far()
        except DiskError as error:
            self._give_up(error)
        except BulkError as error:
            self._cannot_read(response.url, error)
        except Exception as error:
            # After any error the files below this page are missing.
            self._cannot_read(response.url, BulkError(unexpected(error)))

    def _redirected(self, response: Response, is_start: bool, redirects: int) -> Request:
        """The request for the target of a redirect. The target is checked here, because Scrapy would request its
        robots.txt before our handler is called, and other hosts must get no request at all. Raises AttemptError,
        UsageError."""
        location = (response.headers.get("Location") or b"").decode("latin-1")
        check_redirect(response.url, response.status, location)
        if redirects >= self.settings.getint("REDIRECT_MAX_TIMES"):
            raise AttemptError(f"too many redirects ({redirects})", code="redirect_loop")
        url = response.urljoin(safe_url_string(location.encode("latin-1")))
        if is_start:
            self.walk.start = self.walk.start.moved_to(url)
        elif not self.walk.start.is_on(url):
            raise AttemptError(f"it leads elsewhere, to {redact(url)}", code="redirect")
        return self._request(url, is_start=is_start, redirects=redirects + 1).replace(dont_filter=True)

    async def _read_index(self, response: Response) -> AsyncIterator[Request]:
        walk = self.walk
        if not isinstance(response, HtmlResponse):
            raise AttemptError("the answer is no index page", code="not_the_file")
        if not walk.start.path.endswith("/"):
            raise UsageError("the URL of a folder ends in '/'; write it so if this is one")
        if walk.start.name_of(response.url) is None:
            raise AttemptError(f"it leads elsewhere, to {redact(response.url)}", code="redirect")
        allows = await self._robots_of(response)
        slice_ends = time.monotonic() + SLICE_SECONDS
        for links in read_links(response.body, response.encoding, response.url):
            for link in links:
                if (request := self._follow(link, allows)) is not None:
                    yield request
            if time.monotonic() > slice_ends:
                await maybe_deferred_to_future(self._run.wakeup.pause())
                slice_ends = time.monotonic() + SLICE_SECONDS

    def _follow(self, link: str, allows: Callable[[str], bool]) -> Request | None:
        """Adds a file to the record; returns a Request for a folder that shall be read."""
        walk = self.walk
        try:
            name = walk.start.name_of(link)
        except UnicodeDecodeError:
            # The check of the list reports it, as every name that cannot be used.
            walk.record.add("", walk.start.with_credentials(link))
            return None
        if not name:
            return None
        is_folder = name.endswith("/")
        if not (walk.plan.wanted.enters(name) if is_folder else walk.plan.wanted.takes(name)):
            return None
        if not allows(link):
            walk.record.leave_out(FORBIDDEN)
        elif not is_folder:
            walk.record.add(name, walk.start.with_credentials(link))
        elif name.count("/") <= walk.plan.depth:
            return self._request(link)
        else:
            walk.record.leave_out(
                f"folders deeper than {walk.plan.depth} were not read; --depth N (-a depth=N) goes deeper"
            )
        return None

    async def _read_bucket(self, response: Response) -> AsyncIterator[Request]:
        walk = self.walk
        if (question := whole_question(response.url)) is not None:
            yield self._request(question)
            return
        try:
            listing = read_listing(response.body, response.url)
        except ValueError as error:
            raise AttemptError(str(error), code="bad_answer") from None
        allows = await self._robots_of(response)
        folder = listing.prefix.rpartition("/")[0]
        for key, url, size in listing.urls():
            name = key.removeprefix(f"{folder}/")
            if walk.plan.wanted.takes(name):
                if allows(url):
                    walk.record.add(name, walk.start.with_credentials(url), size)
                else:
                    walk.record.leave_out(FORBIDDEN)
        if listing.next_url is not None:
            yield self._request(listing.next_url)

    async def _robots_of(self, response: Response) -> Callable[[str], bool]:
        """A function that says whether robots.txt allows a URL of the same host."""
        assert response.request is not None
        parser = await self._robots.robot_parser(response.request) if self._robots is not None else None
        agent = self._agent
        return (lambda url: True) if parser is None else (lambda url: bool(parser.allowed(url, agent)))

    # -- failures --------------------------------------------------------------------------------------------------

    async def failed(self, failure: Failure) -> AsyncIterator[Request]:
        """Errback: no page has come, or an error status."""
        request: Request = cast(Any, failure).request
        is_start = request.cb_kwargs["is_start"]
        error = _error_of(cast(BaseException, failure.value))
        if is_start and isinstance(failure.value, HttpError) and is_refusal(failure.value.response.body):
            # The URL may be a folder of a bucket, which is no object: ask for the listing.
            yield self._request(listing_below(request.url))
            return
        tries = request.cb_kwargs["tries"]
        options = self._run.options
        if error.kind is Kind.RETRY and tries < (
            min(START_TRIES, options.retry_times) if is_start else options.retry_times
        ):
            seconds = error.retry_after if isinstance(error, AttemptError) else None
            if seconds is None:
                seconds = min(options.retry_delay_max, options.retry_delay * 2**tries) * random.uniform(0.5, 1)
            logger.info("%s: %s; again in %.0f s", redact(request.url), error, seconds)
            await self._pause(min(seconds, options.retry_after_max))
            if not self._run.stopping:
                redirects = request.cb_kwargs["redirects"]
                again = self._request(request.url, is_start=is_start, tries=tries + 1, redirects=redirects)
                yield again.replace(dont_filter=True)
                return
        self._cannot_read(request.url, error)

    def _cannot_read(self, url: str, error: BulkError) -> None:
        walk = self.walk
        try:
            name = walk.start.name_of(url) or ""
        except UnicodeDecodeError:
            name = ""
        try:
            walk.record.could_not_read(url, name, error)
        except BulkError as failure:
            self._give_up(failure)

    def _give_up(self, error: BulkError) -> None:
        self.walk.error = error
        raise CloseSpider(f"bulk_{error.code}")

    async def _pause(self, seconds: float) -> None:
        """Waits for `seconds`, or until the run is stopped."""
        pause = Wakeup(self._run.clock)
        self._pauses.add(pause)
        await maybe_deferred_to_future(pause.wait(seconds))
        self._pauses.discard(pause)

    def _stop_waiting(self) -> None:
        self._run.fallback.cancel()
        for pause in list(self._pauses):
            pause.set()

    def _say_how_far(self) -> None:
        interval = self.settings.getfloat("LOGSTATS_INTERVAL")
        now = time.monotonic()
        if interval and now - self._told >= interval:
            self._told = now
            logger.info("%s", self.walk.so_far)


def _error_of(error: BaseException) -> BulkError:
    """Our error for one of Scrapy's downloader or of a middleware."""
    if isinstance(error, HttpError):
        response = error.response
        retry_after = response.headers.get("Retry-After") or b""
        seconds = parse_retry_after(retry_after.decode("latin-1"), time.time())
        status = response.status
        what = f"the server answered {status}"
        return AttemptError(what, code=f"http_{status}", http_status=status, retry_after=seconds)
    if isinstance(error, IgnoreRequest):
        return middleware_error(error, None)
    return _OF_SCRAPY.get(type(error).__name__) or map_error(error)
