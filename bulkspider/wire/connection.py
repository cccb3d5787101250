"""Connections on which a thread sends requests itself, one after the other (`transfer/batch.py`).

`RawConnection` is made by Twisted, with TLS and the check of the certificate, and then given to a thread.
`Conversation` is the thread's side. It uses Twisted's own classes for a request and an answer, with the limits of
`limits.py`, as every other exchange does, so that there is one implementation of HTTP. They take 0.08 ms for a file of
50 kB (a parser of our own for the simplest answers took 0.02 ms, h11 0.12 ms, measured on a core of 2.2 GHz). Private
names: twisted.web._newclient (Request, HTTPClientParser and its _responseDeferred).
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from typing import Any, cast
from urllib.parse import urlsplit

from scrapy.http import Headers
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web._newclient import HTTPClientParser, Request, TransportProxyProducer
from twisted.web.http_headers import Headers as TxHeaders
from zope.interface import implementer

from bulkspider.errors import AttemptError
from bulkspider.protocol.plan import End
from bulkspider.wire.failures import map_error
from bulkspider.wire.limits import limited_parser
from bulkspider.wire.response import Head, Receiver
from bulkspider.wire.tls import TlsStream, take_socket

# A connection that no thread has used for so long is closed, well before most servers close it.
KEPT_SECONDS = 2.0
# Bytes that one read of a plain connection takes at most.
READ_BYTES = 144 * 1024
_Parser = limited_parser(HTTPClientParser)


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
        return self.tls is not None and not self.tls.get(0, len(self.tls.plain)) and self.tls.is_open

    def close(self) -> None:
        if self.tls is not None:
            self.tls.detach()
        self.socket.close()
        transport = cast(Any, self.transport)
        transport.loseConnection()
        if self.tls is not None:
            # Does not wait for the peer to end TLS, too.
            transport.transport.loseConnection()


class Conversation(Receiver):
    """Requests and answers on `connection`, in a thread. seconds: time limit of each request with its answer, None for
    none."""

    def __init__(self, connection: RawConnection, seconds: float | None) -> None:
        self._connection = connection
        self._seconds = seconds
        self._ends = 0.0
        self._buffer = memoryview(bytearray(READ_BYTES)) if connection.tls is None else connection.tls.plain
        self._parser: Any = None
        self._body: list[bytes] = []
        self._is_over = True
        self._goes_on = True
        # The last answer was complete and closed the connection.
        self.was_closed = False

    @property
    def is_clean(self) -> bool:
        """The next request may be sent: the last answer was read to its end, and nothing came after it."""
        return self._goes_on and self._connection.is_quiet

    def ask(self, url: str, headers: TxHeaders) -> Head:
        """The head of the answer to GET `url`. Raises OSError for a silence or a lost connection, AttemptError."""
        self._goes_on = self._is_over = False
        self._body = []
        self._ends = time.monotonic() + self._seconds if self._seconds is not None else float("inf")
        path, query = urlsplit(url)[2:4]
        target = f"{path or '/'}?{query}" if query else path or "/"
        request = Request(b"GET", target.encode("ascii"), headers, None, persistent=True)
        request.writeTo(cast(Any, self))
        parser = self._parser = _Parser(request, self._finished)
        parser.makeConnection(TransportProxyProducer(cast(Any, self)))
        answers: list[Any] = []
        parser._responseDeferred.addCallback(answers.append)
        while not answers:
            self._receive()
        return Head(answers[0])

    def read(self, head: Head) -> bytes:
        """The body of an answer of known length. Raises as `ask`."""
        head.deliver(self)
        while not self._is_over:
            self._receive()
        return b"".join(self._body)

    def headers_of(self, headers: Headers) -> TxHeaders:
        """As Scrapy's agent would send them."""
        made = TxHeaders(dict(headers))
        if not made.hasHeader(b"host"):
            made.addRawHeader(b"host", self._connection.host)
        return made

    def _receive(self) -> None:
        """Waits for bytes and gives them to the parser."""
        tls, seconds = self._connection.tls, self._ends - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        if not self._connection.poller.poll(None if self._seconds is None else seconds * 1000):
            raise TimeoutError
        if tls is None:
            count = self._connection.socket.recv_into(self._buffer)
        else:
            # `get` takes all bytes that are there, because none of our answers fills the buffer: none are left in TLS
            # itself.
            count = tls.get(0, len(self._buffer))
            if not count and tls.is_open:
                return
        if not count:
            raise ConnectionResetError("closed before the end of the answer")
        try:
            self._parser.dataReceived(bytes(self._buffer[:count]))
        except Exception as error:
            # Twisted ends the connection, too, whatever its parser raises.
            raise map_error(error) from error

    def _finished(self, rest: bytes) -> None:
        """The answer has ended. rest: bytes that came after it, which must not be taken for the next answer."""
        self._is_over = True
        options = b",".join(self._parser.connHeaders.getRawHeaders(b"connection", ()))
        closes = b"close" in options.lower() or self._parser.response.version != (b"HTTP", 1, 1)
        self._goes_on = not rest and not closes
        self.was_closed = not rest and closes

    # -- for Twisted's classes -------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        self._body.append(data)

    def ended(self, how: End) -> None:
        """Nothing to do: `_finished` is called, too."""

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Sends the request. Raises OSError."""
        data = b"".join(pieces)
        if self._connection.tls is not None:
            self._connection.tls.send(data)
        else:
            # The request is short: if the socket takes only a part, the peer does not read.
            self._connection.socket.sendall(data)

    def pauseProducing(self) -> None:
        """Nothing to do: bytes are read only by `_receive`."""

    def resumeProducing(self) -> None:
        """As `pauseProducing`."""

    def loseConnection(self) -> None:
        """Nothing to do: `RawConnection.close` does it."""


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
