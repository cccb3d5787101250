"""The pump: takes the body of one answer from Twisted and writes it to the part in worker threads.

A PartWriter knows where each byte belongs: it compares what is on disk already, writes what is missing, and drops what
is beyond the range. It runs in worker threads. The Pump runs in the reactor: it gathers the bytes of the socket into
large pieces, hands them to the PartWriter one at a time, and stops the socket when the disk is slower. So memory stays
bounded, and a slow disk slows only its own transfer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.disk.files.entryfiles import PART
from bulkspider.disk.part import HELD_MAX_BYTES, Part
from bulkspider.errors import AttemptError, VersionConflict
from bulkspider.protocol.byteranges import ByteRange
from bulkspider.protocol.plan import End
from bulkspider.wire import Head, Receiver

# Large enough that the cost of a call is small, small enough for 64 transfers in 120 MB.
PIECE_BYTES = 512 * 1024
# Bytes that wait in memory, besides the piece that is being written, before the socket is stopped: less than a piece,
# so that the socket stops soon when the disk is slow.
HIGH_WATER_BYTES = 256 * 1024


class PartWriter:
    """Takes the body that one connection brings for its range of the part.

    overlap: where another connection took over the bytes behind the range, this one goes on for so many bytes
    (BULK_RESUME_OVERLAP), so that at every join one of the two compares what the other one brought. most: the size in
    bytes that a file may have (BULK_MAX_SIZE), checked here when the length is not known before.
    """

    def __init__(self, part: Part, span: ByteRange, overlap: int = 0, *, most: int | None = None) -> None:
        self._most = most
        self._part = part
        self._span = span
        self._overlap = overlap
        self._has_written = False

    @property
    def at(self) -> int:
        return self._span.at

    @property
    def end(self) -> int | None:
        """Byte after the last one to be taken, None while that is unknown. A cut (`byteranges.py`) makes it smaller; an
        answer with a piece of the range (`hosts/pieces.py`) ends before it."""
        end, reach = self._span.end, self._span.reach
        if end is None or reach is None:
            return end
        if reach <= end:
            return reach
        return min(end + self._overlap, reach)

    def take(self, data: bytes | memoryview) -> None:
        """Compares or writes `data`. Raises VersionConflict, DiskError; AttemptError where the file is larger than it
        may be."""
        view = memoryview(data)
        span = self._span
        if self._most is not None and self.end is None and span.at + len(view) > self._most:
            self._take(view[: max(0, self._most - span.at)])
            raise AttemptError(f"the origin goes on after {self._most} bytes (BULK_MAX_SIZE)", code="too_large")
        self._take(view)

    def _take(self, view: memoryview) -> None:
        span = self._span
        while view:
            at, end, there = span.at, self.end, self._part.state.have
            if end is not None:
                view = view[: max(0, end - at)]
            held = there.end_of(at)
            if held > at:
                length = min(len(view), held - at)
                if self._part.read(at, length) != view[:length]:
                    if self._has_written:
                        # What we wrote and the bytes behind it are of two versions, and the ranges no longer show the
                        # border.
                        self._part.checkpoints.refute()
                    raise VersionConflict(f"the bytes on disk differ from the origin's near byte {at}", differ=True)
            else:
                next_held = there.next_after(at)
                length = len(view) if next_held is None else min(len(view), next_held - at)
                self._has_written = True
                self._part.write(view[:length], at)
            span.at = at + length
            view = view[length:]

    @property
    def full(self) -> bool:
        end = self.end
        return end is not None and self._span.at >= end

    def hold(self, pieces: list[bytes], size: int) -> bool:
        """Takes the whole object into memory, without the disk, if it is small and nothing is on disk. False: it did
        not."""
        state = self._part.state
        if self.at != 0 or size != state.total or size > HELD_MAX_BYTES or self._part.files.is_open or state.have:
            return False
        self._part.buffer(b"".join(pieces))
        self._span.at = size
        return True

    # For pumps that write to the file themselves (`splice.py`, `tls.py`):

    @property
    def unheld(self) -> int:
        """How many bytes from `at` on are to be written; 0 where bytes must be compared first."""
        at, end, there = self._span.at, self.end, self._part.state.have
        if end is None or there.end_of(at) > at:
            return 0
        next_held = there.next_after(at)
        return max(0, (end if next_held is None else min(end, next_held)) - at)

    @property
    def untold(self) -> int:
        """How many bytes may be written before `wrote` must be called."""
        return self._part.checkpoints.until_saved

    def wrote(self, count: int) -> None:
        """`count` bytes were written to `fd` at `at`."""
        self._has_written = True
        self._part.checkpoints.record(self._span.at, self._span.at + count)
        self._span.at += count

    def put(self, write: Callable[..., int], fd: int, at: int, count: int) -> int:
        """Calls `write(fd, at, count)`, which writes to offset `at`. Raises VersionConflict when another program has
        changed the part."""
        return self._part.put(write, fd, at, count)

    @property
    def fd(self) -> int:
        return self._part.fd

    @property
    def path(self) -> Path:
        return self._part.files.path(PART)


class MemoryWriter:
    """Takes the bytes [first, end) into memory, to compare a foreign file with them."""

    def __init__(self, first: int, end: int) -> None:
        self.at = first
        self.end = end
        self.data = bytearray()

    def take(self, data: bytes) -> None:
        wanted = data[: self.end - self.at]
        self.data += wanted
        self.at += len(wanted)

    @property
    def full(self) -> bool:
        return self.at >= self.end

    def hold(self, pieces: list[bytes], size: int) -> bool:
        return False


class Pump(Receiver):
    """Moves one body. `done` fires with the End, or fails with a BulkError, when the last byte is in the part."""

    def __init__(
        self,
        head: Head,
        writer: PartWriter | MemoryWriter,
        in_thread: Callable[..., Deferred[Any]],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._head = head
        self._writer = writer
        self._in_thread = in_thread
        self._on_bytes = on_bytes
        self.done: Deferred[End] = Deferred()
        self.received_bytes = 0
        self.last_byte = time.monotonic()
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._gathered_since = 0.0
        self._writing = False
        self._paused = False
        self._held = False
        self._end: End | None = None
        self._error: Exception | None = None

    def start(self) -> None:
        self._head.deliver(self)
        if self.waiting_for_us and self._end is None:
            # `deliver` resumes the socket after the first bytes, even if we have paused it.
            self._head.connection.pause()

    # -- the socket's side -----------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        if self._end is not None:
            return
        now = time.monotonic()
        self.last_byte = now
        if not self._gathered:
            self._gathered_since = now
        self._gathered.append(data)
        self._gathered_size += len(data)
        self.received_bytes += len(data)
        self._on_bytes(len(data))
        if self._gathered_size >= PIECE_BYTES:
            self._write()
        if self._gathered_size >= HIGH_WATER_BYTES and self._writing and not self._paused:
            self._paused = True
            self._head.connection.pause()

    def ended(self, how: End) -> None:
        if self._end is None:
            self._end = how
        if how is End.FRAMED and not self._writing and self._writer.hold(self._gathered, self._gathered_size):
            self._gathered, self._gathered_size = [], 0
        self._write()

    # -- the run's side --------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Called repeatedly: bytes of a slow link must not wait in memory for more than a second."""
        if self._gathered and now - self._gathered_since >= 1.0:
            self._write()
        if not self._gathered and not self._writing:
            self._cut_if_full()

    def hold(self, held: bool) -> None:
        """Stops the socket for a rate limit, or lets it flow again."""
        if self._end is not None or held == self._held:
            return
        self._held = held
        if held:
            self._head.connection.pause()
        elif not self._paused:
            self._head.connection.resume()

    @property
    def waiting_for_us(self) -> bool:
        """True while the disk or a rate limit stops the body, not the origin."""
        return self._paused or self._held

    def abort(self, error: Exception) -> None:
        """Ends the transfer now; the bytes that were received are still written, then `done` fails with `error`."""
        if self._error is None:
            self._error = error
        if self._end is None:
            self._end = End.LOST
            self._head.connection.abort()
        self._write()

    # -- the part's side -------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._writing:
            return
        if self._gathered:
            pieces, self._gathered, self._gathered_size = self._gathered, [], 0
            self._writing = True
            self._in_thread(self._take, pieces).addCallbacks(self._written, self._refused)
        elif self._end is not None and not self.done.called:
            if self._error is not None:
                self.done.errback(Failure(self._error))
            else:
                self.done.callback(self._end)

    def _take(self, pieces: list[bytes]) -> None:
        self._writer.take(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _written(self, _: object) -> None:
        self._writing = False
        self._cut_if_full()
        if self._gathered_size >= PIECE_BYTES or self._paused or self._end is not None:
            self._write()
        if self._paused and self._end is None:
            self._paused = False
            self.last_byte = time.monotonic()
            if not self._held:
                self._head.connection.resume()

    def _cut_if_full(self) -> None:
        """Closes the connection when all that is wanted is here, perhaps because another connection took over the rest;
        more bytes than promised are not read."""
        if self._end is None and self._writer.full:
            self._end = End.CUT
            self._gathered, self._gathered_size = [], 0
            self._head.connection.abort()
            if not self._writing:
                self._write()

    def _refused(self, failure: Failure) -> None:
        self._writing = False
        self._gathered, self._gathered_size = [], 0
        if self._error is None and isinstance(failure.value, Exception):
            self._error = failure.value
        if self._end is None:
            self._end = End.LOST
            self._head.connection.abort()
        self._write()
