"""Which kind of file system a file is on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

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
_types: dict[int, int] = {}  # by device


def filesystem_type(fd: int, device: int) -> int:
    """`f_type` of statfs(2); 0 where the kernel does not tell. device: of the file."""
    if device not in _types:
        buffer = ctypes.create_string_buffer(512)
        answered = _fstatfs is not None and _fstatfs(fd, buffer) == 0
        _types[device] = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF if answered else 0
    return _types[device]


def is_local(fd: int, device: int) -> bool:
    """True when the file is on a local file system (see `_LOCAL`)."""
    return filesystem_type(fd, device) in _LOCAL
