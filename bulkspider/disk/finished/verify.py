"""Reads a finished file again without a request (`-a verify=1`). A file with an equal hash is verified; with no known
hash but the right size it is complete, flagged `size-only`, and `touched` if it is not as it was left; a different file
is failed and moved to `<name>.bad`; an absent one is failed `missing`. Runs in worker threads.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from bulkspider.codes import Kind
from bulkspider.disk.finished.hashing import algorithms_for, hash_file
from bulkspider.disk.finished.line import HANDED_ON, LedgerLine, LineVerdict, judge_line
from bulkspider.disk.finished.proof import claims_of
from bulkspider.errors import BulkError, disk_error
from bulkspider.protocol.digests import (
    Claim,
    Weighed,
    weigh,
)

if TYPE_CHECKING:
    from bulkspider.disk.finished.ledger import Ledger
    from bulkspider.disk.folder.folder import Folder
    from bulkspider.entries.entry import Entry

SIZE_ONLY = "size-only"
TOUCHED = "touched"


class VerifyResult(Struct, frozen=True):
    """The result for the file of one entry. size: bytes on disk, None when nothing is there. proof_by: as in Proof."""

    status: str
    size: int | None = None
    proof_by: str | None = None
    flags: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    error: BulkError | None = None


def verify(entry: Entry, folder: Folder, ledger: Ledger, stop: Callable[[], bool]) -> VerifyResult:
    """Reads and judges the file of `entry`. A hash of the list counts before that of the ledger. Raises DiskError,
    Stopped."""
    line = ledger.find(entry.name)
    expected = claims_of(entry, line)
    size = entry.size if entry.size is not None or line is None else line.size
    if line is not None and line.is_elsewhere:
        judged = judge_line(line, key=entry.key, stat=None, size=entry.size, digests=dict(entry.digests))
        if judged is LineVerdict.PROVEN and folder.lstat(entry.name) is None:
            return VerifyResult(line.status, line.size, line.proof_by, (HANDED_ON,), dict(line.digests))
    if folder.lstat(entry.name) is None:
        # Checked before `open_dir`, which would make the folder.
        return VerifyResult("failed", error=BulkError("the file is not there; run without verify", code="missing"))
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
    expected: Sequence[Claim],
    size: int | None,
    stop: Callable[[], bool],
) -> VerifyResult:
    base = entry.name.rpartition("/")[2]
    try:
        # Without O_NONBLOCK, opening a FIFO under this name would wait for ever.
        fd = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise disk_error(error, folder.path(entry.name)) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return VerifyResult("failed", error=BulkError("not a regular file; move it", code="not_regular"))
        weighed = Weighed()
        digests: dict[str, str] = {}
        sentence = None
        if size is not None and found.st_size != size:
            sentence = f"{found.st_size} bytes, expected {size}"
        elif algorithms := algorithms_for([claim.algorithm for claim in expected], "auto"):
            digests = hash_file(fd, algorithms, stop)
            weighed = weigh(expected, digests)
            sentence = weighed.refuted
        if sentence is not None:
            os.rename(base, f"{base}.bad", src_dir_fd=directory, dst_dir_fd=directory)
            why = f"{sentence}; moved to {entry.name}.bad, run without verify"
            # Unlike that of a download: the same list without verify fetches the file anew.
            differs = BulkError(why, code="digest_mismatch", kind=Kind.FINAL)
            return VerifyResult("failed", found.st_size, digests=digests, error=differs)
        touched = line is not None and (line.mtime_ns, line.size) != (found.st_mtime_ns, found.st_size)
        if line is not None and touched and digests:
            # Only its time has changed: the next run need not hash it again. Without a hash nobody knows that, and the
            # next run compares it with the server.
            ledger.append([replace(line, size=found.st_size, mtime_ns=found.st_mtime_ns, time=time.time())])
    except OSError as error:
        raise disk_error(error, folder.path(entry.name)) from error
    finally:
        os.close(fd)
    if not digests:
        compared = (SIZE_ONLY, TOUCHED) if touched else (SIZE_ONLY,)
        return VerifyResult("complete" if size is not None else "unproven", found.st_size, flags=compared)
    status, flags = weighed.status or "verified", weighed.flags
    if line is not None and line.status == "verified" and status == "complete":
        # It was verified when it was fetched: by the server, or by an older version for which a checksum was enough.
        status, flags = "verified", frozenset(line.flags)
    return VerifyResult(status, found.st_size, weighed.proof_by, tuple(sorted(flags)), digests)
