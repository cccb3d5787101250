"""Loads Scrapy's middleware for cookies only when there is a cookie.

The libraries of Scrapy's middleware for cookies take a tenth of the time to the first request, and it searches its
cookies for every request. Hardly any server of large files sets a cookie. Until one does, or a request has one, the
middleware has nothing to do; from then on it works as usual, but without a download of the suffix list
(`components/cookies.py`). `startup.py` puts this class in its place, unless the user has configured it.
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
    """Puts ours in the place of Scrapy's, if the user has not moved or replaced that."""
    base: Any = settings[BASE_MIDDLEWARES]
    if SCRAPYS_COOKIES in base and not mentions_cookies(settings):
        base[f"{__name__}.{Cookies.__name__}"] = base.pop(SCRAPYS_COOKIES)
