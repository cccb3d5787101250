"""The direct pump: the kernel moves a plain TCP body from the socket into the file, past user space.

`os.splice` through a pipe saves a copy. Where the platform or the file system cannot splice, and for bytes that must be
compared with the disk first, it is `recv_into` a large buffer and the PartWriter.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket

from bulkspider.errors import disk_error
from bulkspider.pumps.reactor import PartWriter
from bulkspider.pumps.threaded import CHUNK_BYTES, Mover


class DirectPump(Mover):
    """Moves the body of one answer of known length from a plain socket."""

    _pipe: _Pipe | None = None
    _buffer: memoryview | None = None

    def _begin(self) -> None:
        self._pipe = _Pipe()

    def _end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def move_some(self, sock: socket.socket) -> int | None:
        writer, pipe = self._writer, self._pipe
        assert pipe is not None
        assert writer.end is not None
        wanted = writer.end - writer.at
        if wanted <= 0:
            # Another connection took the rest over a moment ago.
            return None
        if (room := writer.unheld) and pipe.works:
            count = self._move_untold(sock, self._read_size(), room)
            if count or pipe.works:
                return count
        # To be compared, or no splice on this system: through user space.
        if self._buffer is None:
            self._buffer = memoryview(bytearray(CHUNK_BYTES // 4))
        try:
            count = sock.recv_into(self._buffer, min(len(self._buffer), self._read_size(), wanted))
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self._received(count)
        self._into_part(writer.take, self._buffer[:count])
        return count

    def _bring(self, sock: socket.socket, most: int) -> int | None:
        assert self._pipe is not None
        return self._pipe.fill(sock, most)

    def _put(self, fd: int, at: int, count: int) -> int:
        assert self._pipe is not None
        return self._pipe.empty_into(fd, at, count, self._writer)


class _Pipe:
    """The kernel's buffer between socket and file."""

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None
        self.works = hasattr(os, "splice")
        if self.works:
            try:
                self._ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                # For example, no descriptors are left: through user space, which needs none.
                self.works = False
                return
            with contextlib.suppress(OSError):
                # Room for a whole read instead of the usual 64 KiB; the system may refuse it to an ordinary user.
                fcntl.fcntl(self._ends[1], getattr(fcntl, "F_SETPIPE_SZ", 1031), CHUNK_BYTES)

    def close(self) -> None:
        if self._ends is not None:
            for end in self._ends:
                os.close(end)

    def fill(self, sock: socket.socket, count: int) -> int | None:
        """Bytes moved from the socket into the pipe (0: the connection has ended); None when none are there or splice
        does not work here."""
        assert self._ends is not None
        try:
            return os.splice(sock.fileno(), self._ends[1], count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):
                self.works = False
                return None
            if error.errno in (errno.ENOMEM, errno.EBADF):
                raise
            # Any error of the network: the connection is lost.
            return 0

    def empty_into(self, fd: int, at: int, count: int, writer: PartWriter) -> int:
        """Bytes moved from the pipe into the writer's file at offset `at`. Raises DiskError."""
        assert self._ends is not None
        try:
            if self.works:
                return os.splice(self._ends[0], fd, count, offset_dst=at, flags=os.SPLICE_F_MOVE)
            return os.pwrite(fd, os.read(self._ends[0], count), at)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS) and self.works:
                # This file system does not support splice.
                self.works = False
                return self.empty_into(fd, at, count, writer)
            raise disk_error(error, writer.path) from error
