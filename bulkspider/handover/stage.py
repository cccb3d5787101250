"""The stage: limits the bytes in an output folder from which a command moves the files away (BULK_STAGE_MAX).

Space for a file is reserved by its size before it begins, and freed when the command has moved it. While a file of
unknown size has begun, no other begins until its size is known. Files and parts of earlier runs count until their own
entry begins; if nothing else can go on, unfinished parts of them are removed. `Stage` computes with names and sizes,
`StagedFolder` finds them on the disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress

from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.folder.opening import PRIVATE
from bulkspider.options import human

logger = logging.getLogger(__name__)

_PART = ".part"
# Suffixes of the files of an entry that is not finished; the longest first.
_UNFINISHED = (".part.sync.json", ".part.old.json", ".part.json", ".part.old", _PART)


class Stage:
    """limit: bytes. lying: name -> bytes of files there that are not under way. evict: removes the unfinished part of a
    name; True when it did."""

    def __init__(self, limit: int, lying: dict[str, int], evict: Callable[[str], bool]) -> None:
        self.limit = limit
        self._lying = lying
        self._evict = evict
        self._reserved: dict[str, Callable[[], int | None]] = {}

    @property
    def taken(self) -> int:
        """Bytes that are in the folder or reserved."""
        return sum(size() or 0 for size in self._reserved.values()) + sum(self._lying.values())

    def admits(self, name: str, size: Callable[[], int | None]) -> bool:
        """Reserves space for a file, if there is some; True also when it has been reserved before. size: returns its
        size in bytes, None while unknown."""
        if name in self._reserved:
            return True
        if any(reserved() is None for reserved in self._reserved.values()):
            return False
        wanted = size()
        if wanted is None:
            fits = not self._reserved
        else:
            fits = self.taken - self._lying.get(name, 0) + wanted <= self.limit
            if not fits and not self._reserved:
                self._make_room(name, wanted)
                fits = True
        if fits:
            self._lying.pop(name, None)
            self._reserved[name] = size
        return fits

    def make_room_on_disk(self, name: str) -> bool:
        """The disk is full although only one file is under way: removes unfinished parts of others. True when there
        were some."""
        if any(other != name for other in self._reserved):
            return False
        gone = [other for other in self._others(name) if self._evict(other)]
        for other in gone:
            del self._lying[other]
        return bool(gone)

    def _make_room(self, name: str, wanted: int) -> None:
        """Removes parts of entries that are not under way, when no file under way will free space."""
        for other in self._others(name):
            if self.taken - self._lying.get(name, 0) + wanted <= self.limit:
                return
            if self._evict(other):
                del self._lying[other]

    def _others(self, name: str) -> Collection[str]:
        return [other for other in self._lying if other != name]

    def leave(self, name: str, lying: int) -> None:
        """The file is no longer under way; `lying` bytes of it are in the folder."""
        self._reserved.pop(name, None)
        if lying:
            self._lying[name] = lying
        else:
            self._lying.pop(name, None)


class StagedFolder:
    """The stage of one output folder, with the sizes that are on the disk."""

    def __init__(self, folder: Folder, limit: int) -> None:
        self._folder = folder
        self._stage = Stage(limit, _lying_in(folder), self._evict)
        folder.stage_max = limit
        if self._stage.taken > limit:
            logger.warning(
                "%s: %s lie there already, more than BULK_STAGE_MAX; one file at a time begins until some have gone",
                *(folder.root, human(self._stage.taken)),
            )

    def admits(self, name: str, size: Callable[[], int | None]) -> bool:
        """As `Stage.admits`."""
        return self._stage.admits(name, size)

    def make_room_on_disk(self, name: str) -> bool:
        """As `Stage.make_room_on_disk`."""
        return self._stage.make_room_on_disk(name)

    def leave(self, name: str) -> None:
        """The file is no longer under way."""
        self._stage.leave(name, sum(_bytes_at(self._folder, name + suffix) for suffix in ("", *_UNFINISHED)))

    def _evict(self, name: str) -> bool:
        if self._folder.lstat(name) is not None or self._folder.lstat(name + _PART) is None:
            return False
        logger.warning("%s: its unfinished part is removed, because without that no other file has room", name)
        for suffix in _UNFINISHED:
            with suppress(OSError):
                os.unlink(self._folder.path(name + suffix))
        return True


def _bytes_at(folder: Folder, name: str) -> int:
    found = folder.lstat(name)
    return found.st_blocks * 512 if found is not None else 0


def _lying_in(folder: Folder) -> dict[str, int]:
    """Name -> bytes on disk of the file and its parts."""
    lying: dict[str, int] = {}
    for root, folders, files in os.walk(folder.root):
        if root == str(folder.root) and PRIVATE in folders:
            folders.remove(PRIVATE)
        for file in files:
            name = os.path.relpath(os.path.join(root, file), folder.root)
            size = _bytes_at(folder, name)
            for suffix in _UNFINISHED:
                name = name.removesuffix(suffix)
            if size:
                lying[name] = lying.get(name, 0) + size
    return lying
