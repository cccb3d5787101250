"""Lines: connections that belong to threads, which speak HTTP on them by themselves (`batch.py`)."""

from __future__ import annotations

import itertools
import select
import socket
from typing import Any, cast

from twisted.internet.protocol import Protocol

from bulkspider.errors import AttemptError

# A connection that no thread has wanted for so long (seconds) is closed: well before most servers do it.
KEPT_SECONDS = 2.0


class Line(Protocol):
    """A connection for threads. Twisted keeps the original of `socket`, and leaves it alone until `close`.

    key: where it leads, kept: since when nobody has used it (seconds of the reactor's clock); for `Lines`.
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


class Lines:
    """Those that nobody uses at the moment, by where they lead. For the reactor's thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._kept: dict[Any, list[Line]] = {}
        self._sweep: Any = None

    def take(self, key: Any) -> Line | None:
        """One that leads there, and on which the last answer has ended."""
        kept = self._kept.get(key, [])
        while kept:
            line = kept.pop()
            if line.is_quiet:
                return line
            line.close()
        return None

    def keep(self, line: Line) -> None:
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
