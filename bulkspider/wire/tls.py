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


class TlsBuffers:
    """Memory of one thread for `TlsStream`, in bytes: encrypted as it comes from a socket, decrypted, and encrypted for
    a peer. One stream after the other may use it."""

    # The longest TLS record: 16 KiB of content and what encryption adds (RFC 8446 §5.2).
    RECORD_BYTES = 16 * 1024 + 261

    def __init__(self, plain: int = 256 * 1024, cipher: int = 128 * 1024) -> None:
        ffi = _SSL._ffi
        self.plain = memoryview(bytearray(plain))
        self.to_plain = ffi.from_buffer("char[]", self.plain, require_writable=True)
        self.cipher = memoryview(bytearray(cipher))
        self.from_cipher = ffi.from_buffer("char[]", self.cipher)
        self.said = ffi.new("char[]", self.RECORD_BYTES)


class TlsStream:
    """The TLS of a connection that a thread has taken: reads its socket and decrypts, encrypts and sends. For one
    thread at a time.

    Twisted feeds OpenSSL through memory that grows and shrinks, and takes each record of 16 KiB into a new buffer: two
    more copies of each byte than necessary. OpenSSL on the socket itself would make two system calls for each record.
    So here many records are read at once into a buffer, OpenSSL reads them there, and decrypts them into another one.
    Private names: `Connection._ssl`, `_into_ssl`, `_from_ssl`, `SSL._lib` and `SSL._ffi`.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection  # kept, because it owns the memory of `_ssl`
        self._ssl = connection._ssl
        self._socket: socket.socket | None = None
        self._buffers: TlsBuffers | None = None
        self._memory: Any = None
        self._rest: Any = None
        self._to_say = b""
        # False once the peer has ended TLS, or an error has: nothing more comes.
        self.is_open = True

    @staticmethod
    def fits(connection: Any) -> bool:
        """The private names exist, and the connection uses memory instead of its own socket."""
        return CAN_BE_TAKEN and all(
            getattr(connection, name, None) is not None for name in ("_ssl", "_into_ssl", "_from_ssl")
        )

    @property
    def plain(self) -> memoryview:
        """Where `get` puts what it has decrypted."""
        return self._used.plain

    def use(self, buffers: TlsBuffers) -> None:
        """From now on it uses these. Without this call it has its own."""
        self._buffers = buffers

    @property
    def _used(self) -> TlsBuffers:
        if self._buffers is None:
            self._buffers = TlsBuffers()
        return self._buffers

    def attach(self, sock: socket.socket) -> None:
        """From now on `get` reads from the socket. Before, the bytes that Twisted had read must have been taken by
        `get`."""
        self._socket = sock
        # OpenSSL frees the memory that it has read from until now: pyOpenSSL must not use it any more.
        self._connection._into_ssl = None

    def detach(self) -> None:
        """To be called before the buffers and the socket are released."""
        if self._socket is None:
            return
        lib, connection = _SSL._lib, self._connection
        connection._into_ssl = lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(self._ssl, connection._into_ssl, connection._from_ssl)
        self._socket = self._memory = None

    def get(self, most: int) -> int:
        """Decrypts up to `most` bytes into `plain`, at most as many as it holds. Returns their number; fewer when no
        more are there now."""
        lib, buffers = _SSL._lib, self._used
        ssl_read, target, most = lib.SSL_read, buffers.to_plain, min(most, len(buffers.plain))
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
            if not self.is_open or not self._read(buffers, max(most - done, buffers.RECORD_BYTES)):
                return done
        self._put_aside(buffers)
        return done

    def send(self, data: bytes) -> None:
        """Encrypts and sends a request, which is short. Raises OSError when the socket does not take all of it."""
        try:
            self._connection.send(data)
        except SSL.Error as error:
            raise ConnectionResetError("TLS takes nothing more") from error
        self._say(self._used)
        if self._to_say:
            raise BlockingIOError("the peer does not read")

    def _read(self, buffers: TlsBuffers, most: int) -> bool:
        """Gives OpenSSL the next bytes of the socket when it has used up the last ones; False when there are none."""
        if self._socket is None:
            return False
        try:
            self._say(buffers)
            count = self._socket.recv_into(buffers.cipher, min(most, len(buffers.cipher)))
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self.is_open = False
            return False
        self._feed(buffers.from_cipher, count)
        return True

    def _feed(self, cipher: Any, count: int) -> None:
        """OpenSSL reads these bytes where they are."""
        lib = _SSL._lib
        self._memory = lib.BIO_new_mem_buf(cipher, count)
        lib.BIO_set_mem_eof_return(self._memory, -1)  # the end of this memory is not the end of the connection
        lib.SSL_set_bio(self._ssl, self._memory, self._connection._from_ssl)

    def _put_aside(self, buffers: TlsBuffers) -> None:
        """What OpenSSL has not read yet gets memory of its own, because another stream may use the buffers next. It is
        less than `get` reads for a record."""
        if self._memory is None:
            return
        count = _SSL._lib.BIO_read(self._memory, buffers.said, buffers.RECORD_BYTES)
        if count > 0:
            self._rest = _SSL._ffi.new("char[]", _SSL._ffi.buffer(buffers.said, count)[:])
            self._feed(self._rest, count)

    def _say(self, buffers: TlsBuffers) -> None:
        """Sends what OpenSSL has encrypted: a request, or TLS's own answer to new keys in the middle of a body (RFC
        8446 §4.6.3)."""
        assert self._socket is not None
        while (count := _SSL._lib.BIO_read(self._connection._from_ssl, buffers.said, buffers.RECORD_BYTES)) > 0:
            self._to_say += _SSL._ffi.buffer(buffers.said, count)[:]
        if self._to_say:
            with contextlib.suppress(BlockingIOError):
                self._to_say = self._to_say[self._socket.send(self._to_say) :]
