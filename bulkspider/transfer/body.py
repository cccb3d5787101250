"""The body of an answer: moves it into the part, or a short one into memory, and watches its speed.

`Body` chooses how to read (a thread takes the socket where that is possible and the body is large, else the reactor
reads) and obeys the rate limit. `Watchdog` finds out that a body has stopped or is too slow.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from msgspec.structs import replace
from scrapy.utils.defer import maybe_deferred_to_future

from bulkspider.entries.entry import slot_of
from bulkspider.errors import AttemptError, BulkError
from bulkspider.protocol import plan
from bulkspider.protocol.byteranges import ByteRange
from bulkspider.protocol.plan import Ask, Write
from bulkspider.pumps.ratelimit import LIMITED_READ_BYTES
from bulkspider.pumps.reactor import MemoryWriter, PartWriter, Pump
from bulkspider.pumps.splice import DirectPump
from bulkspider.pumps.threaded import CHUNK_BYTES, WORTH_IT_BYTES, Mover
from bulkspider.pumps.tls import TlsPump
from bulkspider.pumps.visits import HAS_EPOLL

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head

# With fewer bytes the speed of a connection cannot be measured.
TELLING_BYTES = 64 * 1024
# The speed is measured over at least this time,
SPEED_SECONDS = 1.0
# and over this number of samples, four a second: two seconds.
SPEED_SAMPLES = 9
# Seconds between two looks at a slow body.
SLOW_LOOK_SECONDS = 1.0


class Watchdog:
    """Watches one body at a time: how fast it flows, and whether the attempt must be ended.

    stall_timeout: seconds without a byte (BULK_STALL_TIMEOUT); 0: no limit. min_speed: bytes a second over that time
    (BULK_MIN_SPEED).
    """

    def __init__(self, stall_timeout: float, min_speed: float) -> None:
        self._stall_timeout = stall_timeout
        self._min_speed = min_speed
        self._window_start = 0.0
        self._window_bytes = 0
        self._samples: deque[tuple[float, int]] = deque(maxlen=SPEED_SAMPLES)

    def begin(self, now: float) -> None:
        """A body begins to flow."""
        self._window_start, self._window_bytes = now, 0
        self._samples.clear()

    def speed(self, received: int, now: float) -> float | None:
        """Recent bytes a second; None while that is not known. received: bytes so far."""
        self._samples.append((now, received))
        since, before = self._samples[0]
        return (received - before) / (now - since) if now - since >= SPEED_SECONDS else None

    def complaint(self, pump: Pump | Mover, now: float) -> AttemptError | None:
        """The error with which the attempt must end; None while the body is fast enough, or waits for our disk or rate
        limit."""
        if pump.waiting_for_us:
            self._window_start, self._window_bytes = now, pump.received_bytes
            return None
        if self._stall_timeout <= 0:
            return None
        if now - max(pump.last_byte, self._window_start) >= self._stall_timeout:
            return AttemptError(f"no byte for {self._stall_timeout:g} s", code="stall")
        if now - self._window_start < self._stall_timeout:
            return None
        speed = (pump.received_bytes - self._window_bytes) / (now - self._window_start)
        self._window_start, self._window_bytes = now, pump.received_bytes
        if speed < self._min_speed:
            return AttemptError(f"slower than BULK_MIN_SPEED ({speed:.0f} bytes/s)", code="slow")
        return None


class Body:
    """The bodies of one transfer, one after the other. reader: accounts for the bytes under a rate limit."""

    def __init__(self, run: Run, download: Download, request: Request, span: ByteRange) -> None:
        self.reader = run.throttle.reader(slot_of(request.url))
        self._run = run
        self._download = download
        self._record = run.origins[download.origin].record
        self._span = span
        self._pump: Pump | Mover | None = None
        self._seen_bytes = 0
        self._looked_at = 0.0
        self._watchdog = Watchdog(run.options.stall_timeout, run.options.min_speed)

    def is_due(self, now: float) -> bool:
        """A slow body is looked at less often: hundreds of them would cost as much as a fast one."""
        due = not isinstance(self._pump, Mover) or not self._pump.is_slow or now >= self._looked_at + SLOW_LOOK_SECONDS
        if due:
            self._looked_at = now
        return due

    @property
    def is_flowing(self) -> bool:
        return self._pump is not None

    async def write(self, head: Head, verdict: Write, asked: Ask) -> plan.Ending:
        """Moves the body of the verdict into the part, up to where another connection takes over."""
        run, download, span = self._run, self._download, self._span
        span.at = span.first = verdict.first
        span.reach = verdict.end
        if span.end is not None and verdict.end is not None and not asked.bounded:
            span.end = min(span.end, verdict.end)
        overlap = plan.overlap_after(download.breaks, download.breaks_after, run.options.resume_overlap)
        writer = PartWriter(download.part, span, overlap, most=run.options.max_size)
        pump = self._pump_for(head, writer)
        began = time.monotonic()
        self._watchdog.begin(began)
        self._pump, self._seen_bytes = pump, 0
        # The next piece of a range is assumed to be as fast as the last one.
        span.flowing, span.speed, span.began = True, span.speed if asked.bounded else None, began
        if head.status == 206 or head.answer.accept_ranges == "bytes":
            download.ranges = True
        elif head.answer.accept_ranges == "none" or download.part.state.without_range:
            download.ranges = False
        download.connections = max(download.connections, len(download.flowing), 1)
        pump.start()
        run.wakeup.set()
        try:
            end = await maybe_deferred_to_future(pump.done)
        except AttemptError as error:
            self._note_break(error, pump)
            raise
        finally:
            self._has_ended()
            span.flowing = False
            # A Range begins before the first missing byte, to compare the join. A server that ignores Range sends all
            # bytes again.
            joins_at = asked.want if asked.first is not None and head.answer.content_range is not None else 0
            download.resumed.was_sent(span.first, span.at, joins_at=joins_at)
            if pump.received_bytes >= TELLING_BYTES:
                span.speed = pump.received_bytes / max(time.monotonic() - began, 0.001)
        if span.end is not None:
            verdict = replace(verdict, end=span.end if verdict.end is None else min(span.end, verdict.end))
        ending = plan.ending(verdict, end, span.at)
        self._note_break(ending.error, pump)
        return ending

    def _note_break(self, error: AttemptError | None, pump: Pump | Mover) -> None:
        """For how much is compared at the next join. What we break off ourselves says nothing of the origin."""
        if error is None or not pump.received_bytes:
            return
        if error.code == "lost":
            self._download.breaks += 1
            self._download.breaks_after = pump.received_bytes
        else:
            self._download.breaks = 0

    async def read(self, head: Head, verdict: Write) -> bytes:
        """Reads a short body into memory."""
        writer = MemoryWriter(verdict.first, verdict.end or 0)
        pump = self._pump = Pump(head, writer, self._run.threads.in_thread, self._count)
        self._watchdog.begin(time.monotonic())
        pump.start()
        try:
            await maybe_deferred_to_future(pump.done)
        finally:
            self._has_ended()
        return bytes(writer.data)

    def stop(self, error: BulkError) -> None:
        """Ends it at once; every byte that was received is kept."""
        if self._pump is not None:
            self._pump.abort(error)

    def tick(self, now: float) -> None:
        """Called four times a second: measures the speed, and ends a body that has stopped or is too slow."""
        pump = self._pump
        if pump is None:
            return
        pump.tick(now)
        if pump.received_bytes > self._seen_bytes:
            self._seen_bytes = pump.received_bytes
            self._run.origins[self._download.origin].moved(now)
        speed = self._watchdog.speed(pump.received_bytes, now)
        if speed is not None:
            self._span.speed = speed
        if error := self._watchdog.complaint(pump, now):
            pump.abort(error)

    def hold(self, held: bool) -> None:
        """Stops the body for a rate limit, or lets it flow again."""
        if self._pump is not None:
            self._pump.hold(held)

    def _has_ended(self) -> None:
        self._pump = None
        self._run.throttle.release(self)

    def _pump_for(self, head: Head, writer: PartWriter) -> Pump | Mover:
        """A thread takes the socket where that is possible and the body is large enough; else the reactor reads."""
        run = self._run
        large = writer.end is not None and writer.end - writer.at >= WORTH_IT_BYTES
        if HAS_EPOLL and large and head.socket_can_be_taken:
            mover = TlsPump if head.connection.is_tls else DirectPump
            pay = self.reader.pay
            return mover(head, writer, run.visits, self._count_only, pay, self._read_size)
        head.connection.read_in_pieces(self._read_size())
        return Pump(head, writer, run.threads.in_thread, self._count)

    def _read_size(self) -> int:
        """Small reads while a rate limit holds, so that the flow is smooth."""
        return LIMITED_READ_BYTES if self._run.rates.limited else CHUNK_BYTES

    def _count_only(self, count: int) -> None:
        """For a thread that accounts for the rate limit itself."""
        self._download.bytes_received += count
        self._record.received_bytes += count
        self._run.outcomes.count_bytes(count)

    def _count(self, count: int) -> None:
        self._download.bytes_received += count
        self._record.received_bytes += count
        self._run.spend(self, count)
