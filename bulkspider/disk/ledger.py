"""The ledger: append-only proof of what is done, one JSON line per finished entry.

`judge_line` decides whether a line proves an entry of today's list. `commit.py` appends, many lines with one flush, and
only after data, name and folder are durable. Each entry is looked up here before a request is made for it, which makes
a second run fast.

Every writer has a file of its own in `.bulkspider/`, `ledger.jsonl` or `ledger.<writer>.jsonl`; readers take them all.
For a name the last line of a file counts, and among files the line with the latest `time`. A line that was torn by a
crash or damaged by a disk is skipped and counted: it proves nothing, and its entry is compared again.

In memory a line is eight bytes: 26 bits of its name's hash and 38 bits of address, as if the files were one after the
other. They are sorted in 256 buckets (by the top bits of the hash), so a look-up is a bisection and one `pread`, a line
added later is one `insort` into a short array, and no line is parsed as JSON before its name is looked up.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import shutil
import stat as stat_module
import threading
import time
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from bulkspider.disk.folder import create_temporary, open_ours
from bulkspider.errors import DiskError, disk_error
from bulkspider.items import HANDED_ON, BulkItem
from bulkspider.protocol.digests import STATED_BY
from bulkspider.text import visible

# A line

STATUSES = frozenset({"verified", "complete", "unproven"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """What is known of one finished entry.

    key: the comparable key of its URL. size: bytes. mtime_ns: of the finished file. digests: algorithm -> lower-case
    hex of the file. status: one of STATUSES. proof_by: who stated the hash that verifies it (`protocol/digests.py`);
    None of others, and in lines of versions that did not note it. time: when the line was made, seconds since 1970.
    url: already redacted. owed: its item has not come through the item pipelines yet, and the next run must yield it
    again if this one is killed. handed_on: `begun` before the command of `--then` gets the file, then `done`, or
    `moved` if the command moves the file away; each change is a new line of the same name.
    """

    name: str
    key: str
    size: int
    mtime_ns: int
    digests: Mapping[str, str]
    status: str
    proof_by: str | None = None
    flags: tuple[str, ...] = ()
    time: float
    url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    owed: bool = False
    handed_on: str | None = None

    @property
    def is_elsewhere(self) -> bool:
        """The command of `--then` has moved the file away: it need not be there."""
        return self.handed_on == "moved"

    def to_json(self) -> str:
        """One line, without the newline. `name` comes first, so that the index is made without parsing the rest."""
        record = {key: value for key in _KEYS if (value := getattr(self, key)) is not None}
        record["digests"] = dict(self.digests)
        if not self.owed:
            del record["owed"]
        text = json.dumps(record, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # lone surrogates: how Python shows a file name that is not UTF-8
            return json.dumps(record)
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> LedgerLine:
        """Raises ValueError if the line is damaged. Unknown keys are ignored: a newer version may add some."""
        try:
            record = json.loads(text if isinstance(text, str) else str(text, "utf-8"))
            record["flags"] = tuple(record["flags"])
            line = cls(**{key: record[key] for key in _KEYS if key in record})
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a ledger line: {error!r}") from error
        sound = (
            type(line.name) is type(line.key) is type(line.status) is str
            and type(line.size) is type(line.mtime_ns) is int
            and type(line.time) in (int, float)
            and type(line.digests) is dict
            and line.status in STATUSES
            and line.proof_by in (None, *STATED_BY)
        )
        if not sound:
            raise ValueError("not a ledger line: a value of the wrong kind")
        return line

    def describe(self, item: BulkItem) -> None:
        """Writes into the item what is proven."""
        item.status = self.status
        item.proof_by = self.proof_by
        item.size = self.size
        item.flags = list(self.flags)
        if self.handed_on in ("done", "moved"):
            item.flags.append(HANDED_ON)
        item.checksums = dict(self.digests)
        item.sha256 = self.digests.get("sha256")
        item.etag = self.etag and visible(self.etag)
        item.last_modified = self.last_modified and visible(self.last_modified)


_KEYS = tuple(field.name for field in fields(LedgerLine))


# What a line proves


class LineVerdict(enum.Enum):
    """What a ledger line says about an entry of today's list and the file that is there."""

    PROVEN = "done, with the status of the line"
    KEY_DIFFERS = "the list has another URL now: the file is foreign"
    GONE = "no regular file of that size is there"
    CONTRADICTED = "the list states another size or hash than the file has"
    STALE = "the file was touched since: hash it again"
    UNKNOWN_HASH = "the list states a hash that the line does not hold: hash the file"


def judge_line(
    line: LedgerLine, *, key: str, stat: os.stat_result | None, size: int | None, digests: Mapping[str, str]
) -> LineVerdict:
    """Judges a line. stat: of the name itself (`os.lstat`), None when nothing is there. key, size, digests: what the
    list says.

    The order matters: a touched file may have been replaced by the right one, so the line's hashes are compared with
    the list only while the mtime is unchanged. A size can be compared in any case.
    """
    if line.key != key:
        return LineVerdict.KEY_DIFFERS
    if line.is_elsewhere:
        # A hash that only the list states cannot be checked any more: it does not count.
        told = {algorithm: line.digests.get(algorithm, digest) for algorithm, digest in digests.items()}
        same = size in (None, line.size) and all(told[name].lower() == digests[name].lower() for name in told)
        return LineVerdict.PROVEN if same else LineVerdict.CONTRADICTED
    if stat is None or not stat_module.S_ISREG(stat.st_mode) or stat.st_size != line.size:
        return LineVerdict.GONE
    if size is not None and size != line.size:
        return LineVerdict.CONTRADICTED
    if stat.st_mtime_ns != line.mtime_ns:
        return LineVerdict.STALE
    if any(line.digests.get(algorithm, digest).lower() != digest.lower() for algorithm, digest in digests.items()):
        return LineVerdict.CONTRADICTED
    if not digests.keys() <= line.digests.keys():
        return LineVerdict.UNKNOWN_HASH
    return LineVerdict.PROVEN


# The files of a folder and their index

_ADDRESS = (1 << 38) - 1  # 256 GiB of ledgers, some 600 million lines
_HASH = (1 << 64) - 1 - _ADDRESS  # 26 bits: with a million lines one look-up in 67 reads a line that is not its own
_BUCKETS = 256
_BUCKET_SHIFT = 56

_START = b'{"name": "'
_USUAL_LINE_BYTES = 1024  # most lines are shorter
_LONGEST_LINE_BYTES = 1024 * 1024
_MOST_OPEN_FILES = 64  # a folder may hold the ledgers of a thousand shards


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
        if end > _ADDRESS:
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
                    bits = hash(name) & _HASH
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
        bits = hash(_encoded(name)) & _HASH
        newest: dict[int, LedgerLine] = {}  # by file
        with self._index_lock:
            bucket = self._buckets[bits >> _BUCKET_SHIFT]
            first, behind = bisect_left(bucket, bits), bisect_right(bucket, bits | _ADDRESS)
            for position in reversed(range(first, behind)):  # backwards: the last line of a file comes first
                address = bucket[position] & _ADDRESS
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
        bits = hash(_encoded(line.name)) & _HASH
        with self._index_lock:
            bucket = self._buckets[bits >> _BUCKET_SHIFT]
            alone = bisect_right(bucket, bits | _ADDRESS) - bisect_left(bucket, bits) == 1
            if alone:
                return bucket[bisect_left(bucket, bits)] == bits | address
        return self.find(line.name) == line

    def _line(self, file: int, offset: int) -> LedgerLine | None:
        length = _USUAL_LINE_BYTES
        try:
            if file not in self._readers:
                if len(self._readers) >= _MOST_OPEN_FILES:
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
                    bits = hash(_encoded(line.name)) & _HASH
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
