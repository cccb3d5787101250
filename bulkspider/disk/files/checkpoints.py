"""When the state of a part is written, and when its bytes are made durable: the state after every 8 MiB or second, a
flush of the bytes after every BULK_CHECKPOINT or 30 seconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

from bulkspider.disk.files.entryfiles import (
    FLUSHED_STATE,
    OLD_PAIR,
    OLD_PART,
    OLD_STATE,
    PART,
    STATE,
    STATES,
    EntryFiles,
)
from bulkspider.disk.files.partfile import PartFile
from bulkspider.disk.files.statefile import better_state, document_of, load_state, replace_state
from bulkspider.errors import BulkError, WorkerError
from bulkspider.protocol.plan import PartState
from bulkspider.protocol.ranges import Ranges
from bulkspider.workers import as_bulk_error, start

# How much of a transfer a kill -9 may cost (docs/resume.md).
WRITTEN_EVERY_BYTES = 8 * 1024 * 1024
# At most two seconds may be lost; a state costs a rename, which is little compared with a second of transfer.
WRITTEN_EVERY_SECONDS = 1.0
# Fewer bytes than FEW_BYTES wait longer: with hundreds of slow connections that would be hundreds of states a second.
FEW_BYTES = 128 * 1024
FEW_EVERY_SECONDS = 5.0
# For slow transfers, which take long for BULK_CHECKPOINT bytes.
DURABLE_EVERY_SECONDS = 30.0
# Files from this size on are dropped from the page cache when they are durable.
DROP_FROM_CACHE_BYTES = 256 * 1024 * 1024
# How often a wait for a flush checks that its thread is alive.
FLUSH_THREAD_CHECK_SECONDS = 1.0


class OldPair:
    """The part and state that a restart set aside: `.part.old` and `.part.old.json`.

    bytes: how many the old part holds, 0 when none was set aside in this run or it must not come back.
    """

    def __init__(self, files: EntryFiles) -> None:
        self.bytes = 0
        self._files = files

    def set_aside(self, size: int) -> None:
        """The part and its state become the old pair. Raises OSError."""
        self.bytes = size
        self._files.rename(PART, OLD_PART)
        with contextlib.suppress(FileNotFoundError):
            self._files.rename(STATE, OLD_STATE)

    def bring_back(self) -> None:
        """The old pair becomes the part again. Raises OSError."""
        self._files.rename(OLD_PART, PART)
        self._files.rename(OLD_STATE, STATE)

    def drop(self) -> None:
        """Deletes what a restart set aside, in this run or an earlier one. Raises DiskError."""
        self._files.open()
        self._files.remove(*OLD_PAIR)

    def drop_if_smaller(self, than: int) -> None:
        if self.bytes and than > self.bytes:
            self.bytes = 0
            self.drop()


class Reader(Protocol):
    """Something that will read the part again soon, to hash it."""

    @property
    def unread_from(self) -> int | None:
        """The first byte that is still to be read; None when all were read."""


class Checkpoints:
    """Writes the state of one part and flushes its bytes, while several threads write to it.

    state: of the part; a new object when it is begun anew. details: further fields of the file, such as `refuted`.
    durable: the bytes that survive a power cut. has_holes: the part needs a state even while it is empty. has_state:
    the state on disk shows that the part is ours. old: the pair that a restart set aside. reader: set when the bytes
    will be read again. lock: the part's.
    """

    def __init__(self, files: EntryFiles, file: PartFile, key: str, lock: threading.RLock, every_bytes: int) -> None:
        """every_bytes: BULK_CHECKPOINT."""
        self.state = PartState()
        self.details: dict[str, Any] = {}
        self.durable = Ranges()
        self.has_holes = False
        self.has_state = True
        self.old = OldPair(files)
        self.reader: Reader | None = None
        self._files = files
        self._file = file
        self._key = key
        self._lock = lock
        self._every_bytes = every_bytes
        self._unsaved_bytes = 0
        self._saved_at = time.monotonic()
        self._unflushed_bytes = 0
        self._flushed_at = self._saved_at
        self._flush_thread: threading.Thread | None = None
        self._flush_error: BulkError | None = None

    # While bytes are written

    def record(self, first: int, end: int) -> None:
        """The bytes [first, end) have been written. Saves the state and begins a flush when they are due.

        The transfer goes on while its bytes are flushed. When the next flush is due before that one has ended, this
        waits. So at most two checkpoints' worth of a part is in memory only. Raises DiskError, also the error of the
        last flush.
        """
        self._files.require_lease()
        with self._lock:
            self.state.have.add(first, end)
            self._unsaved_bytes += end - first
            self._unflushed_bytes += end - first
            while self._is_flushing and self._flush_is_due:
                self._flush_ended.wait(FLUSH_THREAD_CHECK_SECONDS)
            if self._flush_is_due:
                self._raise_flush_error()
                self._begin_flush()
            if self._unsaved_bytes >= WRITTEN_EVERY_BYTES or self.save_is_due:
                self._raise_flush_error()
                self.save()

    @property
    def until_saved(self) -> int:
        """Bytes that may be written before `record` must be called, so that the state is never too far behind."""
        return max(1, WRITTEN_EVERY_BYTES - self._unsaved_bytes)

    @property
    def save_is_due(self) -> bool:
        """Bytes were written some time ago that the state does not have yet, and perhaps no more bytes come."""
        seconds = WRITTEN_EVERY_SECONDS if self._unsaved_bytes >= FEW_BYTES else FEW_EVERY_SECONDS
        return self._unsaved_bytes > 0 and time.monotonic() - self._saved_at >= seconds

    # The state

    def save(self) -> None:
        """Writes the state of an open part. Raises DiskError; then the old state is unchanged."""
        with self._lock:
            self._unsaved_bytes, self._saved_at = 0, time.monotonic()
            if self._may_write and (self.state.have or self.has_holes):
                self._replace(STATE, self._document())
                self.has_state = True
                self.old.drop_if_smaller(self.state.have.count)

    @property
    def refuted(self) -> bool:
        """The bytes are known to be wrong: no transfer continues them."""
        return "refuted" in self.details

    def refute(self) -> None:
        """The bytes are of two versions, or of another program. The state says so at once, so that the next run does
        not continue them if this process is killed before they are set aside."""
        with self._lock:
            self.details["refuted"] = {}
            self.save()

    def set_aside(self, refuted: Mapping[str, str] | None) -> None:
        """The part and its state become the old pair. refuted: as for `Part.set_aside`. Raises DiskError, OSError."""
        if refuted is not None:
            self.details["refuted"] = dict(refuted)
        self.save()
        self._files.may_have_companions = True
        if self._file.has_its_name:
            self.old.set_aside(0 if self.refuted else self.state.have.count)
        else:
            self._files.leave_place()
        self._files.remove(FLUSHED_STATE)

    def begin_anew(self, state: PartState) -> None:
        """The part has been set aside, or is another file: from now on this is its state."""
        self.state = state
        self.durable = Ranges()
        self.has_holes = False
        self.details.pop("refuted", None)

    def load(self, inode: int) -> dict[str, Any] | None:
        """What is known of the part with this inode; None and {} as for `load_state`."""
        saved, flushed = (load_state(self._files.name_of(suffix), self._files.directory) for suffix in STATES)
        return better_state(saved, flushed, inode)

    def discard(self) -> None:
        """The entry is in the ledger: its state and what a restart set aside are removed."""
        self.old.bytes = 0
        self.has_state = True
        if self._files.may_have_companions:
            self._files.remove(*STATES)
            self.old.drop()

    @property
    def _may_write(self) -> bool:
        return self._file.is_open and not self._file.is_adopted and self._files.may_change

    def _document(self) -> dict[str, Any]:
        known = document_of(self.state, self.durable)
        return {"name": self._files.name, "key": self._key, **self.details, **known}

    def _replace(self, suffix: str, document: Mapping[str, Any], *, flush: bool = False) -> None:
        files = self._files
        files.may_have_companions = True
        try:
            replace_state(files.name_of(suffix), files.directory, document, flush=flush)
        except OSError as error:
            raise files.error(error, suffix) from error

    # Flushes

    def checkpoint(self) -> None:
        """Makes what is written durable, then says so in the state. Raises DiskError, also when the flush fails."""
        with self._lock:
            have, fd = self.state.have.copy(), self._file.fd
        if fd >= 0:
            self._flush(fd)
        with self._lock:
            self.durable = have
            self.save()
            document = {**self._document(), "inode": self._file.inode}
        if fd >= 0 and have and self._may_write:
            # Not under the lock: the transfer goes on meanwhile.
            self._replace(FLUSHED_STATE, document, flush=True)

    def make_durable(self, fd: int) -> None:
        """Flushes the bytes of the whole part, as the last step before it gets its name. Raises DiskError."""
        self.wait()
        self._raise_flush_error()
        self._flush(fd)

    def wait(self, *, forget_error: bool = False) -> None:
        """Waits for the flush in the background. forget_error: drops its error, because the part is closed."""
        with self._lock:
            while self._is_flushing:
                self._flush_ended.wait(FLUSH_THREAD_CHECK_SECONDS)
            if forget_error:
                self._flush_error = None

    def _flush(self, fd: int) -> None:
        try:
            os.fdatasync(fd)
        except OSError as error:
            raise self._files.error(error, PART) from error
        self._drop_from_cache(fd)

    def _drop_from_cache(self, fd: int) -> None:
        """Drops the bytes of a large file from the page cache, except those that will be read again to be hashed: a
        file of 10 GB must not push everything else out of it. For bytes that are not durable yet, the call makes the
        kernel begin to write them."""
        if (self.state.total or 0) < DROP_FROM_CACHE_BYTES:
            return
        unread = self.reader.unread_from if self.reader is not None else None
        if unread != 0:
            with contextlib.suppress(OSError, AttributeError):
                os.posix_fadvise(fd, 0, unread or 0, os.POSIX_FADV_DONTNEED)

    @cached_property
    def _flush_ended(self) -> threading.Condition:
        """At most one flush runs at a time, in a thread of its own; waiting for its end releases the lock."""
        return threading.Condition(self._lock)

    @property
    def _flush_is_due(self) -> bool:
        late = time.monotonic() - self._flushed_at >= DURABLE_EVERY_SECONDS
        return late or self._unflushed_bytes >= self._every_bytes

    def _begin_flush(self) -> None:
        """Raises WorkerError where no thread can be started."""
        thread = threading.Thread(target=self._flush_in_thread, name="bulk-flush", daemon=True)
        self._flush_thread = thread
        try:
            start(thread)
        except WorkerError:
            self._flush_thread = None
            raise
        self._unflushed_bytes, self._flushed_at = 0, time.monotonic()

    def _flush_in_thread(self) -> None:
        error = None
        try:
            self.checkpoint()
        except BaseException as raised:
            error = as_bulk_error(raised)
        finally:
            with self._lock:
                self._flush_error = error
                self._flush_thread = None
                self._flush_ended.notify_all()

    @property
    def _is_flushing(self) -> bool:
        """True while a flush runs. If its thread has ended without a result, the flush has failed."""
        if self._flush_thread is not None and not self._flush_thread.is_alive():
            self._flush_thread = None
            what = "a thread ended (the one that flushes); run the same again"
            self._flush_error = WorkerError(what, code="thread_died")
        return self._flush_thread is not None

    def _raise_flush_error(self) -> None:
        """The kernel reports a lost write to one flush only; a later flush would succeed. So the error is kept."""
        if self._flush_error is not None:
            raise self._flush_error
