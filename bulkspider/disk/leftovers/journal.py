"""The journal of open parts, `.bulkspider/begun`: each with its inode, from before its first byte until it is finished
or its state is written.

So the next run knows that a part which a kill -9 left without a state is ours, not a file of another program that must
be kept; and it finds the files that got their final name just before the kill, whose states must still be removed. The
journal is not flushed, so lines may be missing after a power cut; therefore a run that has the folder to itself also
searches it once for states without a part (`cleaning.py`). A run that ends normally removes its journal. Every writer
has its own journal; that of a process that has ended is taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator

from bulkspider.disk.files.entryfiles import (
    OLD_PAIR,
    PART,
    STATES,
)
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.folder.opening import open_ours
from bulkspider.disk.leftovers.cleaning import remove_litter
from bulkspider.errors import DiskError

JOURNAL = "begun"
# Bytes of a journal that are read at most.
JOURNAL_MAX_BYTES = 16 << 20
# The journal is rewritten without the parts that are closed when it has so many lines.
_COMPACT_AFTER_LINES = 1000


def begin_journal(folder: Folder, writer: str | None, *, takes_over: bool = True) -> None:
    """Begins the journal of the folder, and cleans what a crash has left. writer: as in the name of the ledger.
    takes_over: the journals of ended processes. Raises DiskError."""
    folder.journal = OpenParts(folder, writer, takes_over=takes_over)


class OpenParts:
    """The journal: the parts of one output folder that this process has open, and those that ended processes left.
    Thread-safe."""

    def __init__(self, folder: Folder, writer: str | None, *, takes_over: bool = True) -> None:
        self._folder = folder
        self._name = JOURNAL if writer is None else f"{JOURNAL}.{writer}"
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._lines = 0
        self._left, unclean = self._take_over() if takes_over else ({}, False)
        self.fd = self._create()
        if unclean:
            self._clean_up()
            if folder.is_ours_alone:
                remove_litter(folder.root)
        self._rewrite()

    def begin(self, name: str, inode: int) -> None:
        """The part of `name` is open from now on."""
        with self._lock:
            self._open[name] = inode
            self._lines += 1
            if self._lines > _COMPACT_AFTER_LINES:
                self._rewrite()
            else:
                self._write(_line(name, inode))

    def end(self, name: str) -> None:
        """The part is finished, or has a state, which says that it is ours."""
        with self._lock:
            self._open.pop(name, None)

    def left_behind(self, name: str, inode: int) -> bool:
        """A process that was killed has left this part without a state."""
        return self._left.get(name) == inode

    def take_over(self) -> None:
        """A process that worked for this one has ended: its open parts are known from now on. Raises DiskError."""
        with self._lock:
            left, _ = self._take_over()
            self._left.update(left)
            self._clean_up()
            self._rewrite()

    def close(self) -> None:
        with self._lock:
            if self.fd < 0:
                return
            if not self._open:
                with contextlib.suppress(OSError):
                    os.unlink(self._name, dir_fd=self._folder.private_fd)
            os.close(self.fd)
            self.fd = -1

    # When the journal cannot be written, the run goes on; the next one then compares more with the origin.

    def _write(self, data: bytes) -> None:
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.write(self.fd, data)

    def _rewrite(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
        self._lines = len(self._open) + len(self._left)
        self._write(b"".join(_line(name, inode) for name, inode in {**self._left, **self._open}.items()))

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder.private_fd)
        fd = open_ours(self._name, flags, dir_fd=self._folder.private_fd, path=self._folder.private / self._name)
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd

    def _take_over(self) -> tuple[dict[str, int], bool]:
        """The parts in the journals of ended processes (name -> inode), and whether there were such journals."""
        left: dict[str, int] = {}
        unclean = False
        for name in os.listdir(self._folder.private_fd):
            if name != self._name and not name.startswith(f"{JOURNAL}."):
                continue
            fd = -1
            try:
                path = self._folder.private / name
                fd = open_ours(name, os.O_RDONLY, dir_fd=self._folder.private_fd, path=path)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.update(_read(fd))
                unclean = True
                if name != self._name:
                    os.unlink(name, dir_fd=self._folder.private_fd)
            except DiskError:
                if name == self._name:
                    raise
            except OSError:
                pass  # its writer still runs, or that cannot be found out
            finally:
                if fd >= 0:
                    os.close(fd)
        return left, unclean

    def _clean_up(self) -> None:
        """Removes the states of files that have their final name by now. A part that is still there waits for its
        entry."""
        for name, inode in list(self._left.items()):
            part, final = self._folder.lstat(f"{name}{PART}"), self._folder.lstat(name)
            if part is not None and part.st_ino == inode:
                continue
            del self._left[name]
            if part is None and final is not None and final.st_ino == inode:
                directory = self._folder.open_dir(name)
                base = name.rpartition("/")[2]
                for suffix in (*STATES, *OLD_PAIR):
                    with contextlib.suppress(OSError):
                        os.unlink(base + suffix, dir_fd=directory)
                os.close(directory)


def _line(name: str, inode: int) -> bytes:
    return f"[{json.dumps(name)}, {inode}]\n".encode()


def _read(fd: int) -> Iterator[tuple[str, int]]:
    with open(os.dup(fd), "rb") as file:
        for line in file.read(JOURNAL_MAX_BYTES).split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                match json.loads(line):
                    case [str(name), int(inode)] if not _leads_outside(name):
                        yield name, inode


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")
