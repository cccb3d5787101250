"""The TLS pump: the thread that has the socket decrypts, too, and writes many records at once.

On the reactor each record of 16 KiB costs more in Python than in OpenSSL, and all transfers share one core. Here only
OpenSSL and the kernel work, without the GIL, beside each other. What TLS does in the middle of a body (session tickets,
new keys, a renegotiation) happens inside the decryption. `wire/tls.py` knows how TLS is taken.
"""

from __future__ import annotations

import os
import socket

from bulkspider.errors import disk_error
from bulkspider.pumps.threaded import Mover
from bulkspider.wire import TlsStream

# What a slow link gives must not wait in memory for a buffer to fill (seconds).
GATHER_SECONDS = 1.0


class TlsPump(Mover):
    """Moves the body of one answer of known length from a TLS connection."""

    def _begin(self, sock: socket.socket, tls: TlsStream | None) -> None:
        assert tls is not None
        self._tls: TlsStream | None = tls
        self._gathered = 0
        self._gathered_since = 0.0
        # The socket had a whole buffer's worth at once, the last time.
        self._flows = False
        # What Twisted has read already may hold whole records.
        while not self._writer.full and self._decrypt(tls, len(tls.plain)):
            pass
        tls.attach(sock)

    def _end(self) -> None:
        if self._tls is not None:
            self._tls.detach()
            self._tls = None  # its buffer; the connection itself is closed by the reactor

    def _move_some(self, sock: socket.socket) -> int | None:
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
        """Gathers up to `most` bytes of what is there, writes them when the buffer is full or the body at its end."""
        writer = self._writer
        assert writer.end is not None
        # Negative when another connection has just taken over what is gathered here: the writer leaves it out.
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
