"""The threads of a crawl, and how their results come back to the reactor.

Three kinds, so that none waits for another: short work on the disk, hashing, and long work, such as bodies, which has a
thread for as long as it lasts. Work that fails because a thread cannot be started, or has ended, is reported to the run
as well. A thread that hangs (a network file system, a FIFO) does not block the end: after `give_up` all work that is
under way counts as failed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bulkspider.errors import BulkError, WorkerError
from bulkspider.workers import Workers

T = TypeVar("T")

# Disk work is short; more threads than this only queue up in the kernel.
DISK_THREADS = 16
# For bodies, batches of small files and the user's own code; threads are made when they are needed.
MOVER_THREADS = 512
# Seconds that the end of a crawl waits for threads which are still at work.
JOIN_SECONDS = 1.0


class Threads:
    """Deferreds for work in threads; they fire in the reactor's thread.

    on_failure: called in the reactor's thread with the WorkerError of work that no thread could do, or whose thread
    has ended.
    """

    def __init__(self, on_failure: Callable[[WorkerError], None] = lambda error: None) -> None:
        self._on_failure = on_failure
        self._disk = Workers(DISK_THREADS, "bulk-disk")
        self._movers = Workers(MOVER_THREADS, "bulk-move", shared=False)
        self._hashers = Workers(max(1, os.cpu_count() or 1), "bulk-hash")
        self._arrivals: list[tuple[Deferred[Any], Future[Any], bool]] = []
        self._arrivals_lock = threading.Lock()
        self._under_way: dict[Deferred[Any], None] = {}
        self._given_up: BulkError | None = None

    def in_own_thread(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """For long work, and for the user's own code, which may hang: no other work waits
        for its thread."""
        try:
            # At the end of the transfer a disk thread saves its state: make sure now that there is one.
            self._disk.require_one()
        except WorkerError as error:
            future: Future[T] = Future()
            future.set_exception(error)
            return self.from_future(future)
        return self.from_future(self._movers.submit(function, *args))

    def in_thread(
        self, function: Callable[..., T], *args: Any, hashing: bool = False, aside: bool = False
    ) -> Deferred[T]:
        """Runs `function` in a worker thread. aside: the crawl does not depend on it, so its failure is not reported to
        the run."""
        workers = self._hashers if hashing else self._disk
        return self.from_future(workers.submit(function, *args), aside=aside)

    def from_future(self, future: Future[T], *, aside: bool = False) -> Deferred[T]:
        """The same for a future that a thread works on already."""
        deferred: Deferred[T] = Deferred()
        self._under_way[deferred] = None
        future.add_done_callback(partial(self._arrived, deferred, aside))
        if self._given_up is not None:
            self._end(deferred, Failure(self._given_up))
        return deferred

    def in_reactor(self, function: Callable[..., object], *args: Any) -> None:
        """From another thread: the reactor's thread calls `function`."""
        from twisted.internet import reactor

        cast(Any, reactor).callFromThread(function, *args)

    @property
    def under_way(self) -> int:
        """How many calls have not ended."""
        return len(self._under_way)

    def give_up(self, error: BulkError) -> None:
        """All calls that are under way fail with `error`, and so do all later ones."""
        self._given_up = error
        for deferred in list(self._under_way):
            self._end(deferred, Failure(error))

    def shut_down(self) -> None:
        """Takes no more work, and waits up to JOIN_SECONDS for the threads of each kind."""
        pools = (self._disk, self._hashers, self._movers)
        for workers in pools:
            workers.close()
        if self._given_up is None:
            for workers in pools:
                workers.join(JOIN_SECONDS)

    def _arrived(self, deferred: Deferred[Any], aside: bool, future: Future[Any]) -> None:
        """In the thread. Wakes the reactor once for all results that arrive before it runs."""
        from twisted.internet import reactor

        with self._arrivals_lock:
            self._arrivals.append((deferred, future, aside))
            first = len(self._arrivals) == 1
        if first:
            cast(Any, reactor).callFromThread(self._take_arrivals)

    def _take_arrivals(self) -> None:
        with self._arrivals_lock:
            arrivals, self._arrivals = self._arrivals, []
        for deferred, future, aside in arrivals:
            error = future.exception()
            if isinstance(error, WorkerError) and not aside:
                self._on_failure(error)
            self._end(deferred, Failure(error) if error is not None else future.result())

    def _end(self, deferred: Deferred[Any], result: Any) -> None:
        self._under_way.pop(deferred, None)
        if deferred.called:
            return
        if isinstance(result, Failure):
            deferred.errback(result)
        else:
            deferred.callback(result)
