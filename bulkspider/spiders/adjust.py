"""What the spider changes in Scrapy's settings: only what a list needs. A value of the user is never changed."""

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
# Middlewares without work here: what they set is set in our Requests already, no callback yields Requests, and this
# spider has no allowed_domains. Each would take time for each small file.
IDLE_MIDDLEWARES: dict[str, list[type]] = {
    "SPIDER_MIDDLEWARES": [StartSpiderMiddleware, DepthMiddleware, *META_COPY_DETECTION],
    "DOWNLOADER_MIDDLEWARES": [OffsiteMiddleware],
}
# By import path, so that they are imported only where there is a feed.
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
        # Fairness between origins is decided by us: Scrapy gets only requests that may begin at once.
        settings.set("SCHEDULER_PRIORITY_QUEUE", "scrapy.pqueues.ScrapyPriorityQueue", "spider")


def set_components(settings: BaseSettings) -> None:
    """Sets the item pipeline, and the exporters of rows. Not in `update_settings`, after which Scrapy still merges the
    user's components."""
    settings.setdefault_in_component_priority_dict("ITEM_PIPELINES", BulkPipeline, 100)
    exporters: Any = settings["FEED_EXPORTERS"]
    for feed_format, exporter in EXPORTERS.items():
        if feed_format not in exporters:
            exporters.set(feed_format, exporter, "spider")


def leave_out_idle(settings: BaseSettings) -> None:
    """Switches the middlewares off that have no work. Not for subclasses, which may yield requests."""
    for setting, middlewares in IDLE_MIDDLEWARES.items():
        for middleware in middlewares:
            settings.setdefault_in_component_priority_dict(setting, middleware, None)


def introduce(settings: BaseSettings, contact: str | None) -> None:
    """Sets the User-Agent, with the user's contact if it was given. A User-Agent that the user chose is not changed."""
    if settings.getpriority("USER_AGENT") == 0:
        settings.set("USER_AGENT", user_agent(), "spider")
    if contact is None:
        return
    if settings["USER_AGENT"] != user_agent():
        logger.warning("contact=%s: not sent, because USER_AGENT is your own; write it there", contact)
        return
    settings.set("USER_AGENT", user_agent(contact), settings.getpriority("USER_AGENT") or "spider")


def has_pipelines(settings: BaseSettings) -> bool:
    """Whether other item pipelines than ours are configured."""
    pipelines = settings.getwithbase("ITEM_PIPELINES").items()
    return any(order is not None and load_object(each) is not BulkPipeline for each, order in pipelines)
