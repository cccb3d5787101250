"""BulkItem: the outcome of one entry. A run that ended by itself has one for each entry, failures included. Result: the
same for code that asked for one file, by a request with `meta["bulk"]`, a signal or `fetch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class BulkItem:
    """A row of the report. Sizes in bytes, times in seconds; URLs without secrets.

    line: line number in the list (0: not from a list). status: verified, complete, unproven, failed, interrupted.
    proof_by: who stated the hash that verifies it: signed-sums, list, sums, redirect or server; None of files that are
    not verified, and of those that an older version verified.
    already: an earlier run did it; nothing was fetched. flags: adopted, checksum-only, encoded,
    no-range, other-type, server-digest, size-only, touched, url-changed, weak-hash,
    handed-on.
    resumed_from: bytes on disk before this run that it went on from. attempts: requests made; broken: how many of them
    ended in an error. connections: most at once. checksums: algorithm -> hex.
    error: {code, message, http_status, permanent} of a failure. server_said: how the answer that caused it begins,
    when that is text. set_aside: why a file that was there before was kept as `.old`. extra: further columns or keys of
    the list.
    """

    line: int = 0
    name: str = ""
    url: str = ""
    final_url: str | None = None
    path: str | None = None
    status: str = ""
    proof_by: str | None = None
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
    server_said: str | None = None
    set_aside: str | None = None
    extra: dict[str, Any] | None = None

    def become(self, row: BulkItem) -> None:
        """Takes over all fields of another row."""
        for each in fields(self):
            setattr(self, each.name, getattr(row, each.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of one file: `response.meta["bulk"]["result"]` with types, and the argument of our signals.

    The fields are those of BulkItem. path: absolute, None where a file has no place because its request is wrong.
    """

    status: str
    proof_by: str | None
    path: str | None
    size: int | None
    sha256: str | None
    checksums: dict[str, str]
    flags: list[str]
    resumed_from: int
    bytes_received: int
    already: bool
    attempts: int
    etag: str | None
    last_modified: str | None
    error: dict[str, Any] | None

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Result:
        """From `response.meta`, or from `failure.request.meta` in an errback. Raises KeyError where no file was asked
        for."""
        result = meta["bulk"]["result"]
        return cls(**{key: result[key] for key in RESULT_KEYS})

    @classmethod
    def of(cls, item: BulkItem) -> Result:
        """From a row of the report."""
        return cls(**{key: deepcopy(getattr(item, key)) for key in RESULT_KEYS})

    @property
    def ok(self) -> bool:
        """The file is there, whole as far as that can be told: its status is verified, complete or unproven."""
        return self.status in FINISHED


RESULT_KEYS = tuple(each.name for each in fields(Result))
# The statuses of a file that has its final name.
FINISHED = ("verified", "complete", "unproven")
