"""What the spider changes in Scrapy's settings: as little as a list needs. A user's own value always stands."""

from __future__ import annotations

import logging
from typing import Any

from scrapy.downloadermiddlewares.offsite import OffsiteMiddleware
from scrapy.settings import BaseSettings
from scrapy.spidermiddlewares.depth import DepthMiddleware
from scrapy.spidermiddlewares.start import StartSpiderMiddleware
from scrapy.utils.misc import load_object

from bulkspider.components.pipeline import BulkPipeline
from bulkspider.hosts.identity import user_agent
from bulkspider.wire.compat import META_COPY_DETECTION

logger = logging.getLogger(__name__)

VALUES = {
    # Presigned URLs are longer than 2,083 bytes, and would vanish with one INFO line.
    "URLLENGTH_LIMIT": 0,
    # Scrapy starts this many tasks for every response, and ours gives one item.
    "CONCURRENT_ITEMS": 1,
}
# These have nothing to do: what they set is set in our one kind of Request, no callback yields another, and this spider
# has no allowed_domains. Each costs a tiny file several steps.
IDLE_MIDDLEWARES: dict[str, list[type]] = {
    "SPIDER_MIDDLEWARES": [StartSpiderMiddleware, DepthMiddleware, *META_COPY_DETECTION],
    "DOWNLOADER_MIDDLEWARES": [OffsiteMiddleware],
}
# By path: they are imported where there is a feed.
EXPORTERS = {
    "csv": "bulkspider.components.exporters.CsvRows",
    "json": "bulkspider.components.exporters.JsonRows",
    **dict.fromkeys(("jsonlines", "jsonl", "jl"), "bulkspider.components.exporters.JsonLinesRows"),
}


def set_values(settings: BaseSettings) -> None:
    """Plain values, before the add-ons and components see them."""
    for key, value in VALUES.items():
        if settings.getpriority(key) == 0:
            settings.set(key, value, "spider")
    if settings.getpriority("SCHEDULER_PRIORITY_QUEUE") == 0 and not settings["JOBDIR"]:
        # Fairness between origins is our own, and gives Scrapy no more than it may begin at once.
        settings.set("SCHEDULER_PRIORITY_QUEUE", "scrapy.pqueues.ScrapyPriorityQueue", "spider")


def set_components(settings: BaseSettings) -> None:
    """The item pipeline, and the exporters of rows. Not in `update_settings`: Scrapy merges the user's own components
    over those once more."""
    settings.setdefault_in_component_priority_dict("ITEM_PIPELINES", BulkPipeline, 100)
    exporters: Any = settings["FEED_EXPORTERS"]
    for feed_format, exporter in EXPORTERS.items():
        if feed_format not in exporters:
            exporters.set(feed_format, exporter, "spider")


def leave_out_idle(settings: BaseSettings) -> None:
    """Switches the idle middlewares off, where nobody but us yields requests."""
    for setting, middlewares in IDLE_MIDDLEWARES.items():
        for middleware in middlewares:
            settings.setdefault_in_component_priority_dict(setting, middleware, None)


def introduce(settings: BaseSettings, contact: str | None) -> None:
    """Says to hosts who we are, and how to reach the user. A User-Agent that somebody chose stands as it is."""
    if settings.getpriority("USER_AGENT") == 0:
        settings.set("USER_AGENT", user_agent(), "spider")
    if contact is None:
        return
    if settings["USER_AGENT"] != user_agent():
        logger.warning("contact=%s: not sent, because USER_AGENT is your own; write it there", contact)
        return
    settings.set("USER_AGENT", user_agent(contact), settings.getpriority("USER_AGENT") or "spider")


def has_pipelines(settings: BaseSettings) -> bool:
    """Whether other item pipelines than ours are to see the items."""
    pipelines = settings.getwithbase("ITEM_PIPELINES").items()
    return any(order is not None and load_object(each) is not BulkPipeline for each, order in pipelines)
