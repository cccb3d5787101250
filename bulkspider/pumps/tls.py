"""The TLS pump: the thread that has the socket also decrypts, and writes many records at once.

In the reactor each record of 16 KiB takes more time in Python than in OpenSSL, and all transfers share one core. Here
OpenSSL and the kernel work without the GIL, so that transfers run in parallel. What TLS does in the middle of a body
(session tickets, new keys, a renegotiation) happens inside the decryption. `wire/tls.py` takes TLS over from Twisted.
"""

from __future__ import annotations

import os
import socket

from bulkspider.errors import disk_error
from bulkspider.pumps.threaded import Mover
from bulkspider.wire import TlsStream

# Bytes of a slow link do not wait longer in memory for the buffer to fill.
GATHER_SECONDS = 1.0


class TlsPump(Mover):
    """Moves the body of one answer of known length from a TLS connection."""

    def _begin(self, sock: socket.socket, tls: TlsStream | None) -> None:
        assert tls is not None
        self._tls: TlsStream | None = tls
        self._gathered = 0
        self._gathered_since = 0.0
        # The last read filled the whole buffer.
        self._flows = False
        # The bytes that Twisted has read already may contain whole records.
        while not self._writer.full and self._decrypt(tls, len(tls.plain)):
            pass
        tls.attach(sock)

    def _end(self) -> None:
        if self._tls is not None:
            self._tls.detach()
            self._tls = None  # frees its buffer; the reactor closes the connection itself

    def move_some(self, sock: socket.socket) -> int | None:
        tls = self._tls
        assert tls is not None
        if self._flows and self._runs_on and (room := self._writer.unheld):
            count = self._move_untold(sock, len(tls.plain), room)
            return count or (None if tls.is_open else 0)
        count = self._decrypt(tls, self._read_size())
        if self._gathered and self.last_byte - self._gathered_since >= GATHER_SECONDS:
            self._flush()
        return count or (None if tls.is_open else 0)

    def _decrypt(self, tls: TlsStream, most: int) -> int:
        """Decrypts up to `most` bytes; writes when the buffer is full or the body has ended. Returns the number of new
        bytes."""
        writer = self._writer
        assert writer.end is not None
        # Negative when another connection has just taken over the gathered bytes: the writer then drops them.
        room = min(len(tls.plain), writer.end - writer.at) - self._gathered
        count = tls.get(self._gathered, min(room, most)) if room > 0 else 0
        if count:
            self._received(count)
            if not self._gathered:
                self._gathered_since = self.last_byte
            self._gathered += count
        if count >= room:
            self._flush()
        self._flows = count == len(tls.plain)
        return count

    def _bring(self, sock: socket.socket, most: int) -> int | None:
        assert self._tls is not None
        count = self._brought = self._tls.get(0, most)
        self._flows = count == most
        return count

    def _put(self, fd: int, at: int, count: int) -> int:
        assert self._tls is not None
        try:
            return os.pwrite(fd, self._tls.plain[self._brought - count : self._brought], at)
        except OSError as error:
            raise disk_error(error, self._writer.path) from error

    def _flush(self) -> None:
        if self._gathered:
            assert self._tls is not None
            count, self._gathered = self._gathered, 0
            self._into_part(self._writer.take, self._tls.plain[:count])
