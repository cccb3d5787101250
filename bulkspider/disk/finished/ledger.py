"""The ledger: append-only proof of what is done, one JSON line per finished entry (`line.py`).

`commit/` appends, many lines with one flush, and only after data, name and folder are durable. Each entry is looked
up here before a request is made for it, which makes a second run fast.

Every writer has a file of its own in `.bulkspider/`, `ledger.jsonl` or `ledger.<writer>.jsonl`; readers take them all.
For a name the last line of a file counts, and among files the line with the latest `time`. A line that was torn by a
crash or damaged by a disk is skipped and counted: it proves nothing, and its entry is compared again.

In memory a line is eight bytes: 26 bits of its name's hash and 38 bits of address, as if the files were one after the
other. They are sorted in 256 buckets (by the top bits of the hash), so a look-up is a bisection and one `pread`, a line
added later is one `insort` into a short array, and no line is parsed as JSON before its name is looked up.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat as stat_module
import threading
import time
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.opening import create_temporary, open_ours
from bulkspider.errors import DiskError, disk_error

ADDRESS_MASK = (1 << 38) - 1  # 256 GiB of ledgers, some 600 million lines
HASH_MASK = (
    (1 << 64) - 1 - ADDRESS_MASK
)  # 26 bits: with a million lines one look-up in 67 reads a line that is not its own
_BUCKETS = 256
_BUCKET_SHIFT = 56

_START = b'{"name": "'
_USUAL_LINE_BYTES = 1024  # most lines are shorter
_LONGEST_LINE_BYTES = 1024 * 1024
OPEN_FILES_MAX = 64  # a folder may hold the ledgers of a thousand shards


class Ledger:
    """All ledgers of one output folder, and the one among them that this process writes.

    folder: the `.bulkspider` folder. dir_fd: a descriptor of it, so that a folder put in its place is never used;
    without it the folder is opened when it is needed, and need not exist. writer: name of the shard or worker, part of
    a file name; None for a run that has the folder to itself. Two live processes must not have the same writer.
    damaged: lines skipped so far. `find` and `append` may be called from any thread, and `find` never waits for a
    flush.
    """

    def __init__(self, folder: str | os.PathLike[str], writer: str | None = None, *, dir_fd: int | None = None) -> None:
        self._folder = Path(folder)
        self._dir_fd = os.dup(dir_fd) if dir_fd is not None else -1
        self._own = self._folder / ("ledger.jsonl" if writer is None else f"ledger.{writer}.jsonl")
        self._paths = [self._own]  # our own is always the last, so that its addresses can grow
        self._bases = [0]  # address of each file's first byte
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        self._readers: dict[int, int] = {}  # position in _paths -> descriptor
        self._writer: int | None = None
        self._index_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self.damaged = 0

    def __len__(self) -> int:
        """Lines in the index, including those that a later line of the same name replaces."""
        return sum(map(len, self._buckets))

    # Reading

    def load(self) -> None:
        """Reads every ledger of the folder and makes the index anew, about 1 µs a line. Raises DiskError.

        May be called again, from any thread, to learn what others have written since.
        """
        with self._write_lock, self._index_lock:
            self._close_readers()
            self._load()

    def load_if_changed(self) -> None:
        """As `load`, if the files of other writers have changed since. Raises DiskError."""
        if self._sizes_of_others() != self._seen:
            self.load()

    def _sizes_of_others(self) -> dict[str, int]:
        sizes = {}
        with self._directory() as directory:
            for name in os.listdir(directory):
                if name.startswith("ledger") and name.endswith(".jsonl") and name != self._own.name:
                    with suppress(FileNotFoundError):
                        sizes[name] = os.stat(name, dir_fd=directory).st_size
        return sizes

    def _load(self) -> None:
        self.damaged = 0
        try:
            self._seen = self._sizes_of_others()
        except FileNotFoundError:
            self._seen = {}
        self._bases = []
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        end = 0
        try:
            names = {n for n in self._listing() if n.startswith("ledger") and n.endswith(".jsonl")}
            self._paths = [*(self._folder / name for name in sorted(names - {self._own.name})), self._own]
            for path in self._paths:
                self._bases.append(end)
                if path.name in names:
                    end = self._index(path, end)
        except OSError as error:
            raise disk_error(error, error.filename or self._folder) from error
        if end > ADDRESS_MASK:
            raise DiskError(f"the ledgers in {self._folder} are larger than 256 GiB", code="file_too_big")
        for position, bucket in enumerate(self._buckets):  # one by one: sorting makes an object of every number
            self._buckets[position] = array("Q", sorted(bucket))

    def _index(self, path: Path, address: int) -> int:
        """Adds the lines of one file; returns the address behind it."""
        add = [bucket.append for bucket in self._buckets]
        if path != self._own and not self._is_file_or_link(path):
            return address  # no ledger
        with open(self._open(path, os.O_RDONLY), "rb", buffering=1024 * 1024) as file:
            # A line without end is read in pieces: none of them is a line of ours.
            for line in iter(partial(file.readline, _LONGEST_LINE_BYTES), b""):
                raw = line[len(_START) : line.find(b'"', len(_START))]
                plain = line.startswith(_START) and line.endswith(b"}\n") and b"\\" not in raw
                name = raw if plain else self._odd_name(line)
                if name is not None:
                    bits = hash(name) & HASH_MASK
                    add[bits >> _BUCKET_SHIFT](bits | address)
                address += len(line)
        return address

    def _odd_name(self, line: bytes) -> bytes | None:
        """The name of a line that needs the real parser: escapes, or damage, which has no name."""
        if line == b"\n":
            return None
        try:
            if line.endswith(b"\n"):  # else it is torn, or another writer is just writing it
                return _encoded(LedgerLine.from_json(line).name)
        except ValueError:
            pass
        self.damaged += 1
        return None

    def find(self, name: str) -> LedgerLine | None:
        """The line that counts for a name, or None. Raises DiskError."""
        bits = hash(_encoded(name)) & HASH_MASK
        newest: dict[int, LedgerLine] = {}  # by file
        with self._index_lock:
            bucket = self._buckets[bits >> _BUCKET_SHIFT]
            first, behind = bisect_left(bucket, bits), bisect_right(bucket, bits | ADDRESS_MASK)
            for position in reversed(range(first, behind)):  # backwards: the last line of a file comes first
                address = bucket[position] & ADDRESS_MASK
                file = bisect_right(self._bases, address) - 1
                if file in newest:
                    continue
                line = self._line(file, address - self._bases[file])
                if line is None:
                    del bucket[position]
                    self.damaged += 1
                elif line.name == name:
                    newest[file] = line
        return max(newest.values(), key=lambda line: line.time, default=None)

    def lines(self) -> Iterator[LedgerLine]:
        """The line that counts for each name, in the order in which they were written; what is appended meanwhile may
        be missed. Raises DiskError."""
        there = self._listing()
        for file, base in enumerate(list(self._bases)):
            if self._paths[file].name not in there:
                continue
            fd, address = self._open(self._paths[file], os.O_RDONLY), base
            with open(fd, "rb", buffering=1024 * 1024) as stream:
                for raw in iter(partial(stream.readline, _LONGEST_LINE_BYTES), b""):
                    at, address = address, address + len(raw)
                    try:
                        line = LedgerLine.from_json(raw) if raw.endswith(b"\n") else None
                    except ValueError:
                        line = None
                    if line is not None and self._counts(line, at):
                        yield line

    def _counts(self, line: LedgerLine, address: int) -> bool:
        """The line at this address is the one that counts for its name."""
        bits = hash(_encoded(line.name)) & HASH_MASK
        with self._index_lock:
            bucket = self._buckets[bits >> _BUCKET_SHIFT]
            alone = bisect_right(bucket, bits | ADDRESS_MASK) - bisect_left(bucket, bits) == 1
            if alone:
                return bucket[bisect_left(bucket, bits)] == bits | address
        return self.find(line.name) == line

    def _line(self, file: int, offset: int) -> LedgerLine | None:
        length = _USUAL_LINE_BYTES
        try:
            if file not in self._readers:
                if len(self._readers) >= OPEN_FILES_MAX:
                    self._close_readers()
                self._readers[file] = self._open(self._paths[file], os.O_RDONLY)
            while b"\n" not in (data := os.pread(self._readers[file], length, offset)):
                if len(data) < length or length >= _LONGEST_LINE_BYTES:
                    return None
                length *= 4
        except OSError as error:
            raise disk_error(error, self._paths[file]) from error
        try:
            return LedgerLine.from_json(data[: data.index(b"\n")])
        except ValueError:
            return None

    # Writing

    def acknowledge(self, names: Sequence[str]) -> None:
        """The items of these files have come through the pipelines. Not flushed to the disk: after a power cut they
        come once more. Raises DiskError."""
        lines = [line for name in names if (line := self.find(name)) is not None and line.owed]
        self.append([replace(line, owed=False, time=time.time()) for line in lines], durable=False)

    def append(self, lines: Sequence[LedgerLine], *, durable: bool = True) -> None:
        """Writes all lines and flushes them to the disk, once for all. Raises DiskError; then none of them counts.
        durable=False: leaves the flush to the system."""
        if not lines:
            return
        encoded = [f"{line.to_json()}\n".encode() for line in lines]
        data = b"".join(encoded)
        with self._write_lock:
            try:
                end = self._write(data, durable=durable)
            except OSError as error:
                raise disk_error(error, self._own) from error
            address = self._bases[-1] + end - len(data)
            with self._index_lock:
                for line, written in zip(lines, encoded, strict=True):
                    bits = hash(_encoded(line.name)) & HASH_MASK
                    insort(self._buckets[bits >> _BUCKET_SHIFT], bits | address)
                    address += len(written)

    def _write(self, data: bytes, *, durable: bool) -> int:
        """Returns the length of the file afterwards."""
        if self._writer is None:
            self._writer = self._open(self._own, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            if os.fstat(self._writer).st_nlink > 1:
                self._separate()
        size = os.fstat(self._writer).st_size
        if size and os.pread(self._writer, 1, size - 1) != b"\n":
            data = b"\n" + data  # ends the line that a crash or a full disk tore, so that ours begins a new one
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(self._writer, remaining) :]
        if durable:
            os.fsync(self._writer)
        if not size:
            self._sync_folder()  # or a power cut could lose the new file as a whole
        return size + len(data)

    def _separate(self) -> None:
        """Our file has another name somewhere, perhaps in a snapshot made of hard links, which must not change: ours is
        replaced by a copy."""
        assert self._writer is not None
        with self._directory() as directory:
            fd, name = create_temporary(directory)
            try:
                with open(fd, "wb") as target, open(os.dup(self._writer), "rb") as source:
                    source.seek(0)
                    shutil.copyfileobj(source, target)
                    target.flush()
                    os.fsync(fd)
                os.rename(name, self._own.name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.unlink(name, dir_fd=directory)
                raise
        os.close(self._writer)
        self._writer = None
        self._writer = self._open(self._own, os.O_RDWR | os.O_APPEND)
        with self._index_lock:
            self._close_readers()
        self._sync_folder()

    def close(self) -> None:
        """Closes the files. The ledger stays usable: it opens again what it needs."""
        with self._write_lock, self._index_lock:
            self._close_readers()
            if self._writer is not None:
                os.close(self._writer)
                self._writer = None
            if self._dir_fd >= 0:
                os.close(self._dir_fd)
                self._dir_fd = -1

    def _close_readers(self) -> None:
        while self._readers:
            os.close(self._readers.popitem()[1])

    @contextmanager
    def _directory(self) -> Iterator[int]:
        """A descriptor of the folder."""
        if self._dir_fd >= 0:
            yield self._dir_fd
            return
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _listing(self) -> list[str]:
        try:
            with self._directory() as directory:
                return os.listdir(directory)
        except FileNotFoundError:
            return []

    def _open(self, path: Path, flags: int) -> int:
        with self._directory() as directory:
            return open_ours(path.name, flags, dir_fd=directory, path=path)

    def _is_file_or_link(self, path: Path) -> bool:
        with self._directory() as directory:
            mode = os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode
        return stat_module.S_ISREG(mode) or stat_module.S_ISLNK(mode)

    def _sync_folder(self) -> None:
        with self._directory() as directory:
            try:
                os.fsync(directory)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a file system that cannot flush folders
                    raise


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
