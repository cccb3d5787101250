"""Limits on the head of an answer and on the chunks of its body, against servers that waste memory and time.

Twisted limits the length of a header line, but not the number of lines, nor the number of interim answers (1xx), and it
delivers each chunk of a chunked body by itself. So one host could fill the memory with a head that never ends, or keep
the reactor busy with chunks of one byte while all other hosts wait. Here every connection of a pool, and every tunnel
through a proxy, gets the limits below. Beyond them the exchange fails as `bad_answer` and the connection is dropped at
once.

Private names: HTTPConnectionPool._factory, HTTP11ClientProtocol._parser, _giveUp and _disconnectParser,
HTTPClientParser and its _transferDecoders, _ChunkedTransferDecoder, Agent._getEndpoint and, for tunnels, Scrapy's
_TunnelingTCP4ClientEndpoint.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

from twisted.python.failure import Failure
from twisted.web import http

from bulkspider.codes import Kind
from bulkspider.errors import AttemptError
from bulkspider.protocol.plan import length_of
from bulkspider.regex import regex

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred
    from twisted.web.client import Agent, HTTPConnectionPool

# Of one head: bytes, and lines (the status line and the fields). The largest heads of honest servers have about 50 KiB.
HEAD_BYTES = 256 * 1024
HEAD_LINES = 500
# Interim answers (RFC 9110 §15.2) before the final one; each of them is a head, too.
INTERIM_ANSWERS = 20
# A body of more than CHUNKS chunks must have CHUNK_BYTES bytes in each, on average. Some servers send each line of a
# table as a chunk; no honest server sends less.
CHUNKS = 4096
CHUNK_BYTES = 4
# About how many chunks one read of the socket may bring before other connections get their turn.
CHUNKS_OF_A_READ = 256
SMALLEST_READ_BYTES = 2048
_PLAIN_CHUNK = regex(rb"([0-9A-Fa-f]{1,4})\r\n")


def limit_pool(pool: HTTPConnectionPool) -> None:
    """Makes each new connection of `pool` keep the limits. Raises AttributeError where a private name is gone."""
    pool._factory = _limited_factory(pool._factory)


def limit_tunnels(agent: Agent) -> None:
    """Makes the CONNECT tunnels of `agent` keep the limits of a head, and leave no connection behind when they fail."""
    get_endpoint = cast(Any, agent)._getEndpoint

    def limited(uri: Any) -> Any:
        endpoint = get_endpoint(uri)
        return _Tunnel(endpoint) if hasattr(endpoint, "processProxyResponse") else endpoint

    cast(Any, agent)._getEndpoint = limited


def _refuse(what: str) -> NoReturn:
    # FINAL: the next answer would be the same.
    raise AttemptError(f"no valid answer ({what})", code="bad_answer", kind=Kind.FINAL)


class _HeadSize:
    """The size of one head so far: bytes and lines."""

    __slots__ = ("lines", "size")

    def __init__(self) -> None:
        self.size = 0
        self.lines = 0

    def add(self, size: int, lines: int) -> None:
        """Raises AttemptError when it is too much."""
        self.size += size
        self.lines += lines
        if self.size > HEAD_BYTES:
            _refuse(f"its head has more than {HEAD_BYTES // 1024} KiB")
        if self.lines > HEAD_LINES:
            _refuse(f"its head has more than {HEAD_LINES} lines")


@lru_cache(maxsize=16)
def _limited_factory(base: Any) -> Any:
    class LimitedFactory(base):  # type: ignore[misc]
        noisy = False

        def buildProtocol(self, addr: Any) -> Any:
            protocol = super().buildProtocol(addr)
            protocol.__class__ = _limited_protocol(cast(Any, type(protocol)))
            return protocol

    return LimitedFactory


@lru_cache(maxsize=16)
def _limited_protocol(base: Any) -> Any:
    class LimitedProtocol(base):  # type: ignore[misc]
        def request(self, request: Any) -> Deferred[Any]:
            sent: Deferred[Any] = super().request(request)
            if self._parser is not None:
                # `request` has just made the parser; its class is replaced, as Scrapy does, too.
                self._parser.__class__ = limited_parser(cast(Any, type(self._parser)))
            return sent

        def dataReceived(self, data: bytes) -> None:
            if self._parser is None:
                # Bytes came without a request. Aborted, because over TLS a normal close would wait for the peer.
                self.transport.abortConnection()
                return
            super().dataReceived(data)

        def _giveUp(self, reason: Failure) -> None:
            if not reason.check(AttemptError):
                super()._giveUp(reason)
                return
            self.transport.abortConnection()
            self._disconnectParser(reason)

    return LimitedProtocol


@lru_cache(maxsize=16)
def limited_parser(base: Any) -> Any:
    """A subclass of the parser class `base` that keeps the limits."""

    class LimitedParser(base):  # type: ignore[misc]
        MAX_LENGTH = HEAD_BYTES
        _transferDecoders: ClassVar[dict[bytes, Any]] = {**base._transferDecoders, b"chunked": _Chunks}
        _head_size: _HeadSize | None = None
        _interim_answers = 0

        def lineReceived(self, line: bytes) -> None:
            if self._head_size is None:
                self._head_size = _HeadSize()
            self._head_size.add(len(line) + 1, line not in (b"", b"\r"))
            super().lineReceived(line)

        def lineLengthExceeded(self, line: bytes) -> NoReturn:
            _refuse(f"its head has more than {HEAD_BYTES // 1024} KiB")

        def allHeadersReceived(self) -> None:
            if 100 <= self.response.code < 200:
                self._head_size = None
                self._interim_answers += 1
                if self._interim_answers > INTERIM_ANSWERS:
                    _refuse(f"more than {INTERIM_ANSWERS} interim answers came before it")
            elif not 200 <= self.response.code <= 999:
                _refuse("its status is no status of HTTP")
            for value in self.connHeaders.getRawHeaders(b"content-length", ()):
                # "5, 5" may mean one length (RFC 9110 §8.6): Twisted decides that.
                numbers = (number.strip().decode("latin-1") for number in value.split(b","))
                if any(number.isdecimal() and length_of(number) is None for number in numbers):
                    _refuse("its Content-Length is no length of a file")
            super().allHeadersReceived()

        def rawDataReceived(self, data: bytes) -> None:
            decoder = self.bodyDecoder
            before = decoder.chunks if isinstance(decoder, _Chunks) else 0
            super().rawDataReceived(data)
            if isinstance(decoder, _Chunks) and decoder.chunks - before > CHUNKS_OF_A_READ:
                _read_less(self.transport, len(data) * CHUNKS_OF_A_READ // (decoder.chunks - before))

    return LimitedParser


def _read_less(transport: Any, size: int) -> None:
    """From now on one read of the socket under `transport`, maybe under TLS, takes about `size` bytes."""
    while transport is not None and not hasattr(transport, "bufferSize"):
        transport = getattr(transport, "_producer", None) or getattr(transport, "transport", None)
    if transport is not None:
        transport.bufferSize = min(transport.bufferSize, max(size, SMALLEST_READ_BYTES))


class _Chunks(http._ChunkedTransferDecoder):
    """Twisted's decoder, but it takes many small chunks at a time and delivers the bytes of one read together."""

    def __init__(self, deliver: Callable[[bytes], None], finish: Callable[[bytes], None]) -> None:
        super().__init__(self._gather, self._finish)
        self._deliver = deliver
        self._finish_body = finish
        self._pieces: list[bytes] = []
        self.chunks = 0
        self.bytes = 0

    def _gather(self, data: bytes) -> None:
        self._pieces.append(data)
        self.bytes += len(data)

    def _finish(self, rest: bytes) -> None:
        self._hand_on()
        self._finish_body(rest)

    def _hand_on(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._deliver(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _dataReceived_CHUNK_LENGTH(self) -> bool:
        if self._start == 0 and self._take_small_ones():
            return True
        has_come = super()._dataReceived_CHUNK_LENGTH()
        self._count(has_come)
        return has_come

    def _take_small_ones(self) -> bool:
        """Takes the chunks that are here completely and have no extension, in a third of the time that Twisted needs.
        True when there was one."""
        pieces: list[bytes] = []
        buffer, at = bytes(self._buffer), 0
        while len(pieces) < CHUNKS and (plain := _PLAIN_CHUNK.match(buffer, at)):
            first = plain.end()
            end = first + int(plain[1], 16)
            if end == first or not buffer.startswith(b"\r\n", end):
                break
            pieces.append(buffer[first:end])
            at = end + 2
        if pieces:
            del self._buffer[:at]
            self._gather(b"".join(pieces))
            self._count(len(pieces))
        return bool(pieces)

    def _count(self, chunks: int) -> None:
        self.chunks += chunks
        if self.chunks > CHUNKS and self.bytes < self.chunks * CHUNK_BYTES:
            _refuse(f"a body of chunks of fewer than {CHUNK_BYTES} bytes")

    def dataReceived(self, data: bytes) -> None:
        try:
            super().dataReceived(data)
        finally:
            self._hand_on()


class _Tunnel:
    """The endpoint of a tunnel through a proxy. The head of the proxy's answer is limited, too, and the connection is
    dropped when the tunnel fails."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self._head_size = _HeadSize()
        self._transport: Any = None
        self._over = False
        self._request_tunnel, self._process = endpoint.requestTunnel, endpoint.processProxyResponse
        endpoint.requestTunnel = self._connected
        endpoint.processProxyResponse = self._received

    def connect(self, protocol_factory: Any) -> Deferred[Any]:
        tunnel: Deferred[Any] = self._endpoint.connect(protocol_factory)
        return tunnel.addErrback(self._failed)

    def _connected(self, protocol: Any) -> Any:
        self._transport = protocol.transport
        if self._over:  # cancelled while it was connecting
            self._transport.abortConnection()
            return protocol
        return self._request_tunnel(protocol)

    def _received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._head_size.add(len(data), data.count(b"\n"))
        except AttemptError:
            self._endpoint._tunnelReadyDeferred.errback(Failure())
        else:
            self._process(data)

    def _failed(self, failure: Failure) -> Failure:
        self._over = True
        if self._transport is not None:
            self._transport.abortConnection()
        return failure
