"""The open `<name>.part`: locked, so that no other process writes to it, and watched, so that a change made by another
program is found (`changes.py`). At the end it gets its final name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from typing import Any

from bulkspider.disk.files.changes import ChangeDetector, ChangedOutside
from bulkspider.disk.files.entryfiles import FINAL, PART, EntryFiles
from bulkspider.disk.files.space import reserve
from bulkspider.errors import DiskError, PartChanged

CHANGED = "another program changed the part during the download"


class PartFile:
    """The open file of a part, or an adopted file; `fd` < 0 while it is closed.

    inode: of the part, also while it is closed; 0 when there is none. device: of the file system, if the part was made
    here. reserved: bytes that the file system has reserved for it. is_adopted: not a part but a file under the final
    name is open, which was found whole and is only read. took_place: of a file that had the final name, and is kept as
    `<name>.old`. Only one thread opens, closes and publishes; several may write.
    """

    def __init__(self, files: EntryFiles) -> None:
        self.fd = -1
        self.inode = 0
        self.device = 0
        self.reserved = 0
        self.is_adopted = False
        self.took_place = False
        self._files = files
        self._changes = ChangeDetector()

    @property
    def is_open(self) -> bool:
        return self.fd >= 0

    def open(self) -> None:
        """Opens the part that is there. Changes are detected from now on. Raises DiskError `part_in_use`, OSError."""
        self._open()
        self._changes.begin(self.fd)
        self._files.folder.note_begun(self._files.name, self.inode)

    def open_again(self) -> None:
        """Opens the part that was closed a moment ago. Raises as `open`, and ChangedOutside (it is open then) when
        another program has written to it since."""
        self._open()
        self._files.folder.note_begun(self._files.name, self.inode)
        self._changes.resume(self.fd)

    def adopt(self, suffix: str) -> None:
        """Opens a foreign file to read it. Raises DiskError."""
        self.fd = self._files.open_file(suffix, os.O_RDONLY)
        self.is_adopted = True
        self._changes.begin(self.fd)

    def create(self, first: bytes = b"") -> None:
        """Makes the part, with these bytes in it. Raises DiskError: `part_replaced` when there is one already."""
        try:
            self.fd = self._files.create_part()
        except FileExistsError:
            what = f"{self._files.path(PART)}: somebody else began it during the download"
            raise DiskError(what, code="part_replaced") from None
        except OSError as error:
            raise self._files.error(error, PART) from error
        found = os.fstat(self.fd)
        self.inode, self.device = found.st_ino, found.st_dev
        self._lock()
        # After a crash the next run learns from this that the file is ours.
        self._files.folder.note_begun(self._files.name, self.inode)
        data, at = memoryview(first), 0
        try:
            while at < len(data):
                at += os.pwrite(self.fd, data[at:], at)
            self._changes.begin(self.fd)
        except OSError as error:
            # Removed, so that the next run has no fragment to compare.
            self._files.remove(PART)
            raise self._files.error(error, PART) from error

    def close(self) -> None:
        """Never raises: late write errors were reported by fdatasync before, when the bytes were made durable."""
        if self.is_open:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = -1
            self.is_adopted = False

    def require_unused(self) -> None:
        """Raises DiskError `part_in_use` when another process writes to the part that is there."""
        self.fd = self._files.open_file(PART, os.O_RDWR)
        try:
            self._lock()
        finally:
            os.close(self.fd)
            self.fd = -1

    def remove_empty(self, inode: int) -> None:
        """Removes the part that is there if it is this one and still empty. Raises DiskError, as `require_unused`."""
        found = self._files.lstat(PART)
        if found is not None and found.st_ino == inode and not found.st_size:
            self.require_unused()
            try:
                self._files.unlink(PART)
            except OSError as error:
                raise self._files.error(error, PART) from error

    def _open(self) -> None:
        self.fd = self._files.open_file(PART, os.O_RDWR)
        self.inode = os.fstat(self.fd).st_ino
        self._lock()

    def _lock(self) -> None:
        """Two processes never write one part: flock, where the file system has it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Under a lease, the process that holds the lock is a worker that has lost its own lease; it writes no more.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES) and self._files.lease is None:
                what = f"{self._files.path(PART)}: another process is writing this part"
                raise DiskError(what, code="part_in_use") from error

    def write(self, write: Callable[..., int], fd: int, at: int, *args: Any) -> int:
        """Calls `write(fd, at, *args)`, which writes some bytes to offset `at` of the part, and returns their number.
        Raises ChangedOutside, and writes nothing."""
        return self._changes.write(write, fd, at, *args)

    def reserve(self, fd: int, size: int) -> None:
        """Reserves space for `size` bytes of the part's `fd` where the file system can. Raises ChangedOutside; OSError
        when the disk is full."""

        def act() -> None:
            self.reserved = max(self.reserved, reserve(fd, size))

        self._changes.change(fd, act)

    def truncate(self, size: int) -> None:
        self._changes.change(self.fd, lambda: os.ftruncate(self.fd, size))

    def set_time(self, seconds: float) -> None:
        """Sets the time of modification; errors are ignored. Raises PartChanged."""
        try:
            with contextlib.suppress(OSError, ValueError):
                self._changes.change(self.fd, lambda: os.utime(self.fd, (seconds, seconds)))
        except ChangedOutside:
            raise self.changed() from None

    def changed(self) -> PartChanged:
        """The error to raise after a ChangedOutside; raises DiskError `folder_gone` when that is the reason."""
        self._files.folder.require_there()
        return PartChanged(f"{self._files.path(PART)}: {CHANGED}", code="part_changed")

    @property
    def has_its_name(self) -> bool:
        """`<name>.part` is still this file."""
        now = self._files.lstat(PART)
        return now is not None and now.st_ino == self.inode

    def _require_unchanged(self, size: int) -> None:
        if not self._changes.is_as_we_left_it(self.fd, size):
            raise self.changed()

    def publish(self, size: int) -> os.stat_result:
        """Gives the part its final name; a foreign file there becomes `<name>.old`. Returns the file's stat.

        size: bytes that it must have. Raises DiskError; PartChanged when another program changed or replaced the part.
        """
        files = self._files
        try:
            if not self.has_its_name:
                files.folder.require_there()
                files.lstat_regular(PART)
                what = f"{files.path(PART)}: removed or replaced by somebody else during the download"
                raise PartChanged(what, code="part_replaced")
            self._require_unchanged(size)
            if files.lstat_regular(FINAL) is not None:
                files.keep_aside(FINAL)
                self.took_place = True
            files.rename(PART, FINAL)
            return os.fstat(self.fd)
        except OSError as error:
            raise files.error(error, FINAL) from error

    def confirm(self, size: int) -> os.stat_result:
        """The adopted file keeps its name. Returns its stat; raises PartChanged when it is not what was compared."""
        found = self._files.lstat(FINAL)
        if found is None or found.st_ino != os.fstat(self.fd).st_ino:
            self._files.folder.require_there()
            raise PartChanged(f"{self._files.name}: removed or replaced by somebody else", code="part_replaced")
        self._require_unchanged(size)
        return found
