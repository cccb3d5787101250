"""Who visits the bodies: a few threads that wait for all sockets together, and one for bodies that are slow.

With a thread for each of 64 bodies over https most of the time is spent on waking the next thread, because Python runs
one at a time. So a body whose socket has bytes is visited by any of READY_THREADS; one that hangs in the file system
keeps one of them, and the others go on. A body that trickles, or rests under a rate limit, is visited when its time has
come: the kernel keeps what comes meanwhile, and 500 connections that bring 10 kB/s need a visit a second only.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import threading
import time
from concurrent.futures import Future
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.protocol.plan import End
from bulkspider.pumps.threads import Threads
from bulkspider.workers import as_bulk_error

# Without it (it is Linux's own) the reactor reads all bodies (`reactor.py`).
HAS_EPOLL = hasattr(select, "epoll")
# Threads for bodies whose sockets have bytes: one for each core, and at least two, because one may wait for the disk;
# not more than 8, because only system calls, OpenSSL and hashing run beside Python.
READY_THREADS = min(8, max(2, os.cpu_count() or 1))
# Seconds between two visits of a slow body, or a part of BULK_STALL_TIMEOUT, after which a body without bytes is ended.
VISIT_SECONDS = 1.25
STALL_PART = 4
# A visit that has lasted so many seconds hangs in the file system.
LONG_VISIT_SECONDS = 1.0


# What the poller waits for, once: bytes; or nothing, because a socket that has sent its request can be written to.
_READABLE = select.EPOLLIN | select.EPOLLONESHOT if HAS_EPOLL else 0
_NOW = _READABLE | select.EPOLLOUT if HAS_EPOLL else 0


class VisitedBody(Protocol):
    """A body that is visited, by one thread at a time."""

    def fileno(self) -> int:
        """Its socket, open until `release`."""

    def visit(self) -> float | End | None:
        """Moves what has come. Returns the seconds until the next visit; None: it is visited as soon as its socket has
        bytes; or how it has ended."""

    def release(self) -> None:
        """Closes its socket; called after the last visit."""


class _State(Enum):
    WAITS = "for its socket or its time"
    VISITED = "by a thread"
    HURRIED = "by a thread, and must be visited once more"


class _Visited(Struct, eq=False):
    """due: the time of the next visit (monotonic seconds), None while it waits for its socket."""

    body: VisitedBody
    socket: int
    ended: Future[End]
    state: _State = _State.WAITS
    due: float | None = None


class Visits:
    """One per run. It has threads only while there are bodies. visit_seconds: between two visits of a slow body."""

    def __init__(self, threads: Threads, stall_timeout: float = 0.0) -> None:
        """stall_timeout: BULK_STALL_TIMEOUT in seconds, 0 for none."""
        self.visit_seconds = min(VISIT_SECONDS, stall_timeout / STALL_PART) if stall_timeout > 0 else VISIT_SECONDS
        self._threads = threads
        self._changed = threading.Condition()
        self._bodies: dict[VisitedBody, _Visited] = {}
        self._by_socket: dict[int, _Visited] = {}
        self._due: list[tuple[float, int, _Visited]] = []
        self._numbers = itertools.count()
        self._poller: Any = None
        self._bell = -1
        self._ready_threads = 0
        self._has_timer = False
        self._error: BaseException | None = None
        self._began: dict[int, float] = {}

    def enter(self, body: VisitedBody) -> Deferred[End]:
        """The body is visited at once, and then as often as it wants. Fires with how it has ended. Fails as
        `Threads.in_thread` does. Called in the reactor's thread."""
        visited = _Visited(body, body.fileno(), Future())
        with self._changed:
            self._open_poller()
            self._bodies[body] = self._by_socket[visited.socket] = visited
            self._poller.register(visited.socket, _NOW)
            needs_timer, self._has_timer = not self._has_timer, True
            needs_ready = self._ready_threads < min(READY_THREADS, len(self._bodies))
            self._ready_threads += needs_ready
        if needs_timer:
            self._threads.in_own_thread(self._visit_due).addErrback(self._lost, is_timer=True)
        if needs_ready:
            self._threads.in_own_thread(self._visit_ready).addErrback(self._lost, is_timer=False)
        return self._threads.from_future(visited.ended)

    def hurry(self, body: VisitedBody) -> None:
        """It is visited now. Called in the reactor's thread."""
        with self._changed:
            visited = self._bodies.get(body)
            if visited is None:
                return
            if visited.state is _State.WAITS:
                self._wait(visited, 0.0)
            else:
                visited.state = _State.HURRIED

    @property
    def hang(self) -> bool:
        """All threads hang in the file system, so that nobody looks whether the other bodies have bytes."""
        began = list(self._began.values())
        return len(began) >= READY_THREADS and time.monotonic() - max(began) >= LONG_VISIT_SECONDS

    def _lost(self, failure: Failure, is_timer: bool) -> None:
        """A thread could not be started, or has ended. Where others wait for the sockets, they do its work."""
        with self._changed:
            if is_timer:
                self._has_timer = False
            else:
                self._ready_threads -= 1
            if self._has_timer and self._ready_threads:
                return
            self._error = failure.value
            waiting = [visited for visited in self._bodies.values() if visited.state is _State.WAITS]
        for visited in waiting:
            self._end(visited).set_exception(failure.value)

    # -- in its threads --------------------------------------------------------------------------------------------

    def _visit_ready(self) -> None:
        """Visits bodies whose sockets have bytes, until there are no bodies."""
        while True:
            found = self._poller.poll(None, 1)
            with self._changed:
                if not self._bodies:
                    self._ready_threads -= 1
                    self._close_poller()
                    return
                visited = self._by_socket.get(found[0][0]) if found else None
                if visited is None or visited.state is not _State.WAITS:
                    continue
                visited.state, visited.due = _State.VISITED, None
            self._visit(visited)

    def _visit_due(self) -> None:
        """Visits bodies whose time has come, until there are no bodies."""
        while (visited := self._next_due()) is not None:
            self._visit(visited)

    def _next_due(self) -> _Visited | None:
        with self._changed:
            while self._bodies:
                if not self._due:
                    self._changed.wait()
                    continue
                at, _, visited = self._due[0]
                if visited.due != at:
                    heapq.heappop(self._due)  # it has been hurried, or has ended
                elif (seconds := at - time.monotonic()) > 0:
                    self._changed.wait(seconds)
                else:
                    heapq.heappop(self._due)
                    visited.state, visited.due = _State.VISITED, None
                    return visited
            self._due.clear()
            self._has_timer = False
            return None

    def _visit(self, visited: _Visited) -> None:
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            found = visited.body.visit()
        except BaseException as error:
            self._end(visited).set_exception(as_bulk_error(error))
            return
        finally:
            del self._began[thread]
        if isinstance(found, End):
            self._end(visited).set_result(found)
            return
        with self._changed:
            no_thread = self._error
            if no_thread is None:
                hurried, visited.state = visited.state is _State.HURRIED, _State.WAITS
                self._wait(visited, 0.0 if hurried else found)
        if no_thread is not None:
            self._end(visited).set_exception(no_thread)

    def _end(self, visited: _Visited) -> Future[End]:
        """The body leaves. The caller then says how it has ended."""
        with self._changed:
            visited.due = None
            del self._bodies[visited.body]
            del self._by_socket[visited.socket]
            # Closing the socket does not do this, because Twisted has a duplicate of it.
            self._poller.unregister(visited.socket)
            if not self._bodies:
                os.eventfd_write(self._bell, 1)
                self._changed.notify()
                self._close_poller()
        visited.body.release()
        return visited.ended

    # -- with the lock held ----------------------------------------------------------------------------------------

    def _wait(self, visited: _Visited, seconds: float | None) -> None:
        """The next visit is after so many seconds; None: when the socket has bytes."""
        visited.due = None
        if not seconds:
            self._poller.modify(visited.socket, _READABLE if seconds is None else _NOW)
            return
        visited.due = time.monotonic() + seconds
        heapq.heappush(self._due, (visited.due, next(self._numbers), visited))
        if self._due[0][2] is visited:
            self._changed.notify()

    def _open_poller(self) -> None:
        """For the first body. The bell wakes all threads that wait for sockets, so that they end when there are no
        bodies."""
        if self._bodies:
            return
        self._error = None
        if self._poller is None:
            self._poller = select.epoll()
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._poller.register(self._bell, select.EPOLLIN)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _close_poller(self) -> None:
        """When nobody uses it."""
        if not self._bodies and not self._ready_threads:
            self._poller.close()
            os.close(self._bell)
            self._poller = None
