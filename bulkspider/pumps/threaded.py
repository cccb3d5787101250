"""The mover: threads take the socket of an answer of known length, and move the body without the reactor.

Here is what is common: the visits and their end, stalls, rate limits, the stop flag, the reports to the run.
`visits.py` decides when a thread visits a body. How bytes get from the socket into the file is in `splice.py` for plain
TCP and in `tls.py` for TLS. Same interface as `reactor.Pump`, which serves the connections that cannot be taken from
the reactor.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.protocol.plan import End
from bulkspider.pumps.reactor import PartWriter
from bulkspider.pumps.visits import Visits
from bulkspider.wire import Head

# A body that waits for its turn under a rate limit checks this often whether the limit has changed.
CHANGES_SECONDS = 5.0
# For a smaller body, a thread and a new connection for the next file take longer than they save.
WORTH_IT_BYTES = 4 * 1024 * 1024
# Bytes of one read where no rate limit holds: fewer system calls mean less work for the interpreter.
CHUNK_BYTES = 1024 * 1024
# While the socket has more, so many bytes are moved before the part and the run are told.
UNTOLD_BYTES = 4 * 1024 * 1024
# A body that has brought fewer bytes a second than TRICKLE_BYTES for TRICKLE_SECONDS is slow. It is visited so often
# that the system's buffer of a connection never fills, and is fast again when a visit finds SLOW_VISIT_MAX_BYTES.
TRICKLE_SECONDS = 2.0
TRICKLE_BYTES = 24 * 1024
SLOW_VISIT_MAX_BYTES = 48 * 1024
FIRST_VISIT_SECONDS = 0.1


class Mover:
    """Moves the body of one answer of known length, a visit after the other. `done` fires with the End."""

    def __init__(
        self,
        head: Head,
        writer: PartWriter,
        visits: Visits,
        on_bytes: Callable[[int], None],
        may_read: Callable[[int], float],
        read_size: Callable[[], int],
    ) -> None:
        """may_read: called with the number of bytes read since the last call, returns the seconds to wait before
        reading on. read_size: returns the bytes that one read may take now."""
        self._head = head
        self._writer = writer
        self._visits = visits
        self._on_bytes = on_bytes
        self._may_read = may_read
        self._read_size = read_size
        self.done: Deferred[End] = Deferred()
        self.received_bytes = 0
        self.last_byte = time.monotonic()
        self.is_slow = False
        self._first: bytes | None = None
        self._told = 0
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._window = _Window()
        self._visit_seconds = FIRST_VISIT_SECONDS
        self._writes = False
        self._rests = False

    # -- how the bytes move: in a thread ---------------------------------------------------------------------------

    def _begin(self) -> None:
        """Makes what the pump needs; `_end` releases it. The bytes that the reactor had read are in the part
        already."""

    def move_some(self, sock: socket.socket) -> int | None:
        """Moves the bytes that the socket has. Returns their number, 0 when the connection has ended, None when it has
        none yet."""
        raise NotImplementedError

    def _bring(self, sock: socket.socket, most: int) -> int | None:
        """Reads up to `most` bytes from the socket, for `_put`. Returns as `move_some`."""
        raise NotImplementedError

    def _put(self, fd: int, at: int, count: int) -> int:
        """Writes some of the last `count` bytes of `_bring` to offset `at`. Returns how many. Raises DiskError."""
        raise NotImplementedError

    @property
    def _has_more(self) -> bool:
        """There may be bytes that have left the socket already."""
        return False

    def _end(self) -> None:
        """Releases what `_begin` has made; nothing if that was not called."""

    # -- the reactor's side ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._first, self._socket, self._tls = self._head.take_socket()
        self._visits.enter(self).addBoth(self._over)

    @property
    def waiting_for_us(self) -> bool:
        """True while the disk or a rate limit stops the body, not the origin."""
        return self._writes or self._rests or self._visits.hang

    def tick(self, now: float) -> None:
        """Tells the run how many bytes have come since the last call."""
        count = self.received_bytes - self._told
        if count:
            self._told += count
            self._on_bytes(count)
        if self._writer.full:
            # Another connection has taken over the rest: there may never be another byte.
            self._visits.hurry(self)

    def hold(self, held: bool) -> None:
        """Nothing to do: the visits keep the rate limit."""

    def abort(self, error: Exception) -> None:
        """Ends the transfer at once."""
        if self._error is None:
            self._error = error
        self._stop.set()
        self._visits.hurry(self)

    def _over(self, result: End | Failure) -> None:
        if isinstance(result, Failure):
            if self._error is None and isinstance(result.value, Exception):
                self._error = result.value
            result = End.LOST
        self.tick(time.monotonic())
        self._head.connection.close()
        if self._error is not None:
            self.done.errback(Failure(self._error))
        else:
            self.done.callback(result)

    # -- in a thread -----------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._socket.fileno()

    def visit(self) -> float | End | None:
        """Moves what has come (`visits.VisitedBody`)."""
        if self._first is not None:
            self._take_over(self._first)
        if self._rests and not self._stop.is_set():
            if pause := self._may_read(0):
                return min(pause, CHANGES_SECONDS)
            self._rests = False
            self.last_byte = time.monotonic()
        count = None if self._is_over else self.move_some(self._socket)
        if self._is_over or count == 0:
            return End.FRAMED if self._writer.full else End.LOST
        pause = self._may_read(count) if count else 0.0
        self._note_speed(count or 0)
        if pause:
            self._rests = True
            return min(pause, CHANGES_SECONDS)
        if self.is_slow:
            self._visit_seconds = min(2 * self._visit_seconds, self._visits.visit_seconds)
            return self._visit_seconds
        return 0.0 if self._has_more else None

    def release(self) -> None:
        self._end()
        self._socket.close()

    @property
    def _is_over(self) -> bool:
        """The range is full, or the transfer is stopped."""
        return self._writer.full or self._stop.is_set()

    def _take_over(self, first: bytes) -> None:
        """The first visit. first: what the reactor has read already."""
        self._first = None
        self._received(len(first))
        self._into_part(self._writer.take, first)
        self._window.begin(self.received_bytes)
        self._begin()

    def _note_speed(self, count: int) -> None:
        """Whether the body is slow. count: bytes that this visit has found."""
        trickles = self._window.trickles(self.received_bytes)
        if trickles is not None and trickles != self.is_slow:
            self.is_slow, self._visit_seconds = trickles, FIRST_VISIT_SECONDS
        if count >= SLOW_VISIT_MAX_BYTES and self._read_size() >= CHUNK_BYTES:
            self.is_slow = False

    @property
    def _runs_on(self) -> bool:
        """Not every piece must be reported: no rate limit holds, and the first bytes, whose speed `byteranges.py` looks
        at, have been reported."""
        return self.received_bytes >= UNTOLD_BYTES and self._read_size() >= CHUNK_BYTES

    def _move_untold(self, sock: socket.socket, piece: int, room: int) -> int | None:
        """Moves up to `room` bytes that need no comparison with the disk: a piece, or many while the socket has more.
        Returns as `move_some`. The part is told only at the end: copying a piece replaces the contents of the
        processor's cache, so each line of Python between two pieces takes many times longer than elsewhere."""
        writer = self._writer
        fd, at, moved = writer.fd, writer.at, 0
        most = min(room, writer.untold, UNTOLD_BYTES if self._runs_on else piece)
        count: int | None = None
        self._writes = True
        try:
            while moved < most and not self._stop.is_set():
                # Another connection may just have taken over the bytes behind.
                end = writer.end or 0
                if end <= at + moved:
                    break
                count = left = self._bring(sock, min(piece, most - moved, end - at - moved))
                if not left:
                    break
                self.received_bytes += left
                while left:
                    done = writer.put(self._put, fd, at + moved, left)
                    moved += done
                    left -= done
        finally:
            self._writes = False
            if moved:
                self._into_part(writer.wrote, moved)
        return moved or count

    def _received(self, count: int) -> None:
        self.received_bytes += count
        self.last_byte = time.monotonic()

    def _into_part(self, write: Callable[..., None], *data: Any) -> None:
        self._writes = True
        try:
            write(*data)
        finally:
            self._writes = False
            self.last_byte = time.monotonic()


class _Window:
    """The speed of a body over the last TRICKLE_SECONDS."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, received: int) -> None:
        self._began, self._received = time.monotonic(), received

    def trickles(self, received: int) -> bool | None:
        """received: bytes so far. None until the time is over."""
        seconds, count = time.monotonic() - self._began, received - self._received
        if seconds < TRICKLE_SECONDS:
            return None
        self.begin(received)
        return count < TRICKLE_BYTES * seconds
