"""Finds out what is at the names of an entry: a part of ours, a file of another program, or nothing."""

from __future__ import annotations

import enum
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from bulkspider.disk.files.changes import ChangedOutside
from bulkspider.disk.files.checkpoints import Checkpoints
from bulkspider.disk.files.entryfiles import (
    FINAL,
    PART,
    EntryFiles,
)
from bulkspider.disk.files.partfile import PartFile
from bulkspider.disk.files.statefile import restore
from bulkspider.disk.leftovers.cleaning import FIRST_TEMPORARY
from bulkspider.disk.leftovers.foreign import Foreign, examine
from bulkspider.protocol.plan import PartState

# How long the result "nothing is there" is used again. A file that another program makes in this time is found when we
# make the part, or give the file its name.
NOTHING_FOUND_TTL_SECONDS = 1.0


class Spoiled(Struct, frozen=True):
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
        # Of the first version of bulkspider, which was killed while it wrote a state, perhaps the first one.
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
