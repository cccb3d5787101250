"""Answers that an origin holds back until something has happened: how a test stops a crawl in the middle, unslept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from support.faults import first
from support.faulty import Behaviour, Exchange, Reply, correct, good

PATIENCE = 60.0
SETTLED_NS = 50_000_000


class When:
    """Stands in for the event of `Exchange.stall`: set once a condition is true."""

    def __init__(self, happened: Callable[[], bool]) -> None:
        self.is_set = happened


def stall_until(exchange: Exchange, happened: Callable[[], bool]) -> None:
    exchange.stall(cast(Any, When(happened)))


class Holds:
    """The first request for a path is given `length` bytes, and silence until its client leaves.

    Once the client has these bytes on disk, at `part`, and all files of `needs` have some, `wait` returns.
    """

    def __init__(
        self, length: int, part: Path, *, needs: Sequence[Path] = (), reply: Callable[[Exchange], Reply] = correct
    ) -> None:
        self._reached = threading.Event()
        self._length, self._part, self._needs, self._reply = length, part, needs, reply

    def behaviour(self, then: Behaviour = good) -> Behaviour:
        return first(1, self._hold, then)

    def wait(self) -> None:
        assert self._reached.wait(PATIENCE), f"{self._length} bytes never came to {self._part}"

    def _hold(self, exchange: Exchange) -> None:
        reply = self._reply(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[: self._length])
        stall_until(exchange, self._is_on_disk)
        self._reached.set()
        exchange.stall()

    def _is_on_disk(self) -> bool:
        return size_of(self._part) >= self._length and all(size_of(path) for path in self._needs)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def is_settled(path: Path, size: int) -> bool:
    """It has so many bytes, and the last write is so long ago that a change has another time of modification: the
    clock of file systems ticks every few milliseconds. Before, a change could not be told from the write itself."""
    return size_of(path) >= size and time.time_ns() - path.stat().st_mtime_ns > SETTLED_NS


class Gathering:
    """Bodies are held until `count` requests are open at once; counts how many were at most. The heads come at once: an
    origin that has not answered yet is asked by one.

    One that never gathers ends by the client's patience, and `most` tells why.
    """

    def __init__(self, count: int) -> None:
        self.most = 0
        self._count = count
        self._open: set[Exchange] = set()
        self._gathered = False
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self._open.add(exchange)
            self.most = max(self.most, len(self._open))
            self._gathered = self._gathered or self.most >= self._count
        reply = correct(exchange)
        try:
            exchange.promise(reply)
            stall_until(exchange, lambda: self._gathered)
        finally:
            with self._lock:
                self._open.discard(exchange)
        exchange.send(reply.body)
