"""TLS in a thread: takes the OpenSSL state of a connection away from Twisted and pyOpenSSL, and reads with it."""

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
    """A non-blocking duplicate of the socket of the TCP connection `tcp`, and the TLS of the protocol `layer` (None for
    plain http). Twisted keeps the original, and uses neither while it is paused. Raises OSError when this process may
    have no more sockets."""
    twin = cast(socket.socket, tcp.socket.dup())
    twin.setblocking(False)
    if layer is None:
        return twin, None
    # OpenSSL allows one thread only: Twisted must not use it even when the reactor is stopped by force.
    layer._lostTLSConnection = True
    return twin, TlsStream(layer.getHandle())


class TlsStream:
    """The TLS of a connection that a thread has taken: reads its socket and decrypts, encrypts and sends. For one
    thread.

    Twisted feeds OpenSSL through memory that grows and shrinks, and takes each record of 16 KiB into a new buffer: two
    more copies of each byte than necessary. OpenSSL on the socket itself would make two system calls for each record.
    So here many records are read at once into `_cipher`, OpenSSL reads them there, and decrypts them into `plain`.
    Private names: `Connection._ssl`, `_into_ssl`, `_from_ssl`, `SSL._lib` and `SSL._ffi`.
    """

    # Bytes of the two buffers. Both stay in the processor's cache; 64 transfers have 24 MB of them. Larger ones were
    # not faster.
    PLAIN_BYTES = 256 * 1024
    CIPHER_BYTES = 128 * 1024
    # The longest TLS record: 16 KiB of content and what encryption adds (RFC 8446 §5.2).
    RECORD_BYTES = 16 * 1024 + 261

    def __init__(self, connection: Any) -> None:
        self.plain = memoryview(bytearray(self.PLAIN_BYTES))
        self._to_plain = _SSL._ffi.from_buffer("char[]", self.plain, require_writable=True)
        self._connection = connection  # kept, because it owns the memory of `_ssl`
        self._ssl = connection._ssl
        self._socket: socket.socket | None = None
        self._to_say = b""
        # False once the peer has ended TLS, or an error has: nothing more comes.
        self.is_open = True

    @staticmethod
    def fits(connection: Any) -> bool:
        """The private names exist, and the connection uses memory instead of its own socket."""
        return CAN_BE_TAKEN and all(
            getattr(connection, name, None) is not None for name in ("_ssl", "_into_ssl", "_from_ssl")
        )

    def attach(self, sock: socket.socket) -> None:
        """From now on `get` reads from the socket. Before, the bytes that Twisted had read must have been taken by
        `get`."""
        self._socket = sock
        self._cipher = memoryview(bytearray(self.CIPHER_BYTES))
        self._from_cipher = _SSL._ffi.from_buffer("char[]", self._cipher)
        self._said = _SSL._ffi.new("char[]", self.RECORD_BYTES)
        # OpenSSL frees the memory that it has read from until now: pyOpenSSL must not use it any more.
        self._connection._into_ssl = None

    def detach(self) -> None:
        """To be called before the buffers and the socket are released."""
        if self._socket is None:
            return
        lib, connection = _SSL._lib, self._connection
        connection._into_ssl = lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(self._ssl, connection._into_ssl, connection._from_ssl)
        self._socket = None

    def get(self, at: int, most: int) -> int:
        """Decrypts up to `most` bytes into `plain` from `at` on. Returns their number; fewer than `most` when no more
        are there now."""
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
            # Under a rate limit no more than was asked for; but at least a record, because OpenSSL decrypts only whole
            # ones.
            if not self.is_open or not self._read(max(most - done, self.RECORD_BYTES)):
                break
        return done

    def send(self, data: bytes) -> None:
        """Encrypts and sends a request, which is short. Raises OSError when the socket does not take all of it."""
        try:
            self._connection.send(data)
        except SSL.Error as error:
            raise ConnectionResetError("TLS takes nothing more") from error
        self._say()
        if self._to_say:
            raise BlockingIOError("the peer does not read")

    def _read(self, most: int) -> bool:
        """Gives OpenSSL the next bytes of the socket when it has used up the last ones; False when there are none."""
        if self._socket is None:
            return False
        lib, connection = _SSL._lib, self._connection
        try:
            self._say()
            count = self._socket.recv_into(self._cipher, min(most, self.CIPHER_BYTES))
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self.is_open = False
            return False
        memory = lib.BIO_new_mem_buf(self._from_cipher, count)
        lib.BIO_set_mem_eof_return(memory, -1)  # the end of this memory is not the end of the connection
        lib.SSL_set_bio(self._ssl, memory, connection._from_ssl)
        return True

    def _say(self) -> None:
        """Sends what OpenSSL has encrypted: a request, or TLS's own answer to new keys in the middle of a body (RFC
        8446 §4.6.3)."""
        assert self._socket is not None
        while (count := _SSL._lib.BIO_read(self._connection._from_ssl, self._said, self.RECORD_BYTES)) > 0:
            self._to_say += _SSL._ffi.buffer(self._said, count)[:]
        if self._to_say:
            with contextlib.suppress(BlockingIOError):
                self._to_say = self._to_say[self._socket.send(self._to_say) :]
