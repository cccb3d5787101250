"""The threads of a crawl, and how what they find comes back to the reactor.

Three kinds, so that none waits for another: short work on the disk, hashing, and bodies, each of which has a thread for
as long as its transfer lasts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

# Disk work is short; more threads than this only queue up in the kernel.
DISK_THREADS = 16
# One for each transfer whose socket a thread has taken; threads are made when they are needed.
MOVER_THREADS = 512


class Threads:
    """Deferreds for work in threads; they fire in the reactor's."""

    def __init__(self) -> None:
        self._disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="bulk-disk")
        self._movers = ThreadPoolExecutor(MOVER_THREADS, thread_name_prefix="bulk-move")
        self._hashers = ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="bulk-hash")
        self._arrivals: list[tuple[Deferred[Any], Future[Any]]] = []
        self._arrivals_lock = threading.Lock()

    def in_own_thread(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """For work that lasts as long as a transfer."""
        return self.from_future(self._movers.submit(function, *args))

    def in_thread(self, function: Callable[..., T], *args: Any, hashing: bool = False) -> Deferred[T]:
        """Runs `function` in a worker thread."""
        executor = self._hashers if hashing else self._disk
        return self.from_future(executor.submit(function, *args))

    def from_future(self, future: Future[T]) -> Deferred[T]:
        """The same, for what a thread works on already."""
        deferred: Deferred[T] = Deferred()
        future.add_done_callback(partial(self._arrived, deferred))
        return deferred

    def shut_down(self) -> None:
        """Takes no more work; waits for nobody."""
        for executor in (self._disk, self._hashers, self._movers):
            executor.shutdown(wait=False)

    def _arrived(self, deferred: Deferred[Any], future: Future[Any]) -> None:
        """In the thread: the reactor is woken once for all that has arrived until it looks."""
        from twisted.internet import reactor

        with self._arrivals_lock:
            self._arrivals.append((deferred, future))
            first = len(self._arrivals) == 1
        if first:
            cast(Any, reactor).callFromThread(self._take_arrivals)

    def _take_arrivals(self) -> None:
        with self._arrivals_lock:
            arrivals, self._arrivals = self._arrivals, []
        for deferred, future in arrivals:
            if deferred.called:
                continue
            error = future.exception()
            if error is not None:
                deferred.errback(Failure(error))
            else:
                deferred.callback(future.result())
