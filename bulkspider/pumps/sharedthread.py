"""The shared thread: it visits all bodies that are slow.

A thread of its own for each of 500 connections that bring 10 kB/s costs half a core, most of it for waking up. The
kernel keeps what comes meanwhile, so a slow body needs a visit a second only. A body that has become fast leaves it and
gets a thread of its own again (`threaded.py`).
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.protocol.plan import End
from bulkspider.pumps.threads import Threads
from bulkspider.workers import as_bulk_error

T = TypeVar("T")

# Seconds between two visits, or a part of BULK_STALL_TIMEOUT, after which a body without bytes is ended.
VISIT_SECONDS = 1.25
STALL_PART = 4
# So many bodies have a thread of their own from their beginning; further ones begin in the shared thread.
OWN_THREADS = 64


class SlowBody(Protocol):
    """A body that is visited."""

    def visit(self) -> float | End | None:
        """Moves what has come. Returns the seconds until the next visit; how the body has ended; or None: it has become
        fast. Called in the shared thread."""


class SharedThread:
    """One per run. It has a thread only while there are bodies in it. visit_seconds: between two visits of a slow
    body."""

    def __init__(self, threads: Threads, stall_timeout: float = 0.0) -> None:
        self.visit_seconds = min(VISIT_SECONDS, stall_timeout / STALL_PART) if stall_timeout > 0 else VISIT_SECONDS
        self._threads = threads
        self._changed = threading.Condition()
        self._bodies: dict[SlowBody, Future[End | None]] = {}
        self._due: list[tuple[float, int, SlowBody]] = []
        self._numbers = itertools.count()
        self._runs = False
        self._outside = 0

    @property
    def takes_new_ones(self) -> bool:
        """There are so many threads that a new body begins here."""
        return self._outside >= OWN_THREADS

    def in_own_thread(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """As `Threads.in_own_thread`, for a body that is not in the shared thread."""
        self._outside += 1
        return self._threads.in_own_thread(function, *args).addBoth(self._came_back)

    def _came_back(self, result: Any) -> Any:
        self._outside -= 1
        return result

    def enter(self, body: SlowBody) -> Deferred[End | None]:
        """The body is visited at once, and then as often as it wants. Fires with how it has ended, or with None when it
        must go on in a thread of its own. Fails as `Threads.in_thread` does. Called in the reactor's thread."""
        future: Future[End | None] = Future()
        with self._changed:
            self._bodies[body] = future
            self._plan(body, 0.0)
            starts, self._runs = not self._runs, True
        if starts:
            self._threads.in_own_thread(self._run).addErrback(self._fail)
        return self._threads.from_future(future)

    def hurry(self, body: SlowBody) -> None:
        """It is visited now. Called in the reactor's thread."""
        with self._changed:
            if body in self._bodies:
                self._plan(body, 0.0)

    def _plan(self, body: SlowBody, at: float) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), body))
        self._changed.notify()

    # -- in its thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (body := self._next()) is not None:
            try:
                found = body.visit()
            except BaseException as error:
                self._take(body).set_exception(as_bulk_error(error))
                continue
            if isinstance(found, float):
                with self._changed:
                    self._plan(body, time.monotonic() + found)
            else:
                self._take(body).set_result(found)

    def _next(self) -> SlowBody | None:
        """The next body that is due; None when there is none any more."""
        with self._changed:
            while self._bodies:
                at, _, body = self._due[0]
                if body not in self._bodies:
                    heapq.heappop(self._due)  # it was visited sooner, and has left
                elif (seconds := at - time.monotonic()) > 0:
                    self._changed.wait(seconds)
                else:
                    heapq.heappop(self._due)
                    return body
            self._due.clear()
            self._runs = False
            return None

    def _take(self, body: SlowBody) -> Future[End | None]:
        with self._changed:
            return self._bodies.pop(body)

    def _fail(self, failure: Failure) -> None:
        """There is no thread for it, or it has ended."""
        with self._changed:
            bodies, self._bodies = self._bodies, {}
            self._due.clear()
            self._runs = False
        for future in bodies.values():
            future.set_exception(failure.value)
