"""The output folder: how its names are resolved, and what belongs to it as a whole.

A name of the list is resolved inside the folder component by component, and no symbolic link is followed, so nothing
can lead out of it. `.bulkspider/` holds the locks, the copy of the list and the ledger. Its descriptor stays open, so
nothing put in its place during the run is ever written to. Nothing here knows parts or HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

from bulkspider.disk.folder.locks import ANOTHER, Locks
from bulkspider.disk.folder.opening import PRIVATE, lstat_at, require_regular
from bulkspider.errors import DiskError, UsageError, disk_error

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class PartJournal(Protocol):
    """The parts that are open in a folder, for the next run after a crash (`leftovers/journal.py`)."""

    def begin(self, name: str, inode: int) -> None: ...
    def end(self, name: str) -> None: ...
    def left_behind(self, name: str, inode: int) -> bool: ...
    def take_over(self) -> None: ...
    def close(self) -> None: ...


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
            self._root_fd = os.open(self.root, DIRECTORY_FLAGS)
        except OSError as error:
            raise _no_folder(error, self.root) from error
        try:
            self.private_fd = _open_private(self._root_fd)
        except OSError as error:
            os.close(self._root_fd)
            raise disk_error(error, self.private) from error
        self._locks = Locks(self.root, self.private_fd)
        # No other process writes here: the folder was locked exclusively.
        self.is_ours_alone = False
        # Notes which parts are open, for the next run after a crash.
        self.journal: PartJournal | None = None
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
        self._locks.take("lock", ANOTHER, exclusive=exclusive)
        self.is_ours_alone = exclusive
        self._require_files()

    def lock_shard(self, writer: str) -> None:
        """Claims the folder for one shard beside others. Raises UsageError when the same shard runs already."""
        self._locks.take(f"lock.{writer}", f"another run of shard {writer}", exclusive=True)
        self.lock(exclusive=False)

    def lock_as_one_of_many(self, kind: str) -> str:
        """Claims the folder together with other runs of the same kind. Returns the writer name of this run. A name is
        used again after its run has ended, so that a thousand runs one after the other leave the files of one writer.
        Raises UsageError when a list run has the folder to itself."""
        base = f"{kind}-{os.uname().nodename}"
        for number in itertools.count(1):
            writer = f"{base}-{number}"
            try:
                if not self._locks.take(f"lock.{writer}", "", exclusive=True):
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
        """The part of `name` is open from now on (`leftovers/journal.py`)."""
        if self.journal is not None:
            self.journal.begin(name, inode)

    def note_ended(self, name: str) -> None:
        """The part is finished, or has a state, which says that it is ours."""
        if self.journal is not None:
            self.journal.end(name)

    def left_behind(self, name: str, inode: int) -> bool:
        """This part, which has no state, was left by a process of ours that was killed."""
        return self.journal is not None and self.journal.left_behind(name, inode)

    def take_name(self, name: str) -> bool:
        """Takes the lock on the file name `name`, so that no other crawl that shares the folder, in this process or
        another, fetches it until `give_name_back`. False: another crawl has it. True also where the file system has no
        such locks; then only the lock on the part protects. Raises DiskError."""
        return self._locks.take_name(name)

    def give_name_back(self, name: str) -> None:
        self._locks.give_name_back(name)

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
        *parents, _ = name.split("/")
        fd = self._root_fd
        for depth, component in enumerate(parents):
            above = fd
            try:
                fd = _open_below(component, above)
            except OSError as error:
                # O_DIRECTORY|O_NOFOLLOW on a link gives ENOTDIR on Linux; both are refused alike.
                raise self.error(error, self.root.joinpath(*parents[: depth + 1])) from error
            finally:
                if above != self._root_fd:
                    os.close(above)
        if fd != self._root_fd:
            return fd
        try:
            return os.dup(fd)
        except OSError as error:
            raise self.error(error, self.root) from error

    def lstat(self, name: str) -> os.stat_result | None:
        """None when nothing is at `name`; links are not followed."""
        found = lstat_at(name, self._root_fd)
        if found is None or "/" not in name:
            return found
        # Something is there, but perhaps behind a link to another folder.
        *parents, last = name.split("/")
        fd = os.dup(self._root_fd)
        try:
            for component in parents:
                try:
                    below = os.open(component, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
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
        """Gives the locks back."""
        if self.journal is not None:
            self.journal.close()
        os.close(self._root_fd)
        os.close(self.private_fd)
        self._locks.close()


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
    return os.open(PRIVATE, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=root_fd)


def _names(path: Path) -> Iterator[str]:
    with os.scandir(path) as entries:
        for entry in entries:
            yield entry.name


def _open_below(component: str, above: int) -> int:
    """A descriptor of the folder `component`, made where it is missing. Raises OSError, also for a link."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(component, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(component, dir_fd=above)
    return os.open(component, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=above)
