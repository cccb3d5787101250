"""The TLS pump: the thread that has the socket decrypts, too, and writes many records at once.

On the reactor each record of 16 KiB costs more in Python than in OpenSSL, and all transfers share one core. Here only
OpenSSL and the kernel work, without the GIL, beside each other. What TLS does in the middle of a body (session tickets,
new keys, a renegotiation) happens inside the decryption; its answers are sent. `wire.py` knows how TLS is taken.
"""

from __future__ import annotations

import contextlib
import socket
import time

from bulkspider.mover import Mover
from bulkspider.wire import TlsStream

# What a slow link gives must not wait in memory for a buffer to fill (seconds).
GATHER_SECONDS = 1.0


class TlsPump(Mover):
    """Moves the body of one answer of known length from a TLS connection."""

    def _begin(self, tls: TlsStream | None) -> None:
        assert tls is not None
        self._tls: TlsStream | None = tls
        self._gathered = 0
        self._gathered_since = 0.0
        self._unsent = b""
        # What Twisted has put in may hold whole records.
        self._decrypt(tls)

    def _end(self) -> None:
        self._tls = None  # its buffers; the connection itself is closed by the reactor

    def _move_some(self, sock: socket.socket) -> int | None:
        tls = self._tls
        assert tls is not None
        if not tls.is_open:
            return 0
        try:
            count = sock.recv_into(tls.cipher, min(len(tls.cipher), self._read_size()))
        except BlockingIOError:
            return None
        except OSError:
            return 0
        if count == 0:
            return 0
        self.last_byte = time.monotonic()
        tls.put(count)
        moved = self._decrypt(tls)
        self._answer(tls, sock)
        if self._gathered and self.last_byte - self._gathered_since >= GATHER_SECONDS:
            self._flush()
        return moved or None

    def _decrypt(self, tls: TlsStream) -> int:
        """Decrypts all that was put in; the bytes of the body in it."""
        intake = self._intake
        assert intake.end is not None
        moved = 0
        while not intake.full:
            # Negative when another connection has just taken over what is gathered here: the intake leaves it out.
            wanted = min(len(tls.plain), intake.end - intake.at) - self._gathered
            if wanted > 0:
                count = tls.get(self._gathered, wanted)
                if count:
                    if not self._gathered:
                        self._gathered_since = self.last_byte
                    self._gathered += count
                    self._received(count)
                    moved += count
                if count < wanted:
                    break
            self._flush()
        return moved

    def _flush(self) -> None:
        if self._gathered:
            assert self._tls is not None
            count, self._gathered = self._gathered, 0
            self._into_sink(self._intake.take, self._tls.plain[:count])

    def _answer(self, tls: TlsStream, sock: socket.socket) -> None:
        self._unsent += tls.answer()
        if self._unsent:
            # Full: sent with the next bytes. Broken: the next read says so.
            with contextlib.suppress(OSError):
                self._unsent = self._unsent[sock.send(self._unsent) :]
