"""A shorter way for rows that nobody but Scrapy's own counter and feed exporter gets.

Scrapy makes a task for each item, sends it through its middlewares and pipelines, and then sends the signal
item_scraped. That takes longer than all else that is done for a small file. Where no pipeline, no middleware, no log
line and no receiver of another component can see the item, these two receivers are called directly, and the result is
the same: the same rows in the feed, the same `item_scraped_count`. In all other crawls, and while the crawl closes,
items pass through Scrapy as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydispatch.dispatcher import liveReceivers
from scrapy import signals
from scrapy.extensions.corestats import CoreStats
from scrapy.extensions.feedexport import FeedExporter

from bulkspider.items import BulkItem
from bulkspider.signals import connections_of
from bulkspider.wire import is_closing

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.settings import BaseSettings

Receiver = Callable[..., Any]

logger = logging.getLogger(__name__)

# Settings that replace what handles items, or what is logged of them.
REPLACEABLE = ("ITEM_PROCESSOR", "LOG_FORMATTER")
# Says "Scraped from …" of each item.
SCRAPYS_LOGGER = "scrapy.core.scraper"


def is_possible(settings: BaseSettings) -> bool:
    """As far as settings and log decide; the caller has checked that there is no other item pipeline."""
    if any(settings.getpriority(name) for name in REPLACEABLE):
        return False
    middlewares = settings.getwithbase("SPIDER_MIDDLEWARES").items()
    paths = (each if isinstance(each, str) else each.__module__ for each, order in middlewares if order is not None)
    return all(path.startswith(("scrapy.", "bulkspider.")) for path in paths) and not _is_logged()


def _is_logged() -> bool:
    """A handler writes Scrapy's DEBUG lines."""
    log: logging.Logger | None = logging.getLogger(SCRAPYS_LOGGER)
    if log is None or not log.isEnabledFor(logging.DEBUG):
        return False
    while log is not None:
        if any(handler.level <= logging.DEBUG for handler in log.handlers):
            return True
        log = log.parent if log.propagate else None
    return False


class Shortcut:
    """One per crawl of the spider. possible: the result of `is_possible`. ours: objects of ours whose methods receive
    item_scraped, and need not be told of these rows."""

    def __init__(self, crawler: Crawler, *, possible: bool = False, ours: Sequence[object] = ()) -> None:
        self._crawler = crawler
        self._possible = possible
        self._ours = ours
        self._connected: list[object] = []
        self._receivers: list[Receiver] | None = None

    @property
    def is_open(self) -> bool:
        """Rows may take it now. Receivers may connect at any time, so this is asked for each row."""
        if not self._possible or is_closing(self._crawler):
            return False
        connected = connections_of(signals.item_scraped, self._crawler.signals.sender)
        if connected != self._connected:
            self._connected, self._receivers = connected, self._known(connected)
        return self._receivers is not None

    def _known(self, connected: list[object]) -> list[Receiver] | None:
        """The receivers to call; None when one of them is neither Scrapy's nor ours."""
        known = []
        for receiver in liveReceivers(connected):
            owner = getattr(receiver, "__self__", None)
            if type(owner) in (CoreStats, FeedExporter):
                known.append(receiver)
            elif not any(owner is each for each in self._ours):
                return None
        return known

    def give(self, item: BulkItem) -> None:
        """Called while it is open, with a row that has been counted."""
        for receiver in self._receivers or ():
            try:
                receiver(item=item, spider=self._crawler.spider)
            except Exception:
                # As Scrapy does with the errors of its receivers.
                logger.exception("Error caught on signal handler: %s", receiver)
