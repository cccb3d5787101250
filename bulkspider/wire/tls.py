"""TLS off the reactor: OpenSSL's own state of a connection, taken from under Twisted and pyOpenSSL."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, cast

from OpenSSL import SSL
from twisted.protocols.tls import TLSMemoryBIOProtocol

_SSL: Any = SSL
CAN_BE_TAKEN = (
    hasattr(TLSMemoryBIOProtocol, "_lostTLSConnection")
    and hasattr(_SSL, "_ffi")
    and all(
        hasattr(getattr(_SSL, "_lib", None), name)
        for name in (
            *("BIO_new", "BIO_new_mem_buf", "BIO_read", "BIO_s_mem", "BIO_set_mem_eof_return", "ERR_clear_error"),
            *("SSL_get_error", "SSL_read", "SSL_set_bio", "SSL_ERROR_WANT_READ", "SSL_ERROR_WANT_WRITE"),
        )
    )
)


def take_socket(tcp: Any, layer: Any) -> tuple[socket.socket, TlsStream | None]:
    """A twin of the socket of the TCP connection `tcp`, which does not block, and its TLS, that of the protocol `layer`
    (None without). Twisted keeps the original, and leaves both alone while it is paused. Raises OSError when
    this process may have no more sockets."""
    twin = cast(socket.socket, tcp.socket.dup())
    twin.setblocking(False)
    if layer is None:
        return twin, None
    # OpenSSL bears one thread: Twisted must not touch it either when the reactor is stopped by force.
    layer._lostTLSConnection = True
    return twin, TlsStream(layer.getHandle())


class TlsStream:
    """The TLS of a connection that was given away: reads its socket and decrypts, and the other way. For one thread.

    Twisted feeds OpenSSL through memory that grows and shrinks, and takes each record of 16 KiB into a new buffer: two
    copies of each byte more than it must. OpenSSL on the socket makes two system calls for each record. So here many
    records are read at once into `_cipher`, OpenSSL reads them there, and decrypts them into `plain`. Hence the private
    names: `Connection._ssl`, `_into_ssl`, `_from_ssl`, `SSL._lib` and `SSL._ffi`.
    """

    # Both stay in the processor's cache, and 64 transfers have 24 MB of them. Larger ones were not faster.
    PLAIN = 256 * 1024
    CIPHER = 128 * 1024
    # What a record may be longer than what it holds (RFC 8446 §5.2).
    RECORD = 16 * 1024 + 261

    def __init__(self, connection: Any) -> None:
        self.plain = memoryview(bytearray(self.PLAIN))
        self._to_plain = _SSL._ffi.from_buffer("char[]", self.plain, require_writable=True)
        self._connection = connection  # it owns what `_ssl` points to
        self._ssl = connection._ssl
        self._socket: socket.socket | None = None
        self._to_say = b""
        # False once the peer has closed TLS, or broken it: nothing more comes.
        self.is_open = True

    @staticmethod
    def fits(connection: Any) -> bool:
        """The names are there, and the connection is fed by hand."""
        return CAN_BE_TAKEN and all(
            getattr(connection, name, None) is not None for name in ("_ssl", "_into_ssl", "_from_ssl")
        )

    def attach(self, sock: socket.socket) -> None:
        """From now on `get` reads from the socket. What Twisted had read must have been got before."""
        self._socket = sock
        self._cipher = memoryview(bytearray(self.CIPHER))
        self._from_cipher = _SSL._ffi.from_buffer("char[]", self._cipher)
        self._said = _SSL._ffi.new("char[]", self.RECORD)
        # OpenSSL frees what it read from until now: pyOpenSSL must not touch it any more.
        self._connection._into_ssl = None

    def detach(self) -> None:
        """Before the buffers and the socket are gone."""
        if self._socket is None:
            return
        lib, connection = _SSL._lib, self._connection
        connection._into_ssl = lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(self._ssl, connection._into_ssl, connection._from_ssl)
        self._socket = None

    def get(self, at: int, most: int) -> int:
        """Decrypts up to `most` bytes into `plain` from `at` on. Fewer: there is no more at the moment."""
        lib = _SSL._lib
        ssl_read, target = lib.SSL_read, self._to_plain + at
        lib.ERR_clear_error()
        done = 0
        while done < most:
            count = ssl_read(self._ssl, target + done, most - done)
            if count > 0:
                done += count
                continue
            why = lib.SSL_get_error(self._ssl, count)
            self.is_open = self.is_open and why in (lib.SSL_ERROR_WANT_READ, lib.SSL_ERROR_WANT_WRITE)
            # No more than was asked for, where a rate limit holds; but OpenSSL gives nothing of less than a record.
            if not self.is_open or not self._read(max(most - done, self.RECORD)):
                break
        return done

    def send(self, data: bytes) -> None:
        """Encrypts and sends a question, which is short. Raises OSError when the socket does not take all of it."""
        try:
            self._connection.send(data)
        except SSL.Error as error:
            raise ConnectionResetError("TLS takes nothing more") from error
        self._say()
        if self._to_say:
            raise BlockingIOError("the peer does not read")

    def _read(self, most: int) -> bool:
        """Gives OpenSSL, which has used up all it had, the next bytes of the socket; False when there are none."""
        if self._socket is None:
            return False
        lib, connection = _SSL._lib, self._connection
        try:
            self._say()
            count = self._socket.recv_into(self._cipher, min(most, self.CIPHER))
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self.is_open = False
            return False
        memory = lib.BIO_new_mem_buf(self._from_cipher, count)
        lib.BIO_set_mem_eof_return(memory, -1)  # its end is not the connection's
        lib.SSL_set_bio(self._ssl, memory, connection._from_ssl)
        return True

    def _say(self) -> None:
        """Sends what OpenSSL has encrypted: a question, or what TLS itself has to say in the middle of a body, an
        answer to new keys (RFC 8446 §4.6.3)."""
        assert self._socket is not None
        while (count := _SSL._lib.BIO_read(self._connection._from_ssl, self._said, self.RECORD)) > 0:
            self._to_say += _SSL._ffi.buffer(self._said, count)[:]
        if self._to_say:
            with contextlib.suppress(BlockingIOError):
                self._to_say = self._to_say[self._socket.send(self._to_say) :]
