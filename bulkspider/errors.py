"""The exceptions, each with a code of `codes.py`, which says what follows from it.

Exceptions of Twisted are translated in `wire/`, those of the disk in `disk/`; everything else raises and catches
BulkError.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Mapping, Sequence

from msgspec import Struct

from bulkspider.codes import Kind, look_up

NEEDS_REACTOR = "bulkspider needs Twisted's reactor; remove TWISTED_REACTOR_ENABLED=False"


class BulkError(Exception):
    """Base of all errors of bulkspider.

    code: stable short word, as in the stat `bulk/failed/{code}` and the item field `error.code`.
    kind: what follows from it; by default what the table says of the code.
    http_status: the status code of the answer that caused it, if an answer did.
    server_said: the beginning of that answer's body, safe to show, when it was text.
    """

    def __init__(
        self, message: str, *, code: str = "error", kind: Kind | None = None, http_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.server_said: str | None = None
        self.message = message
        self.code = code
        self.kind = kind or look_up(code).kind
        self.http_status = http_status

    @property
    def status(self) -> str:
        """Of the row of an entry that ends with it."""
        return "failed"

    @property
    def permanent(self) -> bool:
        """The same list tried again cannot help."""
        return self.kind in (Kind.PERMANENT, Kind.USAGE)

    def __str__(self) -> str:
        return self.message


class UsageError(BulkError):
    """A setting, an argument or the output folder does not fit: nothing was begun. Exit status 1."""

    def __init__(self, message: str, *, code: str = "usage") -> None:
        super().__init__(message, code=code)


class Problem(Struct, frozen=True):
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


class Meaning(enum.Enum):
    """What a refusal says of itself, beyond its status (`protocol/servertext.py` reads it)."""

    UNSAID = "nothing"
    OWN = "this very URL is refused"
    BUSY = "too many requests, slow down"
    EXPIRED = "the link has expired"
    CHALLENGE = "a challenge that only a browser can answer"
    TLS = "the port wants TLS"


class AttemptError(BulkError):
    """One HTTP exchange failed, or its answer was refused. The part keeps its bytes.

    retry_after: seconds the origin asked us to wait (RFC 9110 §10.2.3), if it did.
    origin_wide: True when it means the whole origin (unreachable, busy), not this entry alone.
    cause: the error that led to this one.
    meaning: what the refusal says of itself.
    redirected_to: the host:port that failed, where it is not the one of the list but one to which a redirect led.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        kind: Kind | None = None,
        http_status: int | None = None,
        retry_after: float | None = None,
        origin_wide: bool = False,
        cause: BulkError | None = None,
    ) -> None:
        super().__init__(message, code=code, kind=kind, http_status=http_status)
        self.retry_after = retry_after
        self.origin_wide = origin_wide
        self.cause = cause
        self.meaning = Meaning.UNSAID
        self.redirected_to: str | None = None


def too_large(size: int | None, capacity: int | None, limit: int | None = None) -> AttemptError | None:
    """The error of a file of `size` bytes that is larger than it may be, or that the file system could not hold if it
    were empty; else None.

    capacity: bytes of the file system in all, None when it does not tell. limit: BULK_MAX_SIZE, None for no limit.
    """
    if size is not None and limit is not None and size > limit:
        return AttemptError(f"the origin offers {size} bytes, BULK_MAX_SIZE allows {limit}", code="too_large")
    if size is None or capacity is None or size <= capacity:
        return None
    return AttemptError(f"the origin offers {size} bytes, the whole file system has {capacity}", code="too_large")


def too_large_for_stage(size: int | None, stage_max: int) -> AttemptError | None:
    """The error of a file of `size` bytes that is larger than all that may lie in the output folder, else None."""
    if size is None or not stage_max or size <= stage_max:
        return None
    return AttemptError(f"it has {size} bytes, and BULK_STAGE_MAX is {stage_max}", code="too_large")


def proxy_auth(http_status: int | None = None) -> AttemptError:
    """RFC 9110 §15.5.8. Another attempt with the same settings gets the same answer.

    http_status: 407 when it is the answer to the request itself, None when it is the answer to CONNECT.
    """
    what = "the proxy wants a user name and a password, or others than those it was given (407)"
    return AttemptError(what, code="proxy_auth", http_status=http_status)


class VersionConflict(BulkError):
    """Two answers are of different versions of the object. `transfer.py` always catches it; no entry ends with it.

    differ: the bytes themselves differ, not only the validators. outside: because another program changed the part.
    """

    def __init__(self, message: str, *, differ: bool = False, outside: bool = False) -> None:
        super().__init__(message)
        self.differ = differ
        self.outside = outside


class DiskError(BulkError):
    """The file system refused (full, read-only, broken). Never retried as if it were the network.

    Its kind is `STOP` when every other file of this folder would fail in the same way, else `DISK`.
    """


class PartChanged(DiskError):
    """Another program changed, removed or replaced a part while we filled it. Its bytes are not published; the entry
    may be fetched again."""

    found: Mapping[str, str] = {}


class WorkerError(DiskError):
    """This machine gives us no thread or no memory, or a thread of ours has ended: every other file would fail, too.

    Handled like a full disk: it ends the run of a list, with every byte kept; in other crawls it fails the files that
    need the thread or the memory.
    """


# errno -> (our code, the sentence that follows the path in the message).
DISK_CODES = {
    errno.ENOSPC: ("disk_full", "the file system is full; make room and run the same command again"),
    errno.EDQUOT: ("disk_full", "the disk quota is used up; make room and run the same command again"),
    errno.EROFS: ("read_only", "the file system is read-only; mount it writable or choose another output"),
    errno.EIO: ("io_error", "the disk reported an error; check it before running again"),
    errno.EFBIG: ("file_too_big", "the file system cannot hold a file of this size; choose another output"),
    errno.EACCES: ("no_permission", "no permission; check owner and mode"),
    errno.EPERM: ("no_permission", "no permission; check owner and mode"),
    errno.ELOOP: ("not_regular", "a symbolic link is in the way; move it, links are never followed"),
    errno.ENOTDIR: ("not_regular", "something that is not a folder is in the way; move it"),
    errno.ENXIO: ("not_regular", "something that is not a regular file is in the way; move it"),
    errno.EISDIR: ("not_regular", "a folder is in the way; move it"),
    errno.EMFILE: ("too_many_files", "too many open files; raise `ulimit -n` or lower CONCURRENT_REQUESTS"),
    errno.ENFILE: ("too_many_files", "too many open files; raise `ulimit -n` or lower CONCURRENT_REQUESTS"),
}


def disk_error(error: OSError, path: str | os.PathLike[str]) -> DiskError:
    """The DiskError for an OSError met at `path`: which file, what is wrong, what to do."""
    what = os.strerror(error.errno) if error.errno else str(error)
    code, sentence = DISK_CODES.get(error.errno or 0, ("disk_error", what))
    return DiskError(f"{os.fspath(path)}: {sentence}", code=code)


class Stopped(BulkError):
    """The run is stopping (Ctrl-C, SIGTERM, the spider was closed, a full disk); every byte is kept.

    reason: the error that made it stop; the Stopped itself when a person or the spider asked for the stop.
    """

    def __init__(self, message: str = "the run was stopped", *, reason: BulkError | None = None) -> None:
        super().__init__(message if reason is None else reason.message, code="stopped")
        self.reason = reason or self

    @property
    def status(self) -> str:
        return "interrupted"
