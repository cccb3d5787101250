"""The files of one entry: their names in the output folder, and the open `<name>.part`.

`EntryFiles` knows the directory of an entry and the names in it. `PartFile` is the open part: locked, so that no other
process writes to it, and watched by a `ChangeDetector`, so that a change made by another program is found.

Another program may truncate, punch or overwrite a part while we fill it. Zeros or foreign bytes then stand where ours
were, and the length may be right again after our next write. So the size and time of modification are noted after each
of our writes, and compared before the next one and before the file gets its name. This needs a local file system. On a
network file system each look makes the client flush, and the server's clock sets the time; there only the size is
compared, once, at the end. Holes are searched as well: `transfer/foreign.py` asks the origin for their bytes.

Nothing here knows which bytes are wanted (`part.py`) or what the state says of them (`state.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from bulkspider.disk.folder import Folder, lstat_at, open_ours, require_regular
from bulkspider.errors import BulkError, DiskError, PartChanged

FINAL = ""
PART = ".part"
STATE = ".part.json"
FLUSHED_STATE = ".part.sync.json"
OLD_PART = ".part.old"
OLD_STATE = ".part.old.json"
STATES = (STATE, FLUSHED_STATE)
OLD_PAIR = (OLD_PART, OLD_STATE)

CHANGED = "another program changed the part during the download"


class Leased(Protocol):
    """The right to change an entry's files, where several machines could (`queue/lease.py`)."""

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


class ChangedOutside(Exception):
    """Another program has changed the file since our last write."""


class PartFile:
    """The open file of a part, or an adopted file; `fd` < 0 while it is closed.

    inode: of the part, also while it is closed; 0 when there is none. reserved: bytes that the file system has reserved
    for it. is_adopted: not a part but a file under the final name is open, which was found whole and is only read.
    took_place: of a file that had the final name, and is kept as `<name>.old`. Only one thread opens, closes and
    publishes; several may write.
    """

    def __init__(self, files: EntryFiles) -> None:
        self.fd = -1
        self.inode = 0
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
        self.inode = os.fstat(self.fd).st_ino
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


# Reserving space

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, fallocate(2)


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    """fallocate(2) itself: os.posix_fallocate writes zeros where the file system cannot reserve."""
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return cast("Callable[[int, int, int, int], int]", function)


_fallocate = _find_fallocate()


def reserve(fd: int, size: int) -> int:
    """Reserves space for `size` bytes; the file's size stays, and no zeros are written. Returns the bytes that are
    reserved now: `size`, or 0 where the file system cannot. Raises OSError when the disk is full."""
    if _fallocate is not None:
        if _fallocate(fd, _KEEP_SIZE, 0, size) == 0:
            return size
        if ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(ctypes.get_errno(), "")
    return 0


# Changes by other programs

# `f_type` of statfs(2) for local file systems: this machine keeps the time of modification, exactly, and it is cheap to
# read.
_LOCAL = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0xF2F52010,  # F2FS
        0x2FC12FC1,  # ZFS
        0xCA451A4E,  # bcachefs
        0x01021994,  # tmpfs
        0x794C7630,  # overlayfs
    }
)


def _find_fstatfs() -> Callable[[int, ctypes.Array[ctypes.c_char]], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fstatfs
    except (OSError, AttributeError):
        return None
    return lambda fd, buffer: int(function(fd, buffer))


_fstatfs = _find_fstatfs()
_is_local: dict[int, bool] = {}  # by device


def is_local(fd: int, device: int) -> bool:
    """True when the file is on a local file system (see `_LOCAL`)."""
    if device not in _is_local:
        buffer = ctypes.create_string_buffer(512)
        answered = _fstatfs is not None and _fstatfs(fd, buffer) == 0
        _is_local[device] = answered and (ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF) in _LOCAL
    return _is_local[device]


class ChangeDetector:
    """Knows the size and time of one part after our last write. Thread-safe; a method waits only for another write to
    the same file, as it would in the kernel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._local = False
        self._seen: tuple[int, int] | None = None

    def begin(self, fd: int) -> None:
        """The file was opened: its size and time of now are the reference."""
        with self._lock:
            self._local = is_local(fd, os.fstat(fd).st_dev)
            self._seen = _size_and_time(fd)

    def resume(self, fd: int) -> None:
        """The file was opened again. Raises ChangedOutside when it is not as we closed it."""
        with self._lock:
            self._compare(fd)

    def write(self, write: Callable[..., int], fd: int, at: int, *args: Any) -> int:
        """Returns what `write(fd, at, *args)` returns. Raises ChangedOutside, and writes nothing."""
        if not self._local:
            return write(fd, at, *args)
        with self._lock:
            size = self._compare(fd)
            try:
                count = write(fd, at, *args)
            except BaseException:
                self._note(fd)
                raise
            # The size is computed from our own writes, so a truncation just after our write is detected, too.
            self._seen = max(size, at + count), _size_and_time(fd)[1]
            return count

    def change(self, fd: int, act: Callable[[], object]) -> None:
        """Calls `act`, which changes the file's size or time in another way than by writing. Raises ChangedOutside."""
        with self._lock:
            self._compare(fd)
            act()
            self._note(fd)

    def is_as_we_left_it(self, fd: int, size: int) -> bool:
        """size: bytes that the whole file must have."""
        with self._lock:
            try:
                return self._compare(fd) == size
            except ChangedOutside:
                return False

    def _note(self, fd: int) -> None:
        if self._local:
            self._seen = _size_and_time(fd)

    def _compare(self, fd: int) -> int:
        """Returns the file's size. Raises ChangedOutside."""
        found = _size_and_time(fd)
        if self._local and self._seen is not None and self._seen != found:
            raise ChangedOutside
        return found[0]


def _size_and_time(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns


# Holes

# Holes that are closer to each other than this are treated as one.
_NEAR_BYTES = 1 << 20
# A truncation ends within a block, so this much on both sides of a hole is doubtful, too.
_AROUND_BYTES = 64 * 1024


def doubtful_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    """The holes within the first `size` bytes of a file, with _AROUND_BYTES on both sides; normally there are none.

    Empty where the file system cannot report holes.
    """
    found: list[tuple[int, int]] = []
    for first, end in _holes(fd, size):
        first, end = max(0, first - _AROUND_BYTES), min(size, end + _AROUND_BYTES)
        if found and first - found[-1][1] < _NEAR_BYTES:
            first = found.pop()[0]
        found.append((first, end))
    return found


def _holes(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    with contextlib.suppress(OSError, AttributeError):  # ENXIO: only a hole from here on
        while at < size:
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            if hole >= size:
                return
            at = size
            with contextlib.suppress(OSError):
                at = min(size, os.lseek(fd, hole, os.SEEK_DATA))
            yield hole, at
