"""The TLS pump: the thread that has the socket also decrypts, and writes many records at once.

In the reactor each record of 16 KiB takes more time in Python than in OpenSSL, and all transfers share one core. Here
OpenSSL and the kernel work without the GIL, so that transfers run in parallel. What TLS does in the middle of a body
(session tickets, new keys, a renegotiation) happens inside the decryption. `wire/tls.py` takes TLS over from Twisted.
"""

from __future__ import annotations

import os
import socket
import threading

from bulkspider.errors import disk_error
from bulkspider.pumps.threaded import CHUNK_BYTES, Mover
from bulkspider.wire import TlsBuffers, TlsStream


class _OfThread(threading.local):
    """The buffers of this thread: a visit leaves nothing in them. With buffers of a megabyte Python hands its lock over
    less often than with smaller ones, which takes more time than the decryption."""

    def __init__(self) -> None:
        self.buffers = TlsBuffers(CHUNK_BYTES, CHUNK_BYTES)


_MINE = _OfThread()


class TlsPump(Mover):
    """Moves the body of one answer of known length from a TLS connection."""

    _tls: TlsStream
    # The last read brought as much as it was allowed to: OpenSSL may have more.
    _flows = False

    def _begin(self) -> None:
        # The bytes that Twisted has read already may contain whole records.
        self._flows = True
        while self._flows and not self._is_over:
            self.move_some(self._socket)
        self._tls.attach(self._socket)

    def _end(self) -> None:
        self._tls.detach()

    def move_some(self, sock: socket.socket) -> int | None:
        writer, tls = self._writer, self._tls
        tls.use(_MINE.buffers)
        assert writer.end is not None
        piece = min(len(tls.plain), self._read_size())
        if room := writer.unheld:
            count = self._move_untold(sock, piece, room)
        else:
            # To be compared. Negative where another connection has just taken over the rest.
            count = self._bring(sock, max(0, min(piece, writer.end - writer.at)))
            self._received(count)
            self._into_part(writer.take, tls.plain[:count])
        return count or (None if tls.is_open else 0)

    @property
    def _has_more(self) -> bool:
        return self._flows or not self._tls.is_open

    def _bring(self, sock: socket.socket, most: int) -> int:
        count = self._brought = self._tls.get(most)
        self._flows = count == most > 0
        return count

    def _put(self, fd: int, at: int, count: int) -> int:
        try:
            return os.pwrite(fd, self._tls.plain[self._brought - count : self._brought], at)
        except OSError as error:
            raise disk_error(error, self._writer.path) from error
