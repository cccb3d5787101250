"""The thread's side of a connection that was lent to it: it sends requests and reads the answers, one by one.

A usual answer is read by `protocol/heads/plain.py`, every other one by Twisted's own parser, with the limits of
`limits.py`, as in every other exchange. So there is one judge of odd answers. Private names:
twisted.web._newclient.HTTPClientParser and its _responseDeferred.
"""

from __future__ import annotations

import time
from typing import Any, cast

from twisted.web._newclient import HTTPClientParser, TransportProxyProducer

from bulkspider.protocol.heads.answerhead import AnswerHead
from bulkspider.protocol.heads.plain import USUAL_BYTES, PlainHead, read_plain_head
from bulkspider.protocol.plan import End
from bulkspider.wire.failures import map_error
from bulkspider.wire.lent.connection import RawConnection
from bulkspider.wire.lent.request import SharedRequest
from bulkspider.wire.limits import limited_parser
from bulkspider.wire.response import Head, Receiver

# Bytes that one read of a plain connection takes at most.
READ_BYTES = 144 * 1024
_Parser = limited_parser(HTTPClientParser)


class Conversation(Receiver):
    """Requests and answers on `connection`, in a thread. seconds: time limit of each request with its answer, None for
    none."""

    def __init__(self, connection: RawConnection, seconds: float | None) -> None:
        self._connection = connection
        self._seconds = seconds
        self._ends = 0.0
        self._buffer = memoryview(bytearray(READ_BYTES)) if connection.tls is None else connection.tls.plain
        # Of the answer that is being read: what `read_plain_head` or the parser knows of it, and its body so far.
        self._plain: PlainHead | None = None
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

    def ask(self, url: str, request: SharedRequest) -> AnswerHead:
        """The head of the answer to `request` for `url`. Raises OSError for a silence or a lost connection,
        AttemptError."""
        self._goes_on = self._is_over = False
        self._ends = time.monotonic() + self._seconds if self._seconds is not None else float("inf")
        self._send(request.to(url))
        count = self._receive()
        plain = self._plain = read_plain_head(bytes(self._buffer[: min(count, USUAL_BYTES)]))
        if plain is not None:
            self._body = [bytes(self._buffer[plain.size : count])]
            return AnswerHead(plain.status, plain.fields, plain.length)
        self._body = []
        parser = self._parser = _Parser(request.request, self._finished)
        parser.makeConnection(TransportProxyProducer(cast(Any, self)))
        answers: list[Any] = []
        parser._responseDeferred.addCallback(answers.append)
        self._parse(count)
        while not answers:
            self._parse(self._receive())
        return Head(answers[0])

    def read(self, head: AnswerHead) -> bytes:
        """The body of an answer of known length. Raises as `ask`."""
        if self._plain is not None:
            return self._read_plain(self._plain)
        cast(Head, head).deliver(self)
        while not self._is_over:
            self._parse(self._receive())
        return b"".join(self._body)

    def _read_plain(self, head: PlainHead) -> bytes:
        missing = head.length - len(self._body[0])
        while missing > 0:
            count = self._receive()
            self._body.append(bytes(self._buffer[:count]))
            missing -= count
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._end(has_more=missing < 0, closes=head.closes)
        return body if not missing else body[: head.length]

    def _send(self, data: bytes) -> None:
        """Sends a request. Raises OSError."""
        if self._connection.tls is not None:
            self._connection.tls.send(data)
        else:
            # The request is short: if the socket takes only a part, the peer does not read.
            self._connection.socket.sendall(data)

    def _receive(self) -> int:
        """Waits for bytes; how many are in the buffer now. Raises OSError."""
        tls = self._connection.tls
        while True:
            seconds = self._ends - time.monotonic()
            if seconds <= 0:
                raise TimeoutError
            if not self._connection.poller.poll(None if self._seconds is None else seconds * 1000):
                raise TimeoutError
            if tls is None:
                count = self._connection.socket.recv_into(self._buffer)
            else:
                # `get` takes all bytes that are there, because none of our answers fills the buffer: none are left in
                # TLS itself.
                count = tls.get(len(self._buffer))
                if not count and tls.is_open:
                    continue
            if not count:
                raise ConnectionResetError("closed before the end of the answer")
            return count

    def _parse(self, count: int) -> None:
        """Gives the bytes in the buffer to Twisted's parser. Raises AttemptError."""
        try:
            self._parser.dataReceived(bytes(self._buffer[:count]))
        except Exception as error:
            # Twisted ends the connection, too, whatever its parser raises.
            raise map_error(error) from error

    def _end(self, *, has_more: bool, closes: bool) -> None:
        """The answer has ended. has_more: bytes came after it, which must not be taken for the next answer. closes: the
        server closes the connection."""
        self._is_over = True
        self._goes_on = not (has_more or closes)
        self.was_closed = closes and not has_more

    # -- for Twisted's classes -------------------------------------------------------------------------------------

    def _finished(self, rest: bytes) -> None:
        options = b",".join(self._parser.connHeaders.getRawHeaders(b"connection", ()))
        closes = b"close" in options.lower() or self._parser.response.version != (b"HTTP", 1, 1)
        self._end(has_more=bool(rest), closes=closes)

    def received(self, data: bytes) -> None:
        self._body.append(data)

    def ended(self, how: End) -> None:
        """Nothing to do: `_finished` is called, too."""

    def pauseProducing(self) -> None:
        """Nothing to do: bytes are read only by `_receive`."""

    def resumeProducing(self) -> None:
        """As `pauseProducing`."""

    def loseConnection(self) -> None:
        """Nothing to do: `RawConnection.close` does it."""
