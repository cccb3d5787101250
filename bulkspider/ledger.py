"""The ledger: append-only proof of what is done, one JSON line per finished entry.

Decides what a line is worth for an entry of today's list (`proves`); must not know where entries come from, how they
were fetched, or what follows. `finish.py` appends, many lines with one flush, and only after data, name and folder are
durable; the spider asks before it makes a request, which is what makes a second run instant.

Every writer has a file of its own in `.bulkspider/`, `ledger.jsonl` or `ledger.<writer>.jsonl`; readers take them all.
For a name the last line of a file counts, and among files the line with the latest `time`. A line that a crash tore
or a disk damaged is skipped and counted: it proves nothing, and its entry is only looked at again.

In memory a line is eight bytes: 26 bits of its name's hash and 38 bits of address, the files laid end to end. They
lie sorted in 256 buckets (by the top bits of the hash), so a look-up is a bisection and one `pread`, a line added
later is one `insort` into a short array, and nothing is parsed as JSON before somebody asks for it.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import stat as stat_module
import threading
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bulkspider.errors import DiskError, disk_error
from bulkspider.items import BulkItem

# A line

STATUSES = frozenset({"verified", "complete", "unproven"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """What is known of one finished entry.

    key: the comparable key of its URL. size: bytes. mtime_ns: of the finished file. digests: algorithm -> lower-case
    hex of the file. status: one of STATUSES. time: when the line was made, seconds since 1970. url: already redacted.
    """

    name: str
    key: str
    size: int
    mtime_ns: int
    digests: Mapping[str, str]
    status: str
    flags: tuple[str, ...] = ()
    time: float
    url: str | None = None
    etag: str | None = None
    last_modified: str | None = None

    def to_json(self) -> str:
        """One line, without its end. `name` comes first: the index is made without parsing the rest."""
        record = {key: value for key in _KEYS if (value := getattr(self, key)) is not None}
        record["digests"] = dict(self.digests)
        text = json.dumps(record, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # lone surrogates: how Python shows a file name that is not UTF-8
            return json.dumps(record)
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> LedgerLine:
        """Raises ValueError if the line is damaged. Unknown keys pass, so that a newer version may add some."""
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
        )
        if not sound:
            raise ValueError("not a ledger line: a value of the wrong kind")
        return line

    def describe(self, item: BulkItem) -> None:
        """Writes into the item what is proven."""
        item.status = self.status
        item.size = self.size
        item.flags = list(self.flags)
        item.checksums = dict(self.digests)
        item.sha256 = self.digests.get("sha256")
        item.etag = self.etag
        item.last_modified = self.last_modified


_KEYS = tuple(field.name for field in fields(LedgerLine))


# What a line proves


class Proof(enum.Enum):
    """What a ledger line says about an entry of today's list and the file that lies there."""

    PROVEN = "done, with the status of the line"
    KEY_DIFFERS = "the list has another URL now: the file is foreign"
    GONE = "no regular file of that size lies there"
    CONTRADICTED = "the list states another size or hash than the file has"
    STALE = "the file was touched since: hash it again"
    UNKNOWN_HASH = "the list states a hash that the line does not hold: hash the file"


def proves(line: LedgerLine, *, key: str, stat: os.stat_result, size: int | None, digests: Mapping[str, str]) -> Proof:
    """Judges a line. stat: of the name itself (`os.lstat`). key, size, digests: what the list says.

    The order matters: a touched file may have been replaced by the right one, so the line's hashes are held against the
    list only while the mtime vouches for them. A size needs no such witness.
    """
    if line.key != key:
        return Proof.KEY_DIFFERS
    if not stat_module.S_ISREG(stat.st_mode) or stat.st_size != line.size:
        return Proof.GONE
    if size is not None and size != line.size:
        return Proof.CONTRADICTED
    if stat.st_mtime_ns != line.mtime_ns:
        return Proof.STALE
    if any(line.digests.get(algorithm, digest).lower() != digest.lower() for algorithm, digest in digests.items()):
        return Proof.CONTRADICTED
    if not digests.keys() <= line.digests.keys():
        return Proof.UNKNOWN_HASH
    return Proof.PROVEN


# The files and their index

_ADDRESS = (1 << 38) - 1  # 256 GiB of ledgers, some 600 million lines
_HASH = (1 << 64) - 1 - _ADDRESS  # 26 bits: with a million lines one look-up in 67 reads a line that is not its own
_BUCKETS = 256
_BUCKET_SHIFT = 56

_START = b'{"name": "'
_USUAL = 1024  # bytes; most lines are shorter
_LONGEST = 1024 * 1024
_MOST_OPEN = 64  # a folder may hold the ledgers of a thousand shards


class Ledger:
    """All ledgers of one output folder, and the one among them that this process writes.

    folder: the `.bulkspider` folder. writer: the shard or worker, fit for a file name; None for a run that has the
    folder to itself. No two live processes may write as the same. damaged: lines skipped so far.
    `find` and `append` may be called from any thread, and `find` never waits for a flush.
    """

    def __init__(self, folder: str | os.PathLike[str], writer: str | None = None) -> None:
        self._folder = Path(folder)
        self._own = self._folder / ("ledger.jsonl" if writer is None else f"ledger.{writer}.jsonl")
        self._paths = [self._own]  # our own is always the last, so that its addresses can grow
        self._bases = [0]  # address of each file's first byte
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        self._readers: dict[int, int] = {}  # position in _paths -> descriptor
        self._writer: int | None = None
        self._index_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self.damaged = 0

    def __len__(self) -> int:
        """Lines in the index, superseded ones included."""
        return sum(map(len, self._buckets))

    # Reading

    def load(self) -> None:
        """Reads every ledger of the folder and makes the index anew, about 1 µs a line. Raises DiskError.

        May be called again, from any thread, to learn what others have written since.
        """
        with self._write_lock, self._index_lock:
            self._close_readers()
            self._load()

    def _load(self) -> None:
        self.damaged = 0
        self._bases = []
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        end = 0
        try:
            names = {n for n in _listing(self._folder) if n.startswith("ledger") and n.endswith(".jsonl")}
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
        with open(_open(path, os.O_RDONLY), "rb", buffering=1024 * 1024) as file:
            for line in file:
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
            if line.endswith(b"\n"):  # else it is torn, or another writer is at it just now
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

    def _line(self, file: int, offset: int) -> LedgerLine | None:
        length = _USUAL
        try:
            if file not in self._readers:
                if len(self._readers) >= _MOST_OPEN:
                    self._close_readers()
                self._readers[file] = _open(self._paths[file], os.O_RDONLY)
            while b"\n" not in (data := os.pread(self._readers[file], length, offset)):
                if len(data) < length or length >= _LONGEST:
                    return None
                length *= 4
        except OSError as error:
            raise disk_error(error, self._paths[file]) from error
        try:
            return LedgerLine.from_json(data[: data.index(b"\n")])
        except ValueError:
            return None

    # Writing

    def append(self, lines: Sequence[LedgerLine]) -> None:
        """Writes all lines and flushes them to the disk, once for all. Raises DiskError; then none of them counts."""
        if not lines:
            return
        encoded = [f"{line.to_json()}\n".encode() for line in lines]
        data = b"".join(encoded)
        with self._write_lock:
            try:
                end = self._write(data)
            except OSError as error:
                raise disk_error(error, self._own) from error
            address = self._bases[-1] + end - len(data)
            with self._index_lock:
                for line, written in zip(lines, encoded, strict=True):
                    bits = hash(_encoded(line.name)) & _HASH
                    insort(self._buckets[bits >> _BUCKET_SHIFT], bits | address)
                    address += len(written)

    def _write(self, data: bytes) -> int:
        """Returns the length of the file afterwards."""
        if self._writer is None:
            self._writer = _open(self._own, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        size = os.fstat(self._writer).st_size
        if size and os.pread(self._writer, 1, size - 1) != b"\n":
            data = b"\n" + data  # ends the line that a crash or a full disk tore, so that it spoils no other
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._writer, rest) :]
        os.fsync(self._writer)
        if not size:
            _sync_folder(self._folder)  # or a power cut could lose the new file as a whole
        return size + len(data)

    def close(self) -> None:
        """Closes the files. The ledger stays usable: it opens again what it needs."""
        with self._write_lock, self._index_lock:
            self._close_readers()
            if self._writer is not None:
                os.close(self._writer)
                self._writer = None

    def _close_readers(self) -> None:
        while self._readers:
            os.close(self._readers.popitem()[1])


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _open(path: Path, flags: int) -> int:
    # O_NONBLOCK means nothing to a file; a FIFO planted under this name would hang us for ever without it.
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such flush
            raise
    finally:
        os.close(descriptor)
