"""The rows of a push: entries as they lie in the queue, the largest first, however many they are.

They are written to temporary files, sorted there some at a time, and merged, so that a list of millions takes no more
memory than a short one.
"""

from __future__ import annotations

import heapq
import json
import marshal
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import IO

from bulkspider.entries.entry import Entry, origin_of, url_key

# Rows that are sorted in memory, and that are read at once while such runs are merged.
SORTED_ROWS = 20_000
READ_ROWS = 200

# origin, name, the entry as it lies in the queue, key of its URL.
Row = tuple[str, str, str, str]

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Rows:
    """All rows of these entries, from `with` on; read from the disk each time that they are asked for."""

    def __init__(self, entries: Iterable[Entry], priority: int = 0) -> None:
        self._count = 0
        self._sorted = True
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="bulkqueue-")  # noqa: SIM115
        self._runs: list[tuple[int, int]] = []  # where each begins, and how many rows it has
        try:
            self._write(iter(entries), priority)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Rows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        """In any order."""
        return (row for place, count in self._runs for _, row in self._read(place, count))

    def largest_first(self) -> Iterator[Row]:
        """As far as sizes are known; the order of the list among equals."""
        if self._sorted:
            return iter(self)
        runs = [self._read(place, count) for place, count in self._runs]
        return (row for _, row in heapq.merge(*runs, key=_smaller))

    def _write(self, entries: Iterator[Entry], priority: int) -> None:
        last = None
        while run := [(-(entry.size or 0), _row(entry, priority)) for entry in islice(entries, SORTED_ROWS)]:
            run.sort(key=_smaller)
            self._sorted = self._sorted and (last is None or last <= run[0][0])
            last = run[-1][0]
            self._runs.append((self._file.tell(), len(run)))
            self._count += len(run)
            for start in range(0, len(run), READ_ROWS):
                marshal.dump(run[start : start + READ_ROWS], self._file)

    def _read(self, place: int, count: int) -> Iterator[tuple[int, Row]]:
        while count:
            self._file.seek(place)
            piece = marshal.load(self._file)
            place = self._file.tell()
            count -= len(piece)
            yield from piece


def _smaller(sized: tuple[int, Row]) -> int:
    return sized[0]


def _row(entry: Entry, priority: int) -> Row:
    origin, key = origin_of(entry.url), url_key(entry.url)
    return origin, entry.name, f"{key} {priority} {origin} {_encode(entry.to_meta())}", key
