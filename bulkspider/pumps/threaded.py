"""The mover: a worker thread takes the socket of an answer of known length, and moves the body without the reactor.

Here is what is common: the thread and its end, stalls, rate limits, the stop flag, the reports to the run. How bytes
get from the socket into the file is in `splice.py` for plain TCP and in `tls.py` for TLS. Same interface as
`reactor.Pump`, which serves the connections that cannot be taken from the reactor.
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
# A thread that waits for its turn under a rate limit checks this often whether the limit has changed.
CHANGES_SECONDS = 5.0
# For a smaller body, a thread and a new connection for the next file take longer than they save.
WORTH_IT_BYTES = 4 * 1024 * 1024
# Bytes of one read where no rate limit holds: fewer system calls mean less work for the interpreter.
CHUNK_BYTES = 1024 * 1024
# While the socket has more, so many bytes are moved before the part and the run are told.
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
        """may_read: called with the number of bytes read since the last call, returns the seconds to wait before
        reading on. read_size: returns the bytes that one read may take now."""
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
        taken = self._head.take_socket()
        self._socket = taken[1]
        self._in_thread(self._move, *taken).addCallbacks(self._moved, self._failed)

    def tick(self, now: float) -> None:
        """Tells the run how many bytes the thread has received since the last call."""
        count = self.received_bytes - self._told
        if count:
            self._told += count
            self._on_bytes(count)

    def hold(self, held: bool) -> None:
        """Nothing to do: the thread keeps the rate limit itself."""

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
        # The thread closes it itself, if one was started.
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
                    count = self.move_some(sock)
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
