"""A disk with a volatile cache: what a power cut may leave on the disk, as folders.

A `Recorder` notes what the code under test does to one folder: every write, and every change of a name. `Images` makes of
the record what may be there after a power cut at any of its moments. Of a file: all that was written before its last
flush, and of each later write all, nothing or the first sectors. Of names: all changes before the last flush of a
folder, and of the later ones some, always the earliest, as a journal keeps them. A file whose name is there may be
empty if its bytes were never flushed.
"""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Event:
    """kind: write (file, offset, data), cut (file, length), sync (file), syncfs (all files), link (folder, name, file), unlink (folder,
    name), rename (folder, name, to folder, new name), syncdir (folder). A folder is its inode; a file its inode and how
    many files have had that inode before it."""

    kind: str
    args: tuple[Any, ...]


class Recorder:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Event] = []
        self.folders: dict[int, tuple[int, str]] = {}
        self.root = root.stat().st_ino
        # A file system uses the inode of a removed file again at once: how many files have had it.
        self._files_with: dict[int, int] = {}
        self._lock = threading.RLock()
        self._device = root.stat().st_dev
        for name in ("open", "pwrite", "write", "ftruncate", "fsync", "fdatasync", "rename", "unlink", "mkdir"):
            wrapped = getattr(self, f"_{name}")(getattr(os, name))
            monkeypatch.setattr(os, name, wrapped)
        monkeypatch.setattr(os, "replace", os.rename)

    def _note(self, kind: str, *args: Any) -> None:
        self.events.append(Event(kind, args))

    def _file(self, inode: int) -> tuple[int, int]:
        return inode, self._files_with.get(inode, 0)

    @staticmethod
    def _folder(dir_fd: int | None, path: Any) -> int:
        return os.fstat(dir_fd).st_ino if dir_fd is not None else os.stat(os.path.dirname(path) or ".").st_ino

    def _open(self, call: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if not flags & os.O_CREAT:
                return call(path, flags, mode, dir_fd=dir_fd)
            with self._lock:
                try:
                    os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
                    there = True
                except FileNotFoundError:
                    there = False
                fd = call(path, flags, mode, dir_fd=dir_fd)
                if not there:
                    inode = os.fstat(fd).st_ino
                    self._files_with[inode] = self._files_with.get(inode, 0) + 1
                    self._note("link", self._folder(dir_fd, path), os.path.basename(path), self._file(inode))
                return fd

        return opened

    def _pwrite(self, call: Callable[..., int]) -> Callable[..., int]:
        def pwrite(fd: int, data: Any, offset: int) -> int:
            with self._lock:
                count = call(fd, data, offset)
                self._note("write", self._file(os.fstat(fd).st_ino), offset, bytes(memoryview(data)[:count]))
                return count

        return pwrite

    def _write(self, call: Callable[..., int]) -> Callable[..., int]:
        def write(fd: int, data: Any) -> int:
            with self._lock:
                before = os.fstat(fd)
                count = call(fd, data)
                if before.st_dev == self._device:
                    end = os.lseek(fd, 0, os.SEEK_CUR)
                    self._note("write", self._file(before.st_ino), end - count, bytes(memoryview(data)[:count]))
                return count

        return write

    def _ftruncate(self, call: Callable[..., None]) -> Callable[..., None]:
        def ftruncate(fd: int, length: int) -> None:
            with self._lock:
                call(fd, length)
                self._note("cut", self._file(os.fstat(fd).st_ino), length)

        return ftruncate

    def _fsync(self, call: Callable[..., None]) -> Callable[..., None]:
        def fsync(fd: int) -> None:
            # What is written while it flushes may be lost.
            with self._lock:
                inode, at = os.fstat(fd).st_ino, len(self.events)
                is_folder, file = stat.S_ISDIR(os.fstat(fd).st_mode), self._file(inode)
            call(fd)
            with self._lock:
                self._note("syncdir" if is_folder else "sync", inode if is_folder else file, at)

        return fsync

    _fdatasync = _fsync

    def syncfs(self, fd: int) -> int:
        """For `FilesystemFlush`."""
        with self._lock:
            at = len(self.events)
        os.sync()
        with self._lock:
            self._note("syncfs", at)
        return 0

    def _rename(self, call: Callable[..., None]) -> Callable[..., None]:
        def rename(old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            with self._lock:
                call(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                places = self._folder(src_dir_fd, old), self._folder(dst_dir_fd, new)
                self._note("rename", places[0], os.path.basename(old), places[1], os.path.basename(new))

        return rename

    def _unlink(self, call: Callable[..., None]) -> Callable[..., None]:
        def unlink(path: Any, *, dir_fd: int | None = None) -> None:
            with self._lock:
                call(path, dir_fd=dir_fd)
                self._note("unlink", self._folder(dir_fd, path), os.path.basename(path))

        return unlink

    def _mkdir(self, call: Callable[..., None]) -> Callable[..., None]:
        def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            with self._lock:
                call(path, mode, dir_fd=dir_fd)
                # Folders are there: this model is about files.
                made = os.stat(path, dir_fd=dir_fd).st_ino
                self.folders[made] = (self._folder(dir_fd, path), os.path.basename(path))

        return mkdir


def image(recorder: Recorder, end: int, chance: random.Random, into: Path) -> None:
    """What may be there when the power fails after `end` events."""
    events = recorder.events[:end]
    flushed: dict[tuple[int, int], int] = {}
    names_flushed = all_flushed = 0
    for event in events:
        if event.kind == "sync":
            flushed[event.args[0]] = event.args[1]
        elif event.kind == "syncfs":
            all_flushed = event.args[0]
        elif event.kind == "syncdir":
            names_flushed = max(names_flushed, event.args[1])
    names_end = chance.randint(names_flushed, end)
    data: dict[tuple[int, int], bytearray] = {}
    names: dict[tuple[int, str], tuple[int, int]] = {}
    for at, event in enumerate(events):
        kind, args = event.kind, event.args
        if kind in ("write", "cut"):
            part = args[2] if kind == "write" else None
            if at >= max(all_flushed, flushed.get(args[0], 0)):
                fate = chance.random()
                if fate < 0.4:
                    continue
                if part is not None and fate < 0.6:
                    part = part[: chance.randrange(len(part) + 1) // SECTOR_BYTES * SECTOR_BYTES]
            content = data.setdefault(args[0], bytearray())
            if part is None:
                del content[args[1] :]
                content.extend(bytes(args[1] - len(content)))
            elif part:
                content.extend(bytes(max(0, args[1] - len(content))))
                content[args[1] : args[1] + len(part)] = part
        elif at < names_end:
            if kind == "link":
                names[args[:2]] = args[2]
            elif kind == "unlink":
                names.pop(args, None)
            elif kind == "rename" and args[:2] in names:
                names[args[2:]] = names.pop(args[:2])
    for (folder, name), file in names.items():
        path = _path(recorder, folder, into)
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data.get(file, b""))


def _path(recorder: Recorder, folder: int, into: Path) -> Path:
    if folder == recorder.root:
        return into
    above, name = recorder.folders[folder]
    return _path(recorder, above, into) / name
