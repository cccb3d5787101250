"""The head of an answer, and the connection with its body, which Twisted delivers or a thread reads."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from OpenSSL import SSL, crypto
from twisted.internet import error as net
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection as TcpConnection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from bulkspider.errors import AttemptError
from bulkspider.protocol.heads.answerhead import AnswerHead
from bulkspider.protocol.heads.plain import USUAL_BYTES, read_plain_head
from bulkspider.protocol.plan import End, join_headers
from bulkspider.wire.failures import find_refusal
from bulkspider.wire.tls import TlsStream, take_socket

# Larger socket reads than Twisted's 64 KiB take less CPU time; still larger ones take memory for little gain.
READ_BYTES = 256 * 1024
# An unwanted body up to this size is read to its end, so that its connection can be used again.
DRAIN_MAX_BYTES = 64 * 1024


class Receiver:
    """Receives a body (`pumps/reactor.py`)."""

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def ended(self, how: End) -> None:
        raise NotImplementedError

    def abort(self, error: AttemptError) -> None:
        """The body exceeds the limits (`limits.py`)."""
        raise NotImplementedError


class Head(AnswerHead):
    """The head of an answer, with its body still in the socket. pairs: its fields as they came."""

    def __init__(self, response: IResponse) -> None:
        self._response = cast(Any, response)
        self._taken = False
        self.pairs = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in response.headers.getAllRawHeaders()
            for value in values
        ]
        length = None if response.length is UNKNOWN_LENGTH else cast(int, response.length)
        super().__init__(response.code, join_headers(self.pairs), length)
        self.connection = _Connection(response)

    @property
    def is_plain(self) -> bool:
        """`read_plain_head` would read it, too."""
        lines = (f"{name}: {value}\r\n" for name, value in [*self.pairs, ("Content-Length", self.answer.length)])
        written = f"HTTP/1.1 {self.status}\r\n{''.join(lines)}\r\n".encode("latin-1")
        return self._response.version == (b"HTTP", 1, 1) and read_plain_head(written[:USUAL_BYTES]) is not None

    def deliver(self, receiver: Receiver) -> None:
        """Delivers the body to `receiver`, then calls its `ended`."""
        self._taken = True
        if self._response.length == 0:
            receiver.ended(End.FRAMED)
            return
        self._response.deliverBody(_Body(receiver, self.connection))

    @property
    def socket_can_be_taken(self) -> bool:
        """The body is the next `length` bytes of a TCP socket, maybe under TLS, and none of them has been read."""
        return self._response.length not in (0, UNKNOWN_LENGTH) and not self._taken and self.connection.can_be_taken

    def take_socket(self) -> tuple[bytes, socket.socket, TlsStream | None]:
        """Returns the bytes of the body that the reactor has read already, a duplicate of the socket with the rest, and
        its TLS.

        The reactor reads no more from this connection; `connection.close` ends it. The delivery is begun and paused
        within one turn of the reactor, so that it reads nothing in between.
        """
        self._taken = True
        first = _First()
        self._response.deliverBody(first)
        return b"".join(first.pieces), *self.connection.give_away()

    def read_beginning(self, most: int, seconds: float) -> Deferred[bytes]:
        """The first `most` bytes of a body whose rest is not needed, or those that have come after `seconds`.

        Never fails; fires with empty bytes if none came; may be cancelled. The rest is dropped, as by `drop`.
        """
        length = self._response.length
        if self._taken or length == 0:
            return succeed(b"")
        self._taken = True
        beginning = _Beginning(
            *(most, self.connection), runs_dry=length is not UNKNOWN_LENGTH and length <= DRAIN_MAX_BYTES
        )
        self._response.deliverBody(beginning)
        beginning.end_after(seconds)
        return beginning.done

    def read_whole(self, most: int, seconds: float) -> Deferred[bytes]:
        """All of the body. Fails with AttemptError when it has more than `most` bytes (0: any number), takes longer, or
        breaks off; may be cancelled."""
        whole = _Whole(self.connection, most, seconds)
        self.deliver(whole)
        return whole.done

    def drop(self) -> None:
        """The body is not needed: a short one is read to its end so that the connection can be used again; else the
        connection is closed."""
        if self._taken or self._response.length == 0:
            return
        self._taken = True
        if self._response.length is UNKNOWN_LENGTH or self._response.length > DRAIN_MAX_BYTES:
            self.connection.abort()
            return
        self._response.deliverBody(Protocol())


class _Body(Protocol):
    """Passes a body on to a Receiver and tells it how the body ended."""

    def __init__(self, receiver: Receiver, connection: _Connection) -> None:
        self._receiver = receiver
        self._connection = connection

    def dataReceived(self, data: bytes) -> None:
        self._receiver.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone):
            self._receiver.ended(End.FRAMED)
        elif reason.check(PotentialDataLoss):
            # Delimited by close: Twisted does not distinguish a proper end from a broken connection.
            self._receiver.ended(self._connection.how_it_closed())
        elif (refusal := find_refusal(reason.value)) is not None:
            self._receiver.abort(refusal)
        else:
            self._receiver.ended(End.LOST)


class _Beginning(Protocol):
    """Takes the beginning of a body. runs_dry: the rest is read and dropped; else the connection is closed."""

    def __init__(self, most: int, connection: _Connection, *, runs_dry: bool) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._end(abort=True))
        self._most = most
        self._connection = connection
        self._runs_dry = runs_dry
        self._data = b""
        self._timer: Any = None

    def end_after(self, seconds: float) -> None:
        if not self.done.called:
            from twisted.internet import reactor

            self._timer = cast(Any, reactor).callLater(seconds, self._end, abort=True)

    def dataReceived(self, data: bytes) -> None:
        if not self.done.called:
            self._data += data[: self._most - len(self._data)]
            if len(self._data) >= self._most:
                self._end(abort=not self._runs_dry)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(abort=False)

    def _end(self, *, abort: bool) -> None:
        if self.done.called:
            return
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if abort:
            self._connection.abort()
        self.done.callback(self._data)


class _Whole(Receiver):
    """Gathers a body in memory."""

    def __init__(self, connection: _Connection, most: int, seconds: float) -> None:
        from twisted.internet import reactor

        self.done: Deferred[bytes] = Deferred(lambda _: connection.abort())
        self._connection = connection
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0
        late = AttemptError(f"not all of it came within {seconds:.0f} s", code="stall")
        self._timer = cast(Any, reactor).callLater(seconds, self.abort, late) if seconds else None

    def received(self, data: bytes) -> None:
        self._size += len(data)
        if self._most and self._size > self._most:
            self.abort(AttemptError(f"it has more than {self._most} bytes", code="too_large"))
        elif not self.done.called:
            self._pieces.append(data)

    def ended(self, how: End) -> None:
        if how is End.LOST:
            self.abort(AttemptError("the connection was lost in the middle", code="lost"))
        elif not self.done.called:
            self._stop_timer()
            self.done.callback(b"".join(self._pieces))

    def abort(self, error: AttemptError) -> None:
        if not self.done.called:
            self._stop_timer()
            self._connection.abort()
            self.done.errback(error)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class _First(Protocol):
    """Takes the bytes that the reactor has read already."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)


class _Connection:
    """The transport under a response. Private names: Response._transport, its _producer, wrappedProtocol,
    tcp.Connection.socket, TLSMemoryBIOProtocol._lostTLSConnection."""

    def __init__(self, response: IResponse) -> None:
        self._proxy: Any = getattr(response, "_transport", None)
        self._transport: Any = getattr(self._proxy, "_producer", None)
        self._tls_layer: Any = None
        self._tls: Any = None
        self._watch: _CloseWatch | None = None
        if self._transport is None:
            return
        for layer in (self._transport, getattr(self._transport, "protocol", None)):
            if isinstance(layer, Protocol) and hasattr(layer, "getHandle"):
                self._tls_layer = layer
                self._tls = layer.getHandle()
        self._watch = _CloseWatch.of(self._transport, self._tls)

    def how_it_closed(self) -> End:
        if self._watch is None:
            return End.CLOSED if self._tls is None else End.LOST
        return self._watch.how()

    def read_in_pieces(self, size: int) -> None:
        """Sets how many bytes one read takes at most (Twisted's `bufferSize`). Not over TLS, which delivers records of
        16 KiB."""
        if self._transport is not None and self._tls is None:
            self._transport.bufferSize = min(size, READ_BYTES)

    @property
    def is_tls(self) -> bool:
        return self._tls is not None

    @property
    def peer(self) -> tuple[str, int, bytes | None] | None:
        """Address, port and, under TLS, certificate (DER) of the peer. None for a connection that ends."""
        tcp = self._tcp
        if tcp is None or not tcp.connected or any(layer.disconnecting for layer in (tcp, self._tls_layer or tcp)):
            return None
        peer = tcp.getPeer()
        found = self._tls and self._tls.get_peer_certificate()
        return peer.host, peer.port, found and crypto.dump_certificate(crypto.FILETYPE_ASN1, found)

    @property
    def _tcp(self) -> Any:
        """The TCP connection itself: below TLS, or the one on which TLS was started (in a proxy's tunnel)."""
        for layer in (self._transport, getattr(self._tls_layer, "transport", None)):
            if isinstance(layer, TcpConnection):
                return layer
        return None

    @property
    def can_be_taken(self) -> bool:
        """A thread can read its bytes directly, without Twisted."""
        if not self._is_ours or self._tcp is None or not hasattr(self._tcp, "socket"):
            return False
        if self._tls is None:
            return True
        layer = self._tls_layer
        return isinstance(layer, TLSMemoryBIOProtocol) and not layer._lostTLSConnection and TlsStream.fits(self._tls)

    def give_away(self) -> tuple[socket.socket, TlsStream | None]:
        """A duplicate of the socket, and its TLS. Twisted keeps the original, and uses neither until `close`. Raises
        AttemptError when this process may have no more sockets."""
        try:
            taken = take_socket(self._tcp, self._tls_layer)
        except OSError as error:
            self.abort()
            raise AttemptError(f"no socket ({error.strerror})", code="lost") from error
        self.pause()
        return taken

    @property
    def _is_ours(self) -> bool:
        """False once Twisted has read the answer to its end, maybe before we took its first byte: then the connection
        is back in the pool or serves another request, which a pause would block."""
        return self._transport is not None and self._proxy._producer is not None

    def close(self) -> None:
        """Closes the connection normally, without waiting for the peer to close its side."""
        if self._is_ours:
            self._transport.loseConnection()
            if self._tls_layer is not None:
                self._tls_layer.transport.loseConnection()

    def pause(self) -> None:
        if self._is_ours:
            self._transport.pauseProducing()

    def resume(self) -> None:
        if self._is_ours and not getattr(self._transport, "disconnecting", False):
            self._transport.resumeProducing()

    def abort(self) -> None:
        """Closes the connection at once; bytes in flight are lost."""
        if self._is_ours:
            self._transport.abortConnection()


class _CloseWatch:
    """Finds out why a connection ended, which Twisted does not report for a body delimited by close. One per
    connection, for all its answers. Private name: wrappedProtocol, to find the HTTP protocol under the TLS one."""

    def __init__(self, inner: Callable[[Failure], None], tls: Any) -> None:
        self._inner = inner
        self._tls = tls
        self._reason: Failure | None = None
        self._notified = False

    @classmethod
    def of(cls, transport: Any, tls: Any) -> _CloseWatch | None:
        protocol: Any = getattr(transport, "wrappedProtocol", None) or getattr(transport, "protocol", None)
        while hasattr(protocol, "wrappedProtocol"):
            protocol = protocol.wrappedProtocol
        if protocol is None:
            return None
        watch = getattr(protocol.connectionLost, "__self__", None)
        if not isinstance(watch, cls):
            watch = cls(protocol.connectionLost, tls)
            protocol.connectionLost = watch.connection_lost
        return watch

    def connection_lost(self, reason: Failure = connectionDone) -> None:
        self._reason = reason
        if self._tls is not None:
            # RFC 9112 §9.8: only close_notify proves that a body delimited by close is whole.
            self._notified = bool(self._tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN)
        self._inner(reason)

    def how(self) -> End:
        if self._notified:
            return End.NOTIFIED
        if self._tls is not None or (self._reason is not None and not self._reason.check(net.ConnectionDone)):
            return End.LOST
        return End.CLOSED
