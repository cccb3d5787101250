"""The body of an answer: into the part, or a short one into memory, and watched while it flows.

`Body` chooses who reads (a thread takes the socket where that is possible and worth it, the reactor serves the rest)
and obeys the rate limit. `Watchdog` says when a body has stopped flowing, or flows too slowly.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from scrapy import Request

    from bulkspider.run.download import Download
    from bulkspider.run.run import Run
    from bulkspider.wire import Head

# Fewer bytes than these tell nothing about the speed of a connection.
TELLING_BYTES = 64 * 1024
# The speed is measured over at least so long,
SPEED_SECONDS = 1.0
# and over so many looks, at four a second: two seconds.
SPEED_LOOKS = 9


class Watchdog:
    """Watches one body at a time: how fast it flows, and whether it is to be broken off.

    stall_timeout: seconds without a byte (BULK_STALL_TIMEOUT); 0: never. min_speed: bytes a second over that time
    (BULK_MIN_SPEED).
    """

    def __init__(self, stall_timeout: float, min_speed: float) -> None:
        self._stall_timeout = stall_timeout
        self._min_speed = min_speed
        self._window_start = 0.0
        self._window_bytes = 0
        self._looks: deque[tuple[float, int]] = deque(maxlen=SPEED_LOOKS)

    def begin(self, now: float) -> None:
        """A body begins to flow."""
        self._window_start, self._window_bytes = now, 0
        self._looks.clear()

    def speed(self, received: int, now: float) -> float | None:
        """Bytes a second, lately; None while that cannot be told. received: bytes so far."""
        self._looks.append((now, received))
        since, before = self._looks[0]
        return (received - before) / (now - since) if now - since >= SPEED_SECONDS else None

    def complaint(self, pump: Pump | Mover, now: float) -> AttemptError | None:
        """Why the body is to be broken off; None while it flows well enough, or waits for us."""
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
    """The bodies of one transfer, one after the other. reader: pays for what they read, where a rate limit holds."""

    def __init__(self, run: Run, download: Download, request: Request, span: ByteRange) -> None:
        self.reader = run.throttle.reader(slot_of(request.url))
        self._run = run
        self._download = download
        self._record = run.origins[download.origin].record
        self._span = span
        self._pump: Pump | Mover | None = None
        self._seen_bytes = 0
        self._watchdog = Watchdog(run.options.stall_timeout, run.options.min_speed)

    @property
    def is_flowing(self) -> bool:
        return self._pump is not None

    async def write(self, head: Head, verdict: Write, asked: Ask) -> plan.Ending:
        """Moves the body that the verdict promised into the part, as far as no other connection takes it over."""
        run, download, span = self._run, self._download, self._span
        span.at = span.first = verdict.first
        span.reach = verdict.end
        if span.end is not None and verdict.end is not None and not asked.bounded:
            span.end = min(span.end, verdict.end)
        writer = PartWriter(download.part, span, run.options.resume_overlap, most=run.options.max_size)
        pump = self._pump_for(head, writer)
        began = time.monotonic()
        self._watchdog.begin(began)
        self._pump, self._seen_bytes = pump, 0
        # The next piece of a span flows as the last one did.
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
        finally:
            self._has_ended()
            span.flowing = False
            # A Range begins before the first byte that is missing, to compare the join; who ignores it sends all again.
            joins_at = asked.want if asked.first is not None and head.answer.content_range is not None else 0
            download.resumed.was_sent(span.first, span.at, joins_at=joins_at)
            if pump.received_bytes >= TELLING_BYTES:
                span.speed = pump.received_bytes / max(time.monotonic() - began, 0.001)
        if span.end is not None:
            verdict = replace(verdict, end=span.end if verdict.end is None else min(span.end, verdict.end))
        return plan.ending(verdict, end, span.at)

    async def read(self, head: Head, verdict: Write) -> bytes:
        """A short body, into memory."""
        sample = MemoryWriter(verdict.first, verdict.end or 0)
        pump = self._pump = Pump(head, sample, self._run.threads.in_thread, self._count)
        self._watchdog.begin(time.monotonic())
        pump.start()
        try:
            await maybe_deferred_to_future(pump.done)
        finally:
            self._has_ended()
        return bytes(sample.data)

    def stop(self, error: BulkError) -> None:
        """Breaks it off; every byte that was received is kept."""
        if self._pump is not None:
            self._pump.abort(error)

    def tick(self, now: float) -> None:
        """Four times a second: measures the speed, and breaks off what has stopped flowing."""
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
        """Stops or lets flow the body, on behalf of a rate limit."""
        if self._pump is not None:
            self._pump.hold(held)

    def _has_ended(self) -> None:
        self._pump = None
        self._run.throttle.release(self)

    def _pump_for(self, head: Head, intake: PartWriter) -> Pump | Mover:
        """A thread takes the socket where that is possible and worth it; the reactor serves the rest."""
        run = self._run
        if head.socket_can_be_taken and intake.end is not None and intake.end - intake.at >= WORTH_IT_BYTES:
            mover = TlsPump if head.connection.is_tls else DirectPump
            pay = self.reader.pay
            return mover(head, intake, run.threads.in_own_thread, self._count_only, pay, self._read_size)
        head.connection.read_in_pieces(self._read_size())
        return Pump(head, intake, run.threads.in_thread, self._count)

    def _read_size(self) -> int:
        """Small reads while a rate limit holds, so that the flow is smooth."""
        return LIMITED_READ_BYTES if self._run.rates.limited else CHUNK_BYTES

    def _count_only(self, count: int) -> None:
        """For a thread that asks the rate limit itself."""
        self._download.bytes_received += count
        self._record.received_bytes += count
        self._run.outcomes.count_bytes(count)

    def _count(self, count: int) -> None:
        self._download.bytes_received += count
        self._record.received_bytes += count
        self._run.spend(self, count)
