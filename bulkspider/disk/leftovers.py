"""What is in the output folder before we begin: files of other programs, and what a crash left of ours.

A foreign file is one that neither state nor ledger knows; it is changed only after the origin has answered. A `Lookup`
distinguishes it from a part of ours, and says how many of its bytes could be taken over.

`.bulkspider/begun` is the journal of open parts: each with its inode, from before its first byte until it is finished
or its state is written. So the next run knows that a part which a kill -9 left without a state is ours, not a file of
another program that must be kept; and it finds the files that got their final name just before the kill, whose states
must still be removed. The journal is not flushed, so lines may be missing after a power cut; therefore a run that has
the folder to itself also searches it once for states without a part. A run that ends normally removes its journal.
Every writer has its own journal; that of a process that has ended is taken over.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import math
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkspider.disk.files import (
    FINAL,
    FLUSHED_STATE,
    OLD_PAIR,
    OLD_PART,
    OLD_STATE,
    PART,
    STATE,
    STATES,
    ChangedOutside,
    EntryFiles,
    PartFile,
)
from bulkspider.disk.folder import Folder, lstat_at, open_ours
from bulkspider.disk.state import Checkpoints, load_state, restore
from bulkspider.errors import DiskError
from bulkspider.protocol.plan import PartState

# Files of other downloaders that show that the file beside them is not complete.
CONTROL_FILES = (".aria2", ".st")
# How long the result "nothing is there" is used again. A file that another program makes in this time is found when we
# make the part, or give the file its name.
NOTHING_FOUND_TTL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Foreign:
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


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A part of ours, open, that must be set aside.

    refuted: the digests that proved it wrong, may be empty. changed_outside: another program wrote to it while it was
    closed.
    """

    refuted: Mapping[str, str]
    changed_outside: bool = False


class Found(enum.Enum):
    """What a Lookup finds, if it is neither Foreign nor Spoiled."""

    AS_BEFORE = "what was there when the part was closed"
    OURS = "a part of ours, open now; its state is restored"
    NOTHING = "nothing, or an empty part"


class Lookup:
    """Finds out what is at the names of one entry when its part is opened.

    known: there was a look before, and `file.inode` is the part that was there. url_changed: the part that was found
    belongs to another URL.
    """

    def __init__(self, files: EntryFiles, file: PartFile, checkpoints: Checkpoints, key: str) -> None:
        self.known = False
        self.url_changed = False
        self._files = files
        self._file = file
        self._checkpoints = checkpoints
        self._key = key
        self._nothing_found_at = -math.inf
        # The inode of an empty part that is there and will be replaced by ours; 0 for none.
        self._empty_inode = 0

    def finds_nothing(self) -> bool:
        """As `Part.finds_nothing`."""
        files = self._files
        if files.is_open or (self.known and self._file.inode != 0):
            return False
        now = time.monotonic()
        if now - self._nothing_found_at < NOTHING_FOUND_TTL_SECONDS:
            return True
        if files.folder.lstat(files.name + PART) is not None or files.folder.lstat(files.name) is not None:
            return False
        if not self.known:
            self._begin()
            files.may_have_companions = not files.folder.was_empty
        self._nothing_found_at = now
        return True

    def look(self) -> Foreign | Spoiled | Found:
        """The directory is open. Raises DiskError, OSError."""
        final, part = self._files.lstat_regular(FINAL), self._files.lstat_regular(PART)
        inode = 0 if part is None else part.st_ino
        if self.known and self._file.inode == inode:
            if part is not None:
                try:
                    self._file.open_again()
                except ChangedOutside:
                    return Spoiled({}, changed_outside=True)
                self._checkpoints.state.have.clip(os.fstat(self._file.fd).st_size)
            return Found.AS_BEFORE
        # The state does not belong to a file that replaced the part we had.
        replaced = self.known and self._file.inode != 0
        self._begin()
        found: Foreign | Spoiled | Found = Found.NOTHING
        if part is not None:
            found = self._look_at_part(part, None if replaced else self._checkpoints.load(inode))
        if found is Found.NOTHING and final is not None:
            fd = self._files.open_file(FINAL, os.O_RDONLY)
            try:
                found = examine(self._files, FINAL, fd)
            finally:
                os.close(fd)
        return found

    def _begin(self) -> None:
        self.known = True
        self._file.inode = 0
        self._checkpoints.begin_anew(PartState(restarts=self._checkpoints.state.restarts))

    def _look_at_part(self, part: os.stat_result, saved: dict[str, Any] | None) -> Foreign | Spoiled | Found:
        """saved: its state."""
        files, file, checkpoints = self._files, self._file, self._checkpoints
        ours = saved is not None and saved.get("key") == self._key
        if not part.st_size and not ours:
            # It will be replaced, unless another process is about to write to it.
            file.require_unused()
            self._empty_inode = part.st_ino
            return Found.NOTHING
        file.open()
        if ours:
            # A temporary file of the first version of bulkspider, which was killed.
            files.remove(FIRST_TEMPORARY)
        if saved is not None and ours and "refuted" in saved:
            # The process that refuted it was killed before it could set it aside.
            return Spoiled(saved["refuted"])
        if saved is not None and ours and part.st_nlink == 1:
            checkpoints.durable = restore(checkpoints.state, saved, part.st_size)
            if part.st_size > checkpoints.state.have.end:
                # Bytes that the state does not know are fetched again.
                file.truncate(checkpoints.state.have.end)
            return Found.OURS
        self.url_changed = saved is not None and "key" in saved and not ours
        fragment = saved == {} or files.folder.left_behind(files.name, file.inode)
        checkpoints.has_state = not fragment
        return examine(files, PART, file.fd, fragment=fragment)

    def remove_empty(self) -> None:
        """Removes the empty part that was found. Raises DiskError `part_in_use`."""
        inode, self._empty_inode = self._empty_inode, 0
        if inode:
            self._file.remove_empty(inode)


# What a crash left

JOURNAL = "begun"
# Bytes of a journal that are read at most.
JOURNAL_MAX_BYTES = 16 << 20
# The journal is rewritten without the parts that are closed when it has so many lines.
_COMPACT_AFTER_LINES = 1000
FIRST_TEMPORARY = ".part.json.tmp"
_TEMPORARY = re.compile(rf"\.bulkspider\.[0-9a-f]{{16}}\.tmp|.+{re.escape(FIRST_TEMPORARY)}")


def begin_journal(folder: Folder, writer: str | None) -> None:
    """Begins the journal of the folder, and cleans what a crash has left. writer: as in the name of the ledger. Raises
    DiskError."""
    folder.journal = OpenParts(folder, writer)


class OpenParts:
    """The journal: the parts of one output folder that this process has open, and those that ended processes left.
    Thread-safe."""

    def __init__(self, folder: Folder, writer: str | None) -> None:
        self._folder = folder
        self._name = JOURNAL if writer is None else f"{JOURNAL}.{writer}"
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._lines = 0
        self._left, unclean = self._take_over()
        self.fd = self._create()
        if unclean:
            self._clean_up()
            if folder.is_ours_alone:
                _sweep(folder.root)
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
    return json.dumps([name, inode]).encode() + b"\n"


def _read(fd: int) -> Iterator[tuple[str, int]]:
    with open(os.dup(fd), "rb") as file:
        for line in file.read(JOURNAL_MAX_BYTES).split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                match json.loads(line):
                    case [str(name), int(inode)] if not _leads_outside(name):
                        yield name, inode


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def _sweep(root: Path) -> None:
    """Removes states without a part, and temporary files of ours."""
    for _, _, names, directory in os.fwalk(root):
        there = set(names)
        for name in names:
            if not name.endswith((".json", ".tmp")) or not _is_litter(name, there, directory):
                continue
            found = lstat_at(name, directory)
            if found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)


def remove_parts(root: Path, are_done: Callable[[list[tuple[str, str]]], Collection[str]]) -> list[str]:
    """Removes parts of ours below `root` that nobody needs any more, with their states, and returns their names.

    are_done: is given entries by (name, key of the URL) that have a part here, and says which of them are done, so that
    no part of theirs will be continued. Parts that a process has open stay, and files that are not ours."""
    removed: list[str] = []
    for path, folders, names, directory in os.fwalk(root):
        if ".bulkspider" in folders:
            folders.remove(".bulkspider")
        keys: dict[str, str] = {}
        for state in names:
            if state.endswith(STATE) and (saved := load_state(state, directory)) and isinstance(saved.get("key"), str):
                name = os.path.relpath(os.path.join(path, state.removesuffix(STATE)), root)
                keys[name] = saved["key"]
        if keys:
            done = are_done(list(keys.items()))
            removed += [name for name in done if name in keys and _remove_part(os.path.basename(name), directory)]
    return removed


def _remove_part(base: str, directory: int) -> bool:
    try:
        fd = os.open(base + PART, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for suffix in (PART, *STATES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(base + suffix, dir_fd=directory)
    except OSError:
        return False  # somebody has it open, or it cannot be removed: it stays
    finally:
        os.close(fd)
    return True


def _is_litter(name: str, there: set[str], directory: int) -> bool:
    if _TEMPORARY.fullmatch(name):
        return True
    for suffix, part in ((STATE, PART), (FLUSHED_STATE, PART), (OLD_STATE, OLD_PART)):
        base = name.removesuffix(suffix)
        if base != name and base and base + part not in there:
            saved = load_state(name, directory)
            return saved is not None and (not saved or {"key", "written"} <= saved.keys())
    return False
