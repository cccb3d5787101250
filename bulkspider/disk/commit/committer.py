"""The committer: gives proven parts their names, in groups, in one thread of its own."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future

from bulkspider.disk.commit.durable import Flusher
from bulkspider.disk.commit.request import CommitRequest
from bulkspider.disk.files.entryfiles import FINAL
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.part import Part
from bulkspider.errors import BulkError, Stopped, WorkerError
from bulkspider.workers import as_bulk_error, start

# In a larger group the first file would wait long for its name.
GROUP_MAX_FILES = 128
# How long a group waits for more files: each group costs three flushes and a change of threads.
GATHER_SECONDS = 0.01


class Committer:
    """Commits proven parts, in groups, in one thread of its own."""

    def __init__(self, flusher: Flusher | None = None) -> None:
        # How many files are committed, and open, together at most.
        self._group_max = GROUP_MAX_FILES
        self._waiting: queue.SimpleQueue[CommitRequest | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._flusher = flusher or Flusher()
        self._closed = False
        self._lock = threading.Lock()

    def limit_group(self, files: int) -> None:
        """No more files than this are open for their commit at the same time; GROUP_MAX_FILES without this call."""
        self._group_max = files

    def submit(self, request: CommitRequest) -> Future[LedgerLine]:
        """The future gives the ledger line, or fails with DiskError and leaves the part as it was; with WorkerError
        where no thread can do it. May be called in any thread; raises Stopped after `close`."""
        with self._lock:
            if self._closed:
                raise Stopped
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._work, name="bulk-commit", daemon=True)
                try:
                    start(thread)
                except WorkerError as error:
                    request.done.set_exception(error)
                    return request.done
                self._thread = thread
            self._waiting.put(request)
        return request.done

    def close(self, seconds: float | None = None) -> None:
        """Commits what was submitted, then ends the threads; waits no longer than `seconds` for that."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(seconds)
        self._flusher.close()

    def _work(self) -> None:
        try:
            self.commit_submitted()
        except BaseException as error:
            # Those that wait for this thread must not wait for ever; the next file starts another one.
            refused = as_bulk_error(error)
            with self._lock:
                self._thread = None
                left: list[CommitRequest] = []
                with contextlib.suppress(queue.Empty):
                    while True:
                        left += filter(None, [self._waiting.get_nowait()])
            for request in left:
                request.done.set_exception(refused)

    def commit_submitted(self) -> None:
        """Commits what is submitted, until `close`. Runs in the thread."""
        going = True
        while going:
            taken = self._waiting.get()
            if taken is not None:
                time.sleep(GATHER_SECONDS)
            group: list[CommitRequest] = []
            with contextlib.suppress(queue.Empty):
                while True:
                    if taken is None:
                        going = False
                        break
                    group.append(taken)
                    if len(group) >= self._group_max:
                        break
                    taken = self._waiting.get_nowait()
            if group:
                self.commit_together(group)

    def commit_together(self, group: list[CommitRequest]) -> None:
        """In the caller's thread. Afterwards the future of each request has its line or its error."""
        try:
            named = [(request, line) for request in self._flusher.flush(group) if (line := _name(request)) is not None]
            named = _flush_directories(named)
            for ledger in {id(request.ledger): request.ledger for request, _ in named}.values():
                ours = [(request, line) for request, line in named if request.ledger is ledger]
                try:
                    ours[0][0].part.folder.require_there()
                    ledger.append([line for _, line in ours])
                except BulkError as error:
                    # The files are right and named; without a ledger line the next run compares them again.
                    for request, _ in ours:
                        _give_up(request, error)
                    continue
                for request, line in ours:
                    request.part.checkpoints.discard()
                    request.part.close()
                    # The reader has the part, too: without this circle both go when nobody needs them any more, and the
                    # interpreter need not search for them.
                    request.part.checkpoints.reader = None
                    request.done.set_result(line)
        except BaseException as error:
            refused = as_bulk_error(error)
            for request in group:
                if not request.done.done():
                    request.done.set_exception(refused)
            raise


def publish(part: Part, *, in_place: bool = False) -> os.stat_result:
    """Gives a part its final name; a foreign file there becomes `<name>.old`. Returns the file's stat.

    in_place: the adopted file has its name already. The caller has made the bytes durable, and flushes the directory
    afterwards. Raises DiskError; PartChanged when another program changed or replaced the file.
    """
    size = part.state.have.end if part.state.total is None else part.state.total
    if in_place:
        return part.file.confirm(size)
    part.files.require_lease()
    with part.lock:
        return part.file.publish(size)


def _name(request: CommitRequest) -> LedgerLine | None:
    part = request.part
    try:
        found = publish(part, in_place=request.in_place)
    except Exception as error:
        request.done.set_exception(as_bulk_error(error))
        return None
    return LedgerLine(
        name=part.name,
        key=request.key,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        digests=dict(request.proof.digests),
        status=request.proof.status,
        proof_by=request.proof.proof_by,
        flags=request.flags,
        time=time.time(),
        url=request.url,
        etag=request.etag,
        last_modified=request.last_modified,
        owed=request.owed,
    )


def _give_up(request: CommitRequest, error: BulkError) -> None:
    """Fails the request. The file has its name already, so the state of its part is removed."""
    request.part.checkpoints.discard()
    request.done.set_exception(error)


def _flush_directories(named: Iterable[tuple[CommitRequest, LedgerLine]]) -> list[tuple[CommitRequest, LedgerLine]]:
    """A rename is durable when its directory has been flushed; one flush serves all files in it. Returns those that are
    durable."""
    failed: dict[tuple[int, int], BulkError | None] = {}
    good = []
    for request, line in named:
        files = request.part.files
        directory = files.directory_id
        if directory not in failed:
            try:
                os.fsync(files.directory)
                failed[directory] = None
            except OSError as error:
                failed[directory] = files.folder.error(error, files.path(FINAL).parent)
        if problem := failed[directory]:
            _give_up(request, problem)
        else:
            good.append((request, line))
    return good
