"""Progress: shows a run to a person. It only reads the run.

BULK_PROGRESS and whether stderr is a terminal decide between a live display (`display.py` makes its lines,
`terminal.py` draws them) and one log line every LOGSTATS_INTERVAL. At the end there is a summary, and the page of
`-a report=`. The same numbers are in Scrapy's stats under `bulk/`.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, ClassVar

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.settings import SETTINGS_PRIORITIES
from scrapy.utils.asyncio import create_looping_call

from bulkspider.errors import BulkError, Stopped, WorkerError
from bulkspider.options import clock, human, plural
from bulkspider.reporting.snapshot import Sampler, View, Waiting
from bulkspider.reporting.summary import SummaryLine, Tally, failure_line, summary
from bulkspider.run.run import Run
from bulkspider.spiders.bulk import BulkSpider

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self

    from bulkspider.items import BulkItem
    from bulkspider.reporting.page.report import Report
    from bulkspider.reporting.terminal import Terminal

logger = logging.getLogger(__name__)

PICTURES_PER_SECOND = 4
# Failures that are shown one by one; further ones of the same second are only counted.
FAILURES_PER_SECOND = 5
# Hosts that are waited for and named in one line of a log.
NAMED_WAITS = 3
# Marks a log record that the live display shows as a line of its own.
SHOWN = "bulk_shown"


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
        # Not spider_closed: log lines of other components would come after the summary.
        crawler.signals.connect(progress._ended, signals.engine_stopped)
        return progress

    def _opened(self) -> None:
        run = self._crawler.get_extension(Run)
        assert run is not None
        self._run = run
        self._began = time.monotonic()
        self._watcher = Sampler(run, self._spider, self._began)
        run.outcomes.on_outcome(self._outcome)
        run.stopping.on_stop(self._stops)
        if self._spider.bulk_job.report is not None:
            from bulkspider.reporting.page.report import Report

            self._report = Report(self._spider.bulk_job.report, run, self._spider, self._tally)
            self._report.start()
        source = self._spider.bulk_job.source
        many = "as they come" if source.grows else plural(source.entries, "entry", "entries")
        logger.info("%s: %s", source.title, many)
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
        if item.status == "failed":
            self._log(logging.ERROR, failure_line(item))
            if self._terminal is not None:
                self._say_failed(item)

    def _stops(self, reason: BulkError) -> None:
        """The user, a signal or a limit of Scrapy ends the run before its end; other reasons are told where they
        arise."""
        run = self._run
        if isinstance(run.stopping.reason, Stopped):
            by = f" ({signal.Signals(run.stopping.signal).name})" if run.stopping.signal is not None else ""
            logger.error("Stopping%s: transfers end now, every byte is kept", by)

    def _log(self, level: int, text: str) -> None:
        """Logs what a live display shows as well, in its own form."""
        logger.log(level, "%s", text, extra={SHOWN: True})

    # ---------------------------------------------------------------------------------------------- the terminal

    def _use_terminal(self) -> None:
        # Rich takes a tenth of a second to load: only where it is used.
        from bulkspider.reporting.terminal import Terminal

        Progress._terminal_taken = True
        self._terminal = Terminal(sys.stderr, color=self._run.options.color)
        asked_for = (self._crawler.settings.getpriority("LOG_LEVEL") or 0) >= SETTINGS_PRIORITIES["cmdline"]

        def passes(record: logging.LogRecord) -> bool:
            # What the display shows is not shown twice; a log file has all of it.
            if getattr(record, SHOWN, False):
                return False
            return record.levelno >= logging.WARNING or (asked_for and record.name != __name__)

        try:
            self._terminal.start(passes)
        except WorkerError as error:
            logger.warning("There is no live display (%s); the run goes on without it", error)
            self._terminal, Progress._terminal_taken = None, False
            return
        self._picture.start(1 / PICTURES_PER_SECOND)

    def _draw(self) -> None:
        from bulkspider.reporting.display import lines

        assert self._terminal is not None
        view = self._watcher.look(time.monotonic())
        self._terminal.show(functools.partial(lines, view, unicode=self._terminal.unicode))

    def _say_failed(self, item: BulkItem) -> None:
        from bulkspider.reporting.display import failed

        assert self._terminal is not None
        now = time.monotonic()
        since, said = self._failed_at
        if now - since >= 1.0:
            since, said = now, 0
            self._say_unsaid()
        if said < FAILURES_PER_SECOND:
            self._terminal.say(failed(item))
        else:
            self._unsaid += 1
        self._failed_at = since, said + 1

    def _say_unsaid(self) -> None:
        from bulkspider.reporting.display import summary_line

        if self._unsaid and self._terminal is not None:
            self._terminal.say(summary_line(SummaryLine("bad", f"failed … and {self._unsaid:,} more")))
            self._unsaid = 0

    # ---------------------------------------------------------------------------------------------- the log

    def _log_line(self) -> None:
        logger.info("%s", log_line(self._watcher.look(time.monotonic()), time.time()))

    # ---------------------------------------------------------------------------------------------- the end

    def _ended(self) -> None:
        for loop in (self._line, self._picture):
            if loop.running:
                loop.stop()
        report = self._report.end() if self._report is not None else None
        source = self._spider.bulk_job.source
        told = summary(
            self._run,
            self._tally,
            seconds=time.monotonic() - self._began,
            verifying=self._spider.bulk_job.verifying,
            report=report,
            ignored=source.ignored,
        )
        # In a log the summary comes first; on a terminal it comes last.
        level = logging.INFO if self._run.outcomes.exit_status == 0 else logging.WARNING
        for line in told:
            # A terminal shows warnings of the log, and the summary has this line as well.
            warns = line.kind == "warning" and self._terminal is None
            self._log(max(level, logging.WARNING) if warns else level, line.text)
        for warning in source.warnings:
            if warning != str(source.ignored):
                logger.warning("%s", warning)
        if self._terminal is not None:
            from bulkspider.reporting.display import summary_line

            self._say_unsaid()
            self._terminal.close([summary_line(line) for line in told])
            Progress._terminal_taken = False


def log_line(view: View, wall: float) -> str:
    """How far the run is, as one line. wall: seconds of the epoch; a log is read later, so it has times of the day."""
    total = ""
    if view.bytes_total is not None:
        total = f" of {'about ' if view.estimated else ''}{human(view.bytes_total)}"
    left = f", {clock(view.seconds_left)} left" if view.seconds_left is not None and view.left else ""
    told = (
        f"{view.done + view.failed} of {view.entries} done ({view.failed} failed), {len(view.running)} running, "
        f"{human(view.bytes_done)}{total} on disk, {human(view.received)} fetched, {human(view.speed)}/s{left}"
    )
    waits = sorted(view.waiting, key=lambda wait: -wait.files)
    if waits:
        named = [_wait(wait, wall) for wait in waits[:NAMED_WAITS]]
        if len(waits) > NAMED_WAITS:
            named.append(f"and {plural(len(waits) - NAMED_WAITS, 'more host', 'more hosts')}")
        told += f"; waiting for {', '.join(named)}"
    return told


def _wait(wait: Waiting, wall: float) -> str:
    when = "now asked whether it works again"
    if wait.seconds:
        # With the date where the time alone would mislead.
        form = "%H:%M:%S" if wait.seconds < 12 * 3600 else "%Y-%m-%d %H:%M:%S"
        when = f"until {time.strftime(form, time.localtime(wall + wait.seconds))}"
    why = f"; {wait.why}" if wait.why else ""
    return f"{wait.origin} {when} ({plural(wait.files, 'file', 'files')}{why})"


def _is_kept() -> bool:
    """True when stderr looks like a terminal but its text is kept and read later: the log of a CI job, or the cell of a
    notebook (`!scrapy bulk …`; Jupyter sets the variable for its kernels, not for its terminals)."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false") or "JPY_PARENT_PID" in os.environ


def how(asked: str, *, feeds_terminal: bool) -> str:
    """bar, log or off: BULK_PROGRESS, `auto` decided by whether a person is looking.

    feeds_terminal: items are written to the terminal too, where a display would stand in their way.
    """
    if sys.stderr is None or asked not in ("auto", "bar"):
        return "off" if asked == "off" else "log"
    looking = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not _is_kept()
    return "bar" if asked == "bar" or (looking and not feeds_terminal) else "log"
