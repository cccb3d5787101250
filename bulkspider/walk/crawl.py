"""Runs a walk as the first crawl of a process, before the crawl of the files.

Scrapy's process ends when it has no crawl any more. So the next crawl is begun in the callback of the walk's end,
before the process checks that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure

from bulkspider.entries.entry import redact
from bulkspider.entries.redaction import unexpected
from bulkspider.errors import BulkError, ListError, Stopped
from bulkspider.walk.record import Record, Walked
from bulkspider.walk.spider import Walk, WalkSpider
from bulkspider.walk.start import Plan

if TYPE_CHECKING:
    from scrapy.crawler import Crawler, CrawlerProcessBase

logger = logging.getLogger(__name__)


def begin_walk(
    process: CrawlerProcessBase,
    plan: Plan,
    record: Record,
    *,
    whole: bool,
    then: Callable[[Walked], None],
    refused: Callable[[BulkError, int | None], None],
) -> Crawler:
    """Begins a walk; `process.start()` runs it. whole: every page must be read.

    When it has ended, `then` is called with its list; or `refused` with the error, and the number of the signal that
    ended it (or None).
    """
    walk = Walk(plan, record, plan.start)
    crawler = process.create_crawler(WalkSpider)

    def ended(result: Any) -> None:
        try:
            if isinstance(result, asyncio.Future):
                result.result()
            elif isinstance(result, Failure):
                result.raiseException()
            walked = _finish(walk, whole)
        except Exception as error:
            told = error if isinstance(error, BulkError) else BulkError(unexpected(error))
            refused(told, walk.signal)
        else:
            then(walked)
        finally:
            record.discard()

    # A Deferred or an asyncio Task, depending on the reactor.
    running: Any = process.crawl(crawler, walk=walk)
    if isinstance(running, asyncio.Future):
        running.add_done_callback(ended)
    else:
        running.addBoth(ended)
    return crawler


def _finish(walk: Walk, whole: bool) -> Walked:
    record = walk.record
    if walk.error is not None:
        raise walk.error
    if not walk.finished:
        raise Stopped()
    if record.unread and (whole or not record.files):
        raise record.failed()
    if not record.files:
        raise ListError(f"{redact(walk.start.url)}: no page below it links to a file that is wanted")
    logger.info("%s", walk.so_far)
    return record.finish()
