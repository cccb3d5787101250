"""Space on the disk: room that is reserved for a file, and holes in it, for which no room is used.

A hole in a part of which all bytes were written means that another program has made it, or that the file system stores
zeros as holes: `transfer/foreign.py` asks the origin for these bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from typing import cast

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
