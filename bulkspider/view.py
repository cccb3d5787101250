"""The view: what there is to see of a run at one moment, as plain data.

A `Watcher` stands on the reactor's side. It reads the run, the schedule and the patience with origins and measures
speeds; what it gives (`View`) holds no live object, so that any thread may draw it. It changes nothing and does not
know who looks: the display, the log line, a report in the middle of a run. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulkspider.run import STATUSES

if TYPE_CHECKING:
    from bulkspider.download import Download
    from bulkspider.run import Run
    from bulkspider.spiders.bulk import BulkSpider

# Speed "now": the mean of about so many seconds. A time left needs a calmer one.
NOW = 3.0
CALM = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A file under way. speed: bytes per second. broken: attempts that ended in an error. age: since it was begun.

    doing: what is done while no byte flows, `asking` or `proving`, else an empty string.
    """

    name: str
    have: int
    total: int | None
    speed: float
    connections: int
    broken: int
    doing: str
    age: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Files of one origin that wait for their next attempt: how many, for how long, why (perhaps empty)."""

    origin: str
    name: str
    files: int
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class View:
    """One moment of a run.

    done: verified, complete and unproven entries. left: all that have no outcome yet. bytes_total: of all entries,
    None when nothing tells; estimated: it is a guess from the sizes seen so far. seconds_left: None when unknown.
    """

    entries: int
    done: int
    failed: int
    left: int
    bytes_done: int
    bytes_total: int | None
    estimated: bool
    received: int
    speed: float
    mean: float
    seconds: float
    seconds_left: float | None
    stopping: bool
    running: tuple[Running, ...] = ()
    waiting: tuple[Waiting, ...] = ()


class Meter:
    """A speed from a growing count: an exponential mean over about `span` seconds, right from its first sample on."""

    __slots__ = ("_at", "_count", "_span", "_speed", "_weight")

    def __init__(self, span: float, now: float, count: int) -> None:
        self._span = span
        self._at, self._count = now, count
        self._speed = self._weight = 0.0

    def read(self, now: float, count: int) -> float:
        """Takes the count at `now`; the speed in units per second."""
        passed = now - self._at
        if passed > 0:
            share = 1 - math.exp(-passed / self._span)
            # A part that was begun anew has less than before.
            fresh = max(0.0, (count - self._count) / passed)
            self._speed += (fresh - self._speed) * share
            self._weight += (1 - self._weight) * share
            self._at, self._count = now, count
        return self._speed / self._weight if self._weight else 0.0


class Watcher:
    """Looks at one run of the spider `bulk`; on the reactor's thread, some times a second."""

    def __init__(self, run: Run, spider: BulkSpider, now: float) -> None:
        self._run = run
        self._spider = spider
        self._began = now
        self._now = Meter(NOW, now, 0)
        self._calm = Meter(CALM, now, 0)
        self._meters: dict[Download, Meter] = {}

    def look(self, now: float) -> View:
        run = self._run
        received = int(run.crawler.stats.get_value("bulk/bytes_received", 0))
        entries = run.entries or 0
        failed = run.counts["failed"]
        done = sum(run.counts[status] for status in STATUSES) - failed - run.counts["interrupted"]
        under_way = sum(download.part.state.have.count for download in run.downloads)
        bytes_done = run.bytes_done + under_way
        total, estimated = self._total(done, entries - done - failed)
        speed = self._now.read(now, received)
        calm = self._calm.read(now, received)
        left = (total - bytes_done) / calm if total is not None and calm >= 1 and run.active else None
        seconds = now - self._began
        return View(
            entries=entries,
            done=done,
            failed=failed,
            left=entries - done - failed,
            bytes_done=bytes_done,
            bytes_total=total,
            estimated=estimated,
            received=received,
            speed=speed,
            mean=received / seconds if seconds > 0 else 0.0,
            seconds=seconds,
            seconds_left=left,
            stopping=run.stopping,
            running=tuple(self._running(now)),
            waiting=tuple(self._waiting(now)),
        )

    def _total(self, done: int, left: int) -> tuple[int | None, bool]:
        """Bytes of all entries that did not fail, and whether that is a guess."""
        run, source = self._run, self._spider.source
        sizes = [size for download in run.downloads if (size := size_of(download)) is not None]
        settled = run.bytes_done + sum(sizes)
        unknown = left - len(sizes)
        if not unknown:
            return settled, False
        if not run.counts["failed"] and not source.unsized:
            return max(source.known_bytes, settled), False
        known = done + len(sizes)
        if known:
            return settled + round(unknown * settled / known), True
        if sized := source.entries - source.unsized:
            return round(source.known_bytes / sized * left), True
        return None, False

    def _running(self, now: float) -> list[Running]:
        run = self._run
        transfers: dict[Download, list[bool]] = {}
        for transfer in run.transfers:
            transfers.setdefault(transfer.download, []).append(transfer.asking)
        rows = []
        meters: dict[Download, Meter] = {}
        for download in run.downloads:
            asking = transfers.get(download)
            if asking is None and not download.part.state.complete:
                continue  # it waits: see `_waiting`
            if download.finished is not None:
                continue  # it is done; others of its batch are on their way
            state = download.part.state
            meter = self._meters.get(download) or Meter(NOW, now, download.bytes_received)
            meters[download] = meter
            rows.append(
                Running(
                    name=download.entry.name,
                    have=state.have.count,
                    total=size_of(download),
                    speed=meter.read(now, download.bytes_received),
                    connections=len(asking or ()),
                    broken=download.broken,
                    doing="proving" if asking is None else "asking" if all(asking) else "",
                    age=now - download.begun,
                )
            )
        self._meters = meters
        return rows

    def _waiting(self, now: float) -> list[Waiting]:
        schedule = getattr(self._spider, "schedule", None)
        if schedule is None:  # the spider has not begun, or it verifies
            return []
        rows = []
        for origin, due, work, files in schedule.waiting:
            closed = self._run.pace.closed(origin, now)
            until, why = closed if closed is not None else (due, "")
            if until > now:
                rows.append(Waiting(origin, work.entry.name, files, until - now, why))
        return rows


def size_of(download: Download) -> int | None:
    total = download.part.state.total
    return total if total is not None else download.entry.size
