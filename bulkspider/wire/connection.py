"""Connections that belong to threads, which ask on them by themselves, one question after the other (`batch.py`).

`RawConnection` is made by Twisted, with its TLS and the checks of its certificate, and then given to a thread.
`Conversation` is the thread's side. What it sends and what it reads goes through Twisted's own classes for a request
and an answer, with the limits of `limits.py`, as in every other exchange: 0.08 ms for each file of 50 kB (a parser of
our own for the simplest answers took 0.02 ms, h11 0.12 ms, measured on a core of 2.2 GHz), and no second idea of HTTP.
Private names: twisted.web._newclient (Request, HTTPClientParser and its _responseDeferred).
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

# A connection that no thread has wanted for so long (seconds) is closed: well before most servers do it.
KEPT_SECONDS = 2.0
# What one read of a plain connection takes.
READ_BYTES = 144 * 1024
_Parser = limited_parser(HTTPClientParser)


@implementer(IHandshakeListener)
class RawConnection(Protocol):
    """A connection for threads. Twisted keeps the original of `socket`, and leaves it alone until `close`.

    key: where it leads, kept: since when nobody has used it (seconds of the reactor's clock); for `ConnectionPool`.
    host: what its requests have as Host. tls: what encrypts it, None without. poller: waits for what comes. ready:
    fires when a thread may have it.
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
        # Twisted sends the end of the handshake after this.
        from twisted.internet import reactor

        cast(Any, reactor).callLater(0, self._lend)

    def dataReceived(self, data: bytes) -> None:
        # Nothing was asked for.
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ready.called:
            self.ready.errback(reason)

    def _lend(self) -> None:
        """Makes it ready for a thread."""
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
            # What the handshake has still to say must be sent before the thread says anything.
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
        """Nothing has come since the last answer, and the peer has not closed it."""
        if not self.poller.poll(0):
            return True
        # It may be TLS itself: a ticket for another session (RFC 8446 §4.6.1), which the server sends when it likes.
        return self.tls is not None and not self.tls.get(0, len(self.tls.plain)) and self.tls.is_open

    def close(self) -> None:
        if self.tls is not None:
            self.tls.detach()
        self.socket.close()
        transport = cast(Any, self.transport)
        transport.loseConnection()
        if self.tls is not None:
            # Without waiting for the peer to end TLS, too.
            transport.transport.loseConnection()


class Conversation(Receiver):
    """Questions and answers on `line`, in a thread. seconds: for each of them, None for any time."""

    def __init__(self, line: RawConnection, seconds: float | None) -> None:
        self._line = line
        self._seconds = seconds
        self._ends = 0.0
        self._buffer = memoryview(bytearray(READ_BYTES)) if line.tls is None else line.tls.plain
        self._parser: Any = None
        self._body: list[bytes] = []
        self._is_over = True
        self._goes_on = True
        # The last answer was all right, and said that no other would come on this connection.
        self.was_closed = False

    @property
    def is_clean(self) -> bool:
        """The next question may be asked: the last answer was read to its end, and nothing has come after it."""
        return self._goes_on and self._line.is_quiet

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
            made.addRawHeader(b"host", self._line.host)
        return made

    def _receive(self) -> None:
        """Gives the parser what has come, or waits for it."""
        tls, seconds = self._line.tls, self._ends - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        if not self._line.poller.poll(None if self._seconds is None else seconds * 1000):
            raise TimeoutError
        if tls is None:
            count = self._line.socket.recv_into(self._buffer)
        else:
            # Nothing is left in TLS itself: `get` takes all that is there, and no answer of ours fills the buffer.
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
        """The answer has ended. rest: what came behind it (FAULTS 19)."""
        self._is_over = True
        options = b",".join(self._parser.connHeaders.getRawHeaders(b"connection", ()))
        closes = b"close" in options.lower() or self._parser.response.version != (b"HTTP", 1, 1)
        self._goes_on = not rest and not closes
        self.was_closed = not rest and closes

    # -- for Twisted's classes -------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        self._body.append(data)

    def ended(self, how: End) -> None:
        """`_finished` says it."""

    def writeSequence(self, pieces: list[bytes]) -> None:
        """The request. Raises OSError."""
        data = b"".join(pieces)
        if self._line.tls is not None:
            self._line.tls.send(data)
        else:
            # It is short: a socket that takes it only in part has a peer that does not read.
            self._line.socket.sendall(data)

    def pauseProducing(self) -> None:
        """It is read when it is wanted."""

    def resumeProducing(self) -> None:
        """As `pauseProducing`."""

    def loseConnection(self) -> None:
        """Who has lent the connection ends it."""


class ConnectionPool:
    """Those that nobody uses at the moment, by where they lead. For the reactor's thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._kept: dict[Any, list[RawConnection]] = {}
        self._sweep: Any = None

    def take(self, key: Any) -> RawConnection | None:
        """One that leads there, and on which the last answer has ended."""
        kept = self._kept.get(key, [])
        while kept:
            line = kept.pop()
            if line.is_quiet:
                return line
            line.close()
        return None

    def keep(self, line: RawConnection) -> None:
        """It may be taken, for KEPT_SECONDS."""
        line.kept = self._reactor.seconds()
        self._kept.setdefault(line.key, []).append(line)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(KEPT_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        now = self._reactor.seconds()
        for key, lines in list(self._kept.items()):
            for line in [line for line in lines if line.kept + KEPT_SECONDS <= now or not line.is_quiet]:
                lines.remove(line)
                line.close()
            if not lines:
                del self._kept[key]
        self._sweep = self._reactor.callLater(KEPT_SECONDS, self._close_idle) if self._kept else None

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for line in itertools.chain.from_iterable(self._kept.values()):
            line.close()
        self._kept.clear()
