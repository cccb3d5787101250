"""The files of one entry: their names in the output folder, and how they are opened, renamed and removed there.

Nothing here knows which bytes are wanted (`part.py`) or what the state says of them (`statefile.py`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.folder.opening import lstat_at, open_ours, require_regular
from bulkspider.errors import BulkError, DiskError

FINAL = ""
PART = ".part"
STATE = ".part.json"
FLUSHED_STATE = ".part.sync.json"
OLD_PART = ".part.old"
OLD_STATE = ".part.old.json"
STATES = (STATE, FLUSHED_STATE)
OLD_PAIR = (OLD_PART, OLD_STATE)


class Leased(Protocol):
    """The right to change an entry's files, where several machines could (`queue/working/lease.py`)."""

    @property
    def valid(self) -> bool: ...


class EntryFiles:
    """The files of one entry, and the directory that holds them. A suffix ("", ".part", …) says which file.

    name: as in the list. lease: needed to change a file, None where no other machine could. may_have_companions: a
    state or an old part may lie beside the part. Unless said otherwise the methods need the open directory (`open`) and
    raise OSError.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name
        self.directory = -1
        self.lease: Leased | None = None
        self.may_have_companions = True
        self._base = name.rpartition("/")[2]

    @property
    def is_open(self) -> bool:
        return self.directory >= 0

    def open(self) -> None:
        """Opens the directory, made where missing, unless it is open. Raises DiskError."""
        if not self.is_open:
            self.directory = self.folder.open_dir(self.name)

    def close(self) -> None:
        if self.is_open:
            with contextlib.suppress(OSError):
                os.close(self.directory)
            self.directory = -1

    def path(self, suffix: str) -> Path:
        """May be called at any time."""
        return self.folder.path(self.name + suffix)

    @property
    def directory_id(self) -> tuple[int, int]:
        """Equal for files in one directory."""
        if self._base == self.name:
            return id(self.folder), 0
        found = os.fstat(self.directory)
        return found.st_dev, found.st_ino

    def require_lease(self) -> None:
        """Called before every change. Raises BulkError when another worker has the entry by now."""
        if not self.may_change:
            raise BulkError("its lease has ended; another worker goes on with it", code="lease_lost")

    @property
    def may_change(self) -> bool:
        """No other machine has the right to these files."""
        return self.lease is None or self.lease.valid

    def error(self, error: OSError, suffix: str) -> DiskError:
        """The DiskError for an OSError met at that file."""
        return self.folder.error(error, self.path(suffix))

    def lstat(self, suffix: str) -> os.stat_result | None:
        """None when there is nothing."""
        return lstat_at(self._base + suffix, self.directory)

    def lstat_regular(self, suffix: str) -> os.stat_result | None:
        """As `lstat`. Raises DiskError `not_regular` for a link, a folder or a device."""
        found = self.lstat(suffix)
        if found is not None:
            require_regular(found, self.path(suffix))
        return found

    def open_file(self, suffix: str, flags: int) -> int:
        """A descriptor of the file. Raises DiskError."""
        return open_ours(self._base + suffix, flags, dir_fd=self.directory, path=self.path(suffix))

    def read(self, suffix: str, offset: int, length: int) -> bytes:
        """Opens the file for that. May be short at its end. Raises DiskError, OSError."""
        fd = self.open_file(suffix, os.O_RDONLY)
        try:
            return read_at(fd, offset, length)
        finally:
            os.close(fd)

    def create_part(self) -> int:
        """A descriptor of a new, empty part. Raises FileExistsError when there is one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._base + PART, flags, 0o666, dir_fd=self.directory)

    def rename(self, suffix: str, to: str) -> None:
        source, target = self._base + suffix, self._base + to
        os.rename(source, target, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def keep_aside(self, suffix: str) -> None:
        """Renames a file that is not ours to `<name>.old`, or `.old.1`, … when that exists; nothing is deleted."""
        target, number = ".old", 0
        while self.lstat(target) is not None:
            number += 1
            target = f".old.{number}"
        self.rename(suffix, target)

    def leave_place(self) -> None:
        """Our part was removed or replaced by another file; that file is kept as `.old`. Raises DiskError `not_regular`
        and `folder_gone`."""
        if self.lstat_regular(PART) is not None:
            self.keep_aside(PART)
        self.remove(STATE)
        self.folder.require_there()
        if not os.fstat(self.directory).st_nlink:
            # Its directory was removed, too; `open` makes it again.
            self.close()

    def unlink(self, suffix: str) -> None:
        os.unlink(self._base + suffix, dir_fd=self.directory)

    def remove(self, *suffixes: str) -> None:
        """Removes what it can of these; never raises."""
        for suffix in suffixes:
            with contextlib.suppress(OSError):
                self.unlink(suffix)

    def name_of(self, suffix: str) -> str:
        """The file's name in the directory."""
        return self._base + suffix


def read_at(fd: int, offset: int, length: int) -> bytes:
    """May be short at the file's end. Raises OSError."""
    pieces = []
    while length > 0:
        piece = os.pread(fd, length, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)
