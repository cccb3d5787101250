"""One flush for all files of a file system: syncfs(2).

A disk makes a file durable in some milliseconds, whatever its size. With one call for all, 128 small files take the
time of one or two. The call also writes what others have left to be written there, so it is used only while that is
little, and only where it is known to report errors and to flush the disk's own cache.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Callable, Container
from contextlib import suppress
from typing import cast

from bulkspider.disk.files.filesystem import filesystem_type

# Not while more than this waits to be written, by all programs.
MAX_DIRTY_BYTES = 256 * 2**20
# `f_type` of statfs(2) of the file systems where it makes new files durable. Not FUSE, whose server is not asked.
FILESYSTEMS = frozenset(
    {
        0xEF53,  # ext4, also for ext2 and ext3
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
    }
)
# Since then syncfs reports lost writes (syncfs(2), VERSIONS).
KERNEL_THAT_REPORTS_ERRORS = (5, 8)


def _find_syncfs() -> Callable[[int], int] | None:
    """syncfs(2) itself, which Python does not have. None where it must not be used."""
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if numbers is None or tuple(map(int, numbers.groups())) < KERNEL_THAT_REPORTS_ERRORS:
        return None
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).syncfs)
    except (OSError, AttributeError):
        return None


def dirty_bytes() -> float:
    """Bytes in memory that wait to be written to any disk; infinite where the kernel does not tell."""
    with suppress(OSError), open("/proc/meminfo", "rb") as lines:
        for line in lines:
            if line.startswith(b"Dirty:"):
                return int(line.split()[1]) * 1024
    return math.inf


class FilesystemFlush:
    """syncfs: the call, which returns 0 on success; None where there is none. filesystems: where it may be used. dirty:
    returns how many bytes of all programs wait to be written."""

    def __init__(
        self,
        syncfs: Callable[[int], int] | None = _find_syncfs(),
        *,
        filesystems: Container[int] = FILESYSTEMS,
        dirty: Callable[[], float] = dirty_bytes,
    ) -> None:
        self._syncfs = syncfs
        self._filesystems = filesystems
        self._dirty = dirty

    @property
    def is_cheap(self) -> bool:
        """There is the call, and others have little to be written."""
        return self._syncfs is not None and self._dirty() <= MAX_DIRTY_BYTES

    def flush(self, fd: int, device: int) -> bool:
        """Makes durable what was written to the file system of `fd`. False when it could not, or must not be used
        there: then nothing is known of any file. device: of the file system. fd: was open before the first of these
        writes, so that it hears of each that was lost."""
        return self._syncfs is not None and filesystem_type(fd, device) in self._filesystems and self._syncfs(fd) == 0
