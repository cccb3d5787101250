"""Cookies, from the first one on.

Scrapy's middleware for cookies comes with libraries that take a tenth of the time to the first request, and looks
through its jars for every request. Hardly any server of large files sets a cookie. Until one does, or a request brings
its own, there is nothing that it could do; from then on it does everything, as ever, but asks nobody for
the list of suffixes (`components/cookies.py`). `startup.py` puts this one in its place, unless the user has said
anything about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from scrapy.exceptions import NotConfigured

from bulkspider.addon import BASE_MIDDLEWARES, SCRAPYS_COOKIES, mentions_cookies

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from typing_extensions import Self


class Cookies:
    """See the module."""

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
            # In our commands every request is ours, also for robots.txt or a checksum file.
            self._theirs.all_ours = True
        return self._theirs


def wait_for_the_first_cookie(settings: BaseSettings) -> None:
    """Puts ours in the place of Scrapy's, where that stands as Scrapy has put it."""
    base: Any = settings[BASE_MIDDLEWARES]
    if SCRAPYS_COOKIES in base and not mentions_cookies(settings):
        base[f"{__name__}.{Cookies.__name__}"] = base.pop(SCRAPYS_COOKIES)
