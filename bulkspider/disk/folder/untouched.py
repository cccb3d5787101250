"""The output folder of a dry run and of `--status`, which make and lock nothing."""

from __future__ import annotations

import os
from pathlib import Path

from bulkspider.disk.folder.folder import DIRECTORY_FLAGS, Folder
from bulkspider.disk.folder.locks import find_holder
from bulkspider.disk.folder.opening import PRIVATE


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
            self._root_fd = os.open(self.root, DIRECTORY_FLAGS)
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
            self.obstacle = find_holder(self.root)

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
