"""BulkItem: what became of one entry. One per entry of a run that ended by itself, failures included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class BulkItem:
    """A row of the report. Sizes in bytes, times in seconds; URLs without secrets.

    line: line number in the list (0: not from a list). status: verified, complete, unproven, failed, interrupted.
    already: an earlier run did it; nothing was fetched. flags: adopted, encoded, size-only, no-range, url-changed.
    resumed_from: bytes that were on disk before this run. attempts: requests made; broken: how many of them
    ended in an error. connections: most at once. checksums: algorithm -> hex.
    error: {code, message, http_status, permanent} of a failure.
    """

    line: int = 0
    name: str = ""
    url: str = ""
    final_url: str | None = None
    path: str | None = None
    status: str = ""
    already: bool = False
    flags: list[str] = field(default_factory=list)
    size: int | None = None
    bytes_received: int = 0
    resumed_from: int = 0
    attempts: int = 0
    broken: int = 0
    connections: int = 0
    seconds: float = 0.0
    sha256: str | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    etag: str | None = None
    last_modified: str | None = None
    error: dict[str, Any] | None = None
