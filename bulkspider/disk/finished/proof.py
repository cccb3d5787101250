"""The proof: whether the bytes of a file are the right ones, by its hashes and its length.

`prove` judges a part before it gets its name; `prove_again` a finished file that was touched, or for which the list now
states another hash. Both run in worker threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bulkspider.disk.finished.hashing import IncrementalHasher, algorithms_for, hash_file
from bulkspider.disk.folder.opening import open_ours
from bulkspider.errors import BulkError, Stopped
from bulkspider.protocol.digests import (
    CHECKSUM_ONLY,
    STATED_BY,
    WEAK_HASH,
    Claim,
    Weighed,
    claims,
    weigh,
)

if TYPE_CHECKING:
    from bulkspider.disk.finished.ledger import Ledger
    from bulkspider.disk.finished.line import LedgerLine
    from bulkspider.disk.folder.folder import Folder
    from bulkspider.disk.part import Part
    from bulkspider.entries.entry import Entry


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


class Proof(Struct, frozen=True):
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
