"""Hashing beside the transfer, and what the list and the server say the hash should be.

Decides what a hash field, a checksum file or a stretch of bytes *is*; not what follows from it. It must not know of
transfers, threads or names on disk: it is handed a file descriptor and how far the file is good. `download.py` calls a
`Follower` from worker threads while the bytes arrive; `finish.py` compares, and writes the result to the ledger.

What makes a file **verified**: at least one hash was stated, by the list or by the origin, and every hash that was
stated and computed agrees. All of ALGORITHMS count, crc32c and md5 too. A hash in the list is the user's own choice of
strength. A hash from the origin came over the same connection as the bytes, so it guards against damage and not
against a forger, and the shortest one here misses random damage once in four thousand million times.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import http_sf
from crc32c import CRC32CHash

from bulkspider.errors import DiskError, ListError, Problem, Stopped, disk_error

# Name -> length in bytes, the strongest first. The lengths differ, so that a bare hash tells its algorithm.
ALGORITHMS: Mapping[str, int] = {"sha512": 64, "sha256": 32, "sha1": 20, "md5": 16, "crc32c": 4}

# Large enough that hashlib and crc32c let go of the GIL and that a system call costs nothing beside the hash; small
# enough to stay in the processor's cache when a second algorithm reads it. Up to 4 MiB were tried and not faster.
BUFFER = 256 * 1024

# Buffers not in use. There are never more than there were threads hashing at once.
_idle: list[bytearray] = []


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def _new(algorithm: str) -> _Hash:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown hash algorithm {algorithm!r}")
    if algorithm == "crc32c":
        return CRC32CHash()
    return hashlib.new(algorithm, usedforsecurity=False)  # md5 and sha1 also where policy forbids them for security


def _never() -> bool:
    return False


class Follower:
    """Hashes the front of a file while the file grows behind it.

    One thread at a time; different followers run in parallel. A file that is started anew needs a new follower.
    hashed: how many bytes, from offset 0, are in the hashes.
    """

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashes = {algorithm: _new(algorithm) for algorithm in algorithms}
        self.hashed = 0

    def follow(self, fd: int, front: int, stop: Callable[[], bool] = _never) -> None:
        """Hashes the bytes from `hashed` up to offset `front`, which must all have been written.

        Comes back early, without an error, when `stop()` is true (asked every 256 KiB); call again to go on.
        Raises DiskError: `file_changed` if the file ends before `front`, that of `disk_error` if it cannot be read.
        """
        try:
            buffer = _idle.pop()
        except IndexError:
            buffer = bytearray(BUFFER)
        try:
            with memoryview(buffer) as view:
                while self.hashed < front and not stop():
                    count = self._read(fd, view[: front - self.hashed])
                    for digest in self._hashes.values():
                        digest.update(view[:count])
                    self.hashed += count
        finally:
            _idle.append(buffer)

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
    """Algorithm -> lower-case hex of the whole file, as `verify` and the proof of an old file need it.

    Raises Stopped when `stop()` was true first; DiskError `file_changed` when the file was written to meanwhile.
    """
    before = os.fstat(fd)
    follower = Follower(algorithms)
    follower.follow(fd, before.st_size, stop)
    if follower.hashed < before.st_size:
        raise Stopped
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise DiskError("the file was written to while it was hashed", code="file_changed")
    return follower.digests()


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """None if at least one algorithm is in both and all that are in both agree; else a sentence that tells why not."""
    common = [algorithm for algorithm in ALGORITHMS if algorithm in expected and algorithm in found]
    for algorithm in common:
        if expected[algorithm].lower() != found[algorithm].lower():
            return f"{algorithm} expected {expected[algorithm].lower()} found {found[algorithm].lower()}"
    if not common:
        return f"no hash in common: expected {', '.join(expected) or 'none'} found {', '.join(found) or 'none'}"
    return None


# What the server says


@dataclass(frozen=True, slots=True)
class ServerDigests:
    """Hashes that the server stated, algorithm -> lower-case hex.

    representation: of the whole object, also when only a range of it was sent (RFC 9530 §3).
    content: of the body of this one answer (RFC 9530 §2); of the whole object only if the answer was a 200.
    """

    representation: dict[str, str] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)


# Registered names of RFC 9530 §7.2 and of RFC 3230 §4.1.1. `id-sha-256` (RFC 5843), the hash before a content coding,
# is not here: the bytes on disk are those after it. `unixsum` and `adler` prove too little.
_NAMES = {"sha-512": "sha512", "sha-256": "sha256", "sha": "sha1", "sha-1": "sha1", "md5": "md5", "crc32c": "crc32c"}


_FIELDS = frozenset(["digest", "repr-digest", "content-digest", "content-md5", "x-goog-hash"])


def from_headers(headers: Mapping[str, str]) -> ServerDigests:
    """Reads every digest field. `headers`: lower-case names, values of repeated fields joined by `, `.

    What is malformed or unknown is left out and is never an error. Where two fields differ, the newer kind counts.
    """
    if _FIELDS.isdisjoint(headers):
        return ServerDigests()
    representation = _legacy(headers.get("digest", "")) | _structured(headers.get("repr-digest", ""))
    # Cloud Storage unpacks what was stored with gzip for a client that does not ask for gzip, and still states the hash
    # of the packed object. That one speaks of other bytes.
    stored = headers.get("x-goog-stored-content-encoding", "identity").strip().lower()
    if stored == headers.get("content-encoding", "identity").strip().lower():
        representation = _legacy(headers.get("x-goog-hash", "")) | representation
    md5 = _from_text("md5", headers.get("content-md5", ""))  # RFC 1864
    content = ({} if md5 is None else {"md5": md5}) | _structured(headers.get("content-digest", ""))
    return ServerDigests(representation, content)


def _structured(value: str) -> dict[str, str]:
    """Repr-Digest and Content-Digest: a Dictionary of Byte Sequences (RFC 9530 §2, RFC 9651 §3.2)."""
    try:
        members: Any = http_sf.parse(value.encode("ascii", "replace"), tltype="dictionary")
    except ValueError:
        return {}  # RFC 9651 §4.2: a field that does not parse is ignored as a whole
    found: dict[str, str] = {}
    for name, (member, _parameters) in members.items():
        algorithm = _NAMES.get(name)
        if algorithm is not None and isinstance(member, bytes) and len(member) == ALGORITHMS[algorithm]:
            found[algorithm] = member.hex()
    return found


def _legacy(value: str) -> dict[str, str]:
    """Digest (RFC 3230 §4.3.2) and x-goog-hash: `name=value, name=value`, names in any case."""
    found: dict[str, str] = {}
    for member in value.split(","):
        name, _, text = member.partition("=")
        algorithm = _NAMES.get(name.strip().lower())
        if algorithm is not None and (digest := _from_text(algorithm, text)) is not None:
            found.setdefault(algorithm, digest)
    return found


def _from_text(algorithm: str, text: str) -> str | None:
    """Hex of a base64 value, or of a hex value as some servers write it; the lengths tell them apart."""
    text = text.strip()
    length = ALGORITHMS[algorithm]
    if re.fullmatch(rf"[0-9A-Fa-f]{{{2 * length}}}", text):
        return text.lower()
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw.hex() if len(raw) == length else None


# What a SHA256SUMS or MD5SUMS file says

_GNU = re.compile(r"(?P<hash>[0-9A-Fa-f]{8,})(?:  | \*|[ \t]+)(?P<name>.+)")
_BSD = re.compile(r"(?P<tag>[A-Za-z0-9/-]+) ?\((?P<name>.+)\) ?= ?(?P<hash>[0-9A-Fa-f]+)")
_ESCAPE = re.compile(r"\\([\\nr])")
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}
_BY_DIGITS = {2 * length: algorithm for algorithm, length in ALGORITHMS.items()}
# Hashes as long as ours that are not ours; b2sum and b3sum write them in plain GNU lines.
_LOOKALIKE = re.compile(r"b2sum|b3sum|blake|sha3|shake|sm3")


def parse_sums(lines: Iterable[str], algorithm_hint: str | None, where: str) -> dict[str, tuple[str, str]]:
    """Name -> (algorithm, lower-case hex), the strongest one if a name has several.

    Understands what the GNU tools write (`HASH  name`, `HASH *name`, a leading backslash for escaped names) and the
    tagged lines of BSD and `openssl dgst`. Blank lines and `#` comments pass; a leading `./` is dropped.
    algorithm_hint: the file's name or an algorithm; where it says nothing, the length of each hash does.
    where: what the lines were read from, for messages. Raises ListError with every bad line, counted from 1.
    """
    hint = _plain((algorithm_hint or "").rpartition("/")[2])
    default = hint if _LOOKALIKE.search(hint) else next((a for a in ALGORITHMS if a in hint), "")
    sums: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    unknown: dict[str, Problem] = {}  # harmless if another line has a hash we know for the same name
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip("\ufeff").rstrip("\r\n")
        if not line.strip() or line.startswith("#"):
            continue
        escaped = line.startswith("\\")
        match = _GNU.fullmatch(line[escaped:]) or _BSD.fullmatch(line[escaped:])
        if match is None:
            problems.append(Problem(where, number, "not a checksum line", "write `HASH  name`, as sha256sum does"))
            continue
        name, digest, tag = match["name"], match["hash"].lower(), match.groupdict().get("tag")
        name = _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], name) if escaped else name
        name = name.removeprefix("./")
        algorithm = _plain(tag) if tag else default or _BY_DIGITS.get(len(digest), "")
        if algorithm not in ALGORITHMS:
            what = f"unknown kind of hash {tag or default or f'with {len(digest)} digits'}"
            unknown.setdefault(name, Problem(where, number, what, f"use one of {', '.join(ALGORITHMS)}"))
        elif _BY_DIGITS.get(len(digest)) != algorithm:
            what = f"a {algorithm} hash with {len(digest)} digits"
            problems.append(Problem(where, number, what, f"it must have {2 * ALGORITHMS[algorithm]}"))
        elif sums.setdefault(name, {}).setdefault(algorithm, digest) != digest:
            what = f"a second, different {algorithm} for {name!r}"
            problems.append(Problem(where, number, what, "keep the right one"))
    problems += [problem for name, problem in unknown.items() if name not in sums]
    if problems:
        raise ListError(f"the checksum file {where} cannot be used", sorted(problems, key=lambda problem: problem.line))
    return {name: next((a, found[a]) for a in ALGORITHMS if a in found) for name, found in sums.items()}


def _plain(text: str) -> str:
    """`SHA-256`, `SHA2-256` and `sha256` are one."""
    return re.sub(r"sha2(256|512)", r"sha\1", text.lower().replace("-", ""))
