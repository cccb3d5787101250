"""The direct pump: a worker thread takes a plain TCP socket and moves the body past Python.

Where the length is known and nothing lies between us and the bytes (no TLS, no chunks), the reactor gives the socket
away after the head: `os.splice` moves the body from the socket through a pipe into the file without a copy in user
space, or `recv_into` a large buffer and `pwrite` where the platform or the file system cannot splice. Bytes that are on
disk already are compared first, by the same Intake as everywhere. Same interface as `pump.Pump`, which serves the rest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.errors import disk_error
from bulkspider.plan import End
from bulkspider.pump import Intake
from bulkspider.wire import Head

# A full pipe's worth: the fewer system calls, the less of the interpreter.
CHUNK = 1024 * 1024
# Threads look at the stop flag at least this often (milliseconds).
PATIENCE = 250
# Below this a thread and a new connection for the next file cost more than they save.
WORTH_IT = 4 * 1024 * 1024


class DirectPump:
    """Moves the body of one answer of known length in a thread of its own."""

    def __init__(
        self,
        head: Head,
        intake: Intake,
        in_thread: Callable[..., Deferred[Any]],
        on_bytes: Callable[[int], None],
        may_read: Callable[[int], float],
        read_size: Callable[[], int],
    ) -> None:
        """may_read: told how many bytes have been read since, says how many seconds to wait before reading on.
        read_size: bytes that one read may take now."""
        self._head = head
        self._intake = intake
        self._in_thread = in_thread
        self._on_bytes = on_bytes
        self._may_read = may_read
        self._read_size = read_size
        self.done: Deferred[End] = Deferred()
        self.received_bytes = 0
        self.last_byte = time.monotonic()
        self.waiting_for_us = False
        self._told = 0
        self._buffer: bytearray | None = None
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._end = End.LOST

    def start(self) -> None:
        first, sock = self._head.take_socket()
        self._in_thread(self._move, first, sock).addCallbacks(self._moved, self._failed)

    # -- the reactor's side ----------------------------------------------------------------------------------------

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

    def _moved(self, _: object) -> None:
        self.tick(time.monotonic())
        self._head.connection.close()
        if self._error is not None:
            self.done.errback(Failure(self._error))
        else:
            self.done.callback(self._end)

    def _failed(self, failure: Failure) -> None:
        if self._error is None and isinstance(failure.value, Exception):
            self._error = failure.value
        self._moved(None)

    # -- the thread's side -----------------------------------------------------------------------------------------

    def _move(self, first: bytes, sock: socket.socket) -> None:
        intake = self._intake
        self._received(len(first))
        intake.take(first)
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        with sock, _Pipe() as pipe:
            while not intake.full and not self._stop.is_set():
                if not poller.poll(PATIENCE):
                    continue
                count = self._move_some(sock, pipe)
                if count == 0:
                    return
                if count is not None and (pause := self._may_read(count)):
                    self._rest(pause)
        self._end = End.FRAMED

    def _move_some(self, sock: socket.socket, pipe: _Pipe) -> int | None:
        """Moves what the socket has; the number of bytes, 0 when it has ended, None when it had nothing after all."""
        intake = self._intake
        assert intake.end is not None
        wanted = intake.end - intake.at
        if wanted <= 0:
            # Another connection took the rest over a moment ago.
            return None
        if (room := intake.unheld) and (count := pipe.fill(sock, min(self._read_size(), room))) is not None:
            self._received(count)
            self._into_sink(self._drain, pipe, count)
            return count
        # To be compared, or no splice here: through user space.
        if self._buffer is None:
            self._buffer = bytearray(CHUNK // 4)
        view = memoryview(self._buffer)
        try:
            count = sock.recv_into(view, min(len(view), self._read_size(), wanted))
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self._received(count)
        self._into_sink(intake.take, view[:count])
        return count

    def _received(self, count: int) -> None:
        self.received_bytes += count
        self.last_byte = time.monotonic()

    def _into_sink(self, write: Callable[..., None], *data: Any) -> None:
        self.waiting_for_us = True
        try:
            write(*data)
        finally:
            self.waiting_for_us = False
            self.last_byte = time.monotonic()

    def _drain(self, pipe: _Pipe, count: int) -> None:
        intake = self._intake
        left = count
        while left:
            done = pipe.empty_into(intake.fd, intake.at, left, intake.path)
            intake.wrote(done)
            left -= done

    def _rest(self, seconds: float) -> None:
        self.waiting_for_us = True
        while seconds > 0 and not self._stop.wait(min(seconds, PATIENCE / 1000)):
            seconds = self._may_read(0)
        self.waiting_for_us = False
        self.last_byte = time.monotonic()


class _Pipe:
    """The kernel's buffer between socket and file."""

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None
        self._works = hasattr(os, "splice")

    def __enter__(self) -> _Pipe:
        if self._works:
            self._ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            with contextlib.suppress(OSError):
                # More than the 64 KiB of every pipe; the system limits how much an ordinary user may have.
                fcntl.fcntl(self._ends[1], getattr(fcntl, "F_SETPIPE_SZ", 1031), CHUNK)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ends is not None:
            for end in self._ends:
                os.close(end)

    def fill(self, sock: socket.socket, count: int) -> int | None:
        """Bytes moved from the socket into the pipe (0: the peer has closed); None when that cannot be done here."""
        if self._ends is None or not self._works:
            return None
        try:
            return os.splice(sock.fileno(), self._ends[1], count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):
                self._works = False
                return None
            if error.errno in (errno.ECONNRESET, errno.ETIMEDOUT, errno.EPIPE):
                return 0
            raise

    def empty_into(self, fd: int, at: int, count: int, path: os.PathLike[str]) -> int:
        """Bytes moved from the pipe into the file at offset `at`. Raises DiskError."""
        assert self._ends is not None
        try:
            if self._works:
                return os.splice(self._ends[0], fd, count, offset_dst=at, flags=os.SPLICE_F_MOVE)
            data = os.read(self._ends[0], count)
            return os.pwrite(fd, data, at)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS) and self._works:
                # This file system takes no spliced pages.
                self._works = False
                return self.empty_into(fd, at, count, path)
            raise disk_error(error, path) from error
