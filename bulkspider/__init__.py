"""bulkspider: a Scrapy plugin that fetches thousands of huge files, and never leaves a wrong one.

The public names. They are loaded when they are used, so that importing the package installs no Twisted reactor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkspider.addon import Addon
    from bulkspider.api.fetch import FetchError, fetch, fetch_async
    from bulkspider.api.partition import partition
    from bulkspider.api.pooch import pooch
    from bulkspider.components.filespipeline import BulkFilesPipeline
    from bulkspider.components.handler import BulkDownloadHandler
    from bulkspider.components.pipeline import BulkPipeline
    from bulkspider.items import BulkItem, Result
    from bulkspider.spiders.bulk import BulkSpider

__version__ = "0.1.0"

_HOME = {
    "Addon": "bulkspider.addon",
    "BulkDownloadHandler": "bulkspider.components.handler",
    "BulkFilesPipeline": "bulkspider.components.filespipeline",
    "BulkItem": "bulkspider.items",
    "BulkPipeline": "bulkspider.components.pipeline",
    "BulkSpider": "bulkspider.spiders.bulk",
    "FetchError": "bulkspider.api.fetch",
    "Result": "bulkspider.items",
    "fetch": "bulkspider.api.fetch",
    "fetch_async": "bulkspider.api.fetch",
    "partition": "bulkspider.api.partition",
    "pooch": "bulkspider.api.pooch",
}

__all__ = [
    "Addon",
    "BulkDownloadHandler",
    "BulkFilesPipeline",
    "BulkItem",
    "BulkPipeline",
    "BulkSpider",
    "FetchError",
    "Result",
    "fetch",
    "fetch_async",
    "partition",
    "pooch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
