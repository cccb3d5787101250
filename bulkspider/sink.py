"""The sink: a part and its state on disk.

A Part owns `<name>.part` and `<name>.part.json` of one entry: it writes bytes at explicit offsets, knows which are
there (`written`) and which survive a power cut (`durable`), and keeps what is known of the object's version. It also
finds what an earlier run, a crash or another tool left at these names. It decides nothing about HTTP: `plan.py` does,
on the PartState kept here. All methods are called from worker threads, never from the reactor's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from bulkspider.errors import BulkError, DiskError, disk_error
from bulkspider.folder import Folder, lstat_at, require_regular
from bulkspider.plan import PartState, Validators
from bulkspider.ranges import Ranges
from bulkspider.statefile import document_of, load_state, replace_state, restore

PART = ".part"
STATE = ".part.json"
OLD_PART = ".part.old"
OLD_STATE = ".part.old.json"

# After a kill -9 the page cache is intact: at most this much of a transfer is fetched again (DESIGN, "On disk").
WRITTEN_EVERY_BYTES = 8 * 1024 * 1024
# The design allows two seconds; a state costs a rename, which is nothing beside a second of transfer.
WRITTEN_EVERY_SECONDS = 1.0
# A slow transfer becomes durable too.
DURABLE_EVERY_SECONDS = 30.0
# Files from this size on leave the page cache when they are durable.
LEAVES_CACHE = 256 * 1024 * 1024
# Who begins a file of ours in this time (seconds) is found out when we make the part, or give the file its name.
MOMENT = 1.0
# Files of other downloaders that say "this one is full of holes".
CONTROL_FILES = (".aria2", ".st")


_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, fallocate(2)


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    """fallocate(2) itself: os.posix_fallocate writes zeros where the file system cannot reserve."""
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return cast("Callable[[int, int, int, int], int]", function)


_fallocate = _find_fallocate()


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that neither state nor ledger knows: an older tool's partial, or something else of that name.

    where: the file's name in its directory. usable: bytes up to its first hole, the most that may be taken over.
    """

    where: str
    size: int
    usable: int

    @property
    def is_part(self) -> bool:
        """It lies at `<name>.part`, not under the final name."""
        return self.where.endswith(PART)


class Leased(Protocol):
    """The right to touch a part, where several machines could (`queue/lease.py`)."""

    @property
    def valid(self) -> bool: ...


class Part:
    """The part of one entry. Open while an attempt or a finish needs it; keeps its knowledge in between."""

    def __init__(self, folder: Folder, name: str, key: str, *, checkpoint: int) -> None:
        self.folder = folder
        self.name = name
        self.key = key
        self.state = PartState()
        self.foreign: Foreign | None = None
        self.adopted = False
        self.url_changed = False
        self.details: dict[str, Any] = {}
        self.lease: Leased | None = None
        self._base = name.rpartition("/")[2]
        self._checkpoint = checkpoint
        self._durable = Ranges()
        self._dir_fd = -1
        self._fd = -1
        self._inode = 0
        self._known = False
        self._held = b""
        self._found_nothing_at = -math.inf
        self._may_leave_files = True
        self._lock = threading.RLock()
        self._saved_bytes = 0
        self._saved_at = time.monotonic()
        self._synced_bytes = 0
        self._synced_at = self._saved_at
        # One flush beside the transfers at a time; whoever waits for its end lets go of the lock.
        self._flushed = threading.Condition(self._lock)
        self._flushing = False
        self._flush_error: DiskError | None = None
        # Bytes from here on are read again soon, to be hashed (None: none are). Told by `download.py`.
        self.unread_from: Callable[[], int | None] = lambda: None
        self._old_size = 0
        self._reserved = 0
        self._has_holes = False

    # ------------------------------------------------------------------------------------------- opening, closing

    @property
    def path(self) -> Path:
        return self.folder.path(self.name + PART)

    @property
    def fd(self) -> int:
        """The open `.part`, made now if this is its first byte."""
        self._require_lease()
        with self._lock:
            if self._fd < 0:
                self._open_nothing()
                self._create()
            return self._fd

    @property
    def is_open(self) -> bool:
        return self._dir_fd >= 0

    def finds_nothing(self) -> bool:
        """True when neither the file nor a part of it lies on disk, now or a moment ago, as for most entries: the part
        need not be opened then before its first byte. Two quick looks; may be called in the reactor's thread."""
        with self._lock:
            if self.is_open or (self._known and self._inode != 0):
                return False
            now = time.monotonic()
            if now - self._found_nothing_at < MOMENT:
                return True
            if self.folder.lstat(self.name + PART) is not None or self.folder.lstat(self.name) is not None:
                return False
            if not self._known:
                self._known = True
                self.foreign = None
                self.state = PartState(restarts=self.state.restarts)
                self._may_leave_files = not self.folder.was_empty
            self._found_nothing_at = now
            return True

    def open(self) -> None:
        """Finds out what lies on disk. Raises DiskError when it is in the way or cannot be read."""
        with self._lock:
            self._require_lease()
            if self.is_open:
                return
            if self._held:
                self._open_nothing()
                return
            self._dir_fd = self.folder.open_dir(self.name)
            try:
                self._find()
            except OSError as error:
                self.close()
                raise disk_error(error, self.path) from error
            except BaseException:
                self.close()
                raise

    def _open_nothing(self) -> None:
        """Opens what was found to be nothing; `_create` sees to it that nobody has begun it in the meantime."""
        if not self.is_open:
            self._dir_fd = self.folder.open_dir(self.name)

    def close(self) -> None:
        """Closes the files; what is known stays known, and is checked against the disk when opened again."""
        with self._lock:
            self._await_flush()
            self._flush_error = None
            for fd in (self._fd, self._dir_fd):
                if fd >= 0:
                    # Delayed write errors were told by fdatasync, before anything was claimed (FAULTS 50).
                    with contextlib.suppress(OSError):
                        os.close(fd)
            self._fd = self._dir_fd = -1
            if self.adopted:
                self.adopted = self._known = False

    def rest(self, in_use: Callable[[], bool]) -> None:
        """An attempt has ended: writes the state and, unless another one uses the part, closes it."""
        with self._lock:
            if self.is_open:
                try:
                    self.save()
                finally:
                    if not in_use():
                        self.close()

    def expect_holes(self) -> None:
        """Several connections will write: from now on the part has a state, before its first byte behind a hole. Where
        a file system cannot tell holes from zeros, nothing else would."""
        with self._lock:
            self._has_holes = self.fd >= 0
            self.save()

    def _find(self) -> None:
        final = lstat_at(self._base, self._dir_fd)
        found = lstat_at(self._base + PART, self._dir_fd)
        require_regular(final, self.folder.path(self.name))
        require_regular(found, self.path)
        if self._known and (found is None) == (self._inode == 0) and (found is None or found.st_ino == self._inode):
            # Ours, as we left it a moment ago.
            if found is not None:
                self._open_part(found)
                self.state.have.clip(os.fstat(self._fd).st_size)
            return
        self._known = True
        self.foreign = None
        self.state = PartState(restarts=self.state.restarts)
        if found is not None:
            saved = load_state(self._base + STATE, self._dir_fd)
            self._open_part(found)
            ours = saved is not None and saved.get("key") == self.key
            if saved is not None and ours and "refuted" not in saved:
                self._durable = restore(self.state, saved, found.st_size)
                return
            if saved is not None and ours:
                # Whoever refuted it came no further.
                self._set_aside(saved["refuted"])
                found = None
            else:
                self.url_changed = saved is not None and "key" in saved
                self.foreign = Foreign(self._base + PART, found.st_size, self._usable(self._fd, found.st_size))
        if found is None and final is not None:
            fd = os.open(self._base, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir_fd)
            try:
                self.foreign = Foreign(self._base, final.st_size, self._usable(fd, final.st_size))
            finally:
                os.close(fd)

    def _usable(self, fd: int, size: int) -> int:
        if size == 0 or any(lstat_at(self._base + suffix, self._dir_fd) for suffix in CONTROL_FILES):
            return 0
        try:
            return min(size, os.lseek(fd, 0, os.SEEK_HOLE))
        except OSError:
            return size

    def _open_part(self, found: os.stat_result) -> None:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._base + PART, flags, dir_fd=self._dir_fd)
        self._inode = found.st_ino
        self._claim()

    def _create(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(self._base + PART, flags, 0o666, dir_fd=self._dir_fd)
        except FileExistsError:
            what = f"{self.path}: somebody else began it during the download"
            raise DiskError(what, code="part_replaced") from None
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._inode = os.fstat(self._fd).st_ino
        self._claim()
        if self._held:
            self._write_held()

    def _require_lease(self) -> None:
        """Before every change: raises BulkError when the part is somebody else's by now."""
        if self.lease is not None and not self.lease.valid:
            raise BulkError("its lease has ended; another worker goes on with it", code="lease_lost")

    @property
    def _is_ours(self) -> bool:
        return self.lease is None or self.lease.valid

    def _claim(self) -> None:
        """Two processes never write one part: flock, where the file system has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Under a lease the holder is one that has lost it: stopped perhaps, or cut off, and it writes no more.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES) and self.lease is None:
                raise DiskError(f"{self.path}: another process is writing this part", code="part_in_use") from error

    # ------------------------------------------------------------------------------------------------------ bytes

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Writes all of `data` at `offset`; the bytes count as there when this returns. Raises DiskError."""
        self._require_lease()
        view = memoryview(data)
        at = offset
        try:
            fd = self.fd
            while view:
                done = os.pwrite(fd, view, at)
                at += done
                view = view[done:]
        except OSError as error:
            self.record(offset, at)
            raise disk_error(error, self.path) from error
        self.record(offset, at)

    def hold(self, data: bytes) -> None:
        """Takes the whole object, a small one, that found nothing on disk. It is written when somebody asks for `fd`:
        in the thread that finishes it, all in one go. May be called in the reactor's thread."""
        with self._lock:
            self._held = data
            self.state.have.add(0, len(data))

    def _write_held(self) -> None:
        data, self._held = memoryview(self._held), b""
        at = 0
        try:
            while at < len(data):
                at += os.pwrite(self._fd, data[at:], at)
        except OSError as error:
            # Nothing is left of it, rather than a piece that the next run would have to compare.
            with contextlib.suppress(OSError):
                os.unlink(self._base + PART, dir_fd=self._dir_fd)
            self.state.have = Ranges()
            self._known = False
            self.close()
            raise disk_error(error, self.path) from error

    def record(self, first: int, end: int) -> None:
        """The bytes [first, end) have been written by whoever has `fd`; saves state and checkpoints when due.

        The flush to the disk goes on beside the transfer; whoever comes to the next one before it has ended, waits. So
        no more than two checkpoints' worth of a part is ever in memory alone. Raises DiskError, also for that flush.
        """
        self._require_lease()
        with self._lock:
            self.state.have.add(first, end)
            self._saved_bytes += end - first
            self._synced_bytes += end - first
            while self._flushing and self._is_due:
                self._flushed.wait()
            if self._is_due:
                self._raise_flush_error()
                self._flushing = True
                self._synced_bytes, self._synced_at = 0, time.monotonic()
                threading.Thread(target=self._flush_beside, name="bulk-flush").start()
            if self._saved_bytes >= WRITTEN_EVERY_BYTES or self.save_is_due:
                self._raise_flush_error()
                self.save()

    @property
    def until_saved(self) -> int:
        """Bytes that may be written before `record` must hear of them, so that the state is never too far behind."""
        return max(1, WRITTEN_EVERY_BYTES - self._saved_bytes)

    @property
    def _is_due(self) -> bool:
        """The next checkpoint."""
        return self._synced_bytes >= self._checkpoint or time.monotonic() - self._synced_at >= DURABLE_EVERY_SECONDS

    def _flush_beside(self) -> None:
        error = None
        try:
            self.checkpoint()
        except DiskError as refused:
            error = refused
        finally:
            with self._lock:
                self._flush_error = error
                self._flushing = False
                self._flushed.notify_all()

    def _await_flush(self) -> None:
        with self._lock:
            while self._flushing:
                self._flushed.wait()

    def _raise_flush_error(self) -> None:
        """The kernel tells of a lost write once, to one flush; nobody may claim later that all is well (FAULTS 50)."""
        if self._flush_error is not None:
            raise self._flush_error

    @property
    def save_is_due(self) -> bool:
        """Bytes have come that the state does not know, and no further ones to remind us of it."""
        return self._saved_bytes > 0 and time.monotonic() - self._saved_at >= WRITTEN_EVERY_SECONDS

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the part (or, before it is ours, of the foreign file) for a comparison. May be short at its end."""
        try:
            if self._fd >= 0:
                return _pread(self._fd, offset, length)
            if self.foreign is None:
                return b""
            fd = os.open(self.foreign.where, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir_fd)
            try:
                return _pread(fd, offset, length)
            finally:
                os.close(fd)
        except OSError as error:
            raise disk_error(error, self.path) from error

    # ------------------------------------------------------------------------------------------------------ state

    def checkpoint(self) -> None:
        """Makes what is written durable, then says so in the state. An error of the flush is a failure (FAULTS 50)."""
        with self._lock:
            have = self.state.have.copy()
            fd = self._fd
        if fd >= 0:
            try:
                os.fdatasync(fd)
            except OSError as error:
                raise disk_error(error, self.path) from error
            self._leave_cache(fd)
        with self._lock:
            self._durable = have
            self.save()

    def _leave_cache(self, fd: int) -> None:
        """A file of 10 GB must not drive everything else out of the machine's page cache: what is durable, and will
        not be read again to be hashed, may go; what is not yet on its way to the disk is sent off."""
        unread = self.unread_from()
        if unread != 0 and (self.state.total or 0) >= LEAVES_CACHE:
            with contextlib.suppress(OSError, AttributeError):
                os.posix_fadvise(fd, 0, unread or 0, os.POSIX_FADV_DONTNEED)

    def save(self) -> None:
        """Writes the state (`statefile.py`). Raises DiskError; then the old one is as it was."""
        with self._lock:
            self._saved_bytes, self._saved_at = 0, time.monotonic()
            if self._fd < 0 or self.adopted or not self._is_ours:
                return
            if not (self.state.have or self._has_holes):
                return
            document = {"name": self.name, "key": self.key, **self.details, **document_of(self.state, self._durable)}
            self._may_leave_files = True
            try:
                replace_state(self._base + STATE, self._dir_fd, document)
            except OSError as error:
                raise disk_error(error, self.folder.path(self.name + STATE)) from error
            self._drop_old_if_overtaken()

    # ---------------------------------------------------------------------------- restarts, foreign files, the end

    @property
    def refuted(self) -> bool:
        """These bytes are known to be wrong: nobody goes on from them."""
        return "refuted" in self.details

    def refute(self) -> None:
        """They are of two versions: nobody goes on from them, whatever happens before they are set aside."""
        with self._lock:
            self.details["refuted"] = {}
            self.save()

    def set_aside(self, refuted: Mapping[str, str] | None = None) -> None:
        """Begins the entry anew: the pair becomes `.part.old`, a foreign part `<name>.old`.

        refuted: the digests that proved these bytes wrong; such a part is kept to be looked at, never resumed.
        """
        self._require_lease()
        with self._lock:
            try:
                self._set_aside(refuted)
            except OSError as error:
                raise disk_error(error, self.path) from error

    def _set_aside(self, refuted: Mapping[str, str] | None) -> None:
        self._await_flush()
        if self.foreign is not None:
            self.refuse_foreign()
        elif self.adopted:
            # It stays under its name until ours is ready to take its place.
            os.close(self._fd)
            self._fd = -1
            self.adopted = False
        elif self._fd >= 0:
            if refuted is not None:
                self.details["refuted"] = dict(refuted)
            self.save()
            self._old_size = 0 if self.refuted else self.state.have.count
            self._may_leave_files = True
            self._rename(PART, OLD_PART)
            with contextlib.suppress(FileNotFoundError):
                self._rename(STATE, OLD_STATE)
            os.close(self._fd)
            self._fd = -1
        self._inode = self._reserved = 0
        self._has_holes = False
        self._held = b""
        self._durable = Ranges()
        self.details.pop("refuted", None)
        self.state = PartState(restarts=self.state.restarts, rung=self.state.rung)

    def take_over(self) -> None:
        """The foreign file was found equal to the origin's: it becomes our part, to be continued."""
        self._require_lease()
        with self._lock:
            foreign = self.foreign
            if foreign is None:
                return
            try:
                if not foreign.is_part:
                    os.rename(foreign.where, self._base + PART, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
                    found = os.stat(self._base + PART, dir_fd=self._dir_fd, follow_symlinks=False)
                    self._open_part(found)
            except OSError as error:
                raise disk_error(error, self.path) from error
            self.foreign = None
            self.state.have = Ranges([(0, foreign.usable)])
            self.save()

    def adopt(self) -> None:
        """The foreign file under the final name was found whole and equal: it stays as it is."""
        with self._lock:
            foreign, self.foreign = self.foreign, None
            if foreign is None:
                return
            try:
                self._fd = os.open(foreign.where, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir_fd)
            except OSError as error:
                raise disk_error(error, self.folder.path(self.name)) from error
            self.adopted = True
            self.state.have = Ranges([(0, foreign.size)])

    def refuse_foreign(self) -> None:
        """The foreign file is something else. A foreign part makes way now; one under the final name waits until
        our own file is ready to take its place (`finish.py`)."""
        self._require_lease()
        with self._lock:
            foreign, self.foreign = self.foreign, None
            if foreign is None or not foreign.is_part:
                return
            if self._fd >= 0:
                self._await_flush()
                os.close(self._fd)
                self._fd = -1
            self._inode = 0
            try:
                keep_aside(foreign.where, self._base, self._dir_fd)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._base + STATE, dir_fd=self._dir_fd)
            except OSError as error:
                raise disk_error(error, self.path) from error

    @property
    def is_at_rest(self) -> bool:
        """Nothing is open and nothing is set aside: `give_up` has nothing to do."""
        return not self.is_open and not self._old_size

    def give_up(self) -> None:
        """The entry has its outcome. If an older version's part holds more than this one ever got, it comes back."""
        with self._lock:
            if self._old_size > self.state.have.count and self._is_ours:
                with contextlib.suppress(OSError, DiskError):
                    self.open()
                    self._rename(OLD_PART, PART)
                    self._rename(OLD_STATE, STATE)
                self._known = False
            self._old_size = 0
            self.close()

    def _drop_old_if_overtaken(self) -> None:
        if self._old_size and self.state.have.count > self._old_size:
            self._old_size = 0
            self.drop_old()

    def drop_old(self) -> None:
        """Deletes what a restart set aside, in this run or an earlier one."""
        self._open_nothing()
        for suffix in (OLD_PART, OLD_STATE):
            with contextlib.suppress(OSError):
                os.unlink(self._base + suffix, dir_fd=self._dir_fd)

    def _rename(self, source: str, target: str) -> None:
        os.rename(self._base + source, self._base + target, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)

    def make_durable(self) -> None:
        """Flushes the part's bytes to the disk. Raises DiskError."""
        self._await_flush()
        self._raise_flush_error()
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._leave_cache(self.fd)

    def publish(self) -> os.stat_result:
        """Gives the part its final name; a foreign file there becomes `<name>.old`. Returns the file's stat.

        The caller has made the bytes durable, and flushes the directory afterwards (`directory`).
        """
        self._require_lease()
        with self._lock:
            try:
                now = lstat_at(self._base + PART, self._dir_fd)
                if now is None or now.st_ino != self._inode:
                    raise DiskError(
                        f"{self.path}: removed or replaced by somebody else during the download", code="part_replaced"
                    )
                final = lstat_at(self._base, self._dir_fd)
                require_regular(final, self.folder.path(self.name))
                if final is not None:
                    keep_aside(self._base, self._base, self._dir_fd)
                os.rename(self._base + PART, self._base, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
                return os.fstat(self._fd)
            except OSError as error:
                raise disk_error(error, self.folder.path(self.name)) from error

    @property
    def directory(self) -> int:
        return self._dir_fd

    @property
    def place(self) -> tuple[int, int]:
        """Equal for parts in one directory."""
        if self._base == self.name:
            return id(self.folder), 0
        found = os.fstat(self._dir_fd)
        return found.st_dev, found.st_ino

    def drop_state(self) -> None:
        """The entry is in the ledger: its state and what a restart set aside may go."""
        self._old_size = 0
        if not self._may_leave_files:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._base + STATE, dir_fd=self._dir_fd)
        self.drop_old()

    @property
    def unwritten(self) -> int:
        """Bytes for which the disk has yet to find room; 0 while the length is unknown."""
        if self.state.total is None:
            return 0
        # A foreign part takes its room already; should it be something else, room is asked for once more.
        foreign = self.foreign.usable if self.foreign is not None and self.foreign.is_part else 0
        return max(0, self.state.total - max(self.state.have.count, self._reserved, foreign))

    def preallocate(self) -> None:
        """Reserves room for the whole file where the file system can; never writes zeros (FAULTS 49). The file's size
        stays what was written."""
        total = self.state.total
        if total and self._reserved < total and _fallocate is not None:
            if _fallocate(self.fd, _KEEP_SIZE, 0, total) == 0:
                self._reserved = total
            elif ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT):
                raise disk_error(OSError(ctypes.get_errno(), ""), self.path)

    def learn(
        self, *, total: int | None = None, validators: Validators | None = None, source: str | None = None
    ) -> None:
        """Keeps what an accepted answer told of the object."""
        with self._lock:
            if total is not None:
                self.state.total = total
            if validators is not None and (validators.etag or validators.last_modified):
                self.state.validators = validators
            if source is not None:
                self.state.source = source


def keep_aside(name: str, base: str, dir_fd: int) -> None:
    """Renames a file that is not ours to `<base>.old`, or `.old.1`, … when that is taken: never deletes one."""
    target, number = f"{base}.old", 0
    while lstat_at(target, dir_fd) is not None:
        number += 1
        target = f"{base}.old.{number}"
    os.rename(name, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def _pread(fd: int, offset: int, length: int) -> bytes:
    pieces = []
    while length > 0:
        piece = os.pread(fd, length, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def bytes_held(path: str | os.PathLike[str]) -> tuple[int, bool]:
    """Bytes of the file `path` that its part holds, and whether they are somebody else's; touches nothing.

    For who only wants to know: what is trusted of them is found out when the part is opened.
    """
    for name in (f"{os.fspath(path)}{PART}", os.fspath(path)):
        try:
            size = os.lstat(name).st_size
        except OSError:
            continue
        try:
            saved = json.loads(Path(f"{os.fspath(path)}{STATE}").read_bytes())
            return Ranges(saved["written"]).count, False
        except (OSError, ValueError, KeyError, TypeError):
            holes = any(os.path.lexists(f"{os.fspath(path)}{suffix}") for suffix in CONTROL_FILES)
            return 0 if holes else size, True
    return 0, False
