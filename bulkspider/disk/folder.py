"""The output folder: how its names are opened, and which process may write there.

A name of the list is resolved inside the folder component by component, and no symbolic link is followed, so nothing
can lead out of it. `.bulkspider/` holds the lock, the copy of the list and the ledger. Its descriptor stays open, so
nothing put in its place during the run is ever written to. Every file of ours is opened by the functions at the end of
this module: they follow no link, never block, and accept only a regular file. Nothing here knows parts or HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import socket
import stat
import struct
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

from bulkspider.errors import DiskError, UsageError, disk_error

PRIVATE = ".bulkspider"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK changes nothing for a regular file; without it, opening a FIFO under one of our names would wait for ever.
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Journal(Protocol):
    """The parts that are open in a folder, for the next run after a crash (`leftovers.py`)."""

    def begin(self, name: str, inode: int) -> None: ...
    def end(self, name: str) -> None: ...
    def left_behind(self, name: str, inode: int) -> bool: ...
    def close(self) -> None: ...


# Locks that belong to an open file, not to a process, so that they work between two crawls of one process, too (Linux).
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)


def _lock_of(name: str, kind: int) -> bytes:
    """A `struct flock` (fcntl(2)) for one of 2^56 bytes, chosen by a hash of the name. Two names with the same byte
    only wait for each other."""
    at = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:7], "big")
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, at, 1, 0)


class Folder:
    """One output folder of this run. Thread-safe: its methods keep no state between calls.

    stage_max: bytes that may lie here at most, 0 for no limit (`handover/stage.py`).
    """

    stage_max = 0

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Makes the folder and its `.bulkspider`; raises DiskError when it cannot."""
        self.root = Path(os.path.abspath(root))
        self._prefix = f"{str(self.root).rstrip('/')}/"
        self.private = self.root / PRIVATE
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._root_fd = os.open(self.root, _DIRECTORY)
        except OSError as error:
            raise _no_folder(error, self.root) from error
        try:
            self.private_fd = _open_private(self._root_fd)
        except OSError as error:
            os.close(self._root_fd)
            raise disk_error(error, self.private) from error
        self._lock_fds: list[int] = []
        self._names_fd = -1
        # No other process writes here: the folder was locked exclusively.
        self.is_ours_alone = False
        # Notes which parts are open, for the next run after a crash.
        self.journal: Journal | None = None
        # A hole in a file of this run was found to be zeros at the origin: holes prove nothing here.
        self.zeros_are_holes = False
        # It held nothing of an earlier run or another program when it was opened.
        self.was_empty = all(name == PRIVATE for name in itertools.islice(_names(self.root), 2))

    def lock(self, *, exclusive: bool) -> None:
        """Claims the folder: exclusively for a list run, shared for shards, workers and pipelines.

        The lock is the kernel's (flock): it ends with the process, so a dead run is no obstacle. Raises UsageError
        with the first holder's pid and host when the folder is taken.
        """
        self.was_empty = self.was_empty and exclusive
        self._lock("lock", exclusive, "another bulkspider")
        self.is_ours_alone = exclusive
        self._require_files()

    def lock_shard(self, writer: str) -> None:
        """Claims the folder for one shard beside others. Raises UsageError when the same shard runs already."""
        self._lock(f"lock.{writer}", True, f"another run of shard {writer}")
        self.lock(exclusive=False)

    def lock_as_one_of_many(self, kind: str) -> str:
        """Claims the folder together with other runs of the same kind. Returns the writer name of this run. A name is
        used again after its run has ended, so that a thousand runs one after the other leave the files of one writer.
        Raises UsageError when a list run has the folder to itself."""
        base = f"{kind}-{os.uname().nodename}"
        for number in itertools.count(1):
            writer = f"{base}-{number}"
            try:
                if not self._lock(f"lock.{writer}", True, ""):
                    # No locks on this file system: a name that no other run can have.
                    writer = f"{base}-{os.getpid()}-{secrets.token_hex(4)}"
                break
            except UsageError:
                continue
        self.lock(exclusive=False)
        return writer

    def _require_files(self) -> None:
        """Raises DiskError, before anything is begun, for a link or a folder at the name of a file that a run reads or
        writes."""
        for name in os.listdir(self.private_fd):
            found = lstat_at(name, self.private_fd)
            if found is None or not (
                name in ("begun", "list") or (name.startswith("ledger") and name.endswith(".jsonl"))
            ):
                continue
            if stat.S_ISLNK(found.st_mode) and name != "list":
                raise disk_error(OSError(errno.ELOOP, "symbolic link"), self.private / name)
            if name in ("begun", "ledger.jsonl") or (name == "list" and stat.S_ISDIR(found.st_mode)):
                require_regular(found, self.private / name)

    def note_begun(self, name: str, inode: int) -> None:
        """The part of `name` is open from now on (`leftovers.py`)."""
        if self.journal is not None:
            self.journal.begin(name, inode)

    def note_ended(self, name: str) -> None:
        """The part is finished, or has a state, which says that it is ours."""
        if self.journal is not None:
            self.journal.end(name)

    def left_behind(self, name: str, inode: int) -> bool:
        """This part, which has no state, was left by a process of ours that was killed."""
        return self.journal is not None and self.journal.left_behind(name, inode)

    def _lock(self, name: str, exclusive: bool, who: str) -> bool:
        """Locks the file `name`. False where the file system has no locks (some NFS, FUSE); parts are still locked or
        compared one by one. Raises UsageError when another process holds the lock."""
        locked = True
        fd = open_ours(name, os.O_RDWR | os.O_CREAT, dir_fd=self.private_fd, path=self.private / name)
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                sentence = _in_use(self.root, fd, who)
                os.close(fd)
                raise UsageError(sentence, code="folder_in_use") from error
            locked = False
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_nlink == 1:  # else it has another name, which may not be ours: not written
                os.ftruncate(fd, 0)
                os.pwrite(
                    fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode(), 0
                )
        self._lock_fds.append(fd)
        return locked

    def take_name(self, name: str) -> bool:
        """Takes the lock on the file name `name`, so that no other crawl that shares the folder, in this process or
        another, fetches it until `give_name_back`. False: another crawl has it. True also where the file system has no
        such locks; then only the lock on the part protects. Raises DiskError."""
        if _SET_LOCK is None:
            return True
        if self._names_fd < 0:
            # A byte of this file stands for a name; nothing is ever written to it.
            path = self.private / "turns"
            self._names_fd = open_ours("turns", os.O_RDWR | os.O_CREAT, dir_fd=self.private_fd, path=path)
        try:
            fcntl.fcntl(self._names_fd, _SET_LOCK, _lock_of(name, fcntl.F_WRLCK))
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)
        return True

    def give_name_back(self, name: str) -> None:
        if _SET_LOCK is not None and self._names_fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._names_fd, _SET_LOCK, _lock_of(name, fcntl.F_UNLCK))

    @property
    def is_gone(self) -> bool:
        """The folder, or `.bulkspider` in it, was deleted since it was opened."""
        try:
            return not (os.fstat(self._root_fd).st_nlink and os.fstat(self.private_fd).st_nlink)
        except OSError as error:
            return error.errno in (errno.ESTALE, errno.ENOENT)

    def require_there(self) -> None:
        """Raises DiskError `folder_gone` when the folder was deleted."""
        if self.is_gone:
            raise DiskError(
                f"{self.root}: the output folder was deleted during the run, with all that was in it; run the same "
                "command again",
                code="folder_gone",
            )

    def error(self, error: OSError, path: str | os.PathLike[str]) -> DiskError:
        """The DiskError for an OSError met at `path` in this folder."""
        try:
            self.require_there()
        except DiskError as gone:
            return gone
        return disk_error(error, path)

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
                raise self.error(error, self.root.joinpath(*parents[: depth + 1])) from error
            finally:
                os.close(fd)
            fd = below
        return fd

    def lstat(self, name: str) -> os.stat_result | None:
        """None when nothing is at `name`; links are not followed."""
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
        """As `path`, but text, which is made faster."""
        return f"{self._prefix}{name}"

    def free_space(self) -> int:
        """Bytes that an unprivileged user may still write here."""
        space = os.fstatvfs(self._root_fd)
        return space.f_bavail * space.f_frsize

    @cached_property
    def capacity(self) -> int | None:
        """Bytes of the file system in all, used or free; None when it does not tell."""
        space = os.fstatvfs(self._root_fd)
        return space.f_blocks * space.f_frsize or None

    def used_space(self) -> int:
        """Bytes of disk space that the files in here take."""
        used = 0
        for root, _, files in os.walk(self.root):
            for name in files:
                with contextlib.suppress(OSError):
                    used += os.lstat(os.path.join(root, name)).st_blocks * 512
        return used

    def close(self) -> None:
        """Gives the lock back."""
        if self.journal is not None:
            self.journal.close()
        os.close(self._root_fd)
        os.close(self.private_fd)
        if self._names_fd >= 0:
            os.close(self._names_fd)
        while self._lock_fds:
            os.close(self._lock_fds.pop())


class UntouchedFolder(Folder):
    """The output folder of a dry run, which makes and locks nothing: the folder need not exist.

    free: bytes of room, None if unknown. obstacle: why a run could not begin there now.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(root))
        self._prefix = f"{str(self.root).rstrip('/')}/"
        self.private = self.root / PRIVATE
        self.is_ours_alone = self.zeros_are_holes = self.was_empty = False
        self.journal = None
        self.free: int | None = None
        self.capacity = None
        self.obstacle: str | None = None
        try:
            self._root_fd = os.open(self.root, _DIRECTORY)
        except OSError:
            self._root_fd = -1
        there = str(self.root)
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there):
            self.obstacle = f"{there}: not a folder, and the output folder would be there; move it"
        elif not os.access(there, os.W_OK | os.X_OK):
            self.obstacle = f"{there}: no permission to write; check owner and mode"
        else:
            space = os.statvfs(there)
            self.free = space.f_bavail * space.f_frsize
            self.capacity = space.f_blocks * space.f_frsize or None
            self.obstacle = _find_holder(self.root)

    @property
    def is_gone(self) -> bool:
        """Never: a dry run does not need the folder."""
        return False

    def lstat(self, name: str) -> os.stat_result | None:
        return super().lstat(name) if self._root_fd >= 0 else None

    def free_space(self) -> int:
        return self.free or 0

    def close(self) -> None:
        if self._root_fd >= 0:
            os.close(self._root_fd)


def _find_holder(root: Path) -> str | None:
    """Why the folder is in use, None when it is free."""
    try:
        fd = open_ours(root / PRIVATE / "lock", os.O_RDONLY)
    except DiskError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _in_use(root, fd) if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(fd)
    return None


def _no_folder(error: OSError, root: Path) -> DiskError:
    """The output folder cannot be made or opened."""
    for path in (*reversed(root.parents), root):
        if os.path.lexists(path) and not os.path.isdir(path):
            what = "a link that leads to no folder" if path.is_symlink() else "no folder"
            return DiskError(
                f"{path}: this is {what}, and the output has to be one; choose another name for it", code="not_regular"
            )
    return disk_error(error, root)


def _open_private(root_fd: int) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(PRIVATE, dir_fd=root_fd)
    if stat.S_ISLNK(os.stat(PRIVATE, dir_fd=root_fd, follow_symlinks=False).st_mode):
        raise OSError(errno.ELOOP, "symbolic link")
    return os.open(PRIVATE, _DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)


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
        raise DiskError(f"{os.fspath(path)}: not a regular file is in the way; move it", code="not_regular")
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
        raise DiskError(f"{path}: not a regular file is in the way; move it", code="not_regular")


def _read_holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        return f"pid {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "pid unknown"
