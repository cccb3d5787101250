"""How every file of ours is opened and looked at: no link is followed, nothing blocks, and only a regular file is
accepted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from bulkspider.errors import DiskError, disk_error

PRIVATE = ".bulkspider"
# O_NONBLOCK changes nothing for a regular file; without it, opening a FIFO under one of our names would wait for ever.
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def lstat_at(name: str, dir_fd: int) -> os.stat_result | None:
    """None when nothing is there; links are not followed."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return None


def open_ours(
    name: str | os.PathLike[str],
    flags: int,
    *,
    dir_fd: int | None = None,
    path: str | os.PathLike[str] | None = None,
    mode: int = 0o666,
) -> int:
    """A descriptor of a file of ours. dir_fd: the directory that `name` is in. path: for messages.

    Raises DiskError: `not_regular` for a link, a FIFO, a device or a folder, and what `disk_error` says.
    """
    path = name if path is None else path
    try:
        fd = os.open(name, flags | _CAREFULLY, mode, dir_fd=dir_fd)
    except OSError as error:
        raise disk_error(error, path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DiskError(
            f"{os.fspath(path)}: something that is not a regular file is in the way; move it", code="not_regular"
        )
    return fd


def create_temporary(dir_fd: int, mode: int = 0o666) -> tuple[int, str]:
    """A new file under a random name, to be renamed later: its descriptor and name. Raises OSError."""
    while True:
        name = f".bulkspider.{secrets.token_hex(8)}.tmp"
        with contextlib.suppress(FileExistsError):
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFULLY, mode, dir_fd=dir_fd), name


def require_regular(found: os.stat_result | None, path: Path) -> None:
    """Raises DiskError unless nothing or a regular file lies at `path`."""
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise DiskError(f"{path}: something that is not a regular file is in the way; move it", code="not_regular")
