"""What the report shows: a row per outcome, the throughput over time, the hosts, settings and versions.

`redact` has removed secrets from the rows and settings; `page.html` decides what is shown of them, and how.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import fields
from importlib import metadata
from typing import TYPE_CHECKING, Any

from bulkspider import __version__
from bulkspider.entries.entry import origin_of, redact
from bulkspider.options import Options
from bulkspider.text import visible

if TYPE_CHECKING:
    from bulkspider.clock import Clock
    from bulkspider.items import BulkItem
    from bulkspider.run.origins.origin import Origin
    from bulkspider.run.origins.origins import Origins

# For the memory of the browser and of this process. Successes and failures are limited separately.
MAX_ROWS = 100_000
# Samples of the throughput; if there are more, every second one is dropped.
MAX_SAMPLES = 600
MAX_HOSTS = 500
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
