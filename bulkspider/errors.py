"""What can go wrong, in one small tree.

Foreign exceptions are mapped where they enter the house (Twisted's in `wire/`, the disk's in `sink.py`);
everything inside speaks BulkError. Every error carries a stable `code` (a short word that stats, items and
documentation use) and says whether trying the same thing again can ever help.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

NEEDS_REACTOR = "bulkspider needs Twisted's reactor; remove TWISTED_REACTOR_ENABLED=False"


class BulkError(Exception):
    """Base of all errors of bulkspider.

    code: stable short word, as in the stat `bulk/failed/{code}` and the item field `error.code`.
    permanent: True when the same list tried again cannot help (exit status 4 instead of 3).
    http_status: the status code of the answer that caused it, if an answer did.
    """

    def __init__(
        self, message: str, *, code: str = "error", permanent: bool = False, http_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.permanent = permanent
        self.http_status = http_status

    def __str__(self) -> str:
        return self.message


class UsageError(BulkError):
    """A setting, an argument or the output folder does not fit: nothing was begun. Exit status 1."""

    def __init__(self, message: str, *, code: str = "usage") -> None:
        super().__init__(message, code=code, permanent=True)


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad line of a list: where, what is wrong, what to do."""

    where: str
    line: int
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}:{self.line}: {self.what}; {self.cure}"


class ListError(UsageError):
    """The list cannot be used. Shows all its bad lines. Exit status 1, nothing was begun."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join([message, *map(str, problems)]), code="list")
        self.problems = tuple(problems)


class AttemptError(BulkError):
    """One HTTP exchange failed, or its answer was refused. The part keeps its bytes.

    retry_after: seconds the origin asked us to wait (RFC 9110 §10.2.3), if it did.
    origin_wide: True when it speaks of the whole origin (unreachable, busy), not of this entry alone.
    final: True when trying again now is pointless, although another run may fare better.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        permanent: bool = False,
        http_status: int | None = None,
        retry_after: float | None = None,
        origin_wide: bool = False,
        final: bool = False,
    ) -> None:
        super().__init__(message, code=code, permanent=permanent, http_status=http_status)
        self.retry_after = retry_after
        self.origin_wide = origin_wide
        self.final = final


class Disagreement(BulkError):
    """Two answers do not fit together: a signal that `transfer.py` acts upon, and that no entry ever ends with.

    differ: the bytes do, not only what was said about them.
    """

    def __init__(self, message: str, *, differ: bool = False) -> None:
        super().__init__(message)
        self.differ = differ


class DiskError(BulkError):
    """The file system refused (full, read-only, broken). Never retried as if it were the network.

    stops_run: True when no other file of this folder can fare better (FAULTS 47, 48).
    """

    def __init__(self, message: str, *, code: str, permanent: bool = False, stops_run: bool = False) -> None:
        super().__init__(message, code=code, permanent=permanent)
        self.stops_run = stops_run


_DISK_CODES = {
    errno.ENOSPC: ("disk_full", "the file system is full; make room and run the same command again", True),
    errno.EDQUOT: ("disk_full", "the disk quota is used up; make room and run the same command again", True),
    errno.EROFS: ("read_only", "the file system is read-only; mount it writable or choose another output", True),
    errno.EIO: ("io_error", "the disk reported an error; check it before running again", True),
    errno.EFBIG: ("file_too_big", "the file system cannot hold a file of this size; choose another output", False),
    errno.EACCES: ("no_permission", "no permission; check owner and mode", False),
    errno.EPERM: ("no_permission", "no permission; check owner and mode", False),
    errno.ELOOP: ("not_regular", "a symbolic link is in the way; move it, links are never followed", False),
    errno.ENOTDIR: ("not_regular", "something that is not a folder is in the way; move it", False),
    errno.EISDIR: ("not_regular", "a folder is in the way; move it", False),
    errno.EMFILE: ("too_many_files", "too many open files; raise `ulimit -n` or lower CONCURRENT_REQUESTS", False),
    errno.ENFILE: ("too_many_files", "too many open files; raise `ulimit -n` or lower CONCURRENT_REQUESTS", False),
}


def disk_error(error: OSError, path: str | os.PathLike[str]) -> DiskError:
    """The DiskError for an OSError met at `path`: which file, what is wrong, what to do."""
    what = os.strerror(error.errno) if error.errno else str(error)
    code, cure, stops = _DISK_CODES.get(error.errno or 0, ("disk_error", what, False))
    return DiskError(f"{os.fspath(path)}: {cure}", code=code, stops_run=stops)


class Stopped(BulkError):
    """The run is stopping (Ctrl-C, SIGTERM, the spider was closed); every byte is kept."""

    def __init__(self, message: str = "the run was stopped") -> None:
        super().__init__(message, code="stopped")
