"""Worker threads: a queue of work, threads that are started when they are needed, and a clear error where they fail.

Used in place of `concurrent.futures.ThreadPoolExecutor`. When a thread cannot be started, that one keeps the work in
its queue for ever; and a thread that hangs in the file system keeps the process alive. Here work that no thread can do
fails at once, with a WorkerError, and threads are daemons. No Twisted here.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from msgspec import Struct

from bulkspider.errors import BulkError, Stopped, WorkerError, disk_error

T = TypeVar("T")

# A thread that has had no work for so long ends, if there is another one.
IDLE_SECONDS = 10.0


class Workers:
    """Up to `most` threads, called `name`.

    shared: work may wait until another thread is free. Otherwise every piece of work gets a thread of its own at once,
    or fails.
    """

    def __init__(self, most: int, name: str, *, shared: bool = True) -> None:
        self._most = most
        self._name = name
        self._shared = shared
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Never raises. The future fails with what `function` raises, translated by `as_bulk_error`; with WorkerError
        where no thread can do it; with Stopped after `close`."""
        job = _Job(Future(), function, args)
        with self._changed:
            if self._closed:
                job.future.set_exception(Stopped())
                return job.future
            self._jobs.append(job)
            refused = self._find_thread()
            if refused is not None:
                self._jobs.remove(job)
        if refused is not None:
            job.future.set_exception(refused)
        return job.future

    def require_one(self) -> None:
        """Makes sure that what is submitted later finds a thread. Raises WorkerError."""
        with self._changed:
            if not self._threads and not self._closed:
                self._start()

    def close(self) -> None:
        """Takes no more work. What was submitted is still done; then the threads end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """After `close`: waits up to `seconds` for the threads. False when one of them is still at work then."""
        ends = time.monotonic() + seconds
        with self._changed:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # -- with the lock held ----------------------------------------------------------------------------------------

    def _find_thread(self) -> WorkerError | None:
        """Finds or starts a thread for the last job of the queue. Returns the error when there is none."""
        if self._idle >= len(self._jobs):
            self._changed.notify()
            return None
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) >= self._most:
            return None
        try:
            self._start()
        except WorkerError as error:
            # The threads that exist do this job later.
            return None if self._shared and self._threads else error
        return None

    def _start(self) -> None:
        self._started += 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
        start(thread)
        self._threads.add(thread)

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                job.do()
                del job
        finally:
            self._gone()

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._idle += 1
                try:
                    called = self._changed.wait(IDLE_SECONDS)
                finally:
                    self._idle -= 1
                if not called and not self._jobs and len(self._threads) > 1:
                    self._threads.discard(threading.current_thread())
                    return None
            return self._jobs.popleft()

    def _gone(self) -> None:
        """The thread ends, perhaps by an error: if it was the last one, another takes its jobs, or they fail."""
        with self._changed:
            self._threads.discard(threading.current_thread())
            if not self._jobs or self._threads:
                return
            try:
                self._start()
            except WorkerError as error:
                left, refused = list(self._jobs), error
                self._jobs.clear()
            else:
                return
        for job in left:
            job.future.set_exception(refused)


class _Job(Struct, frozen=True):
    future: Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]

    def do(self) -> None:
        try:
            result = self.function(*self.args)
        except BaseException as error:
            self.future.set_exception(as_bulk_error(error))
        else:
            self.future.set_result(result)


def start(thread: threading.Thread) -> None:
    """Raises WorkerError when the system gives this process no more threads."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise WorkerError(
            f"no thread can be started ({error or type(error).__name__}); raise `ulimit -u`, `ulimit -v` or the "
            "container's pids.max, or run fewer transfers at once",
            code="no_thread",
        ) from error


def as_bulk_error(error: BaseException) -> BulkError:
    """The error of our own work in a thread: a BulkError as it is, an OSError as DiskError, everything else as
    WorkerError. So it is not taken for an error of the network or of a middleware."""
    if isinstance(error, BulkError):
        return error
    if isinstance(error, MemoryError):
        told: BulkError = WorkerError(
            "there is not enough memory; raise `ulimit -v` or the container's limit, or run fewer transfers at once",
            code="no_memory",
        )
    elif isinstance(error, OSError):
        told = disk_error(error, error.filename if isinstance(error.filename, str) else "this process")
    else:
        told = WorkerError(f"a thread ended ({describe(error)}); run the same again", code="thread_died")
    told.__cause__ = error
    return told


def describe(error: BaseException) -> str:
    """The error's own text, and the line of code that it came from."""
    text = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} in {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else text
