"""The report: one HTML file, `-a report=run.html`.

The file is written under a temporary name and renamed, every minute and at the end, so that there is always a complete
page to open. Its contents (`data.py`) are put as JSON into `page.html`, which needs nothing but a browser: no network,
no library. It only reads the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy.utils.asyncio import create_looping_call

from bulkspider.reporting.page.data import Hosts, Rows, Throughput, encode, settings_of, versions
from bulkspider.reporting.summary import Tally, command_line
from bulkspider.run.outcomes import STATUSES
from bulkspider.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from twisted.python.failure import Failure

    from bulkspider.items import BulkItem
    from bulkspider.run.run import Run
    from bulkspider.spiders.bulk import BulkSpider
from bulkspider.workers import as_bulk_error

logger = logging.getLogger(__name__)
WRITE_INTERVAL_SECONDS = 60.0
# At the end of the run: how long to wait for a page that is being written.
LOCK_TIMEOUT_SECONDS = 5.0
PLACEHOLDER = "/*DATA*/null"


class Report:
    """Collects from `start` to `end` and writes `path`."""

    def __init__(self, path: str, run: Run, spider: BulkSpider, tally: Tally) -> None:
        self._path = Path(path)
        self._run = run
        self._spider = spider
        self._tally = tally
        self._began = time.time()
        self._began_clock = time.monotonic()
        self._rows = Rows()
        self._throughput = Throughput()
        self._hosts = Hosts(run.origins, run.clock)
        self._lock = threading.Lock()
        self._ended = False
        self._complained = False
        self._sampling = create_looping_call(self._sample)
        self._writing = create_looping_call(self._write_now)

    def start(self) -> None:
        self._sampling.start(1.0)
        self._writing.start(WRITE_INTERVAL_SECONDS, now=False)

    def take(self, item: BulkItem) -> None:
        self._rows.take(item, time.monotonic() - self._began_clock)
        self._hosts.take(item)

    def end(self) -> str | None:
        """Writes the last page; its path, or None when it could not be written."""
        for loop in (self._sampling, self._writing):
            if loop.running:
                loop.stop()
        self._sample(last=True)
        self._ended = True
        try:
            return str(self._path) if self._write(self._head(ended=True)) else None
        except Exception as error:
            # The summary is still to come.
            logger.error("%s: the report cannot be written (%s)", self._path, as_bulk_error(error))
            return None

    def _sample(self, *, last: bool = False) -> None:
        received = int(self._run.crawler.stats.get_value("bulk/bytes_received", 0))
        self._hosts.look()
        self._throughput.add(
            round(time.monotonic() - self._began_clock, 1), received, len(self._run.transfers), last=last
        )

    def _write_now(self) -> None:
        if not self._lock.locked():
            self._run.threads.in_thread(self._write, self._head(ended=False), aside=True).addErrback(self._complain)

    def _complain(self, failure: Failure) -> None:
        if not self._complained:
            logger.warning("The report is not written during the run (%s)", failure.getErrorMessage())
        self._complained = True

    def _head(self, *, ended: bool) -> dict[str, Any]:
        """All but the rows, taken on the reactor's thread."""
        run, spider, stats = self._run, self._spider, self._run.crawler.stats
        entries = run.outcomes.entries or 0
        counts = {status: run.outcomes.counts[status] for status in STATUSES}
        return {
            "list": visible(spider.bulk_job.source.title),
            "ignored": visible(str(spider.bulk_job.source.ignored or "")),
            "output": visible(str(spider.bulk_job.folder.root)),
            "command": visible(command_line()),
            "began": self._began,
            "seconds": round(time.monotonic() - self._began_clock, 3),
            "ended": ended,
            "goOn": ended and not spider.bulk_job.verifying and run.outcomes.exit_status not in (0, 1, 4, 5),
            "entries": entries,
            "counts": {**counts, "left": entries - sum(counts.values())},
            "already": run.outcomes.counts["already"],
            "handedOn": run.outcomes.handed_on.total(),
            "received": int(stats.get_value("bulk/bytes_received", 0)),
            "resumed": int(stats.get_value("bulk/bytes_resumed", 0)),
            "atOnce": run.transfers.most,
            "omitted": self._rows.omitted,
            "cures": {code: self._tally.cure(code, run.origins) for code in sorted(self._rows.codes)},
            "settings": settings_of(run.options, spider.settings),
            "versions": versions(),
            "samples": list(self._throughput.samples),
            **self._hosts.told(over=ended),
        }

    def _write(self, head: Mapping[str, Any]) -> bool:
        """In a worker thread while the run goes on: rows are only ever added. False: it was not written."""
        if not self._lock.acquire(timeout=LOCK_TIMEOUT_SECONDS):
            logger.error("%s: the report cannot be written (the file system does not answer)", self._path)
            return False
        try:
            return head["ended"] == self._ended and self._replace(head)
        finally:
            self._lock.release()

    def _replace(self, head: Mapping[str, Any]) -> bool:
        temporary = self._path.with_name(f".{self._path.name[:200]}.{secrets.token_hex(8)}.tmp")
        try:
            # Fails if the file exists, so that a planted link is not followed.
            with temporary.open("xb") as file:
                for piece in page(head, self._rows.encoded()):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            logger.error("%s: the report cannot be written (%s)", self._path, error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True


def page(head: Mapping[str, Any], rows: Iterable[str]) -> Iterator[bytes]:
    """The page in pieces. rows: encoded."""
    html = resources.files("bulkspider").joinpath("reporting/page.html").read_text("utf-8")
    before, _, after = html.partition(PLACEHOLDER)
    # A name may hold a lone surrogate, which UTF-8 cannot encode.
    texts = chain([before, encode(head).removesuffix("}"), ',"rows":['], joined(rows), ["]}", after])
    return (text.encode("utf-8", "replace") for text in texts)


def joined(rows: Iterable[str]) -> Iterator[str]:
    return (f",\n{row}" if number else row for number, row in enumerate(rows))
