"""The part: the bytes of one entry so far, and what is known of them.

A Part finds what an earlier run, a crash or another program left at the names of its entry, writes bytes at explicit
offsets, and is set aside and begun anew when the object has changed. All decisions about HTTP are made by `plan.py`, on
the PartState kept here. Its files are in `files/`, what was there before in `leftovers/`; `commit/` gives it
its name. All methods are called from worker threads unless they say otherwise.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from bulkspider.disk.files.changes import ChangedOutside
from bulkspider.disk.files.checkpoints import Checkpoints
from bulkspider.disk.files.entryfiles import FLUSHED_STATE, PART, EntryFiles, read_at
from bulkspider.disk.files.partfile import CHANGED, PartFile
from bulkspider.disk.files.space import doubtful_ranges
from bulkspider.disk.folder.folder import Folder
from bulkspider.disk.leftovers.foreign import Foreign, ForeignFile
from bulkspider.disk.leftovers.lookup import Found, Lookup, Spoiled
from bulkspider.errors import DiskError, VersionConflict, disk_error
from bulkspider.protocol.plan import MAX_RESTARTS, PartState, Validators
from bulkspider.protocol.ranges import Ranges

# A whole object up to this size stays in memory until the thread that finishes the file writes it: for such a small
# file a change of threads takes longer than writing it.
HELD_MAX_BYTES = 128 * 1024


class Part:
    """The part of one entry. Open while an attempt or a finish needs it; its state is kept in between.

    key: of the entry's URL. checkpoint: bytes, BULK_CHECKPOINT. foreign: a file of another program that was found.
    buffered: the whole object, if it is small and only in memory so far.
    """

    def __init__(self, folder: Folder, name: str, key: str, *, checkpoint: int) -> None:
        self.folder = folder
        self.name = name
        self.key = key
        self.buffered = b""
        self.lock = threading.RLock()
        self.files = EntryFiles(folder, name)
        self.file = PartFile(self.files)
        self.checkpoints = Checkpoints(self.files, self.file, key, self.lock, checkpoint)
        self.foreign = ForeignFile(self.files, self.file, self.checkpoints, self.lock)
        self.lookup = Lookup(self.files, self.file, self.checkpoints, key)

    @property
    def state(self) -> PartState:
        """The input of `plan.py`; a new object after a restart."""
        return self.checkpoints.state

    @property
    def fd(self) -> int:
        """The descriptor of the open `.part`, which is made now if there is none yet. Raises DiskError."""
        self.files.require_lease()
        with self.lock:
            if self.file.fd < 0:
                self._create()
            return self.file.fd

    def write_buffered(self) -> None:
        """Writes what is buffered to the disk. Raises DiskError; then nothing of it is on disk."""
        with self.lock:
            if self.buffered:
                self.files.require_lease()
                self._create()

    def finds_nothing(self) -> bool:
        """True when neither the file nor a part of it is on disk, as for most entries: the part need not be opened
        before its first byte. Two quick looks; may be called in the reactor's thread."""
        with self.lock:
            return self.lookup.finds_nothing()

    def open(self) -> None:
        """Finds out what is on disk. Raises DiskError when something else is at the name or the part cannot be read."""
        with self.lock:
            self.files.require_lease()
            if self.files.is_open:
                return
            self.files.open()
            if self.buffered:
                return
            try:
                while isinstance(found := self.lookup.look(), Spoiled):
                    if not found.changed_outside:
                        self.foreign.found = None
                    elif self.state.restarts < MAX_RESTARTS:
                        self.state.restarts += 1
                    else:
                        raise self.file.changed()
                    self.set_aside(found.refuted)
                    self.lookup.known = False
                if found is not Found.AS_BEFORE:
                    self.foreign.found = found if isinstance(found, Foreign) else None
            except OSError as error:
                self.close()
                raise self.files.error(error, PART) from error
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Closes the files. The state is kept, and is checked against the disk when the part is opened again."""
        with self.lock:
            self.checkpoints.wait(forget_error=True)
            if self.file.is_adopted:
                self.lookup.known = False
            self.file.close()
            self.files.close()
            if self.checkpoints.has_state:
                self.folder.note_ended(self.name)

    def end_attempt(self, in_use: Callable[[], bool]) -> None:
        """Writes the state and, unless another attempt uses the part, closes it."""
        with self.lock:
            if self.files.is_open:
                try:
                    self.checkpoints.save()
                finally:
                    if not in_use():
                        self.close()

    def _create(self) -> None:
        """Makes the part's file, with what is buffered in it. Raises DiskError."""
        self.files.open()
        self.lookup.remove_empty()
        if not self.buffered:
            # It may belong to an earlier file.
            self.files.remove(FLUSHED_STATE)
        try:
            self.file.create(self.buffered)
        except DiskError:
            if self.buffered and self.file.is_open:
                self.buffered = b""
                self.state.have = Ranges()
                self.lookup.known = self.checkpoints.has_state = False
                self.close()
            raise
        self.buffered = b""
        self.checkpoints.has_state = False

    # ------------------------------------------------------------------------------------------------------ bytes

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Writes all of `data` at `offset`; the bytes count as there when this returns. Raises DiskError, and
        VersionConflict as `put`."""
        self.files.require_lease()
        view = memoryview(data)
        at = offset
        try:
            fd = self.fd
            while view:
                done = self.put(_pwrite, fd, at, view)
                at += done
                view = view[done:]
        except OSError as error:
            self.checkpoints.record(offset, at)
            raise self.files.error(error, PART) from error
        self.checkpoints.record(offset, at)

    def put(self, write: Callable[..., int], fd: int, at: int, *args: Any) -> int:
        """Calls `write(fd, at, *args)`, which writes some bytes to offset `at` of the part's `fd`, and returns their
        number; they count as there after `checkpoints.record`. Raises VersionConflict when another program has changed
        the part: then nothing of it can be trusted any more."""
        try:
            return self.file.write(write, fd, at, *args)
        except ChangedOutside:
            pass
        raise self._changed_outside()

    def _changed_outside(self) -> VersionConflict:
        self.checkpoints.refute()
        return VersionConflict(CHANGED, differ=True, outside=True)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the part, or of the foreign file, for a comparison. May be short at its end. Raises DiskError."""
        try:
            if self.file.is_open:
                return read_at(self.file.fd, offset, length)
            return self.foreign.read(offset, length)
        except OSError as error:
            raise self.files.error(error, PART) from error

    def buffer(self, data: bytes) -> None:
        """Takes a whole small object into memory, where nothing was found on disk. It is written when `fd` is used: by
        the thread that finishes the file, in one write. May be called in the reactor's thread."""
        with self.lock:
            self.buffered = data
            self.state.have.add(0, len(data))

    def beginning(self, most: int) -> bytes:
        """The first `most` bytes of the file so far. Raises DiskError. Needs no disk while it is `buffered`."""
        with self.lock:
            if self.buffered:
                return self.buffered[:most]
            self.open()
            return self.read(0, most)

    def expect_holes(self) -> None:
        """Several connections will write. Saves the state before the first byte behind a hole is written, because a
        file system may not distinguish holes from zeros. Raises DiskError."""
        with self.lock:
            self.checkpoints.has_holes = self.fd >= 0
            self.checkpoints.save()

    def doubtful_ranges(self) -> list[tuple[int, int]]:
        """Holes in a part of which all bytes were written: these ranges must be fetched again and compared. Empty where
        holes were found to be normal on this file system. Raises DiskError."""
        with self.lock:
            if self.buffered or self.folder.zeros_are_holes:
                return []
            self.open()
            return doubtful_ranges(self.file.fd, self.state.total or 0) if self.file.is_open else []

    @property
    def unwritten(self) -> int:
        """Bytes for which the disk still needs space; 0 while the length is unknown."""
        if self.state.total is None:
            return 0
        return max(0, self.state.total - max(self.state.have.count, self.file.reserved, self.foreign.reserved))

    def preallocate(self) -> None:
        """Reserves space for the whole file where the file system can (`reserve`). Raises DiskError when it is full."""
        total = self.state.total
        if total and self.file.reserved < total:
            try:
                self.file.reserve(self.fd, total)
            except ChangedOutside:
                raise self._changed_outside() from None
            except OSError as error:
                raise disk_error(error, self.files.path(PART)) from error

    def learn(
        self, *, total: int | None = None, validators: Validators | None = None, source: str | None = None
    ) -> None:
        """Keeps what an accepted answer said of the object."""
        with self.lock:
            if total is not None:
                self.state.total = total
            if validators is not None and (validators.etag or validators.last_modified):
                self.state.validators = validators
            if source is not None:
                self.state.source = source

    # ----------------------------------------------------------------------------------------- restarts, the end

    def set_aside(self, refuted: Mapping[str, str] | None = None) -> None:
        """Begins the entry anew: part and state become `.part.old` and `.part.old.json`, a foreign part `<name>.old`.
        Raises DiskError.

        refuted: the digests that proved these bytes wrong; such a part is kept for people to look at, never continued.
        """
        self.files.require_lease()
        with self.lock:
            self.checkpoints.wait()
            try:
                if self.foreign.found is not None:
                    self.foreign.refuse()
                elif self.file.is_adopted:
                    # It keeps its name until our file replaces it.
                    self.file.close()
                elif self.file.is_open:
                    self.checkpoints.set_aside(refuted)
                    self.file.close()
            except OSError as error:
                raise self.files.error(error, PART) from error
            self.file.inode = self.file.reserved = 0
            self.buffered = b""
            self.checkpoints.begin_anew(
                PartState(restarts=self.state.restarts, validator_kind=self.state.validator_kind)
            )

    @property
    def is_at_rest(self) -> bool:
        """Nothing is open and nothing is set aside: `give_up` has nothing to do."""
        return not self.files.is_open and not self.checkpoints.old.bytes

    def give_up(self) -> None:
        """The entry has its outcome. A part of an older version that was set aside comes back if it holds more
        bytes."""
        with self.lock:
            old = self.checkpoints.old
            if old.bytes > self.state.have.count and self.files.may_change:
                with contextlib.suppress(OSError, DiskError):
                    self.open()
                    old.bring_back()
                self.lookup.known = False
            old.bytes = 0
            self.close()


def _pwrite(fd: int, at: int, data: memoryview) -> int:
    return os.pwrite(fd, data, at)
