"""The report: one HTML file to look at, `-a report=run.html`.

It gathers a row per outcome and the throughput over time while the run goes on, and puts them as JSON into the page
(`report.html`), which needs nothing but a browser: no network, no library. Written whole to a temporary name and
renamed, every minute and at the end, so that there is always a page to open. It only reads the run. What the rows and
settings hold went through `redact`; what is shown of them, and how, is the page's matter.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
from dataclasses import fields
from importlib import metadata, resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy.utils.asyncio import create_looping_call

from bulkspider import __version__
from bulkspider.cures import cure
from bulkspider.entry import redact
from bulkspider.options import Options
from bulkspider.run import STATUSES
from bulkspider.summary import command_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from twisted.python.failure import Failure

    from bulkspider.items import BulkItem
    from bulkspider.run import Run
    from bulkspider.spiders.bulk import BulkSpider

logger = logging.getLogger(__name__)

# A browser and our memory bear so many; failures count on their own, so that none of them is missing.
ROWS = 100_000
# Of the throughput; when there are more, every two become one.
SAMPLES = 600
EVERY = 60.0
MARK = "/*DATA*/null"
# Scrapy's settings that shape a download. No others: a project's settings hold secrets that nobody can tell by name.
SCRAPYS = (
    *(
        "CONCURRENT_REQUESTS",
        "CONCURRENT_REQUESTS_PER_DOMAIN",
        "DOWNLOAD_DELAY",
        "DOWNLOAD_SLOTS",
        "AUTOTHROTTLE_ENABLED",
    ),
    *("DOWNLOAD_VERIFY_CERTIFICATES", "DOWNLOAD_BIND_ADDRESS", "ROBOTSTXT_OBEY", "REDIRECT_MAX_TIMES", "USER_AGENT"),
    *("HTTPPROXY_ENABLED", "COOKIES_ENABLED", "TWISTED_REACTOR", "TWISTED_DNS_RESOLVER", "LOGSTATS_INTERVAL"),
)
PACKAGES = ("Scrapy", "Twisted", "cryptography")


class Report:
    """Gathers from `start` to `end` and writes `path`."""

    def __init__(self, path: str, run: Run, spider: BulkSpider) -> None:
        self._path = Path(path)
        self._run = run
        self._spider = spider
        self._began = time.time()
        self._began_clock = time.monotonic()
        self._rows = Rows()
        self._throughput = Throughput()
        self._lock = threading.Lock()
        self._ended = False
        self._sampling = create_looping_call(self._sample)
        self._writing = create_looping_call(self._write_now)

    def start(self) -> None:
        self._sampling.start(1.0)
        self._writing.start(EVERY, now=False)

    def take(self, item: BulkItem) -> None:
        self._rows.take(item, time.monotonic() - self._began_clock)

    def end(self) -> str | None:
        """Writes the last page; its path, or None when it could not be written."""
        for loop in (self._sampling, self._writing):
            if loop.running:
                loop.stop()
        self._sample(last=True)
        self._ended = True
        return str(self._path) if self._write(self._head(ended=True)) else None

    def _sample(self, *, last: bool = False) -> None:
        received = int(self._run.crawler.stats.get_value("bulk/bytes_received", 0))
        self._throughput.add(round(time.monotonic() - self._began_clock, 1), received, self._run.active, last=last)

    def _write_now(self) -> None:
        if not self._lock.locked():
            self._run.in_thread(self._write, self._head(ended=False)).addErrback(_complain)

    def _head(self, *, ended: bool) -> dict[str, Any]:
        """All but the rows, taken on the reactor's thread."""
        run, spider, stats = self._run, self._spider, self._run.crawler.stats
        entries = run.entries or 0
        counts = {status: run.counts[status] for status in STATUSES}
        return {
            "list": spider.source.title,
            "output": str(spider.folder.root),
            "command": command_line(),
            "began": self._began,
            "seconds": round(time.monotonic() - self._began_clock, 3),
            "ended": ended,
            "goOn": ended and not spider.verifying and run.exit_status not in (0, 1, 4, 5),
            "entries": entries,
            "counts": {**counts, "left": entries - sum(counts.values())},
            "already": run.counts["already"],
            "received": int(stats.get_value("bulk/bytes_received", 0)),
            "resumed": int(stats.get_value("bulk/bytes_resumed", 0)),
            "omitted": self._rows.omitted,
            "cures": {code: cure(code) for code in sorted(self._rows.codes)},
            "settings": settings_of(run.options, spider.settings),
            "versions": versions(),
            "samples": list(self._throughput.samples),
        }

    def _write(self, head: Mapping[str, Any]) -> bool:
        """In a worker thread while the run goes on: rows are only ever added. False: it was not written."""
        with self._lock:
            return head["ended"] == self._ended and self._replace(head)

    def _replace(self, head: Mapping[str, Any]) -> bool:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
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


def _complain(failure: Failure) -> None:
    logger.error("the report could not be written: %s", failure.getErrorMessage())


class Rows:
    """The outcomes, encoded, failures first. At most ROWS of them and ROWS failures; `omitted` counts the others."""

    def __init__(self) -> None:
        self.omitted = 0
        self.codes: set[str] = set()
        self._good: list[str] = []
        self._bad: list[str] = []

    def take(self, item: BulkItem, now: float) -> None:
        """now: seconds since the run began."""
        rows = self._good if item.error is None else self._bad
        if len(rows) >= ROWS:
            self.omitted += 1
            return
        if item.error is not None:
            self.codes.add(item.error["code"])
        rows.append(encode(row_of(item, now)))

    def encoded(self) -> list[str]:
        return [*self._bad, *self._good]


class Throughput:
    """(seconds, bytes so far, transfers under way), at most SAMPLES of them however long the run."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, int]] = []
        self._apart = 0.0

    def add(self, seconds: float, received: int, active: int, *, last: bool = False) -> None:
        if self.samples and seconds - self.samples[-1][0] < self._apart and not last:
            return
        self.samples.append((seconds, received, active))
        if len(self.samples) > SAMPLES:
            del self.samples[1::2]
            self._apart = 0.75 * (self.samples[2][0] - self.samples[1][0])


def row_of(item: BulkItem, now: float) -> list[Any]:
    """The columns of `report.html`, in its order. now: seconds since the run began."""
    error = item.error
    return [
        item.line,
        item.name,
        item.status,
        item.size,
        item.bytes_received,
        item.resumed_from,
        item.attempts,
        item.broken,
        item.connections,
        round(max(now - item.seconds, 0.0), 2),
        round(item.seconds, 2),
        int(item.already),
        " ".join(item.flags),
        item.url,
        *([error["code"], error["message"]] if error is not None else ()),
    ]


def settings_of(options: Options, settings: Any) -> list[tuple[str, str, bool]]:
    """(name, value, whether somebody changed it): every BULK_* setting, and those of Scrapy that matter here."""
    rows = []
    for field in fields(options):
        value = getattr(options, field.name)
        rows.append((f"BULK_{field.name.upper()}", _told(value), value != field.default))
    for name in SCRAPYS:
        if name in settings:
            rows.append((name, _told(settings[name]), bool(settings.getpriority(name))))
    return rows


def _told(value: object) -> str:
    return "none" if value is None else redact(str(value))


def versions() -> list[tuple[str, str]]:
    system = platform.uname()
    return [
        ("bulkspider", __version__),
        *((name, metadata.version(name)) for name in PACKAGES),
        ("Python", platform.python_version()),
        (system.system, f"{system.release} {system.machine}"),
    ]


def encode(value: Any) -> str:
    """JSON that may stand inside a script element: `<` cannot end it, nor begin a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def page(head: Mapping[str, Any], rows: Iterable[str]) -> Iterator[bytes]:
    """The page in pieces. rows: encoded."""
    before, _, after = resources.files("bulkspider").joinpath("report.html").read_text("utf-8").partition(MARK)
    # A name may hold a lone surrogate, which UTF-8 has not.
    texts = chain([before, encode(head).removesuffix("}"), ',"rows":['], joined(rows), ["]}", after])
    return (text.encode("utf-8", "replace") for text in texts)


def joined(rows: Iterable[str]) -> Iterator[str]:
    return (f",\n{row}" if number else row for number, row in enumerate(rows))
