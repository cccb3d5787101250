"""Notices that another program has changed a part.

Another program may truncate, punch or overwrite a part while we fill it. Zeros or foreign bytes then stand where ours
were, and the length may be right again after our next write. So the size and time of modification are noted after each
of our writes, and compared before the next one and before the file gets its name. This needs a local file system. On a
network file system each look makes the client flush, and the server's clock sets the time; there only the size is
compared, once, at the end. Holes are searched as well (`space.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from bulkspider.disk.files.filesystem import is_local


class ChangedOutside(Exception):
    """Another program has changed the file since our last write."""


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
            found = os.fstat(fd)
            self._local = is_local(fd, found.st_dev)
            self._seen = found.st_size, found.st_mtime_ns

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
