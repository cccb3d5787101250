"""The mover: a worker thread takes the socket of an answer of known length, and moves the body without the reactor.

Here is what is common: the thread and its end, stalls, rate limits, the stop flag, the reports to the run. A body that
trickles gives its thread back, and is visited by the thread of all slow ones (`sharedthread.py`) until it is fast. How
bytes get from the socket into the file is in `splice.py` for plain TCP and in `tls.py` for TLS. Same interface as
`reactor.Pump`, which serves the connections that cannot be taken from the reactor.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.protocol.plan import End
from bulkspider.pumps.reactor import PartWriter
from bulkspider.pumps.sharedthread import SharedThread
from bulkspider.wire import Head, TlsStream

# Threads look at the stop flag at least this often (milliseconds).
POLL_MILLISECONDS = 250
# A thread that waits for its turn under a rate limit checks this often whether the limit has changed.
CHANGES_SECONDS = 5.0
# For a smaller body, a thread and a new connection for the next file take longer than they save.
WORTH_IT_BYTES = 4 * 1024 * 1024
# Bytes of one read where no rate limit holds: fewer system calls mean less work for the interpreter.
CHUNK_BYTES = 1024 * 1024
# While the socket has more, so many bytes are moved before the part and the run are told.
UNTOLD_BYTES = 4 * 1024 * 1024
# A body that has brought fewer bytes a second than TRICKLE_BYTES for TRICKLE_SECONDS is slow. It is visited so often
# that the system's buffer of a connection never fills, and leaves the shared thread when a visit finds
# SLOW_VISIT_MAX_BYTES.
TRICKLE_SECONDS = 2.0
TRICKLE_BYTES = 24 * 1024
SLOW_VISIT_MAX_BYTES = 48 * 1024
FIRST_VISIT_SECONDS = 0.1


class Mover:
    """Moves the body of one answer of known length in a thread of its own. `done` fires with the End."""

    def __init__(
        self,
        head: Head,
        writer: PartWriter,
        shared_thread: SharedThread,
        on_bytes: Callable[[int], None],
        may_read: Callable[[int], float],
        read_size: Callable[[], int],
    ) -> None:
        """may_read: called with the number of bytes read since the last call, returns the seconds to wait before
        reading on. read_size: returns the bytes that one read may take now."""
        self._head = head
        self._writer = writer
        self._shared_thread = shared_thread
        self._on_bytes = on_bytes
        self._may_read = may_read
        self._read_size = read_size
        self.done: Deferred[End] = Deferred()
        self.received_bytes = 0
        self.last_byte = time.monotonic()
        self.waiting_for_us = False
        self.is_slow = False  # it is in the shared thread
        self._told = 0
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._window = _Window()
        self._visit_seconds = FIRST_VISIT_SECONDS
        self._rests = False

    # -- how the bytes move: in the thread -------------------------------------------------------------------------

    def _begin(self, sock: socket.socket, tls: TlsStream | None) -> None:
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

    def _flush(self) -> None:
        """Writes what has been gathered; called when nothing has come for a while, and at the end."""

    def _end(self) -> None:
        pass

    # -- the reactor's side ----------------------------------------------------------------------------------------

    def start(self) -> None:
        first, self._socket, tls = self._head.take_socket()
        self._use_own_thread(self._move, first, tls, not self._shared_thread.takes_new_ones)

    def _use_own_thread(self, function: Callable[..., End | None], *args: Any) -> None:
        """It has a thread of its own from now on."""
        self._visit_seconds = FIRST_VISIT_SECONDS
        self._shared_thread.in_own_thread(function, *args).addBoth(self._use_shared_thread)

    def _use_shared_thread(self, result: End | Failure | None) -> None:
        """Its thread has ended with it: because the body has ended, or because it trickles."""
        self.is_slow = result is None
        if result is None:
            self._shared_thread.enter(self).addBoth(self._left_shared_thread)
        else:
            self._over(result)

    def _left_shared_thread(self, result: End | Failure | None) -> None:
        self.is_slow = False
        if result is None:
            self._use_own_thread(self._go_on)
        else:
            self._over(result)

    def tick(self, now: float) -> None:
        """Tells the run how many bytes the thread has received since the last call."""
        count = self.received_bytes - self._told
        if count:
            self._told += count
            self._on_bytes(count)

    def hold(self, held: bool) -> None:
        """Nothing to do: the thread keeps the rate limit itself."""

    def abort(self, error: Exception) -> None:
        """Ends the transfer; a thread of its own notices within a quarter of a second."""
        if self._error is None:
            self._error = error
        self._stop.set()
        self._shared_thread.hurry(self)

    def _over(self, result: End | Failure) -> None:
        if isinstance(result, Failure):
            if self._error is None and isinstance(result.value, Exception):
                self._error = result.value
            # A thread closes it itself, if there was one.
            self._socket.close()
            result = End.LOST
        self.tick(time.monotonic())
        self._head.connection.close()
        if self._error is not None:
            self.done.errback(Failure(self._error))
        else:
            self.done.callback(result)

    # -- in a thread: its own, or the shared one -----------------------------------------------------------------------

    def _move(self, first: bytes, tls: TlsStream | None, goes_on: bool) -> End | None:
        """Takes the socket over. goes_on: then moves the body; else it goes to the shared thread."""
        try:
            self._received(len(first))
            self._into_part(self._writer.take, first)
            self._begin(self._socket, tls)
        except BaseException:
            self._socket.close()
            raise
        return self._go_on() if goes_on else None

    def _go_on(self) -> End | None:
        """Moves the body in a thread of its own. None: it trickles, and goes to the shared thread."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        self._window.begin(self.received_bytes)
        with self._closing_if_it_fails():
            while not self._writer.full and not self._stop.is_set():
                count = self.move_some(self._socket)
                if count is None:
                    if not poller.poll(POLL_MILLISECONDS):
                        self._flush()
                elif count == 0:
                    break
                elif pause := self._may_read(count):
                    self._rest(pause)
                else:
                    continue
                if self._window.trickles(self.received_bytes):
                    return None
            return self._close()

    def visit(self) -> float | End | None:
        """Moves what has come meanwhile (`sharedthread.SlowBody`)."""
        with self._closing_if_it_fails():
            if self._rests and not self._stop.is_set():
                if pause := self._may_read(0):
                    return min(pause, CHANGES_SECONDS)
                self._rests = self.waiting_for_us = False
                self.last_byte = time.monotonic()
            count = None if self._writer.full or self._stop.is_set() else self.move_some(self._socket)
            if self._writer.full or self._stop.is_set() or count == 0:
                return self._close()
            self._flush()
            count = count or 0
            pause = self._may_read(count)
            if pause and (count < SLOW_VISIT_MAX_BYTES or pause >= self._shared_thread.visit_seconds / 2):
                self._rests = self.waiting_for_us = True
                return min(pause, CHANGES_SECONDS)
            if count >= SLOW_VISIT_MAX_BYTES:
                # Under a limit its turn may not be over: the pause after it shows whether the limit makes it slow.
                return None if pause or self._read_size() >= CHUNK_BYTES else FIRST_VISIT_SECONDS / 2
            self._visit_seconds = min(2 * self._visit_seconds, self._shared_thread.visit_seconds)
            return self._visit_seconds

    @contextmanager
    def _closing_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._end()
            self._socket.close()
            raise

    def _close(self) -> End:
        """The body has ended, or is stopped."""
        self._flush()
        self._end()
        self._socket.close()
        return End.FRAMED if self._writer.full else End.LOST

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
        self.waiting_for_us = True
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
            self.waiting_for_us = False
            if moved:
                self._into_part(writer.wrote, moved)
        return moved or count

    def _received(self, count: int) -> None:
        self.received_bytes += count
        self.last_byte = time.monotonic()

    def _into_part(self, write: Callable[..., None], *data: Any) -> None:
        self.waiting_for_us = True
        try:
            write(*data)
        finally:
            self.waiting_for_us = False
            self.last_byte = time.monotonic()

    def _rest(self, seconds: float) -> None:
        self.waiting_for_us = True
        while seconds > 0 and not self._stop.wait(min(seconds, CHANGES_SECONDS)):
            seconds = self._may_read(0)
        self.waiting_for_us = False
        self.last_byte = time.monotonic()


class _Window:
    """The speed of a body over the last TRICKLE_SECONDS."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, received: int) -> None:
        self._began, self._received = time.monotonic(), received

    def trickles(self, received: int) -> bool:
        """received: bytes so far. False until the time is over."""
        seconds, count = time.monotonic() - self._began, received - self._received
        if seconds < TRICKLE_SECONDS:
            return False
        self.begin(received)
        return count < TRICKLE_BYTES * seconds
