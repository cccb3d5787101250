"""Verify: an output folder re-read and proven, without a single request (`-a verify=1`).

Decides what one entry's file is worth: equal hash is verified; no hash known but the right size is complete, flagged
`size-only`; different is failed and moved to `<name>.bad`; absent is failed `missing`. Runs in worker threads.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bulkspider.digest import compare, hash_file
from bulkspider.entry import Entry
from bulkspider.errors import BulkError, disk_error
from bulkspider.folder import Folder
from bulkspider.ledger import Ledger, LedgerLine

SIZE_ONLY = "size-only"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the file of one entry turned out to be. size: bytes on disk, None when nothing is there."""

    status: str
    size: int | None = None
    flags: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    error: BulkError | None = None


def verify(entry: Entry, folder: Folder, ledger: Ledger, stop: Callable[[], bool]) -> Finding:
    """Reads the file of `entry`; hashes of the list count before those of the ledger. Raises DiskError, Stopped."""
    line = ledger.find(entry.name)
    expected = dict(line.digests) if line is not None else {}
    expected |= dict(entry.digests)
    size = entry.size if entry.size is not None or line is None else line.size
    if folder.lstat(entry.name) is None:
        # Before its folder is opened, which would make it.
        return Finding("failed", error=BulkError("the file is not there; run without verify", code="missing"))
    directory = folder.open_dir(entry.name)
    try:
        return _verify_in(directory, entry, folder, ledger, line, expected, size, stop)
    finally:
        os.close(directory)


def _verify_in(
    directory: int,
    entry: Entry,
    folder: Folder,
    ledger: Ledger,
    line: LedgerLine | None,
    expected: dict[str, str],
    size: int | None,
    stop: Callable[[], bool],
) -> Finding:
    base = entry.name.rpartition("/")[2]
    try:
        # O_NONBLOCK means nothing to a file; a FIFO under this name would hang us for ever without it.
        fd = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise disk_error(error, folder.path(entry.name)) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return Finding("failed", error=BulkError("not a regular file; move it", code="not_regular"))
        sentence = None
        digests: dict[str, str] = {}
        if size is not None and found.st_size != size:
            sentence = f"{found.st_size} bytes, expected {size}"
        elif expected:
            digests = hash_file(fd, expected, stop)
            sentence = compare(expected, digests)
        if sentence is not None:
            os.rename(base, f"{base}.bad", src_dir_fd=directory, dst_dir_fd=directory)
            why = f"{sentence}; moved to {entry.name}.bad, run without verify"
            return Finding("failed", found.st_size, digests=digests, error=BulkError(why, code="digest_mismatch"))
        if line is not None and (line.mtime_ns, line.size) != (found.st_mtime_ns, found.st_size):
            # Only its time had changed: the next run need not hash it again.
            ledger.append([replace(line, size=found.st_size, mtime_ns=found.st_mtime_ns, time=time.time())])
    except OSError as error:
        raise disk_error(error, folder.path(entry.name)) from error
    finally:
        os.close(fd)
    if digests:
        return Finding("verified", found.st_size, digests=digests)
    return Finding("complete" if size is not None else "unproven", found.st_size, (SIZE_ONLY,))
