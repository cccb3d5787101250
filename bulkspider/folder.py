"""The output folder: where names live, and who may write there.

A name of the list is resolved inside the folder component by component, without following a symbolic link, so that
nothing can lead out of it. `.bulkspider/` holds the lock, the copy of the list and the ledger. This module knows
nothing of parts or HTTP; `sink.py` opens files in the directories that are resolved here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkspider.errors import DiskError, UsageError, disk_error

PRIVATE = ".bulkspider"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Folder:
    """One output folder of this run. Thread-safe: its methods keep no state between calls."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Makes the folder and its `.bulkspider`; raises DiskError when it cannot."""
        self.root = Path(os.path.abspath(root))
        self._prefix = f"{str(self.root).rstrip('/')}/"
        self.private = self.root / PRIVATE
        try:
            self.private.mkdir(parents=True, exist_ok=True)
            if stat.S_ISLNK(os.lstat(self.private).st_mode):
                raise OSError(errno.ELOOP, "symbolic link")
            self._root_fd = os.open(self.root, _DIRECTORY)
        except OSError as error:
            raise disk_error(error, self.private) from error
        self._lock_fds: list[int] = []
        # Nothing of an earlier run, or of anybody else, lies here; what does now is ours.
        self.was_empty = all(name == PRIVATE for name in itertools.islice(_names(self.root), 2))

    def lock(self, *, exclusive: bool) -> None:
        """Claims the folder: exclusively for a list run, shared for shards, workers and pipelines.

        The lock is the kernel's (flock): it ends with the process, so a dead run is no obstacle. Raises UsageError
        with the first holder's pid and host when the folder is taken.
        """
        self.was_empty = self.was_empty and exclusive
        self._lock("lock", exclusive, "another bulkspider")

    def lock_shard(self, writer: str) -> None:
        """Claims the folder for one shard beside others. Raises UsageError when the same shard runs already."""
        self._lock(f"lock.{writer}", True, f"another run of shard {writer}")
        self.lock(exclusive=False)

    def _lock(self, name: str, exclusive: bool, who: str) -> None:
        path = self.private / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                sentence = _in_use(self.root, fd, who)
                os.close(fd)
                raise UsageError(sentence, code="folder_in_use") from error
            # No locks on this file system (some NFS, FUSE): every part is still locked or compared on its own.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(
                fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode(), 0
            )
        self._lock_fds.append(fd)

    def open_dir(self, name: str) -> int:
        """A descriptor of the directory that holds `name`, made where missing; the caller closes it.

        Raises DiskError `not_regular` when a link or a file lies where a folder should be.
        """
        fd = os.dup(self._root_fd)
        *parents, _ = name.split("/")
        for depth, component in enumerate(parents):
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(component, dir_fd=fd)
                below = os.open(component, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                # O_DIRECTORY|O_NOFOLLOW on a link gives ENOTDIR on Linux; both are refused alike.
                raise disk_error(error, self.root.joinpath(*parents[: depth + 1])) from error
            finally:
                os.close(fd)
            fd = below
        return fd

    def lstat(self, name: str) -> os.stat_result | None:
        """What lies at `name`, links not followed; None when nothing does."""
        *parents, last = name.split("/")
        if not parents:
            return lstat_at(last, self._root_fd)
        fd = os.dup(self._root_fd)
        try:
            for component in parents:
                try:
                    below = os.open(component, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                except OSError:
                    return None
                os.close(fd)
                fd = below
            return lstat_at(last, fd)
        finally:
            os.close(fd)

    def path(self, name: str) -> Path:
        return self.root / name

    def place(self, name: str) -> str:
        """The path as text, made quickly."""
        return f"{self._prefix}{name}"

    def free_space(self) -> int:
        """Bytes that an unprivileged user may still write here."""
        room = os.fstatvfs(self._root_fd)
        return room.f_bavail * room.f_frsize

    def used_space(self) -> int:
        """Bytes of the disk that the files in here take."""
        used = 0
        for root, _, files in os.walk(self.root):
            for name in files:
                with contextlib.suppress(OSError):
                    used += os.lstat(os.path.join(root, name)).st_blocks * 512
        return used

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._root_fd)
        while self._lock_fds:
            os.close(self._lock_fds.pop())


@dataclass(frozen=True, slots=True)
class Place:
    """What can be known of an output folder without touching it. root: its path. free: bytes, None if unknown.
    obstacle: why a run could not begin there now."""

    root: str
    free: int | None = None
    obstacle: str | None = None

    @classmethod
    def of(cls, root: str) -> Place:
        """For a dry run; the folder need not exist."""
        root = there = os.path.abspath(root)
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            return cls(root, obstacle=f"{there}: not a folder, and the output folder would be there; move it")
        if not os.access(there, os.W_OK | os.X_OK):
            return cls(root, obstacle=f"{there}: no permission to write; check owner and mode")
        room = os.statvfs(there)
        return cls(root, room.f_bavail * room.f_frsize, _taken(Path(root)))


def _taken(root: Path) -> str | None:
    try:
        fd = os.open(root / PRIVATE / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _in_use(root, fd) if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(fd)
    return None


def _in_use(root: Path, lock_fd: int, who: str = "another bulkspider") -> str:
    return (
        f"{root}: {who} ({_read_holder(lock_fd)}) is writing there; wait for it, stop it, or choose "
        "another output folder"
    )


def _names(path: Path) -> Iterator[str]:
    with os.scandir(path) as entries:
        for entry in entries:
            yield entry.name


def lstat_at(name: str, dir_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return None


def require_regular(found: os.stat_result | None, path: Path) -> None:
    """Raises DiskError unless nothing or a regular file lies at `path`."""
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise DiskError(f"{path}: not a regular file is in the way; move it", code="not_regular")


def _read_holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        return f"pid {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "pid unknown"
