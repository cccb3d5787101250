"""Differences between Scrapy releases, and the state of Scrapy's engine where it has no public name.

Names that have moved, under one name; whether the engine has anything to do, and whether it is closing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scrapy import version_info

try:
    from scrapy.pipelines.media import FileException
except ImportError:  # Scrapy < 2.19
    from scrapy.pipelines.files import FileException  # type: ignore[no-redef]

META_COPY_DETECTION: list[type] = []
try:
    from scrapy.spidermiddlewares.metacopy import MetaCopyDetectionMiddleware

    META_COPY_DETECTION.append(MetaCopyDetectionMiddleware)
except ImportError:  # Scrapy < 2.18
    pass

# CONCURRENT_REQUESTS=0 means no limit; in earlier releases no request could begin.
ZERO_IS_NO_LIMIT = version_info[:2] >= (2, 18)

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

__all__ = [
    "META_COPY_DETECTION",
    "ZERO_IS_NO_LIMIT",
    "FileException",
    "end_scraping",
    "has_items",
    "is_closing",
    "is_idle",
    "judged_by",
]


def is_idle(crawler: Crawler) -> bool:
    """True when Scrapy has no request: none scheduled, none under way, none in a callback or pipeline.

    Private name: ExecutionEngine._slot, for its scheduler (Scrapy < 2.19 has no other way to it).
    """
    engine = crawler.engine
    slot = getattr(engine, "_slot", None)
    if slot is None or engine.downloader.active or slot.scheduler.has_pending_requests():
        return False
    return engine.scraper.slot is not None and engine.scraper.slot.is_idle()


def is_closing(crawler: Crawler) -> bool:
    """True as soon as the end of the crawl has been requested, long before Scrapy's signals.

    Private name: ExecutionEngine._slot. Ctrl-C sets `crawler.crawling` at once, other closes only `_slot.closing`.
    `engine.running` is of no use: it is also False while a receiver of the signal engine_started has not ended.
    """
    slot = getattr(crawler.engine, "_slot", None)
    return not crawler.crawling or (slot is not None and slot.closing is not None)


def has_items(crawler: Crawler) -> bool:
    """Items are in the pipelines. `start()` should not end before they are through: Scrapy checks whether the crawl is
    over when `start()` ends, and else only after a response or every five seconds."""
    scraper = crawler.engine.scraper if crawler.engine is not None else None
    return scraper is not None and scraper.slot is not None and scraper.slot.itemproc_size > 0


def end_scraping(crawler: Crawler) -> None:
    """Lets Scrapy's scraper end. While it closes it waits for the items from `start()`, but looks again only after a
    response: an item that stays in a pipeline longer than the last response would keep it waiting for ever. To be
    called repeatedly while the crawl closes."""
    scraper = crawler.engine.scraper if crawler.engine is not None else None
    slot = scraper.slot if scraper is not None else None
    if slot is not None and slot.closing is not None and not slot.closing.called and slot.is_idle():
        assert crawler.spider is not None
        slot.closing.callback(crawler.spider)


@contextmanager
def judged_by(suffixes: Any) -> Iterator[None]:
    """Within this context Scrapy's middleware for cookies asks `suffixes` which domains are public. The code inside
    runs in the reactor's thread and awaits nothing, so no other caller is affected. Private name: `_split_domain` of
    Scrapy's module; where it is gone, the middleware is not changed."""
    from scrapy.downloadermiddlewares import cookies

    module: Any = cookies
    theirs = getattr(module, "_split_domain", None)
    if theirs is None:
        yield
        return
    module._split_domain = suffixes
    try:
        yield
    finally:
        module._split_domain = theirs
