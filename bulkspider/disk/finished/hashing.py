"""Hashes of files. An `IncrementalHasher` hashes the front of a file while it grows behind; `run/download.py` calls it
from worker threads during the transfer.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable
from typing import Protocol

from bulkspider.errors import DiskError, Stopped, disk_error
from bulkspider.protocol.digests import (
    ALGORITHMS,
    can_compute,
)

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
            # Only here: its import takes as long as a hundred small files.
            from crc32c import CRC32CHash

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


def algorithms_for(expected: Iterable[str], policy: str) -> tuple[str, ...]:
    """The hashes to compute under BULK_DIGEST=`policy` when these algorithms are expected."""
    if policy == "off":
        return ()
    wanted = set(filter(can_compute, expected))
    if policy == "sha256":
        wanted.add("sha256")
    return tuple(algorithm for algorithm in ALGORITHMS if algorithm in wanted)
