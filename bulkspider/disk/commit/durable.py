"""Makes the bytes of a group of files durable, before they get their names.

A large file is flushed by itself (fdatasync); small files that were written just now together (`together.py`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence

from bulkspider.disk.commit.request import CommitRequest
from bulkspider.disk.commit.together import FilesystemFlush
from bulkspider.errors import Stopped, WorkerError
from bulkspider.workers import Workers, as_bulk_error

# A disk whose flush takes longer is slow: several flushes at once are worth their threads.
SLOW_FLUSH_SECONDS = 0.001
FLUSH_THREADS = 8
# Fewer small files are flushed one by one.
TOGETHER_MIN_FILES = 8


class Flusher:
    """For one thread, the committer's."""

    def __init__(self, together: FilesystemFlush | None = None) -> None:
        self._together = together or FilesystemFlush()
        self._workers = Workers(FLUSH_THREADS, "bulk-flush")
        self._disk_is_slow = True  # until it has shown that it is not
        self._works_together = True  # until a file system has shown that it does not

    def close(self) -> None:
        self._workers.close()

    def flush(self, group: Sequence[CommitRequest]) -> list[CommitRequest]:
        """Writes and flushes the bytes. Returns the requests that succeeded; the futures of the others have their
        error."""
        small = [request for request in group if request.part.buffered]
        if len(small) < TOGETHER_MIN_FILES or not (self._works_together and self._together.is_cheap):
            return self._flush_alone(group)
        alone = [request for request in group if not request.part.buffered]
        durable = []
        for device, requests in _by_device(filter(_write, small)).items():
            if self._together.flush(requests[0].part.files.directory, device):
                durable += requests
            else:
                # From now on the files are written by several threads at once, too, as on any other file system.
                self._works_together = False
                alone += requests
        return durable + self._flush_alone(alone)

    def _flush_alone(self, group: Sequence[CommitRequest]) -> list[CommitRequest]:
        shares = [group]
        if self._disk_is_slow:
            # Such a disk does several flushes in the time of one.
            shares = [group[first::FLUSH_THREADS] for first in range(min(FLUSH_THREADS, len(group)))]
        durable, quickest = [], math.inf
        for request, seconds in itertools.chain.from_iterable(self._flush_shares(shares)):
            if seconds is None:
                continue
            durable.append(request)
            if not request.in_place:
                quickest = min(quickest, seconds)
        if quickest < math.inf:
            # The quickest flush is the measure: the others may have waited for the interpreter.
            self._disk_is_slow = quickest > SLOW_FLUSH_SECONDS
        return durable

    def _flush_shares(
        self, shares: list[Sequence[CommitRequest]]
    ) -> Iterator[list[tuple[CommitRequest, float | None]]]:
        if len(shares) == 1:
            yield _flush_share(shares[0])
            return
        for share, flushed in [(share, self._workers.submit(_flush_share, share)) for share in shares]:
            try:
                yield flushed.result()
            except (WorkerError, Stopped):
                # No thread can do it: this one does, one file after the other.
                yield _flush_share(share)


def _by_device(requests: Iterable[CommitRequest]) -> dict[int, list[CommitRequest]]:
    found: dict[int, list[CommitRequest]] = {}
    for request in requests:
        found.setdefault(request.part.file.device, []).append(request)
    return found


# (the request, the seconds that its flush took; None where its future has an error).
_Flushed = tuple[CommitRequest, float | None]


def _flush_share(share: Sequence[CommitRequest]) -> list[_Flushed]:
    return [(request, _flush(request)) for request in share]


def _write(request: CommitRequest) -> bool:
    """Opens the part, and writes what is only in memory yet. False: the future has the error."""
    part = request.part
    try:
        part.open()
        if not request.in_place:
            _ = part.fd
            if request.mtime is not None:
                part.file.set_time(request.mtime)
    except Exception as error:
        request.done.set_exception(as_bulk_error(error))
        return False
    return True


def _flush(request: CommitRequest) -> float | None:
    """Returns the seconds that the flush took. None: the future has an error."""
    if not _write(request):
        return None
    began = time.monotonic()
    try:
        if not request.in_place:
            request.part.checkpoints.make_durable(request.part.fd)
    except Exception as error:
        request.done.set_exception(as_bulk_error(error))
        return None
    return time.monotonic() - began
