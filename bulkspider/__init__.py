"""bulkspider: a Scrapy plugin that fetches thousands of huge files, and never leaves a wrong one.

The public names. They are loaded when they are used, so that importing the package installs no Twisted reactor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bulkspider.addon import Addon
    from bulkspider.filespipeline import BulkFilesPipeline
    from bulkspider.handler import BulkDownloadHandler
    from bulkspider.items import BulkItem
    from bulkspider.pipelines import BulkPipeline
    from bulkspider.spiders.bulk import BulkSpider

__version__ = "0.1.0"

_HOME = {
    "Addon": "bulkspider.addon",
    "BulkDownloadHandler": "bulkspider.handler",
    "BulkFilesPipeline": "bulkspider.filespipeline",
    "BulkItem": "bulkspider.items",
    "BulkPipeline": "bulkspider.pipelines",
    "BulkSpider": "bulkspider.spiders.bulk",
}

__all__ = ["Addon", "BulkDownloadHandler", "BulkFilesPipeline", "BulkItem", "BulkPipeline", "BulkSpider"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
