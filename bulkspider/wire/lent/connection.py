"""Connections on which a thread sends requests itself, one after the other (`conversation.py`).

`RawConnection` is made by Twisted, with TLS and the check of the certificate, and then given to a thread.
"""

from __future__ import annotations

import itertools
import select
import socket
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from bulkspider.errors import AttemptError
from bulkspider.wire.tls import TlsStream, take_socket

# A connection that no thread has used for so long is closed, well before most servers close it.
KEPT_SECONDS = 2.0


@implementer(IHandshakeListener)
class RawConnection(Protocol):
    """A connection for threads. `socket` is a duplicate; Twisted keeps the original and does not use it until `close`.

    key: its destination, kept: since when it is unused (seconds of the reactor's clock); both for `ConnectionPool`.
    host: the Host header of its requests. tls: None for plain http. poller: waits for incoming bytes. ready: fires when
    a thread may use it.
    """

    key: Any = None
    host: bytes = b""
    kept: float = 0.0
    socket: socket.socket
    tls: TlsStream | None = None
    poller: select.poll

    def __init__(self) -> None:
        self.ready: Deferred[RawConnection] = Deferred(lambda _: cast(Any, self.transport).abortConnection())

    def connectionMade(self) -> None:
        if not isinstance(self.transport, TLSMemoryBIOProtocol):
            self._lend()

    def handshakeCompleted(self) -> None:
        # Only after this call Twisted sends the end of the handshake.
        from twisted.internet import reactor

        cast(Any, reactor).callLater(0, self._lend)

    def dataReceived(self, data: bytes) -> None:
        # Bytes came without a request.
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ready.called:
            self.ready.errback(reason)

    def _lend(self) -> None:
        """Prepares it for a thread."""
        if self.ready.called:
            return
        transport = cast(Any, self.transport)
        layer = transport if isinstance(transport, TLSMemoryBIOProtocol) else None
        tcp = transport if layer is None else transport.transport
        if layer is not None and (layer._lostTLSConnection or not TlsStream.fits(layer.getHandle())):
            transport.abortConnection()
            return
        transport.pauseProducing()
        if layer is not None:
            # The last bytes of the handshake must be sent before the thread sends any.
            tcp.doWrite()
        try:
            if tcp.dataBuffer:
                raise BlockingIOError(0, "the peer does not read")
            self.socket, self.tls = take_socket(tcp, layer)
        except OSError as error:
            transport.abortConnection()
            self.ready.errback(AttemptError(f"no socket ({error.strerror})", code="lost"))
            return
        self.poller = select.poll()
        self.poller.register(self.socket, select.POLLIN)
        if self.tls is not None:
            self.tls.attach(self.socket)
        self.ready.callback(self)

    @property
    def is_quiet(self) -> bool:
        """No bytes have come since the last answer, and the peer has not closed the connection."""
        if not self.poller.poll(0):
            return True
        # The bytes may be TLS's own: a session ticket (RFC 8446 §4.6.1) may come at any time.
        return self.tls is not None and not self.tls.get(len(self.tls.plain)) and self.tls.is_open

    def close(self) -> None:
        if self.tls is not None:
            self.tls.detach()
        self.socket.close()
        transport = cast(Any, self.transport)
        transport.loseConnection()
        if self.tls is not None:
            # Does not wait for the peer to end TLS, too.
            transport.transport.loseConnection()


class ConnectionPool:
    """The connections that are not in use, by destination. For the reactor's thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._kept: dict[Any, list[RawConnection]] = {}
        self._sweep: Any = None

    def take(self, key: Any) -> RawConnection | None:
        """An unused connection to this destination, None when there is none."""
        kept = self._kept.get(key, [])
        while kept:
            connection = kept.pop()
            if connection.is_quiet:
                return connection
            connection.close()
        return None

    def keep(self, connection: RawConnection) -> None:
        """The connection may be taken again, for KEPT_SECONDS."""
        connection.kept = self._reactor.seconds()
        self._kept.setdefault(connection.key, []).append(connection)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(KEPT_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        now = self._reactor.seconds()
        for key, connections in list(self._kept.items()):
            for connection in [
                connection
                for connection in connections
                if connection.kept + KEPT_SECONDS <= now or not connection.is_quiet
            ]:
                connections.remove(connection)
                connection.close()
            if not connections:
                del self._kept[key]
        self._sweep = self._reactor.callLater(KEPT_SECONDS, self._close_idle) if self._kept else None

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in itertools.chain.from_iterable(self._kept.values()):
            connection.close()
        self._kept.clear()
