"""The wire: one HTTP exchange, headers first; the only room that touches private names of Scrapy and Twisted.

Headers, TLS, proxies, pools and bind addresses are Scrapy's: the agent of its HTTP/1.1 handler is borrowed, the body
is ours. What is private is listed in `Wire.__init__` and `_Connection`; where a name is gone, a plain Twisted Agent
serves (no CONNECT proxies) and a warning says so, once. Twisted's exceptions become AttemptErrors here.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from OpenSSL import SSL
from scrapy.http import Headers
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.defer import maybe_deferred_to_future
from service_identity import VerificationError
from twisted.internet import error as net
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection as TcpConnection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers as TxHeaders
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from bulkspider.errors import AttemptError, BulkError
from bulkspider.plan import Answer, End, join_headers

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler

    from bulkspider.options import Options

logger = logging.getLogger(__name__)

# Larger socket reads than Twisted's 64 KiB cost less CPU; still larger ones, more memory than they save.
READ_SIZE = 256 * 1024
# How often (seconds) the waits for an answer's head are looked at: a timer for each would cost as much as its request.
WATCH = 0.25
ENDPOINTS = 1024
# A connection that no thread has wanted for so long (seconds) is closed: well before most servers do it.
KEPT_SECONDS = 2.0

_SSL: Any = SSL
_TLS_CAN_BE_TAKEN = (
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


class Wire:
    """Makes exchanges for one crawl: one pool of connections, shared by http and https."""

    def __init__(self, crawler: Crawler, options: Options) -> None:
        from twisted.internet import reactor

        self._reactor = cast(Any, reactor)
        self._options = options
        self._crawler = crawler
        try:
            from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler, _ScrapyAgent

            lender = HTTP11DownloadHandler(crawler)
            self._pool: HTTPConnectionPool = lender._pool
            self._agent_arguments: dict[str, Any] | None = {
                "contextFactory": lender._contextFactory,
                "bindAddress": lender._bind_address,
                "pool": self._pool,
                "crawler": crawler,
            }
            self._agent_class: Any = _ScrapyAgent
            self._agent_class(**self._agent_arguments)._get_agent  # noqa: B018 - fails here, not at the first file
        except (ImportError, AttributeError, TypeError) as error:
            logger.warning("This Scrapy has no agent to lend (%s): proxies and TLS settings do not apply", error)
            self._agent_arguments = None
            self._pool = HTTPConnectionPool(reactor, persistent=True)
        if not _TLS_CAN_BE_TAKEN:
            logger.warning("This Twisted or pyOpenSSL does not lend its TLS: files over https cost more CPU time")

        self._on_asyncio = is_asyncio_available()
        self._agents: dict[Any, Agent] = {}  # by the address they bind to
        self._waits: dict[_Wait, None] = {}
        self._watch: Any = None
        self._lines: dict[Any, list[Line]] = {}
        self._sweep: Any = None

    def exchange(self, request: Request, headers: Headers) -> Deferred[Head]:
        """Sends a request for `request.url` with `headers`; fires when the answer's head is here.

        Fails with an AttemptError; may be cancelled. The connection attempt and the wait for the head are bounded by
        BULK_CONNECT_TIMEOUT and BULK_HEADERS_TIMEOUT; there is no total limit.
        """
        connect_timeout = self._options.connect_timeout
        sent: Deferred[IResponse] = maybeDeferred(self._send, request, headers, connect_timeout)
        waited = self._wait_for(sent, connect_timeout + self._options.headers_timeout)

        def failed(failure: Failure) -> Failure:
            if waited.too_long:
                return Failure(AttemptError("no answer within BULK_HEADERS_TIMEOUT", code="headers_timeout"))
            return Failure(map_error(cast(Exception, failure.value)))

        if not self._on_asyncio:
            sent.addCallback(self._in_the_next_turn)
        return sent.addCallbacks(Head, failed)

    def _wait_for(self, sent: Deferred[Any], seconds: float) -> _Wait:
        """Cancels it when nothing has come of it until then."""
        waited = _Wait(sent, self._reactor.seconds() + seconds)
        self._waits[waited] = None
        if self._watch is None:
            self._watch = self._reactor.callLater(WATCH, self._end_long_waits)

        def settled(result: Any) -> Any:
            self._waits.pop(waited, None)
            return result

        sent.addBoth(settled)
        return waited

    def _in_the_next_turn(self, response: IResponse) -> Deferred[IResponse]:
        """Without asyncio a callback runs while Twisted still has the first bytes of the body in hand: whoever took
        the socket then would lose them. With asyncio an `await` is always a turn."""
        turn: Deferred[IResponse] = Deferred()
        self._reactor.callLater(0, turn.callback, response)
        return turn

    def _end_long_waits(self) -> None:
        now = self._reactor.seconds()
        for waited in list(self._waits):
            if waited.ends <= now:
                waited.too_long = True
                waited.sent.cancel()
        self._watch = self._reactor.callLater(WATCH, self._end_long_waits) if self._waits else None

    def _send(self, request: Request, headers: Headers, connect_timeout: float) -> Deferred[IResponse]:
        url = request.url.partition("#")[0].encode("ascii")
        agent = self._agent(request, connect_timeout)
        if url.startswith(b"https:"):
            # The agent shows it to the proxy when it asks for the tunnel; what is inside is for the origin alone.
            headers.pop("Proxy-Authorization", None)
        return agent.request(request.method.encode("ascii"), url, TxHeaders(dict(headers)), None)

    def _agent(self, request: Request, timeout: float) -> Agent:
        """One serves all requests that go straight to their origin; a proxy's depends on the request's own headers."""
        address = request.meta.get("bindaddress")
        if address in self._agents and not request.meta.get("proxy"):
            return self._agents[address]
        if self._agent_arguments is None:
            agent = Agent(self._reactor, connectTimeout=timeout, pool=self._pool)
        else:
            agent = self._agent_class(**self._agent_arguments)._get_agent(request, timeout)
        if not request.meta.get("proxy"):
            _remember_endpoints(agent)
            self._agents[address] = agent
        return agent

    def connect(self, request: Request) -> Deferred[Line] | None:
        """A connection to the origin of a plain http `request`, for a thread that speaks HTTP by itself (`batch.py`):
        one that was kept, or a new one. None where that cannot be. Fails with an AttemptError. Private name:
        Agent._endpointFactory."""
        factory = getattr(self._agent(request, self._options.connect_timeout), "_endpointFactory", None)
        if factory is None or request.meta.get("proxy") or not request.url.startswith("http:"):
            return None
        uri = URI.fromBytes(request.url.partition("#")[0].encode("ascii"))
        key = uri.host, uri.port, request.meta.get("bindaddress")
        kept = self._lines.get(key, [])
        while kept:
            line = kept.pop()
            if line.is_quiet:
                return succeed(line)
            line.close()
        connected: Deferred[Line] = factory.endpointForURI(uri).connect(Factory.forProtocol(Line))
        waited = self._wait_for(connected, self._options.connect_timeout + WATCH)

        def failed(failure: Failure) -> Failure:
            if waited.too_long:
                return Failure(
                    AttemptError("no connection within BULK_CONNECT_TIMEOUT", code="connect", origin_wide=True)
                )
            return Failure(map_error(cast(Exception, failure.value)))

        return connected.addCallbacks(lambda line: line.lend(key), failed)

    def keep(self, line: Line) -> None:
        """Its thread has left it in good order; the next one may have it, for a while."""
        line.kept = self._reactor.seconds()
        self._lines.setdefault(line.key, []).append(line)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(KEPT_SECONDS, self._close_idle_lines)

    def _close_idle_lines(self) -> None:
        now = self._reactor.seconds()
        for key, lines in list(self._lines.items()):
            for line in [line for line in lines if line.kept + KEPT_SECONDS <= now or not line.is_quiet]:
                lines.remove(line)
                line.close()
            if not lines:
                del self._lines[key]
        self._sweep = self._reactor.callLater(KEPT_SECONDS, self._close_idle_lines) if self._lines else None

    async def close(self) -> None:
        """Closes idle connections; does not wait for a peer that never answers (Twisted #7738)."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for line in itertools.chain.from_iterable(self._lines.values()):
            line.close()
        self._lines.clear()
        closing = self._pool.closeCachedConnections()
        timer = self._reactor.callLater(1, closing.cancel)
        closing.addErrback(lambda _: None)
        await maybe_deferred_to_future(closing)
        if timer.active():
            timer.cancel()


@dataclass(slots=True, eq=False)
class _Wait:
    """For the head of an answer, until `ends` (seconds of the reactor's clock)."""

    sent: Deferred[IResponse]
    ends: float
    too_long: bool = False


def _remember_endpoints(agent: Any) -> None:
    """Lets an agent make the endpoint of a host once: the rules for host names, applied to each request, cost more than
    all the rest of sending it. Private name: Agent._endpointFactory."""
    factory = getattr(agent, "_endpointFactory", None)
    if factory is None:
        return
    make = factory.endpointForURI
    known: dict[tuple[bytes, bytes, int], Any] = {}

    def endpoint_for(uri: Any) -> Any:
        key = uri.scheme, uri.host, uri.port
        if key not in known:
            if len(known) >= ENDPOINTS:
                known.clear()
            known[key] = make(uri)
        return known[key]

    factory.endpointForURI = endpoint_for


class Head:
    """The head of an answer, with its body still in the socket."""

    def __init__(self, response: IResponse) -> None:
        self._response = cast(Any, response)
        self._taken = False
        pairs = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in response.headers.getAllRawHeaders()
            for value in values
        ]
        self.status: int = response.code
        self.pairs = pairs
        self.fields = join_headers(pairs)
        length = None if response.length is UNKNOWN_LENGTH else cast(int, response.length)
        self.answer = Answer.parse(self.status, self.fields, length=length)
        self.connection = _Connection(response)

    def deliver(self, receiver: Receiver) -> None:
        """Lets the body flow to `receiver`, which hears of its end by `ended`."""
        self._taken = True
        if self._response.length == 0:
            receiver.ended(End.FRAMED)
            return
        self._response.deliverBody(_Body(receiver, self.connection))

    @property
    def socket_can_be_taken(self) -> bool:
        """The body is the next `length` bytes of a TCP socket, maybe under TLS, and nobody has begun to read them."""
        return self._response.length not in (0, UNKNOWN_LENGTH) and not self._taken and self.connection.can_be_taken

    def take_socket(self) -> tuple[bytes, socket.socket, TlsStream | None]:
        """What the reactor has read of the body already, a twin of the socket that has the rest, and its TLS.

        The reactor reads no more from this connection; `connection.close` ends it. The body is asked for and paused
        within one turn of the reactor, so it reads nothing in between.
        """
        self._taken = True
        first = _First()
        self._response.deliverBody(first)
        return b"".join(first.pieces), *self.connection.give_away()

    def drop(self) -> None:
        """The body is not wanted: short ones are left to run dry so that the connection lives on, others are cut."""
        if self._taken or self._response.length == 0:
            return
        self._taken = True
        if self._response.length is UNKNOWN_LENGTH or self._response.length > 64 * 1024:
            self.connection.abort()
            return
        self._response.deliverBody(Protocol())


class Line(Protocol):
    """A connection for threads. Twisted keeps the original of `socket`, and leaves it alone until `close`.

    key: where it leads, kept: since when nobody has used it (seconds of the reactor's clock); for `Wire`.
    """

    key: Any = None
    kept: float = 0.0
    socket: socket.socket

    def connectionMade(self) -> None:
        cast(Any, self.transport).pauseProducing()

    def lend(self, key: Any) -> Line:
        """Makes it ready for a thread. Raises AttemptError when this process may have no more sockets."""
        self.key = key
        transport = cast(Any, self.transport)
        try:
            self.socket = transport.socket.dup()
        except OSError as error:
            transport.loseConnection()
            raise AttemptError(f"no socket ({error.strerror})", code="lost") from error
        return self

    @property
    def is_quiet(self) -> bool:
        """Nothing has come since the last answer, and the peer has not closed it."""
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        self.socket.close()
        cast(Any, self.transport).loseConnection()


class Receiver:
    """Who takes a body: `pump.py`."""

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def ended(self, how: End) -> None:
        raise NotImplementedError


class _Body(Protocol):
    """Twisted's body protocol, told apart into the ways a body can end."""

    def __init__(self, receiver: Receiver, connection: _Connection) -> None:
        self._receiver = receiver
        self._connection = connection

    def dataReceived(self, data: bytes) -> None:
        self._receiver.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone):
            self._receiver.ended(End.FRAMED)
        elif reason.check(PotentialDataLoss):
            # Delimited by close: Twisted says the same for a proper end and for a broken one.
            self._receiver.ended(self._connection.how_it_closed())
        else:
            self._receiver.ended(End.LOST)


class _First(Protocol):
    """Takes what is there when it is connected."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)


class _CloseWatch:
    """Learns why a connection ends, which Twisted does not tell a body delimited by close. One per connection, however
    many answers it carries. Private name: wrappedProtocol, by which the HTTP protocol is found under the TLS one."""

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


class TlsStream:
    """The TLS of a connection that was given away: reads its socket and decrypts. For one thread.

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
        return _TLS_CAN_BE_TAKEN and all(
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
            # Whole records only: a rest of one would be in memory before it is due, where there is a rate limit.
            if not self.is_open or not self._read(max(most - done, self.RECORD)):
                break
        return done

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
        """Sends what TLS itself has to say in the middle of a body: an answer to new keys (RFC 8446 §4.6.3)."""
        assert self._socket is not None
        count = _SSL._lib.BIO_read(self._connection._from_ssl, self._said, self.RECORD)
        if count > 0:
            self._to_say += _SSL._ffi.buffer(self._said, count)[:]
        if self._to_say:
            with contextlib.suppress(BlockingIOError):
                self._to_say = self._to_say[self._socket.send(self._to_say) :]


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
        """How many bytes one read takes at most. Twisted's `bufferSize`; over TLS it gives records of 16 KiB anyway."""
        if self._transport is not None and self._tls is None:
            self._transport.bufferSize = size

    @property
    def is_tls(self) -> bool:
        return self._tls is not None

    @property
    def _tcp(self) -> Any:
        """The TCP connection itself: below TLS, or TLS was started on it (in a proxy's tunnel)."""
        for layer in (self._transport, getattr(self._tls_layer, "transport", None)):
            if isinstance(layer, TcpConnection):
                return layer
        return None

    @property
    def can_be_taken(self) -> bool:
        """Its bytes can be read past Twisted."""
        if not self._is_ours or self._tcp is None or not hasattr(self._tcp, "socket"):
            return False
        if self._tls is None:
            return True
        layer = self._tls_layer
        return isinstance(layer, TLSMemoryBIOProtocol) and not layer._lostTLSConnection and TlsStream.fits(self._tls)

    def give_away(self) -> tuple[socket.socket, TlsStream | None]:
        """A twin of the socket, and its TLS. Twisted keeps the original, and leaves both alone until `close`."""
        twin = cast(socket.socket, self._tcp.socket.dup())
        twin.setblocking(False)
        self.pause()
        if self._tls is None:
            return twin, None
        # OpenSSL bears one thread: Twisted must not touch it either when the reactor is stopped by force.
        self._tls_layer._lostTLSConnection = True
        return twin, TlsStream(self._tls)

    @property
    def _is_ours(self) -> bool:
        """False once Twisted has read the answer to its end, maybe before we took the first byte of it: then the
        connection lies in the pool or serves another request, and whoever paused it would hang that one."""
        return self._transport is not None and self._proxy._producer is not None

    def close(self) -> None:
        """Ends the connection in good order, without waiting for the peer to do so too."""
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
        """Drops the connection now, with everything that is in flight."""
        if self._is_ours:
            self._transport.abortConnection()


def map_error(error: BaseException) -> BulkError:
    """The AttemptError for an exception of Twisted or Scrapy; BulkErrors pass."""
    if isinstance(error, BulkError):
        return error
    reasons = _reasons(error)
    text = "; ".join(dict.fromkeys(_say(reason) for reason in reasons))
    for reason in reasons:
        if isinstance(reason, VerificationError) or (
            isinstance(reason, SSL.Error) and "certificate verify failed" in str(reason)
        ):
            return AttemptError(f"the certificate does not verify ({text})", code="tls_verify", permanent=True)
    first = reasons[-1]
    if isinstance(first, NotImplementedError):
        return AttemptError(text, code="proxy", permanent=True)
    if isinstance(first, SchemeNotSupported):
        return AttemptError(text, code="bad_url", permanent=True)
    if isinstance(first, net.DNSLookupError):
        return AttemptError(f"the host name was not found ({text})", code="dns", origin_wide=True)
    if isinstance(first, net.ConnectionRefusedError):
        return AttemptError("the connection was refused", code="refused", origin_wide=True)
    if isinstance(first, net.ConnectError):
        return AttemptError(f"no connection ({text})", code="connect", origin_wide=True)
    if isinstance(first, SSL.Error):
        return AttemptError(f"TLS failed ({text})", code="tls", origin_wide=True)
    if type(first).__name__ == "TunnelError":
        # Scrapy shows the proxy's answer as a dict.
        status = re.search(r"'status': (\d{3})", text)
        why = f"it answered {status[1]}" if status is not None else text
        return AttemptError(f"the proxy opened no tunnel ({why})", code="proxy", origin_wide=True)
    if isinstance(first, (net.ConnectionLost, net.ConnectionDone, net.ConnectionAborted, CancelledError)):
        return AttemptError("the connection was lost before the answer", code="lost")
    return AttemptError(f"no valid answer ({text})", code="bad_answer")


def _reasons(error: BaseException) -> list[BaseException]:
    """The exception and what Twisted packed into it, innermost last."""
    found = [error]
    for failure in getattr(error, "reasons", None) or []:
        value = failure.value if isinstance(failure, Failure) else failure
        if isinstance(value, BaseException):
            found += _reasons(value)
    return found


def _say(error: BaseException) -> str:
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return ", ".join(str(row[-1]) for row in error.args[0]) or "TLS alert"
    if getattr(error, "reasons", None):
        return "the exchange broke off"
    return str(error) or type(error).__name__


def is_idle(crawler: Crawler) -> bool:
    """True when Scrapy has no request in hand: none scheduled, under way, or with a callback or pipeline.

    Private name: ExecutionEngine._slot, for its scheduler (Scrapy < 2.19 has no other way to it).
    """
    engine = crawler.engine
    slot = getattr(engine, "_slot", None)
    if slot is None or engine.downloader.active or slot.scheduler.has_pending_requests():
        return False
    return engine.scraper.slot is not None and engine.scraper.slot.is_idle()


def is_closing(crawler: Crawler) -> bool:
    """True from the moment on at which the crawl is to end, long before Scrapy's signals say so.

    Private name: ExecutionEngine._slot. Ctrl-C flips `crawler.crawling` at once, other closes only `_slot.closing`.
    `engine.running` says nothing: it is False, too, while somebody takes his time over the signal engine_started.
    """
    slot = getattr(crawler.engine, "_slot", None)
    return not crawler.crawling or (slot is not None and slot.closing is not None)
