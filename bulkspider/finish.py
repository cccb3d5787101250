"""The finish: prove -> make durable -> rename -> flush the directory -> ledger -> drop the state.

A name that this module gave to a file is never a wrong or short file, whatever is pulled out of the wall afterwards.
`prove` says what the bytes are worth; `Committer` takes proven parts over the last steps. Parts that are ready
together are committed together, because three flushes for every tiny file would cap a slow disk at 30 files a second.
No Twisted here: all of it runs in worker threads.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from bulkspider.digest import ALGORITHMS, Follower, compare, hash_file
from bulkspider.errors import BulkError, Stopped, disk_error
from bulkspider.folder import Folder, lstat_at
from bulkspider.ledger import Ledger, LedgerLine
from bulkspider.sink import Part

# One group never grows so large that its first file waits long for its name.
GROUP = 128
# Seconds in which a group gathers: three flushes and a change of threads are paid once for each.
GATHER = 0.01
# A flush that takes longer (seconds) is worth a thread of its own.
SLOW = 0.001
FLUSHERS = 8


class Refuted(BulkError):
    """The bytes are not what a hash says they should be. Expected and found are in the message."""

    def __init__(self, message: str, found: Mapping[str, str]) -> None:
        super().__init__(message, code="digest_mismatch", permanent=True)
        self.found = dict(found)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the bytes of a part are worth: verified, complete or unproven, with the digests that were computed."""

    status: str
    digests: Mapping[str, str]


def prove(
    part: Part,
    *,
    total: int,
    expected: Mapping[str, str],
    length_proven: bool,
    follower: Follower | None,
    stop: Callable[[], bool],
) -> Proof:
    """Hashes what is not hashed yet and compares. Raises Refuted, DiskError, or Stopped when the run stops first."""
    digests: dict[str, str] = {}
    if follower is not None:
        follower.follow(part.fd, total, stop)
        if follower.hashed < total:
            raise Stopped
        digests = follower.digests()
    if expected and digests:
        if sentence := compare(expected, digests):
            raise Refuted(sentence, digests)
        return Proof("verified", digests)
    return Proof("complete" if length_proven else "unproven", digests)


def prove_again(
    folder: Folder, ledger: Ledger, line: LedgerLine, wanted: Mapping[str, str], stop: Callable[[], bool]
) -> LedgerLine | None:
    """Hashes a finished file that was touched, or whose list now gives another hash. The renewed ledger line when
    every wanted hash agrees, else None. Raises DiskError, or Stopped when the run stops first."""
    directory = folder.open_dir(line.name)
    try:
        fd = os.open(line.name.rpartition("/")[2], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise disk_error(error, folder.path(line.name)) from error
    finally:
        os.close(directory)
    try:
        digests = hash_file(fd, wanted, stop)
        found = os.fstat(fd)
    finally:
        os.close(fd)
    if compare(wanted, digests) is not None:
        return None
    renewed = replace(
        line,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        digests={**line.digests, **digests},
        status="verified",
        time=time.time(),
    )
    ledger.append([renewed])
    return renewed


def algorithms_for(expected: Mapping[str, str], policy: str) -> tuple[str, ...]:
    """Which hashes BULK_DIGEST=`policy` asks for when these are expected."""
    if policy == "off":
        return ()
    wanted = set(expected)
    if policy == "sha256":
        wanted.add("sha256")
    return tuple(algorithm for algorithm in ALGORITHMS if algorithm in wanted)


@dataclass(slots=True)
class Finished:
    """A proven part on its way into the ledger. in_place: an adopted file that keeps its name and bytes."""

    part: Part
    ledger: Ledger
    key: str
    proof: Proof
    in_place: bool = False
    mtime: float | None = None
    flags: tuple[str, ...] = ()
    url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    done: Future[LedgerLine] = field(default_factory=Future)


class Committer:
    """Takes proven parts to their names, in groups, in one thread of its own."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._flushers: ThreadPoolExecutor | None = None
        self._disk_is_slow = True  # until it has shown that it is not
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, finished: Finished) -> Future[LedgerLine]:
        """The future gives the ledger line, or fails with DiskError and leaves the part as it was. May be called in
        any thread; raises Stopped after `close`."""
        with self._lock:
            if self._closed:
                raise Stopped
            if self._thread is None:
                self._flushers = ThreadPoolExecutor(FLUSHERS, thread_name_prefix="bulk-flush")
                self._thread = threading.Thread(target=self._work, name="bulk-commit")
                self._thread.start()
            self._waiting.put(finished)
        return finished.done

    def close(self) -> None:
        """Commits what was submitted, then ends the threads."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None and self._flushers is not None:
            self._waiting.put(None)
            thread.join()
            self._flushers.shutdown()

    def _work(self) -> None:
        going = True
        while going:
            taken = self._waiting.get()
            if taken is not None:
                time.sleep(GATHER)
            group: list[Finished] = []
            with contextlib.suppress(queue.Empty):
                while True:
                    if taken is None:
                        going = False
                        break
                    group.append(taken)
                    if len(group) >= GROUP:
                        break
                    taken = self._waiting.get_nowait()
            if group:
                self._commit(group)

    def _commit(self, group: list[Finished]) -> None:
        try:
            named = [(f, line) for f in self._flush(group) if (line := _name(f)) is not None]
            named = _flush_directories(named)
            for ledger in {id(f.ledger): f.ledger for f, _ in named}.values():
                ours = [(f, line) for f, line in named if f.ledger is ledger]
                try:
                    ledger.append([line for _, line in ours])
                except BulkError as error:
                    # The files are right and named; without a ledger line the next run compares them again.
                    for finished, _ in ours:
                        finished.done.set_exception(error)
                    continue
                for finished, line in ours:
                    finished.part.drop_state()
                    finished.part.close()
                    finished.done.set_result(line)
        except BaseException as error:
            for finished in group:
                if not finished.done.done():
                    finished.done.set_exception(error)
            raise

    def _flush(self, group: list[Finished]) -> list[Finished]:
        """Those whose bytes are durable now; the others have their error."""
        shares = [group]
        if self._disk_is_slow:
            # It serves several flushes in the time of one.
            shares = [group[first::FLUSHERS] for first in range(min(FLUSHERS, len(group)))]
        assert self._flushers is not None
        flush = map if len(shares) == 1 else self._flushers.map
        durable, quickest = [], math.inf
        for finished, seconds, error in itertools.chain.from_iterable(flush(_flush_share, shares)):
            quickest = min(quickest, seconds)
            if error is None:
                durable.append(finished)
            else:
                finished.done.set_exception(error)
        # The quickest, because a flush that was waited for may have waited for the interpreter.
        self._disk_is_slow = quickest > SLOW
        return durable


def _flush_share(share: list[Finished]) -> list[tuple[Finished, float, BulkError | None]]:
    return [(finished, *_flush(finished)) for finished in share]


def _flush(finished: Finished) -> tuple[float, BulkError | None]:
    """The bytes must be durable before any name or ledger line speaks of them (FAULTS 45, 46). Seconds it took."""
    part, began = finished.part, math.inf
    try:
        part.open()
        if not finished.in_place:
            fd = part.fd
            if finished.mtime is not None:
                with contextlib.suppress(OSError, ValueError):
                    os.utime(fd, (finished.mtime, finished.mtime))
            began = time.monotonic()
            part.make_durable()
    except BulkError as error:
        return math.inf, error
    return time.monotonic() - began, None


def _name(finished: Finished) -> LedgerLine | None:
    part = finished.part
    try:
        if finished.in_place:
            found = lstat_at(part.name.rpartition("/")[2], part.directory)
            if found is None or not stat.S_ISREG(found.st_mode):
                raise BulkError(f"{part.name}: removed by somebody else", code="part_replaced")
        else:
            found = part.publish()
    except BulkError as error:
        finished.done.set_exception(error)
        return None
    return LedgerLine(
        name=part.name,
        key=finished.key,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        digests=dict(finished.proof.digests),
        status=finished.proof.status,
        flags=finished.flags,
        time=time.time(),
        url=finished.url,
        etag=finished.etag,
        last_modified=finished.last_modified,
    )


def _flush_directories(named: Iterable[tuple[Finished, LedgerLine]]) -> list[tuple[Finished, LedgerLine]]:
    """A rename is durable when its directory is (FAULTS 46); one flush serves all files in it."""
    failed: dict[tuple[int, int], BulkError | None] = {}
    good = []
    for finished, line in named:
        place = finished.part.place
        if place not in failed:
            try:
                os.fsync(finished.part.directory)
                failed[place] = None
            except OSError as error:
                failed[place] = disk_error(error, finished.part.path.parent)
        if problem := failed[place]:
            finished.done.set_exception(problem)
        else:
            good.append((finished, line))
    return good
