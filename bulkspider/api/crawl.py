"""The child process in which the crawl of `bulkspider.fetch` runs: `python -m bulkspider.api.crawl`.

Not for people: `child.py` describes what it reads and writes. It stops as after SIGTERM when its standard input is
closed or its parent is gone (a process that the parent forked meanwhile may hold the other end of the pipe). Standard
output is only for the messages; what a hook prints goes to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from bulkspider.items import BulkItem

PROGRESS_SECONDS = 0.5
PARENT_SECONDS = 1.0


class Messages:
    """Sends messages to the parent, from any thread. Errors are ignored: if the parent is gone, standard input ends,
    too."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, kind: str, content: Any) -> None:
        line = json.dumps({kind: content}).encode() + b"\n"
        with self._lock:
            try:
                self._pipe.write(line)
                self._pipe.flush()
            except OSError:
                end_crawl()


_ending = threading.Lock()


def end_crawl() -> None:
    """Stops the crawl if one is under way, else ends the process at once. Only the first call sends a signal: a second
    signal would end the process without the usual stop."""
    if _ending.acquire(blocking=False):
        os.kill(os.getpid(), signal.SIGTERM)


class ToParent(logging.Handler):
    """Log records as messages."""

    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self._messages = messages
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.send("log", [record.name, record.levelno, self.format(record)])


def take_stdout() -> BinaryIO:
    """Standard output for messages alone; what else is printed goes to standard error."""
    try:
        os.fstat(2)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def watch() -> None:
    """Ends the crawl when the parent has closed our standard input, or is gone."""

    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            if select.select([0], [], [], PARENT_SECONDS)[0] and not os.read(0, 65536):
                break
        end_crawl()

    threading.Thread(target=wait, name="bulk-parent", daemon=True).start()


def rows_of(pipe: BinaryIO) -> Iterator[bytes]:
    """The lines up to the empty one. Ends the process if the parent is gone before, because the list is not
    complete."""
    while line := _read(pipe).rstrip(b"\n"):
        yield line


def _read(pipe: BinaryIO) -> bytes:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        sys.exit(1)
    return line


class Reporter:
    """Sends rows, and the numbers of the run while it goes on."""

    def __init__(self, crawler: Crawler, messages: Messages, *, progress: bool) -> None:
        self._crawler = crawler
        self._messages = messages
        self._progress = progress

    def connect(self) -> None:
        """Connects to the signals of the crawl, which hold only weak references: the caller must keep this object."""
        from scrapy import signals

        self._crawler.signals.connect(self._opened, signals.spider_opened)
        self._crawler.signals.connect(self._closed, signals.spider_closed)

    def _opened(self, spider: Any) -> None:
        from scrapy.utils.asyncio import create_looping_call

        from bulkspider.reporting.snapshot import Sampler
        from bulkspider.run.run import Run

        run = self._crawler.get_extension(Run)
        assert run is not None
        self._run = run
        run.outcomes.on_outcome(self._row)
        if self._progress:
            self._sampler = Sampler(run, spider, time.monotonic())
            self._looking = create_looping_call(self._look)
            self._looking.start(PROGRESS_SECONDS, now=False)

    def _closed(self) -> None:
        if self._progress:
            self._looking.stop()
            self._look()

    def _row(self, item: BulkItem) -> None:
        self._messages.send("row", asdict(item))

    def _look(self) -> None:
        view = self._sampler.look(time.monotonic())
        self._messages.send(
            "progress",
            {
                "entries": view.entries,
                "done": view.done,
                "failed": view.failed,
                "left": view.left,
                "running": len(view.running),
                "waiting": [waiting.origin for waiting in view.waiting],
                "bytes_on_disk": view.bytes_done,
                "bytes_left": None if view.bytes_total is None else max(0, view.bytes_total - view.bytes_done),
                "speed": round(view.speed),
            },
        )


def crawl(head: dict[str, Any], messages: Messages, pipe: BinaryIO) -> int:
    """Runs the spider; returns its exit status (docs/command.md). Raises BulkError before anything was begun."""
    from scrapy.crawler import AsyncCrawlerProcess, CrawlerProcess
    from scrapy.settings import Settings

    from bulkspider import settings as ours
    from bulkspider.commands.startup import calm, run_prepared
    from bulkspider.entries.redaction import guard_logs
    from bulkspider.spiders.arguments.prepare import prepare
    from bulkspider.spiders.arguments.reading import Given

    settings = Settings()
    settings.setdict({name: getattr(ours, name) for name in dir(ours) if name.isupper()}, "command")
    settings.setdict({"LOG_LEVEL": "WARNING", **head["own"]}, "project")
    settings.setdict(head["settings"], "cmdline")
    # Rows and errors go to the caller, who needs no summary of them; log records go there too, by a handler of ours.
    settings["EXTENSIONS"].set("bulkspider.reporting.progress.Progress", None, "cmdline")
    settings.set("LOG_ENABLED", False, "cmdline")
    handler = ToParent(messages)
    handler.setLevel(settings["LOG_LEVEL"])
    logging.getLogger().addHandler(handler)
    guard_logs()
    calm(settings)
    rows = None if head["list"] is not None else rows_of(pipe)
    arguments = {"output": head["output"]} | ({} if head["list"] is None else {"list": head["list"]})
    prepared = prepare(arguments, settings, Given(rows=rows, shares=True, every_row=True))
    if rows is None:
        _read(pipe)
    watch()
    asyncio = settings["TWISTED_REACTOR"] == "twisted.internet.asyncioreactor.AsyncioSelectorReactor"
    process = (AsyncCrawlerProcess if asyncio else CrawlerProcess)(settings)
    from bulkspider.spiders.bulk import BulkSpider

    crawler = process.create_crawler(BulkSpider)
    reporter = Reporter(crawler, messages, progress=head["progress"])
    reporter.connect()
    return run_prepared(process, crawler, arguments, prepared)


def main() -> int:
    messages = Messages(take_stdout())
    # Whatever the parent has done with its own signals.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    pipe = os.fdopen(os.dup(0), "rb")
    head = json.loads(_read(pipe))
    sys.path[:] = head["path"]
    os.chdir(head["folder"])
    from bulkspider.entries.redaction import unexpected
    from bulkspider.entries.urls import redact
    from bulkspider.errors import BulkError

    try:
        status = crawl(head, messages, pipe)
    except Exception as error:
        messages.send("refused", redact(str(error) if isinstance(error, BulkError) else unexpected(error)))
        return 1
    messages.send("ended", status)
    return status


if __name__ == "__main__":
    sys.exit(main())
