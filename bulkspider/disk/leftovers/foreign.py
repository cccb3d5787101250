"""A file of another program at a name of ours, which neither state nor ledger knows; it is changed only after the
origin has answered.
"""

from __future__ import annotations

import contextlib
import os
import threading

from msgspec import Struct
from msgspec.structs import replace

from bulkspider.disk.files.checkpoints import Checkpoints
from bulkspider.disk.files.entryfiles import (
    FLUSHED_STATE,
    PART,
    STATES,
    EntryFiles,
)
from bulkspider.disk.files.partfile import PartFile
from bulkspider.protocol.ranges import Ranges

# Files of other downloaders that show that the file beside them is not complete.
CONTROL_FILES = (".aria2", ".st")


class Foreign(Struct, frozen=True):
    """A file that neither state nor ledger knows: an older tool's partial, or something else of that name.

    suffix: of its name, "" or ".part". usable: bytes up to its first hole, the most that may be taken over. shared: the
    same file has another name somewhere (hard link), so it must not be written to. fragment: it is a part of ours whose
    state was lost in a crash, so it need not be kept when it is of no use.
    """

    suffix: str
    size: int
    usable: int
    shared: bool = False
    fragment: bool = False

    @property
    def is_part(self) -> bool:
        """It is at `<name>.part`, not under the final name."""
        return self.suffix == PART

    def clear_away(self, files: EntryFiles) -> None:
        """Frees its name, and removes the states beside it. Raises OSError."""
        if self.fragment and not self.shared:
            files.unlink(self.suffix)
        else:
            files.keep_aside(self.suffix)
        for suffix in STATES:
            with contextlib.suppress(FileNotFoundError):
                files.unlink(suffix)


def examine(files: EntryFiles, suffix: str, fd: int, *, fragment: bool = False) -> Foreign:
    """The foreign file with that suffix, open as `fd`. Raises OSError."""
    found = os.fstat(fd)
    usable = found.st_size
    if not usable or any(files.lstat(control) for control in CONTROL_FILES):
        usable = 0
    else:
        with contextlib.suppress(OSError):
            usable = min(usable, os.lseek(fd, 0, os.SEEK_HOLE))
    return Foreign(suffix, found.st_size, usable, found.st_nlink > 1, fragment)


class ForeignFile:
    """A file of another program at one of the entry's names. When the origin has answered it is taken over as our part,
    adopted as the finished file, or refused. found: the file, None when there is none. agreed: the ranges of it that
    were found equal so far."""

    def __init__(self, files: EntryFiles, file: PartFile, checkpoints: Checkpoints, lock: threading.RLock) -> None:
        self.found: Foreign | None = None
        self.agreed: list[tuple[int, int]] = []
        self._files = files
        self._file = file
        self._checkpoints = checkpoints
        self._lock = lock

    @property
    def reserved(self) -> int:
        """Bytes on disk that need no further space if it is taken over. If it is refused, space is checked again."""
        return self.found.usable if self.found is not None and self.found.is_part else 0

    def distrust(self) -> None:
        """None of its bytes may be continued."""
        if self.found is not None:
            self.found = replace(self.found, usable=0)

    def read(self, offset: int, length: int) -> bytes:
        """May be short at its end, and is empty when there is no file. Raises OSError, DiskError."""
        return b"" if self.found is None else self._files.read(self.found.suffix, offset, length)

    def take_over(self) -> None:
        """It was found equal to the origin's bytes: it becomes our part and is continued. Raises DiskError."""
        self._files.require_lease()
        with self._lock:
            foreign = self.found
            if foreign is None:
                return
            if foreign.shared:
                # Writing would change the file under its other name, too.
                self.refuse()
                return
            try:
                if not foreign.is_part:
                    self._files.rename(foreign.suffix, PART)
                    self._file.open()
                self._files.remove(FLUSHED_STATE)
            except OSError as error:
                raise self._files.error(error, PART) from error
            self.found = None
            self._checkpoints.state.have = Ranges([(0, foreign.usable)])
            self._checkpoints.save()

    def adopt(self) -> None:
        """It has the final name, and was found whole and equal: it stays as it is. Raises DiskError."""
        with self._lock:
            foreign, self.found = self.found, None
            if foreign is not None:
                self._file.adopt(foreign.suffix)
                self._checkpoints.state.have = Ranges([(0, foreign.size)])

    def refuse(self) -> None:
        """It is another file. A foreign part becomes `.old` now; a file under the final name becomes `.old` when ours
        gets the name (`commit/`). Raises DiskError."""
        self._files.require_lease()
        with self._lock:
            foreign, self.found = self.found, None
            if foreign is None or not foreign.is_part:
                return
            self._checkpoints.wait()
            self._file.close()
            self._file.inode = 0
            try:
                foreign.clear_away(self._files)
            except OSError as error:
                raise self._files.error(error, PART) from error
