"""How our commands run the spider: check first, crawl, and end with the exit status that DESIGN promises.

The list, the settings and the output folder are checked before the reactor starts, so that a mistake ends with one
clear sentence instead of a traceback.
"""

from __future__ import annotations

import gc
import logging
import sys
from typing import TYPE_CHECKING, Any, cast

from scrapy import signals
from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings

from bulkspider import cookies
from bulkspider.arguments import Given, prepare, preview
from bulkspider.entry import redact
from bulkspider.errors import BulkError
from bulkspider.folder import Place
from bulkspider.listcopy import shown
from bulkspider.run import Run
from bulkspider.secrecy import be_brief, unexpected

if TYPE_CHECKING:
    from scrapy.crawler import Crawler, CrawlerProcessBase

# What Scrapy tells of itself at INFO. It stays when the user asks for a LOG_LEVEL.
HOUSEKEEPING = ("scrapy.addons", "scrapy.core.engine", "scrapy.crawler", "scrapy.middleware", "scrapy.utils.log")
# Which make a record for every request and item that nobody sees at INFO.
CHATTY = ("scrapy.core.engine", "scrapy.core.scraper")

# Components that Scrapy imports, with large libraries, to be told by these settings that they are not wanted.
SWITCHED = {
    "COOKIES_ENABLED": (cookies.BASE, cookies.THEIRS),
    "REMOTE_CONTROL_ENABLED": ("EXTENSIONS_BASE", "scrapy.extensions.remote_control.RemoteControl"),
    "TELNETCONSOLE_ENABLED": ("EXTENSIONS_BASE", "scrapy.extensions.telnet.TelnetConsole"),
}


def run_bulk(process: CrawlerProcessBase, crawler: Crawler, arguments: dict[str, str], given: Given = Given()) -> int:
    """Runs the spider `bulk` with these spider arguments; returns the exit status."""
    try:
        prepared = prepare(arguments, cast(Any, crawler.settings), given)
    except Exception as error:
        return _refused(error, crawler.settings)
    if crawler.settings.get("LOG_LEVEL") != "DEBUG":
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.INFO)
    known: dict[str, Any] = {**arguments, "prepared": prepared}
    _start_lightly(process, crawler)
    process.crawl(crawler, **known)
    process.start()
    gc.freeze()  # the interpreter is about to look through all of it once more, in vain
    if process.bootstrap_failed:
        return 1
    run = crawler.get_extension(Run)
    return run.exit_status if run is not None else 1


def _start_lightly(process: CrawlerProcessBase, crawler: Crawler) -> None:
    """Saves a third of the time to the first request.

    What is built while the crawl begins stays to its end; it is not looked through for garbage (the commands have
    switched that off) before the crawl has begun. What is switched off by a setting is not imported, nor what only
    cookies need before there is one. And what Scrapy's handler imports reads the sources of all its callers
    (`create_deprecated_class`): they are few here, and fewest for each module when the innermost comes first.
    """
    import scrapy.core.downloader.tls  # noqa: I001
    import scrapy.core.downloader.contextfactory
    import scrapy.core.downloader.handlers.http11  # noqa: F401

    for setting, (kind, path) in SWITCHED.items():
        if not crawler.settings.getbool(setting):
            # The process hands its settings on to the crawler once more.
            for settings in (process.settings, crawler.settings):
                settings[kind].pop(path, None)
    for settings in (process.settings, crawler.settings):
        cookies.wait_for_the_first_cookie(settings)

    crawler.signals.connect(lambda: gc.enable(), signals.engine_started, weak=False)


def run_dry(process: CrawlerProcessBase, settings: BaseSettings, arguments: dict[str, str], given: Given) -> int:
    """Asks for every entry and prints what a run would meet; returns the exit status that it would have."""
    from bulkspider.preflight import PreflightSpider
    from bulkspider.survey import Survey

    try:
        seen = preview(arguments, cast(Any, settings), given)
    except Exception as error:
        return _refused(error, settings)
    # What a project of its own would write; a dry run writes nothing.
    for name, nothing in (("FEEDS", {}), ("JOBDIR", None)):
        settings.set(name, nothing, "cmdline")
    place = Place.of(seen.root)
    survey = Survey(shown(seen.list_path), place.root, seen.source.entries, numbered=not given.urls, free=place.free)
    survey.notes += seen.source.warnings
    if place.obstacle is not None:
        survey.obstacles.append(place.obstacle)
    for bad in seen.source.bad:
        survey.has_bad_line(bad.line, BulkError(str(bad.problem), code="bad_line", permanent=True))
    crawler = process.create_crawler(PreflightSpider)
    _start_lightly(process, crawler)
    process.crawl(crawler, seen=seen, survey=survey)
    process.start()
    run = crawler.get_extension(Run)
    if process.bootstrap_failed or run is None:
        return 1
    for line in survey.lines():
        print(line)
    return 128 + run.signal if run.signal is not None and not run.finished else survey.exit_status


def _refused(error: Exception, settings: BaseSettings) -> int:
    """Nothing was begun."""
    if not isinstance(error, BulkError) and settings.get("LOG_LEVEL") == "DEBUG":
        raise error
    print(f"bulkspider: {redact(str(error) if isinstance(error, BulkError) else unexpected(error))}", file=sys.stderr)
    return 1


def calm(settings: BaseSettings) -> None:
    """Hides tracebacks, unless the user asked for DEBUG, and the crawler's housekeeping, unless for any log level;
    before Scrapy says its first word."""
    if settings.get("LOG_LEVEL") != "DEBUG":
        be_brief()
    if (settings.getpriority("LOG_LEVEL") or 0) < SETTINGS_PRIORITIES["cmdline"]:
        for name in HOUSEKEEPING:
            # A filter, because Scrapy resets the levels of its loggers when it configures logging.
            logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.WARNING)
