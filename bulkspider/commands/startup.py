"""How our commands run the spider: check first, crawl, and end with the exit status of docs/command.md.

The list, the settings and the output folder are checked before the reactor starts, so that a mistake ends with one
clear sentence instead of a traceback. Where the list is made by a walk, that is a first crawl in the same process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct
from scrapy import signals
from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings

from bulkspider.codes import Kind
from bulkspider.commands import brief
from bulkspider.commands.process import leave_closed_stderr, obey_signals, raise_descriptors, told_to_a_reader
from bulkspider.disk.folder.untouched import UntouchedFolder
from bulkspider.entries.entry import redact
from bulkspider.entries.redaction import be_brief, unexpected
from bulkspider.errors import BulkError
from bulkspider.lists.checking.copy import shown
from bulkspider.lists.listsource import ListSource
from bulkspider.pumps.descriptors import transfers_at_once
from bulkspider.run.run import Run
from bulkspider.spiders.adjust import introduce
from bulkspider.spiders.arguments.prepare import LockedOutput, Prepared, UntouchedOutput, prepare
from bulkspider.spiders.arguments.reading import Given
from bulkspider.text import visible, visible_lines

if TYPE_CHECKING:
    from scrapy.crawler import Crawler, CrawlerProcessBase

    from bulkspider.commands.survey import Survey
    from bulkspider.walk.record import Walked

# Loggers of Scrapy with INFO lines about itself. They are hidden unless the user asks for a LOG_LEVEL.
HOUSEKEEPING = ("scrapy.addons", "scrapy.core.engine", "scrapy.crawler", "scrapy.middleware", "scrapy.utils.log")
# Loggers with a DEBUG record for every request and item.
CHATTY = ("scrapy.core.engine", "scrapy.core.scraper")


def run_bulk(process: CrawlerProcessBase, crawler: Crawler, arguments: dict[str, str], given: Given = Given()) -> int:
    """Runs the spider `bulk` with these spider arguments; returns the exit status."""
    settings = crawler.settings
    if arguments.get("status", "0") != "0":
        return run_status(settings, arguments, given)
    claim: LockedOutput | None = None
    prepared: Prepared | None = None
    try:
        if "queue" in arguments or "job" in arguments:
            prepared = prepare(arguments, cast(Any, settings), given)
        else:
            claim = LockedOutput(arguments, cast(Any, settings), given)
            if claim.plan is None:
                prepared = claim.prepare()
    except Exception as error:
        return _refused(error, settings)
    if prepared is not None:
        return run_prepared(process, crawler, arguments, prepared)
    assert claim is not None
    _make_ready(process, crawler)
    refusal = _walk(
        process, arguments, claim, lambda walked: _crawl(process, crawler, arguments, claim.prepare(walked))
    )
    return _finish(process, crawler, refusal)


def run_prepared(process: CrawlerProcessBase, crawler: Crawler, arguments: dict[str, str], prepared: Prepared) -> int:
    """The same, with arguments that were checked already."""
    _make_ready(process, crawler)
    refusal = _begin(crawler)
    _crawl(process, crawler, arguments, prepared)
    return _finish(process, crawler, refusal)


def _crawl(process: CrawlerProcessBase, crawler: Crawler, arguments: dict[str, str], prepared: Prepared) -> None:
    known: dict[str, Any] = {**arguments, "prepared": prepared}
    process.crawl(crawler, **known)


def _finish(process: CrawlerProcessBase, crawler: Crawler, refusal: _Refusal) -> int:
    """Runs the crawl to its end; returns the exit status."""
    process.start()
    leave_closed_stderr()
    brief.leave_out_last_collection()
    if refusal.status is not None:
        return refusal.status
    if process.bootstrap_failed:
        return 1  # the crawl was not made, so there are no extensions
    run = crawler.get_extension(Run)
    return run.outcomes.exit_status if run is not None else 1


class _Refusal(Struct):
    """The reason why the crawl of the files was not begun. status: the exit status, None without a reason."""

    status: int | None = None


def _begin(crawler: Crawler) -> _Refusal:
    """Called before the first crawl of the process begins."""
    for subscriber in (obey_signals, brief.begin_collections):
        crawler.signals.connect(subscriber, signals.engine_started, weak=False)
    return _Refusal()


def _walk(
    process: CrawlerProcessBase,
    arguments: dict[str, str],
    claim: LockedOutput | UntouchedOutput,
    then: Callable[[Walked], object],
) -> _Refusal:
    """Begins a walk; `then` is called with its result."""
    from bulkspider.walk.crawl import begin_walk

    assert claim.plan is not None
    settings = process.settings
    introduce(settings, arguments.get("contact"))

    def follow(walked: Walked) -> None:
        try:
            then(walked)
        except Exception as error:
            refusal.status = _refused(error, settings)

    def refuse(error: BulkError, signal: int | None) -> None:
        claim.give_up()
        status = _refused(error, settings)
        if error.kind in (Kind.RETRY, Kind.FINAL, Kind.STOP):
            status = Kind.FINAL.exit_status  # it may succeed another time
        refusal.status = status if signal is None else 128 + signal

    walker = begin_walk(process, claim.plan, claim.record(), whole=claim.whole, then=follow, refused=refuse)
    refusal = _begin(walker)
    return refusal


def _make_ready(process: CrawlerProcessBase, crawler: Crawler) -> None:
    """Called before the first crawl of the process is made."""
    raise_descriptors()
    if crawler.settings.get("LOG_LEVEL") != "DEBUG":
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.INFO)
    brief.import_handler()
    # The process will copy its settings to the crawler once more.
    for settings in (process.settings, crawler.settings):
        brief.leave_out(settings)


def run_dry(process: CrawlerProcessBase, settings: BaseSettings, arguments: dict[str, str], given: Given) -> int:
    """Asks for every entry and prints what a run would meet; returns the exit status that it would have."""
    from bulkspider.commands.dryrun import DryRunSpider

    try:
        trial = UntouchedOutput(arguments, cast(Any, settings), given)
        seen = trial.prepare() if trial.plan is None else None
    except Exception as error:
        return _refused(error, settings)
    raise_descriptors()
    settings.set("CONCURRENT_REQUESTS", transfers_at_once(settings.getint("CONCURRENT_REQUESTS")), "cmdline")
    # A project's feeds and job folder: a dry run writes nothing.
    for name, nothing in (("FEEDS", {}), ("JOBDIR", None)):
        settings.set(name, nothing, "cmdline")
    crawler = process.create_crawler(DryRunSpider)
    surveys: list[Survey] = []

    def crawl(seen: Prepared) -> None:
        surveys.append(_survey(seen, numbered=not given.urls))
        process.crawl(crawler, prepared=seen, survey=surveys[0], contact=arguments.get("contact"))

    _make_ready(process, crawler)
    if seen is None:
        refusal = _walk(process, arguments, trial, lambda walked: crawl(trial.prepare(walked)))
    else:
        refusal = _begin(crawler)
        crawl(seen)
    process.start()
    leave_closed_stderr()
    if refusal.status is not None:
        return refusal.status
    run = crawler.get_extension(Run)
    if process.bootstrap_failed or run is None:
        return 1
    with told_to_a_reader():
        for line in surveys[0].lines():
            print(visible(line))
    if run.stopping.signal is not None and not run.outcomes.finished:
        return 128 + run.stopping.signal
    return surveys[0].exit_status


def _survey(seen: Prepared, *, numbered: bool) -> Survey:
    """The survey with what is known before the first request."""
    from bulkspider.commands.survey import Survey

    folder = seen.folder
    assert isinstance(folder, UntouchedFolder)
    where, root = shown(seen.list_path), str(folder.root)
    survey = Survey(where, root, seen.source.entries, numbered=numbered, free=folder.free)
    survey.ignored = seen.source.ignored
    if seen.source.introduction:
        survey.notes.append(seen.source.introduction)
    survey.notes += [note for note in seen.source.warnings if note != str(seen.source.ignored)]
    if folder.obstacle is not None:
        survey.obstacles.append(folder.obstacle)
    for bad in seen.source.bad:
        survey.has_bad_line(bad.line, BulkError(str(bad.problem), code="bad_line"))
    if seen.walked is not None:
        survey.notes += seen.walked.warnings
        for page in seen.walked.unread:
            survey.has_bad_line(0, page.error)
    return survey


def run_status(settings: BaseSettings, arguments: dict[str, str], given: Given, *, as_json: bool = False) -> int:
    """Prints the status of the list, also while a run works there; returns the exit status that a run would have."""
    from bulkspider.status.look import look

    try:
        seen = UntouchedOutput(arguments, cast(Any, settings), given).prepare()
        assert isinstance(seen.source, ListSource)
        status = look(seen.source, str(seen.folder.root))
        seen.source.close()
    except Exception as error:
        return _refused(error, settings)
    with told_to_a_reader():
        for line in [status.to_json()] if as_json else map(visible, status.lines()):
            print(line)
    return status.exit_status


def _refused(error: Exception, settings: BaseSettings) -> int:
    """Reports an error before the start; returns the exit status."""
    if not isinstance(error, BulkError) and settings.get("LOG_LEVEL") == "DEBUG":
        raise error
    told = redact(str(error) if isinstance(error, BulkError) else unexpected(error))
    print(f"bulkspider: {visible_lines(told)}", file=sys.stderr)
    return 1


def calm(settings: BaseSettings) -> None:
    """Hides tracebacks, unless the user asked for DEBUG, and Scrapy's lines about itself, unless the user asked for a
    log level. Called before Scrapy logs anything."""
    if settings.get("LOG_LEVEL") != "DEBUG":
        be_brief()
    if (settings.getpriority("LOG_LEVEL") or 0) < SETTINGS_PRIORITIES["cmdline"]:
        for name in HOUSEKEEPING:
            # A filter, because Scrapy resets the levels of its loggers when it configures logging.
            logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.WARNING)
