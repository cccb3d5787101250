"""The TLS pump: what a visit does when the transfer has been stopped before."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from bulkspider.protocol.plan import End
from bulkspider.pumps.tls import TlsPump

MANY_TIMES = 100


class Tls:
    """Has bytes that Twisted had read already."""

    is_open = True
    plain = memoryview(bytearray(1000))

    def use(self, buffers: object) -> None:
        """It has its own."""

    def get(self, most: int) -> int:
        return most

    def attach(self, sock: socket.socket) -> None:
        """From now on it would read from the socket."""


class Head:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def take_socket(self) -> tuple[bytes, socket.socket, Any]:
        return b"first", self._sock, Tls()


class Writer:
    """A range of which most is missing. Fails when it is asked again and again although nothing is written."""

    fd, at, end, untold, full = -1, 5, 10_000_000, 10_000_000, False

    def __init__(self) -> None:
        self.asked = 0
        self.taken = b""

    def take(self, data: bytes) -> None:
        self.taken += data

    @property
    def unheld(self) -> int:
        self.asked += 1
        assert self.asked < MANY_TIMES, "it turns round and round"
        return self.end - self.at


class Visits:
    """Visits nobody by itself."""

    visit_seconds = 1.0
    hang = False

    def enter(self, body: object) -> Any:
        return Deferred()

    def hurry(self, body: object) -> None:
        """The test visits it."""


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    ours, other = socket.socketpair()
    with ours, other:
        ours.setblocking(False)
        yield ours


def test_a_body_that_is_stopped_before_its_first_visit_ends(sock: socket.socket) -> None:
    writer = Writer()
    pump = TlsPump(
        cast(Any, Head(sock)),
        cast(Any, writer),
        cast(Any, Visits()),
        lambda count: None,
        lambda count: 0.0,
        lambda: 1000,
    )
    pump.start()
    pump.abort(ConnectionError("stopped"))
    assert pump.visit() is End.LOST
    assert writer.taken == b"first", "what the reactor had read is kept"
