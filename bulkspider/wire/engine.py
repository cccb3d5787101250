"""Scrapy's engine, asked for what it tells nobody: whether it has anything to do, and whether it is about to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scrapy.crawler import Crawler


def is_idle(crawler: Crawler) -> bool:
    """True when Scrapy has no request in hand: none scheduled, under way, or with a callback or pipeline.

    Private name: ExecutionEngine._slot, for its scheduler (Scrapy < 2.19 has no other way to it).
    """
    engine = crawler.engine
    slot = getattr(engine, "_slot", None)
    if slot is None or engine.downloader.active or slot.scheduler.has_pending_requests():
        return False
    return engine.scraper.slot is not None and engine.scraper.slot.is_idle()


def is_closing(crawler: Crawler) -> bool:
    """True from the moment on at which the crawl is to end, long before Scrapy's signals say so.

    Private name: ExecutionEngine._slot. Ctrl-C flips `crawler.crawling` at once, other closes only `_slot.closing`.
    `engine.running` says nothing: it is False, too, while somebody takes his time over the signal engine_started.
    """
    slot = getattr(crawler.engine, "_slot", None)
    return not crawler.crawling or (slot is not None and slot.closing is not None)
