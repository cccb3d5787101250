"""The mover: a worker thread takes the socket of an answer whose length is known, and moves the body by itself.

What is common to the ways of doing so: the thread and its end, stalls, rate limits, the stop flag, what the run hears.
How bytes get from the socket into the file is said by `splice.py` for plain TCP and by `tls.py` for TLS. Same
interface as `reactor.Pump`, which serves what cannot be taken from the reactor.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.protocol.plan import End
from bulkspider.pumps.reactor import PartWriter
from bulkspider.wire import Head, TlsStream

# Threads look at the stop flag at least this often (milliseconds).
POLL_MILLISECONDS = 250
# Who waits for its turn under a rate limit looks so often whether the limit has changed.
CHANGES_SECONDS = 5.0
# Below this a thread and a new connection for the next file cost more than they save.
WORTH_IT_BYTES = 4 * 1024 * 1024
# What one read takes where no rate limit holds: the fewer system calls, the less of the interpreter.
CHUNK_BYTES = 1024 * 1024
# While the socket has more, so many bytes are moved before anybody is told.
UNTOLD_BYTES = 4 * 1024 * 1024


class Mover:
    """Moves the body of one answer of known length in a thread of its own. `done` fires with the End."""

    def __init__(
        self,
        head: Head,
        writer: PartWriter,
        in_thread: Callable[..., Deferred[Any]],
        on_bytes: Callable[[int], None],
        may_read: Callable[[int], float],
        read_size: Callable[[], int],
    ) -> None:
        """may_read: told how many bytes have been read since, says how many seconds to wait before reading on.
        read_size: bytes that one read may take now."""
        self._head = head
        self._writer = writer
        self._in_thread = in_thread
        self._on_bytes = on_bytes
        self._may_read = may_read
        self._read_size = read_size
        self.done: Deferred[End] = Deferred()
        self.received_bytes = 0
        self.last_byte = time.monotonic()
        self.waiting_for_us = False
        self._told = 0
        self._stop = threading.Event()
        self._error: Exception | None = None

    # -- how the bytes move: in the thread -------------------------------------------------------------------------

    def _begin(self, sock: socket.socket, tls: TlsStream | None) -> None:
        """Makes ready what `_end` takes away; what the reactor had read is in the part already."""

    def _move_some(self, sock: socket.socket) -> int | None:
        """Moves what the socket has; the number of bytes, 0 when it has ended, None when it had nothing yet."""
        raise NotImplementedError

    def _bring(self, sock: socket.socket, most: int) -> int | None:
        """Up to `most` bytes of what the socket has, to be `_put`; 0 and None as of `_move_some`."""
        raise NotImplementedError

    def _put(self, fd: int, at: int, count: int) -> int:
        """Writes some of the last `count` bytes that were brought to offset `at`; how many. Raises DiskError."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Writes what has been gathered; asked when nothing came for a while, and at the end."""

    def _end(self) -> None:
        pass

    # -- the reactor's side ----------------------------------------------------------------------------------------

    def start(self) -> None:
        taken = self._head.take_socket()
        self._socket = taken[1]
        self._in_thread(self._move, *taken).addCallbacks(self._moved, self._failed)

    def tick(self, now: float) -> None:
        """Tells the run what the thread has received since."""
        count = self.received_bytes - self._told
        if count:
            self._told += count
            self._on_bytes(count)

    def hold(self, held: bool) -> None:
        """The thread keeps the rate limit by itself."""

    def abort(self, error: Exception) -> None:
        """Ends the transfer; the thread notices within a quarter of a second."""
        if self._error is None:
            self._error = error
        self._stop.set()

    def _moved(self, end: End) -> None:
        self.tick(time.monotonic())
        self._head.connection.close()
        if self._error is not None:
            self.done.errback(Failure(self._error))
        else:
            self.done.callback(end)

    def _failed(self, failure: Failure) -> None:
        if self._error is None and isinstance(failure.value, Exception):
            self._error = failure.value
        # The thread does so itself, where there was one.
        self._socket.close()
        self._moved(End.LOST)

    # -- the thread's side -----------------------------------------------------------------------------------------

    def _move(self, first: bytes, sock: socket.socket, tls: TlsStream | None) -> End:
        writer = self._writer
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        with sock:
            self._received(len(first))
            self._into_part(writer.take, first)
            self._begin(sock, tls)
            try:
                while not writer.full and not self._stop.is_set():
                    count = self._move_some(sock)
                    if count is None:
                        if not poller.poll(POLL_MILLISECONDS):
                            self._flush()
                    elif count == 0:
                        break
                    elif pause := self._may_read(count):
                        self._rest(pause)
                self._flush()
            finally:
                self._end()
        return End.FRAMED if writer.full else End.LOST

    @property
    def _runs_on(self) -> bool:
        """Nobody need be told of each piece: no rate limit makes them small, and how fast it began, which is of
        interest (`byteranges.py`), has been told."""
        return self.received_bytes >= UNTOLD_BYTES and self._read_size() >= CHUNK_BYTES

    def _move_untold(self, sock: socket.socket, piece: int, room: int) -> int | None:
        """Moves bytes, `room` at most, that nothing on disk is to be compared with: a piece, or many while the socket
        has more; as `_move_some`. Nobody is told before the end: copying a piece drives all else out of the processor's
        cache, so each line of Python between two of them costs many times what it does elsewhere."""
        writer = self._writer
        fd, at, moved = writer.fd, writer.at, 0
        most = min(room, writer.untold, UNTOLD_BYTES if self._runs_on else piece)
        count: int | None = None
        self.waiting_for_us = True
        try:
            while moved < most and not self._stop.is_set():
                # Another connection may have taken over what lies behind, a moment ago.
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
