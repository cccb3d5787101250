"""The snapshot: the state of a run at one moment, as plain data.

A `Sampler` runs in the reactor's thread. It reads the run and the waiting downloads, and measures speeds; it changes
nothing. Its `View` has no reference to live objects, so that any thread may use it. Sizes are in bytes, times in
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from bulkspider.entries.entry import redact
from bulkspider.run.outcomes import STATUSES

if TYPE_CHECKING:
    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.spiders.bulk import BulkSpider

# Speeds are means of about so many seconds; the time left needs a steadier one.
SPEED_SPAN_SECONDS = 3.0
TIME_LEFT_SPAN_SECONDS = 30.0


class Running(Struct, frozen=True):
    """A file under way. speed: bytes per second. broken: attempts that ended in an error. age: since it was begun.

    doing: `asking` or `proving` while no byte is received, else an empty string. seconds_left: until all its bytes are
    here, None when unknown.
    """

    name: str
    have: int
    total: int | None
    speed: float
    connections: int
    broken: int
    doing: str
    age: float
    seconds_left: float | None = None


class Waiting(Struct, frozen=True):
    """Files of one origin that wait for their next attempt: how many, for how long, why (perhaps empty). seconds: 0
    while one request asks whether the origin works again."""

    origin: str
    name: str
    files: int
    seconds: float
    why: str


class View(Struct, frozen=True):
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
    """A speed from a growing count: an exponential mean over about `span` seconds, correct from its first sample on."""

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
            # A part that was begun anew has fewer bytes than before.
            fresh = max(0.0, (count - self._count) / passed)
            self._speed += (fresh - self._speed) * share
            self._weight += (1 - self._weight) * share
            self._at, self._count = now, count
        return self._speed / self._weight if self._weight else 0.0


def time_left(missing: int | None, speed: float, running: Sequence[Running]) -> float | None:
    """Seconds to the end of the run: the time of all bytes that are missing, or that of the slowest file if it takes
    longer. speed: bytes per second of all together. None while nothing runs, or nobody knows."""
    if missing is None or not running:
        return None
    times = [row.seconds_left for row in running if row.seconds_left is not None]
    if speed >= 1:
        times.append(missing / speed)
    return max(times, default=None)


class Sampler:
    """Takes snapshots of one run of the spider `bulk`, in the reactor's thread, some times a second."""

    def __init__(self, run: Run, spider: BulkSpider, now: float) -> None:
        self._run = run
        self._spider = spider
        self._began = now
        self._speed = Meter(SPEED_SPAN_SECONDS, now, 0)
        self._steady_speed = Meter(TIME_LEFT_SPAN_SECONDS, now, 0)
        self._meters: dict[Download, tuple[Meter, Meter]] = {}

    def look(self, now: float) -> View:
        run = self._run
        received = int(run.crawler.stats.get_value("bulk/bytes_received", 0))
        entries = run.outcomes.entries or 0
        failed = run.outcomes.counts["failed"]
        done = sum(run.outcomes.counts[status] for status in STATUSES) - failed - run.outcomes.counts["interrupted"]
        under_way = sum(download.part.state.have.count for download in run.downloads)
        bytes_done = run.outcomes.bytes_done + under_way
        total, estimated = self._total(done, entries - done - failed)
        speed = self._speed.read(now, received)
        steady_speed = self._steady_speed.read(now, received)
        running = self._running(now)
        missing = None if total is None else total - bytes_done
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
            seconds_left=time_left(missing, steady_speed, running),
            stopping=bool(run.stopping),
            running=tuple(running),
            waiting=tuple(self._waiting(now)),
        )

    def _total(self, done: int, left: int) -> tuple[int | None, bool]:
        """Bytes of all entries that did not fail, and whether that is a guess."""
        run, source = self._run, self._spider.bulk_job.source
        sizes = [size for download in run.downloads if (size := download.size) is not None]
        settled = run.outcomes.bytes_done + sum(sizes)
        unknown = left - len(sizes)
        if not unknown:
            return settled, False
        if not run.outcomes.counts["failed"] and not source.unsized:
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
        meters: dict[Download, tuple[Meter, Meter]] = {}
        for download in run.downloads:
            asking = transfers.get(download)
            if asking is None and not download.part.state.complete:
                continue  # it waits: see `_waiting`
            if download.finished is not None:
                continue  # it is done; others of its batch are on their way
            state = download.part.state
            received = download.bytes_received
            meters[download] = speed, steady_speed = self._meters.get(download) or (
                Meter(SPEED_SPAN_SECONDS, now, received),
                Meter(TIME_LEFT_SPAN_SECONDS, now, received),
            )
            steady = steady_speed.read(now, received)
            left = (download.size - state.have.count) / steady if download.size is not None and steady >= 1 else None
            rows.append(
                Running(
                    name=download.entry.name,
                    have=state.have.count,
                    total=download.size,
                    speed=speed.read(now, received),
                    connections=len(asking or ()),
                    broken=download.broken,
                    doing="proving" if asking is None else "asking" if all(asking) else "",
                    age=now - download.begun,
                    seconds_left=left,
                )
            )
        self._meters = meters
        return rows

    def _waiting(self, now: float) -> list[Waiting]:
        slots = self._spider.bulk_job.slots
        if slots is None:  # the spider has not begun
            return []
        rows = []
        for origin, due, download, files in slots.waiting:
            waited_for = origin.waited_for(now)
            until, why = waited_for if waited_for is not None else (due, "")
            if waited_for is not None or until > now:
                rows.append(Waiting(origin.name, download.entry.name, files, max(0.0, until - now), redact(why)))
        return rows
