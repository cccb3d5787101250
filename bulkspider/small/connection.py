"""A connection of the second process: it asks for one small file after the other and never blocks.

It goes to an address at which the first process has reached the origin, and under TLS it wants the certificate that was
checked there: who has the key of that certificate is the same host, whatever the first process trusts and why. So there
is no look-up of names here, and no second copy of the rules for certificates. Only usual answers are read
(`protocol/heads/plain.py`); after any other one the connection is over.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import selectors
import socket
import ssl
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from msgspec import Struct

from bulkspider.protocol.heads.plain import USUAL_BYTES, PlainHead, read_plain_head

# Bytes that one read takes at most: a small file with its head.
READ_BYTES = 144 * 1024


class Destination(Struct, frozen=True):
    """Where a connection goes. address, port: of the peer. name: of the host, for TLS; None for plain http.
    certificate: SHA-256 of the one that it must have, in hex."""

    address: str
    port: int
    name: str | None = None
    certificate: str | None = None


class WholeAnswer(Struct, frozen=True):
    """The head of an answer, and its whole body."""

    head: PlainHead
    body: bytes


class Connection:
    """One connection to `to`. on_ready: called when it can be asked. on_answer: called with each answer; None when the
    connection is over instead, whatever the reason. `ask` may be called again within both.

    is_ready: it can be asked. is_reused: it has answered before, so its peer may have closed it in the moment of the
    next request.
    """

    def __init__(
        self,
        to: Destination,
        selector: selectors.BaseSelector,
        buffer: memoryview,
        on_ready: Callable[[Connection], None],
        on_answer: Callable[[Connection, WholeAnswer | None], None],
    ) -> None:
        """Begins to connect. Raises OSError."""
        self.to = to
        self.is_open = True
        self.is_reused = False
        self._selector = selector
        self._buffer = buffer
        self._on_ready = on_ready
        self._on_answer = on_answer
        self.is_ready = False
        self._tls: ssl.SSLObject | None = None
        # What came and is still encrypted, and what is encrypted and must go.
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._asked = False
        self._head: PlainHead | None = None
        self._body: list[bytes] = []
        self._missing = 0
        self._socket = socket.socket(socket.AF_INET6 if ":" in to.address else socket.AF_INET)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = self._socket.connect_ex((to.address, to.port))
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, "not connected")
            selector.register(self._socket, selectors.EVENT_WRITE, self)
        except BaseException:
            self._socket.close()
            raise

    def ask(self, request: bytes) -> None:
        """Sends a request; `on_answer` follows, later or at once."""
        self._asked = True
        try:
            if self._tls is not None:
                self._tls.write(request)
                self._flush()
            else:
                self._socket.sendall(request)  # it is short: a peer that does not take it does not read
        except OSError:
            self._lost()

    def close(self) -> None:
        """Calls nothing any more."""
        if self.is_open:
            self.is_open = False
            self._selector.unregister(self._socket)
            self._socket.close()

    def happened(self) -> None:
        """Called when the socket is ready: for its connection, later for bytes."""
        try:
            if not self.is_ready:
                self._go_on_connecting()
            else:
                self._receive()
        except OSError:
            self._lost()

    # -- connecting ------------------------------------------------------------------------------------------------

    def _go_on_connecting(self) -> None:
        if self._tls is None:
            if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "not connected")
            self._selector.modify(self._socket, selectors.EVENT_READ, self)
            if self.to.name is None:
                self._begin()
                return
            self._tls = _context().wrap_bio(self._incoming, self._outgoing, server_hostname=self.to.name)
        else:
            self._fetch()
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        self._flush()
        certificate = self._tls.getpeercert(binary_form=True) or b""
        if hashlib.sha256(certificate).hexdigest() != self.to.certificate:
            raise ssl.SSLError("another certificate")
        self._begin()

    def _begin(self) -> None:
        self.is_ready = True
        self._on_ready(self)

    # -- an answer -------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Takes the bytes that are there. Raises OSError."""
        if self._tls is None:
            self._took(self._read_socket())
            return
        self._fetch()
        while self.is_open:
            try:
                count = cast(Any, self._tls).read(READ_BYTES, self._buffer)
            except ssl.SSLWantReadError:
                self._flush()  # perhaps an answer to new keys (RFC 8446 §4.6.3)
                return
            if not count:
                raise ConnectionResetError
            self._took(count)

    def _took(self, count: int) -> None:
        """`count` bytes of an answer are in the buffer."""
        if not self._asked:
            raise ConnectionResetError  # bytes that nobody has asked for
        if self._head is None:
            head = read_plain_head(bytes(self._buffer[: min(count, USUAL_BYTES)]))
            if head is None:
                raise ConnectionResetError  # not usual: the first process asks once more
            self._head = head
            self._body = [bytes(self._buffer[head.size : count])]
            self._missing = head.length - (count - head.size)
        else:
            head = self._head
            self._body.append(bytes(self._buffer[:count]))
            self._missing -= count
        if self._missing < 0:
            raise ConnectionResetError  # more than the answer
        if not self._missing:
            self._is_complete(head)

    def _is_complete(self, head: PlainHead) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._head, self._body, self._asked, self.is_reused = None, [], False, True
        if head.closes:
            self.close()
        self._on_answer(self, WholeAnswer(head, body))

    def _lost(self) -> None:
        if self.is_open:
            self.close()
            self._on_answer(self, None)

    # -- bytes -----------------------------------------------------------------------------------------------------

    def _read_socket(self) -> int:
        count = self._socket.recv_into(self._buffer)
        if not count:
            raise ConnectionResetError
        return count

    def _fetch(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._incoming.write(self._buffer[: self._read_socket()])

    def _flush(self) -> None:
        while self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())


@cache
def _context() -> ssl.SSLContext:
    """Checks nothing by itself: `Connection` compares the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
