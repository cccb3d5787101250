"""Versions: what Scrapy calls differently from one release to another, under one name. Nobody else asks."""

from __future__ import annotations

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

__all__ = ["META_COPY_DETECTION", "FileException"]
