"""The report: one HTML file, `-a report=run.html`.

It collects a row per outcome and the throughput over time during the run, and puts them as JSON into the page
(`page.html`), which needs nothing but a browser: no network, no library. The file is written under a temporary name and
renamed, every minute and at the end, so that there is always a complete page to open. It only reads the run. `redact`
has removed secrets from the rows and settings; `page.html` decides what is shown of them, and how.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections import Counter
from dataclasses import fields
from importlib import metadata, resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy.utils.asyncio import create_looping_call

from bulkspider import __version__
from bulkspider.entries.entry import origin_of, redact
from bulkspider.options import Options
from bulkspider.reporting.summary import Tally, command_line
from bulkspider.run.outcomes import STATUSES
from bulkspider.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from twisted.python.failure import Failure

    from bulkspider.clock import Clock
    from bulkspider.items import BulkItem
    from bulkspider.run.origins.origin import Origin
    from bulkspider.run.origins.origins import Origins
    from bulkspider.run.run import Run
    from bulkspider.spiders.bulk import BulkSpider
from bulkspider.workers import as_bulk_error

logger = logging.getLogger(__name__)

# For the memory of the browser and of this process. Successes and failures are limited separately.
MAX_ROWS = 100_000
# Samples of the throughput; if there are more, every second one is dropped.
MAX_SAMPLES = 600
MAX_HOSTS = 500
WRITE_INTERVAL_SECONDS = 60.0
# At the end of the run: how long to wait for a page that is being written.
LOCK_TIMEOUT_SECONDS = 5.0
PLACEHOLDER = "/*DATA*/null"
# Scrapy's settings that matter for downloads. No others, because a project's settings may hold secrets under any name.
SCRAPY_SETTINGS = (
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


class Rows:
    """The outcomes, encoded, failures first. At most MAX_ROWS of each; `omitted` counts the others."""

    def __init__(self) -> None:
        self.omitted = 0
        self.codes: set[str] = set()
        self._good: list[str] = []
        self._bad: list[str] = []

    def take(self, item: BulkItem, now: float) -> None:
        """now: seconds since the run began."""
        rows = self._good if item.error is None else self._bad
        if len(rows) >= MAX_ROWS:
            self.omitted += 1
            return
        if item.error is not None:
            self.codes.add(item.error["code"])
        rows.append(encode(row_of(item, now)))

    def encoded(self) -> list[str]:
        return [*self._bad, *self._good]


class Throughput:
    """(seconds, bytes so far, transfers under way), at most MAX_SAMPLES of them however long the run."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, int]] = []
        self._apart = 0.0

    def add(self, seconds: float, received: int, active: int, *, last: bool = False) -> None:
        if self.samples and seconds - self.samples[-1][0] < self._apart and not last:
            return
        self.samples.append((seconds, received, active))
        if len(self.samples) > MAX_SAMPLES:
            del self.samples[1::2]
            self._apart = 0.75 * (self.samples[2][0] - self.samples[1][0])


class Hosts:
    """What each host:port did: files, bytes, speed, refusals, and when it was waited for. Made when the run begins."""

    def __init__(self, origins: Origins, clock: Clock) -> None:
        self._origins = origins
        self._clock = clock
        self._began = clock.now()
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        origins.on_pause(self._paused)

    def take(self, item: BulkItem) -> None:
        """Takes an outcome. Files of an earlier run count for no host."""
        if item.url and not item.already and item.status != "interrupted":
            (self._failed if item.status == "failed" else self._done)[origin_of(item.url)] += 1

    def look(self) -> None:
        """About once a second."""
        now = self._clock.now()
        for origin in self._origins:
            waited_for = origin.waited_for(now)
            if waited_for is not None:
                waited_for = waited_for[0], redact(waited_for[1])
            origin.record.look(now, self._began, waited_for)

    def _paused(self, name: str, seconds: float, why: str) -> None:
        now = self._clock.now()
        self._origins[name].record.begin_wait(now, now + seconds, redact(why))

    def told(self, *, over: bool) -> dict[str, Any]:
        """For the page: a row for each host that did anything, those with the most bytes first. over: the run has
        ended."""
        now = self._clock.now()
        hosts = [origin for origin in self._origins if self._did_anything(origin)]
        hosts.sort(key=lambda origin: (-origin.record.received_bytes, origin.name))
        return {
            "hosts": [self._row(origin, now, over=over) for origin in hosts[:MAX_HOSTS]],
            "hostsOmitted": max(0, len(hosts) - MAX_HOSTS),
        }

    def _did_anything(self, origin: Origin) -> bool:
        record = origin.record
        files = self._done[origin.name] + self._failed[origin.name]
        return bool(files or record.received_bytes or record.refused or record.waits)

    def _row(self, origin: Origin, now: float, *, over: bool) -> list[Any]:
        """The columns of the hosts in `page.html`, in its order. Times are seconds since the run began."""
        record, waited_for = origin.record, None if over else origin.waited_for(now)
        return [
            visible(origin.name),
            self._done[origin.name],
            self._failed[origin.name],
            record.received_bytes,
            None if record.speed is None else round(record.speed),
            dict(record.refused.most_common()),
            record.how_often,
            round(record.waited_seconds, 1),
            [
                [round(wait.since - self._began, 1), round(wait.until - self._began, 1), visible(wait.why)]
                for wait in record.waits
            ],
            None if waited_for is None else round(max(0.0, waited_for[0] - now)),
        ]


def row_of(item: BulkItem, now: float) -> list[Any]:
    """The columns of `page.html`, in its order. now: seconds since the run began."""
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
        item.proof_by,
        item.url,
        *([error["code"], error["message"]] if error is not None else ()),
    ]


def settings_of(options: Options, settings: Any) -> list[tuple[str, str, bool]]:
    """(name, value, whether it was changed): every BULK_* setting, and those of Scrapy that matter here."""
    rows = []
    for field in fields(options):
        value = getattr(options, field.name)
        rows.append((f"BULK_{field.name.upper()}", _setting_text(value), value != field.default))
    for name in SCRAPY_SETTINGS:
        if name in settings:
            rows.append((name, _setting_text(settings[name]), bool(settings.getpriority(name))))
    return rows


def _setting_text(value: object) -> str:
    return "none" if value is None else visible(redact(str(value)))


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
    html = resources.files("bulkspider").joinpath("reporting/page.html").read_text("utf-8")
    before, _, after = html.partition(PLACEHOLDER)
    # A name may hold a lone surrogate, which UTF-8 cannot encode.
    texts = chain([before, encode(head).removesuffix("}"), ',"rows":['], joined(rows), ["]}", after])
    return (text.encode("utf-8", "replace") for text in texts)


def joined(rows: Iterable[str]) -> Iterator[str]:
    return (f",\n{row}" if number else row for number, row in enumerate(rows))
