"""What makes the start and the end of our commands shorter: together by more than a third.

Nothing depends on it: without this module and its calls in `startup.py` everything works as before. What each part
brings of the CPU time of a run of one small file is said beside it.
"""

from __future__ import annotations

import gc
import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from scrapy.exceptions import NotConfigured

from bulkspider.addon import BASE_MIDDLEWARES, SCRAPYS_COOKIES, mentions_cookies

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from typing_extensions import Self

# So many new objects begin a search for garbage: those of some hundred entries under way.
COLLECT_AFTER_OBJECTS = 20_000

# Components that import large libraries only to read in these settings that they are switched off.
SWITCHED = {
    "REMOTE_CONTROL_ENABLED": ("EXTENSIONS_BASE", "scrapy.extensions.remote_control.RemoteControl"),
    "TELNETCONSOLE_ENABLED": ("EXTENSIONS_BASE", "scrapy.extensions.telnet.TelnetConsole"),
    "COOKIES_ENABLED": (BASE_MIDDLEWARES, SCRAPYS_COOKIES),
}


def leave_out(settings: BaseSettings) -> None:
    """Called with the settings of the process and of the crawl before the crawl is made. Components that a setting
    switches off are not imported (a fifth); Scrapy's middleware for cookies waits for the first cookie (a tenth)."""
    for setting, (kind, path) in SWITCHED.items():
        if not settings.getbool(setting):
            settings[kind].pop(path, None)
    base: Any = settings[BASE_MIDDLEWARES]
    if SCRAPYS_COOKIES in base and not mentions_cookies(settings):
        base[f"{__name__}.{Cookies.__name__}"] = base.pop(SCRAPYS_COOKIES)


def pause_collections() -> None:
    """Nearly all that a start makes stays to the end, so it is not searched for garbage meanwhile (a tenth). Called
    first of all."""
    gc.disable()


def begin_collections() -> None:
    """Called when the crawl has begun. From now on garbage is searched for, but not among what the start has made, and
    seldom: nearly all that an entry makes is free without a search, when nothing refers to it any more (a seventh of
    the main thread's time of many small files)."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    gc.enable()


def import_handler() -> None:
    """Imports Scrapy's handler. To learn the name of one module, `create_deprecated_class` has the interpreter read the
    sources of all callers and look at all modules: here it gets that name at once (nearly a tenth)."""
    stack = inspect.stack
    inspect.stack = _callers
    try:
        import scrapy.core.downloader.handlers.http11  # noqa: F401
    finally:
        inspect.stack = stack


def _callers(context: int = 1) -> list[inspect.FrameInfo]:
    """In place of `inspect.stack`: the caller, and the module that called it, which `inspect.getmodule` knows by its
    name."""
    here = inspect.currentframe()
    caller = here and here.f_back
    module = caller and caller.f_back
    named = SimpleNamespace(__module__=module and module.f_globals["__name__"])
    return [inspect.FrameInfo(cast(Any, frame), "", 0, "", None, None) for frame in (caller, named)]


def leave_out_last_collection() -> None:
    """Else the interpreter would search all objects for garbage once more at its end (a quarter). Called after the
    crawl."""
    gc.freeze()


class Cookies:
    """Loads Scrapy's middleware for cookies only when there is a cookie.

    Its libraries take long to import, and it searches its cookies for every request. Hardly any server of large files
    sets a cookie. Until one does, or a request has one, the middleware has nothing to do; from then on it works as
    usual, but without a download of the suffix list (`components/cookies.py`). Not where the user has configured it.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._theirs: Any = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        if not crawler.settings.getbool("COOKIES_ENABLED"):
            raise NotConfigured
        return cls(crawler)

    def process_request(self, request: Request) -> Request | Response | None:
        if self._theirs is None and not request.cookies and "Cookie" not in request.headers:
            return None
        return cast("Request | Response | None", self._load().process_request(request))

    def process_response(self, request: Request, response: Response) -> Request | Response:
        if self._theirs is None and "Set-Cookie" not in response.headers:
            return response
        return cast("Request | Response", self._load().process_response(request, response))

    def _load(self) -> Any:
        if self._theirs is None:
            from bulkspider.components.cookies import BulkCookiesMiddleware

            self._theirs = BulkCookiesMiddleware.from_crawler(self._crawler)
        return self._theirs
