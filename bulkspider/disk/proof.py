"""The proof: whether the bytes of a file are the right ones, by its hashes and its length.

An `IncrementalHasher` hashes the front of a file while it grows behind; `run/download.py` calls it from worker threads
during the transfer. `prove` judges a part before it gets its name, `prove_again` a finished file that was touched, and
`verify` each file of an output folder that is read again (`-a verify=1`) without a request: a file with an equal hash
is verified; with no known hash but the right size it is complete, flagged `size-only`; a different file is failed and
moved to `<name>.bad`; an absent one is failed `missing`. All of it runs in worker threads.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from crc32c import CRC32CHash

from bulkspider.disk.folder import Folder, open_ours
from bulkspider.disk.ledger import Ledger, LedgerLine, LineVerdict, judge_line
from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry
from bulkspider.errors import BulkError, DiskError, Kind, Stopped, disk_error
from bulkspider.items import HANDED_ON
from bulkspider.protocol.digests import (
    ALGORITHMS,
    CHECKSUM_ONLY,
    STATED_BY,
    WEAK_HASH,
    Claim,
    Weighed,
    can_compute,
    claims,
    weigh,
)

# Hashes

# Large enough that hashlib and crc32c release the GIL and that the system call is cheap compared with the hash; small
# enough to stay in the processor's cache while a second algorithm reads it. Up to 4 MiB were measured and not faster.
BUFFER_BYTES = 256 * 1024

# Buffers that are not in use now.
_idle_buffers: list[bytearray] = []


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Checksum:
    """A checksum that is computed by a function of the data and of its value so far. length: in bytes."""

    def __init__(self, function: Callable[[memoryview, int], int], value: int, length: int) -> None:
        self._function = function
        self._value = value
        self._digits = 2 * length

    def update(self, data: memoryview, /) -> None:
        if data:  # anycrc would begin anew with empty data
            self._value = self._function(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


def _new(algorithm: str) -> _Hash:
    if not can_compute(algorithm):
        raise ValueError(f"unknown hash algorithm {algorithm!r}")
    match algorithm:
        case "crc32c":
            return CRC32CHash()
        case "crc32":
            return _Checksum(zlib.crc32, 0, ALGORITHMS[algorithm])
        case "adler32":
            return _Checksum(zlib.adler32, 1, ALGORITHMS[algorithm])  # RFC 1950 §8.2: it begins with 1
        case "crc64nvme":
            from anycrc import Model

            return _Checksum(Model("CRC64-NVME").calc, 0, ALGORITHMS[algorithm])
    return hashlib.new(algorithm, usedforsecurity=False)  # md5 and sha1 also where policy forbids them for security


def _never() -> bool:
    return False


class IncrementalHasher:
    """Hashes a file from its beginning while the file is still growing.

    One thread at a time; different hashers run in parallel. A file that is begun anew needs a new one.
    hashed: how many bytes, from offset 0, are in the hashes.
    """

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashes = {algorithm: _new(algorithm) for algorithm in algorithms}
        self.hashed = 0

    def take(self, data: bytes) -> None:
        """Hashes the next bytes of the file, which are in memory."""
        for digest in self._hashes.values():
            digest.update(memoryview(data))
        self.hashed += len(data)

    def follow(self, fd: int, front: int, stop: Callable[[], bool] = _never) -> None:
        """Hashes the bytes from `hashed` up to offset `front`, which must all have been written.

        Returns early, without an error, when `stop()` is true (asked every 256 KiB); call again to go on.
        Raises DiskError: `file_changed` if the file ends before `front`, that of `disk_error` if it cannot be read.
        """
        try:
            buffer = _idle_buffers.pop()
        except IndexError:
            buffer = bytearray(BUFFER_BYTES)
        try:
            with memoryview(buffer) as view:
                while self.hashed < front and not stop():
                    count = self._read(fd, view[: front - self.hashed])
                    for digest in self._hashes.values():
                        digest.update(view[:count])
                    self.hashed += count
        finally:
            _idle_buffers.append(buffer)

    def _read(self, fd: int, into: memoryview) -> int:
        try:
            count = os.preadv(fd, [into], self.hashed)
        except OSError as error:
            raise disk_error(error, f"the file being hashed, at byte {self.hashed}") from error
        if not count:
            raise DiskError(f"the file was cut to {self.hashed} bytes while it was hashed", code="file_changed")
        return count

    def digests(self) -> dict[str, str]:
        """Algorithm -> lower-case hex of the first `hashed` bytes."""
        return {algorithm: digest.hexdigest() for algorithm, digest in self._hashes.items()}


def hash_file(fd: int, algorithms: Iterable[str], stop: Callable[[], bool] = _never) -> dict[str, str]:
    """Algorithm -> lower-case hex of the whole file.

    Raises Stopped when `stop()` was true first; DiskError `file_changed` when the file was written to meanwhile.
    """
    before = os.fstat(fd)
    hasher = IncrementalHasher(algorithms)
    hasher.follow(fd, before.st_size, stop)
    if hasher.hashed < before.st_size:
        raise Stopped
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise DiskError("the file was written to while it was hashed", code="file_changed")
    return hasher.digests()


# A part, before it gets its name


class Refuted(BulkError):
    """The bytes are not the file; the message says why.

    found: their hashes, if these were compared. may_pass: they may have been damaged on the way, so fetching them once
    more may help.
    """

    def __init__(
        self,
        message: str,
        found: Mapping[str, str] | None = None,
        *,
        code: str = "digest_mismatch",
        may_pass: bool = True,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message, code=code, http_status=http_status)
        self.found = dict(found or {})
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proven about the bytes of a part.

    status: verified, complete or unproven. digests: those that were computed. proof_by: who stated the hash that
    verifies them. flags: of its row. doubts: sentences on hashes of the server that differ and do not count.
    """

    status: str
    digests: Mapping[str, str]
    proof_by: str | None = None
    flags: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()


def prove(
    part: Part,
    *,
    total: int,
    expected: Iterable[Claim],
    length_proven: bool,
    hasher: IncrementalHasher | None,
    stop: Callable[[], bool],
    server: str = "require",
) -> Proof:
    """Hashes what is not hashed yet, and compares.

    expected: what is said of the file's hashes, and by whom. length_proven: `total` is known to be its length. hasher:
    None when nothing is to be hashed. server: BULK_SERVER_DIGEST. Raises Refuted, DiskError, or Stopped
    when the run stops first.
    """
    digests: dict[str, str] = {}
    if hasher is not None:
        if hasher.hashed < total:
            hasher.follow(part.fd, total, stop)
        if hasher.hashed < total:
            raise Stopped
        digests = hasher.digests()
    weighed = weigh(expected, digests, server=server)
    if weighed.refuted is not None:
        raise Refuted(weighed.refuted, digests)
    status = weighed.status or ("complete" if length_proven else "unproven")
    return Proof(status, digests, weighed.proof_by, weighed.flags, weighed.doubts)


def algorithms_for(expected: Iterable[str], policy: str) -> tuple[str, ...]:
    """The hashes to compute under BULK_DIGEST=`policy` when these algorithms are expected."""
    if policy == "off":
        return ()
    wanted = set(filter(can_compute, expected))
    if policy == "sha256":
        wanted.add("sha256")
    return tuple(algorithm for algorithm in ALGORITHMS if algorithm in wanted)


# The files of an output folder


def claims_of(entry: Entry, line: LedgerLine | None) -> list[Claim]:
    """The claims about the hashes of a finished file: those of the list, then those of the ledger for other
    algorithms."""
    stated = [Claim(entry.digest_by(algorithm), algorithm, digest) for algorithm, digest in entry.digests]
    own = {claim.algorithm for claim in stated}
    if line is not None:
        stated += [claim for claim in claims(line.proof_by, line.digests) if claim.algorithm not in own]
    return stated


def stated_now(entry: Entry, line: LedgerLine) -> LedgerLine:
    """The line of an unchanged file, with the proof that today's list gives: the hash that an earlier run computed may
    now be stated by a more trustworthy source."""
    weighed = weigh(claims_of(entry, None), line.digests)
    before = STATED_BY.index(line.proof_by) if line.proof_by else len(STATED_BY)
    if weighed.proof_by is None or STATED_BY.index(weighed.proof_by) >= before:
        return line
    if line.status == "verified" and line.proof_by is None:
        return line  # from a version that did not note who stated the hash
    return _verified_by(line, weighed)


def _verified_by(line: LedgerLine, weighed: Weighed) -> LedgerLine:
    flags = (set(line.flags) - {WEAK_HASH, CHECKSUM_ONLY}) | weighed.flags
    return replace(line, status="verified", proof_by=weighed.proof_by, flags=tuple(sorted(flags)))


def prove_again(
    folder: Folder, ledger: Ledger, line: LedgerLine, wanted: Sequence[Claim], stop: Callable[[], bool]
) -> LedgerLine | None:
    """Hashes a finished file that was touched, or for which the list now gives another hash. Returns the renewed ledger
    line when every wanted hash agrees, else None. Raises DiskError, or Stopped when the run stops first."""
    fd = _open_finished(folder, line.name)
    try:
        digests = hash_file(fd, algorithms_for([claim.algorithm for claim in wanted], "auto"), stop)
        found = os.fstat(fd)
    finally:
        os.close(fd)
    weighed = weigh(wanted, digests)
    if not digests or weighed.refuted is not None:
        return None
    renewed = replace(
        line,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        digests={**line.digests, **digests},
        time=time.time(),
    )
    if weighed.proof_by not in (None, line.proof_by):
        renewed = _verified_by(renewed, weighed)
    elif line.status == "unproven" and weighed.status == "complete":
        renewed = replace(renewed, status="complete", flags=tuple(sorted({*line.flags, *weighed.flags})))
    ledger.append([renewed])
    return renewed


def _open_finished(folder: Folder, name: str) -> int:
    """A descriptor of a finished file. Raises DiskError."""
    directory = folder.open_dir(name)
    try:
        return open_ours(name.rpartition("/")[2], os.O_RDONLY, dir_fd=directory, path=folder.path(name))
    finally:
        os.close(directory)


def add_sha256(folder: Folder, ledger: Ledger, line: LedgerLine, stop: Callable[[], bool]) -> LedgerLine:
    """Hashes a finished file whose line has no sha256; returns the line that is in the ledger then. Raises DiskError,
    or Stopped when the run stops first."""
    fd = _open_finished(folder, line.name)
    try:
        digests = hash_file(fd, ("sha256",), stop)
    finally:
        os.close(fd)
    hashed = replace(line, digests={**line.digests, **digests}, time=time.time())
    ledger.append([hashed])
    return hashed


SIZE_ONLY = "size-only"


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The result for the file of one entry. size: bytes on disk, None when nothing is there. proof_by: as in Proof."""

    status: str
    size: int | None = None
    proof_by: str | None = None
    flags: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    error: BulkError | None = None


def verify(entry: Entry, folder: Folder, ledger: Ledger, stop: Callable[[], bool]) -> VerifyResult:
    """Reads and judges the file of `entry`. A hash of the list counts before that of the ledger. Raises DiskError,
    Stopped."""
    line = ledger.find(entry.name)
    expected = claims_of(entry, line)
    size = entry.size if entry.size is not None or line is None else line.size
    if line is not None and line.is_elsewhere:
        judged = judge_line(line, key=entry.key, stat=None, size=entry.size, digests=dict(entry.digests))
        if judged is LineVerdict.PROVEN and folder.lstat(entry.name) is None:
            return VerifyResult(line.status, line.size, line.proof_by, (HANDED_ON,), dict(line.digests))
    if folder.lstat(entry.name) is None:
        # Checked before `open_dir`, which would make the folder.
        return VerifyResult("failed", error=BulkError("the file is not there; run without verify", code="missing"))
    directory = folder.open_dir(entry.name)
    try:
        return _verify_in(directory, entry, folder, ledger, line, expected, size, stop)
    finally:
        os.close(directory)


def _verify_in(
    directory: int,
    entry: Entry,
    folder: Folder,
    ledger: Ledger,
    line: LedgerLine | None,
    expected: Sequence[Claim],
    size: int | None,
    stop: Callable[[], bool],
) -> VerifyResult:
    base = entry.name.rpartition("/")[2]
    try:
        # Without O_NONBLOCK, opening a FIFO under this name would wait for ever.
        fd = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise disk_error(error, folder.path(entry.name)) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return VerifyResult("failed", error=BulkError("not a regular file; move it", code="not_regular"))
        weighed = Weighed()
        digests: dict[str, str] = {}
        sentence = None
        if size is not None and found.st_size != size:
            sentence = f"{found.st_size} bytes, expected {size}"
        elif algorithms := algorithms_for([claim.algorithm for claim in expected], "auto"):
            digests = hash_file(fd, algorithms, stop)
            weighed = weigh(expected, digests)
            sentence = weighed.refuted
        if sentence is not None:
            os.rename(base, f"{base}.bad", src_dir_fd=directory, dst_dir_fd=directory)
            why = f"{sentence}; moved to {entry.name}.bad, run without verify"
            # Unlike that of a download: the same list without verify fetches the file anew.
            differs = BulkError(why, code="digest_mismatch", kind=Kind.FINAL)
            return VerifyResult("failed", found.st_size, digests=digests, error=differs)
        if line is not None and (line.mtime_ns, line.size) != (found.st_mtime_ns, found.st_size):
            # Only its time has changed: the next run need not hash it again.
            ledger.append([replace(line, size=found.st_size, mtime_ns=found.st_mtime_ns, time=time.time())])
    except OSError as error:
        raise disk_error(error, folder.path(entry.name)) from error
    finally:
        os.close(fd)
    if not digests:
        return VerifyResult("complete" if size is not None else "unproven", found.st_size, flags=(SIZE_ONLY,))
    status, flags = weighed.status or "verified", weighed.flags
    if line is not None and line.status == "verified" and status == "complete":
        # It was verified when it was fetched: by the server, or by an older version for which a checksum was enough.
        status, flags = "verified", frozenset(line.flags)
    return VerifyResult(status, found.st_size, weighed.proof_by, tuple(sorted(flags)), digests)
