"""Progress: what a person sees of a run. Only reads the run; never changes it.

It chooses once, by BULK_PROGRESS and by whether stderr is a terminal, how that is told: a live display
(`display.py` on a `terminal.py`) or one line every LOGSTATS_INTERVAL. At the end a summary, and the page of
`-a report=`. The same numbers are in Scrapy's stats under `bulk/`.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, ClassVar

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.settings import SETTINGS_PRIORITIES
from scrapy.utils.asyncio import create_looping_call

from bulkspider.options import human, plural
from bulkspider.run import Run
from bulkspider.spiders.bulk import BulkSpider
from bulkspider.summary import Tally, Told, clock, summary
from bulkspider.view import Watcher

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self

    from bulkspider.items import BulkItem
    from bulkspider.report import Report
    from bulkspider.terminal import Terminal

logger = logging.getLogger(__name__)

# Pictures per second; fast enough to look alive.
RATE = 4
# Failures told one by one within a second; the rest of a burst is counted.
BURST = 5


class Progress:
    """Reports on the spider `bulk`; silent for others."""

    # Two crawls of one process cannot share the bottom of a terminal.
    _terminal_taken: ClassVar[bool] = False

    def __init__(self, crawler: Crawler, spider: BulkSpider) -> None:
        self._crawler = crawler
        self._spider = spider
        self._tally = Tally()
        self._terminal: Terminal | None = None
        self._report: Report | None = None
        self._line = create_looping_call(self._log_line)
        self._picture = create_looping_call(self._draw)
        self._failed_at = (0.0, 0)
        self._unsaid = 0

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        spider = crawler.spider
        if not isinstance(spider, BulkSpider):
            raise NotConfigured
        progress = cls(crawler, spider)
        crawler.signals.connect(progress._opened, signals.spider_opened)
        # Not spider_closed: what others log then would come after the summary.
        crawler.signals.connect(progress._ended, signals.engine_stopped)
        return progress

    def _opened(self) -> None:
        run = self._crawler.get_extension(Run)
        assert run is not None
        self._run = run
        self._began = time.monotonic()
        self._watcher = Watcher(run, self._spider, self._began)
        run.on_outcome(self._outcome)
        if self._spider.report is not None:
            from bulkspider.report import Report

            self._report = Report(self._spider.report, run, self._spider)
            self._report.start()
        logger.info("%s: %s", self._spider.source.title, plural(self._spider.source.entries, "entry", "entries"))
        mode = how(run.options.progress, feeds_terminal=self._feeds_terminal)
        if mode == "bar" and not Progress._terminal_taken:
            self._use_terminal()
        interval = self._crawler.settings.getfloat("LOGSTATS_INTERVAL")
        if interval and mode != "off":
            self._line.start(interval, now=False)

    @property
    def _feeds_terminal(self) -> bool:
        to_stdout = any(str(uri).startswith(("stdout:", "-")) for uri in self._crawler.settings.getdict("FEEDS"))
        return to_stdout and sys.stdout is not None and sys.stdout.isatty()

    def _outcome(self, item: BulkItem) -> None:
        self._tally.take(item)
        if self._report is not None:
            self._report.take(item)
        if self._terminal is not None and item.status == "failed":
            self._say_failed(item)

    # ---------------------------------------------------------------------------------------------- the terminal

    def _use_terminal(self) -> None:
        # Rich takes a tenth of a second to load: only who looks at it waits for it.
        from bulkspider.terminal import Terminal

        Progress._terminal_taken = True
        self._terminal = Terminal(sys.stderr)
        asked_for = (self._crawler.settings.getpriority("LOG_LEVEL") or 0) >= SETTINGS_PRIORITIES["cmdline"]

        def passes(record: logging.LogRecord) -> bool:
            # What the lines show is not told twice; the log in a file has all of it.
            return record.levelno >= logging.WARNING or (asked_for and record.name != __name__)

        self._terminal.start(passes)
        self._picture.start(1 / RATE)

    def _draw(self) -> None:
        from bulkspider.display import lines

        assert self._terminal is not None
        view = self._watcher.look(time.monotonic())
        self._terminal.show(functools.partial(lines, view, unicode=self._terminal.unicode))

    def _say_failed(self, item: BulkItem) -> None:
        from bulkspider.display import failed

        assert self._terminal is not None
        now = time.monotonic()
        since, said = self._failed_at
        if now - since >= 1.0:
            since, said = now, 0
            self._say_rest()
        if said < BURST:
            self._terminal.say(failed(item))
        else:
            self._unsaid += 1
        self._failed_at = since, said + 1

    def _say_rest(self) -> None:
        from bulkspider.display import summary_line

        if self._unsaid and self._terminal is not None:
            self._terminal.say(summary_line(Told("bad", f"failed … and {self._unsaid:,} more")))
            self._unsaid = 0

    # ---------------------------------------------------------------------------------------------- the log

    def _log_line(self) -> None:
        view = self._watcher.look(time.monotonic())
        total = ""
        if view.bytes_total is not None:
            total = f" of {'about ' if view.estimated else ''}{human(view.bytes_total)}"
        left = f", {clock(view.seconds_left)} left" if view.seconds_left is not None and view.left else ""
        logger.info(
            "%d of %d done (%d failed), %d running, %s%s on disk, %s fetched, %s/s%s",
            view.done + view.failed,
            view.entries,
            view.failed,
            len(view.running),
            human(view.bytes_done),
            total,
            human(view.received),
            human(view.speed),
            left,
        )

    # ---------------------------------------------------------------------------------------------- the end

    def _ended(self) -> None:
        for loop in (self._line, self._picture):
            if loop.running:
                loop.stop()
        report = self._report.end() if self._report is not None else None
        told = summary(
            self._run,
            self._tally,
            seconds=time.monotonic() - self._began,
            verifying=self._spider.verifying,
            report=report,
        )
        # In the order that a log needs; a terminal has them all the other way round, the summary last.
        for line in told:
            logger.info("%s", line.text)
        for warning in self._spider.source.warnings:
            logger.warning("%s", warning)
        if self._terminal is not None:
            from bulkspider.display import summary_line

            self._say_rest()
            self._terminal.close([summary_line(line) for line in told])
            Progress._terminal_taken = False


def how(asked: str, *, feeds_terminal: bool) -> str:
    """bar, log or off: BULK_PROGRESS, `auto` decided by whether a person is looking.

    feeds_terminal: items are written to the terminal too, where a display would stand in their way.
    """
    if sys.stderr is None or asked not in ("auto", "bar"):
        return "off" if asked == "off" else "log"
    looking = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return "bar" if asked == "bar" or (looking and not feeds_terminal) else "log"
