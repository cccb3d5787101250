"""The entries of a checked list, each origin's in order."""

from __future__ import annotations

import fnmatch
import heapq
from collections.abc import Collection, Iterator, KeysView
from contextlib import suppress

from msgspec import Struct

from bulkspider.entries.entry import Entry, EntryError
from bulkspider.errors import ListError
from bulkspider.lists.checking.check import Check
from bulkspider.lists.checking.copy import Copy
from bulkspider.lists.formats.choose import Reading
from bulkspider.lists.formats.row import as_json
from bulkspider.lists.source import Source
from bulkspider.options import plural


class Extent(Struct, frozen=True):
    """Which entries of a list a run does. path: the list's. match: a glob of their names, None for all. last_line: it
    does none behind this line, None where it does all."""

    path: str
    match: str | None = None
    last_line: int | None = None

    def takes(self, entry: Entry) -> bool:
        """True for an entry of this list that the run does."""
        if self.last_line is not None and entry.line > self.last_line:
            return False
        return self.match is None or fnmatch.fnmatchcase(entry.name, self.match)


class ListSource(Source):
    """The entries of a checked list, read from its copy.

    entries: how many there were to do in the beginning. duplicates: lines that repeat one of them. bad: the lines that
    became no entry (only with bad_lines="skip"). warnings: sentences for the start and the summary. known_bytes: sum of
    the sizes the list gives. unsized: entries without one. extent: which of the list's entries these are.

    Every origin has its next entry in a heap, by size if that is asked for, then by place in the list. Origins found
    blocked at the top are set aside and come back when they are free, so that a thousand busy origins at the head of a
    list are passed over once, and then cost a comparison of two sets; none at all while `blocked` is one and the same
    frozenset.
    """

    def __init__(self, copy: Copy, check: Check, title: str, reading: Reading, extent: Extent) -> None:
        self.title = title
        self.extent = extent
        self.reading = reading
        self.entries = self._left = len(check.index)
        self.known_bytes = check.index.known_bytes
        self.unsized = check.index.unsized
        self.duplicates = check.duplicates
        self.bad = check.bad
        self.warnings = check.warnings
        self.ignored = check.ignored
        self._copy = copy
        self._form = check.form
        self.origins = frozenset(check.index.queues)
        self._queues = {origin: queue for origin, queue in check.index.queues.items() if queue.at}
        self._heap = [(queue.place, queue) for queue in self._queues.values()]
        heapq.heapify(self._heap)
        self._aside: set[str] = set()
        self._blocked: Collection[str] = ()  # holds all that are set aside, as it was then

    @property
    def introduction(self) -> str:
        found = self.reading.title
        return f"{self.title}: {found}, {plural(self.entries, 'entry', 'entries')}" if found else ""

    @property
    def exhausted(self) -> bool:
        return not self._left

    @property
    def waiting(self) -> int:
        return self._left

    def lines_of(self, names: Collection[str]) -> tuple[bytes, Iterator[bytes]]:
        lines = self._copy.lines(0)
        heading = b""
        if self._form.columns is not None:
            heading = next(lines)[1].rstrip(b"\r") + b"\n"
        return heading, self._lines_of(lines, set(names))

    def _lines_of(self, lines: Iterator[tuple[int, bytes]], names: set[str]) -> Iterator[bytes]:
        """Those of a list that was made of another become JSON, without the number of a line that is not there."""
        for _, raw in lines:
            with suppress(EntryError):
                entry = self._form.read(raw, 1)
                if entry is not None and entry.name in names:
                    names.discard(entry.name)
                    yield (as_json(entry) if self._form.numbered else raw.rstrip(b"\r")) + b"\n"

    def origins_waiting(self) -> KeysView[str]:
        """The origins that have entries left; a live view, not to be iterated while entries are taken."""
        return self._queues.keys()

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        """The next entry in order whose origin is not in `blocked` (best a set), or None when there is none now.

        Raises ListError when somebody changed the copy of the list.
        """
        self._bring_back(blocked)
        heap = self._heap
        while heap:
            (_, at), queue = heap[0]
            if queue.origin in blocked:
                heapq.heappop(heap)
                self._aside.add(queue.origin)
                self._blocked = blocked
                continue
            entry = self._read(at, queue.lines[queue.taken])
            queue.taken += 1
            self._left -= 1
            if queue.taken < len(queue.at):
                heapq.heapreplace(heap, (queue.place, queue))
            else:
                heapq.heappop(heap)
                del self._queues[queue.origin]
            return entry
        return None

    def _bring_back(self, blocked: Collection[str]) -> None:
        """Puts origins that were set aside and are free again into the heap."""
        if not self._aside or (blocked is self._blocked and isinstance(blocked, (frozenset, tuple))):
            return  # what cannot change frees nobody
        self._blocked = blocked
        freed = self._aside.difference(blocked)
        self._aside -= freed
        for origin in freed:
            queue = self._queues[origin]
            heapq.heappush(self._heap, (queue.place, queue))

    def _read(self, at: int, line: int) -> Entry:
        try:
            entry = self._form.read(self._copy.line(at), line)
        except EntryError:
            entry = None
        if entry is None:
            raise ListError("the copy of the list in .bulkspider was changed during the run; start the run again")
        return entry

    async def end(self) -> None:
        self.close()

    def close(self) -> None:
        self._copy.close()
