"""The dry run: asks the origin of every entry that is not done, and tells the survey.

A spider of its own, because nothing of the other one applies: no part, no second attempt in an hour, no file. It takes
the entries from the same source, holds Scrapy's limits per host and in all, and goes through the same downloader and
middlewares. It writes nothing, and does not judge what it hears (`survey.py`).
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy import Request, Spider
from scrapy.settings import BaseSettings

from bulkspider.arguments import Preview
from bulkspider.bell import Bell, breathe
from bulkspider.delivery import middleware_error
from bulkspider.entry import Entry, origin_of, url_key, without_userinfo
from bulkspider.errors import AttemptError, BulkError, DiskError, UsageError
from bulkspider.folder import PRIVATE
from bulkspider.ledger import Ledger, Proof, proves
from bulkspider.options import human
from bulkspider.probe import from_meta
from bulkspider.run import Run
from bulkspider.sink import bytes_held
from bulkspider.spiders.bulk import STATUSES, BulkSpider
from bulkspider.sums import fetch_sums
from bulkspider.survey import Survey, understand

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from twisted.python.failure import Failure
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# An origin that has failed so often in a row, before any answer, is not asked for its other entries.
IN_VAIN_MAX = 3
SLICE_SECONDS = 0.02


class PreflightSpider(Spider):
    """`scrapy bulk LIST --dry-run`."""

    name = "bulk-dry-run"

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        BulkSpider.update_settings(settings)

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, seen: Preview, survey: Survey) -> Self:
        spider = super().from_crawler(crawler, *args)
        spider._take_over(seen, survey)
        return spider

    def _take_over(self, seen: Preview, survey: Survey) -> None:
        self.seen = seen
        self.survey = survey
        self._sums = seen.sums
        self._ledger = Ledger(Path(seen.root) / PRIVATE)
        self._flying: Counter[str] = Counter()
        self._in_vain: Counter[str] = Counter()
        self._why: dict[str, BulkError] = {}
        self._told = time.monotonic()
        self._bell = Bell()

    # ------------------------------------------------------------------------------------------------- the loop

    async def start(self) -> AsyncIterator[Any]:
        run = self.crawler.get_extension(Run)
        assert run is not None  # the command has installed the add-on
        run.take_charge()
        run.on_stop(self._bell.ring)
        try:
            self._ledger.load()
            if self.seen.sums_url is not None:
                self._sums = await fetch_sums(self.crawler, self.seen.sums_url)
        except (UsageError, DiskError) as error:
            # One is enough to stop a run; the rest is told as well.
            self.survey.obstacles = self.survey.obstacles or [str(error)]
        async for request in self._ask_all(run):
            yield request
        run.finished = not run.stopping
        self._ledger.close()
        self.seen.source.close()

    async def _ask_all(self, run: Run) -> AsyncIterator[Request]:
        settings = self.settings
        # Twice as many as are sent at once, so that the downloader never waits for us.
        in_all = 2 * (settings.getint("CONCURRENT_REQUESTS") or 1 << 20)
        per_origin = 2 * (settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN") or 1 << 20)
        source = self.seen.source
        slice_ends = time.monotonic() + SLICE_SECONDS
        while not run.stopping and not (source.exhausted and not self._flying):
            blocked = {origin for origin, flying in self._flying.items() if flying >= per_origin}
            entry = source.take(blocked) if self._flying.total() < in_all else None
            if entry is None:
                await self._bell.wait()
            elif (request := self._begin(entry)) is not None:
                yield request
            if time.monotonic() > slice_ends:
                self._say_how_far()
                await breathe()
                slice_ends = time.monotonic() + SLICE_SECONDS

    def _begin(self, entry: Entry) -> Request | None:
        """The probe of an entry, or None when nothing is to be asked."""
        if self._sums is not None:
            entry = self._sums.add_to(entry)
        self.survey.hashed += bool(entry.digests)
        if self._is_done(entry):
            return None
        origin = origin_of(entry.url)
        if self._in_vain[origin] >= IN_VAIN_MAX:
            self.survey.would_fail_too(entry, self._why[origin])
            return None
        self._flying[origin] += 1
        return Request(
            without_userinfo(entry.url),
            callback=self._answered,
            errback=self._failed,
            dont_filter=True,
            headers={"Accept": "*/*", "Accept-Encoding": "identity"},
            meta={
                "bulk": {"probe": entry.to_meta()},
                "dont_retry": True,
                "dont_cache": True,
                "allow_offsite": True,
                "referrer_policy": "no-referrer",
                "handle_httpstatus_list": STATUSES,
            },
        )

    def _is_done(self, entry: Entry) -> bool:
        line = self._ledger.find(entry.name)
        try:
            found = os.lstat(os.path.join(self.seen.root, entry.name))
        except OSError:
            return False
        if line is None:
            return False
        proof = proves(line, key=url_key(entry.url), stat=found, size=entry.size, digests=dict(entry.digests))
        if proof is not Proof.PROVEN:
            return False
        self.survey.is_done(line.size)
        return True

    # ------------------------------------------------------------------------------------------------- answers

    def _answered(self, response: Response) -> None:
        assert response.request is not None
        self._take_back(response.request, None)

    def _failed(self, failure: Failure) -> None:
        self._take_back(failure.request, failure.value)  # type: ignore[attr-defined]

    def _take_back(self, request: Request, error: BaseException | None) -> None:
        bulk = request.meta["bulk"]
        entry = Entry.from_meta(bulk["probe"])
        origin = origin_of(entry.url)
        self._flying[origin] -= 1
        if not self._flying[origin]:
            del self._flying[origin]
        if "answer" in bulk:
            self._in_vain[origin] = 0
            found = understand(entry, request.url, from_meta(bulk["answer"]))
            self.survey.has_answered(entry, found, *bytes_held(os.path.join(self.seen.root, entry.name)))
        elif bulk.get("error", {}).get("code") != "stopped":
            told = bulk.get("error")
            why = AttemptError(**told) if told is not None else middleware_error(error, None)
            self._in_vain[origin] += not why.permanent
            self._why[origin] = why
            self.survey.has_failed(entry, why)
        self._bell.ring()

    def _say_how_far(self) -> None:
        interval = self.settings.getfloat("LOGSTATS_INTERVAL")
        now = time.monotonic()
        if interval and now - self._told >= interval:
            self._told = now
            asked = self.seen.source.entries - self.seen.source.waiting
            logger.info("%d of %d asked, %s so far", asked, self.seen.source.entries, human(self.survey.to_fetch))
