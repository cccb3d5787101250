"""A proven part on its way into the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Protocol

from msgspec import Struct, field

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.finished.proof import Proof
from bulkspider.disk.part import Part
from bulkspider.protocol.plan import http_date


class LineTaker(Protocol):
    """The ledger, or who takes its lines there."""

    def append(self, lines: Sequence[LedgerLine]) -> None:
        """Raises DiskError; then none of the lines counts."""


class CommitRequest(Struct):
    """A proven part on its way into the ledger.

    key: of the entry's URL. in_place: an adopted file, which keeps its name and bytes. mtime: the time of modification
    to give it, in seconds since 1970; None leaves it. url, etag, last_modified, owed: for the ledger line. done:
    receives that line.
    """

    part: Part
    ledger: LineTaker
    key: str
    proof: Proof
    in_place: bool = False
    mtime: float | None = None
    flags: tuple[str, ...] = ()
    url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    owed: bool = False
    done: Future[LedgerLine] = field(default_factory=Future)


def commit_request(
    part: Part, proof: Proof, ledger: LineTaker, *, flags: Iterable[str], url: str, remote_time: bool, owed: bool
) -> CommitRequest:
    """For a proven part. flags: of its row. url: redacted. remote_time: BULK_REMOTE_TIME."""
    validators = part.state.validators
    return CommitRequest(
        part=part,
        ledger=ledger,
        key=part.key,
        proof=proof,
        in_place=part.file.is_adopted,
        mtime=remote_time_of(validators.last_modified) if remote_time else None,
        flags=tuple(sorted(flags)),
        url=url,
        etag=validators.etag,
        last_modified=validators.last_modified,
        owed=owed,
    )


def remote_time_of(last_modified: str | None) -> float | None:
    """The time of modification that BULK_REMOTE_TIME gives to a file, seconds since the epoch; None where the server's
    is of no use: 1970 (servers that do not know it) or a time in the future, which confuses `make` and backups."""
    stated = http_date(last_modified)
    return stated if stated is not None and 0 < stated <= time.time() else None
