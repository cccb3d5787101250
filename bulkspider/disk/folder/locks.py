"""Which process may write in the output folder, and which crawl may fetch a name in it.

The locks are the kernel's and end with the process, so that a run that was killed is no obstacle to the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import struct
import time
from pathlib import Path

from bulkspider.disk.folder.opening import PRIVATE, open_ours
from bulkspider.errors import DiskError, UsageError

# Locks that belong to an open file, not to a process, so that they work between two crawls of one process, too (Linux).
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)


def _lock_of(name: str, kind: int) -> bytes:
    """A `struct flock` (fcntl(2)) for one of 2^56 bytes, chosen by a hash of the name. Two names with the same byte
    only wait for each other."""
    at = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:7], "big")
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, at, 1, 0)


# Who holds a lock, in messages.
ANOTHER = "another bulkspider"
# Under `.bulkspider`: a byte of this file stands for a name; nothing is ever written to it.
_NAMES = "turns"


class Locks:
    """The locks of one folder that this run holds. root: the folder, for messages. private_fd: of its `.bulkspider`."""

    def __init__(self, root: Path, private_fd: int) -> None:
        self._root = root
        self._private_fd = private_fd
        self._fds: list[int] = []
        self._names_fd = -1

    def take(self, name: str, who: str, *, exclusive: bool) -> bool:
        """Locks the file `name`. False where the file system has no locks (some NFS, FUSE); parts are still locked or
        compared one by one. Raises UsageError, which says `who` holds it, when another process has the lock."""
        locked = True
        fd = self._open(name)
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                sentence = _sentence(self._root, fd, who)
                os.close(fd)
                raise UsageError(sentence, code="folder_in_use") from error
            locked = False
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_nlink == 1:  # else it has another name, which may not be ours: not written
                holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(holder).encode(), 0)
        self._fds.append(fd)
        return locked

    def take_name(self, name: str) -> bool:
        """As `Folder.take_name`."""
        if _SET_LOCK is None:
            return True
        if self._names_fd < 0:
            self._names_fd = self._open(_NAMES)
        try:
            fcntl.fcntl(self._names_fd, _SET_LOCK, _lock_of(name, fcntl.F_WRLCK))
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)
        return True

    def give_name_back(self, name: str) -> None:
        if _SET_LOCK is not None and self._names_fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._names_fd, _SET_LOCK, _lock_of(name, fcntl.F_UNLCK))

    def close(self) -> None:
        """Gives all locks back."""
        if self._names_fd >= 0:
            os.close(self._names_fd)
            self._names_fd = -1
        while self._fds:
            os.close(self._fds.pop())

    def _open(self, name: str) -> int:
        path = self._root / PRIVATE / name
        return open_ours(name, os.O_RDWR | os.O_CREAT, dir_fd=self._private_fd, path=path)


def find_holder(root: Path) -> str | None:
    """Why the folder is in use, as a sentence; None when it is free."""
    try:
        fd = open_ours(root / PRIVATE / "lock", os.O_RDONLY)
    except DiskError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _sentence(root, fd) if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(fd)
    return None


def _sentence(root: Path, lock_fd: int, who: str = ANOTHER) -> str:
    return (
        f"{root}: {who} ({_read_holder(lock_fd)}) is writing there; wait for it, stop it, or choose "
        "another output folder"
    )


def _read_holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        return f"pid {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "pid unknown"
