"""Sources: give the entries of a run, and are told how each of them ended.

A `Source` gives entries one by one; the dispatcher asks whenever a place is free, and says which origins are blocked
now. `take` never waits: a source that has none yet returns None and wakes the dispatcher later. There are: a list or a
shard of it (`ListSource`, made by `check_list`), a queue that several machines share (`queue/worker.py`), and entries
from a program (`spiders/given.py`). The dispatcher treats all alike.
"""

from __future__ import annotations

import fnmatch
import heapq
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from bulkspider.disk.output.opening import create_temporary
from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry, EntryError
from bulkspider.errors import BulkError, ListError, UsageError
from bulkspider.lists.check import SKIP_OPTION, BadLine, Check, Ignored
from bulkspider.lists.copy import Copy, copy_blocks, shown, write_lines
from bulkspider.lists.formats.choose import Opened, Reading
from bulkspider.lists.formats.row import as_json, as_lines, batches
from bulkspider.lists.shards import Shard
from bulkspider.options import plural

__all__ = ["BadLine", "Ignored", "ListSource", "Source", "check_list", "folder_name"]


class Taker(Protocol):
    """The taker of the entries (`dispatch/dispatcher.py`), as the source sees it."""

    def wake(self) -> None:
        """`take` or `exhausted` may give another answer now."""

    def lose(self, name: str) -> None:
        """Another worker has the entry of this name now."""

    def forgive(self, origin: str) -> None:
        """An origin was left to other workers for a while: it must be tried again here."""

    def hurry(self, seconds: float) -> None:
        """Other workers exist: an origin that cannot be reached from here is given up after `seconds`; inf: there are
        none."""

    def stop(self, error: BulkError) -> None:
        """The run ends."""

    def refuse(self, number: int, name: str, error: BulkError) -> None:
        """Entry `number` is not valid, and counts as a failed entry."""


class Source:
    """Gives the entries of a run. The defaults here fit a source that is not shared.

    title: how messages name it. ignored: the entry in the first line of a list, which was ignored as always. entries:
    how many there are to do, as far as is known at the start. duplicates, bad, warnings, known_bytes, unsized: what the
    check of a list found. reading: how the list is read, its format found. origins: all that the list names, as far
    as that is known. given_up: entries that others gave up for good, where their exit status is this run's as well.
    shared: others take from it too, and it takes back what this run cannot do. grows: how many entries there are is
    known only when all are read.
    """

    title = ""
    reading = Reading("list")
    entries = 0
    duplicates = 0
    bad: Sequence[BadLine] = ()
    warnings: Sequence[str] = ()
    ignored: Ignored | None = None
    known_bytes = 0
    unsized = 0
    given_up = 0
    origins: Collection[str] = ()
    shared = False
    grows = False

    @property
    def introduction(self) -> str:
        """What kind of list it is and how many entries it has, empty for one in our own form."""
        return ""

    def lines_of(self, names: Collection[str]) -> tuple[bytes, Iterator[bytes]]:
        """The heading of the list, empty if it is none that says anything, and its lines of these names, each with its
        newline."""
        return b"", iter(())

    @property
    def exhausted(self) -> bool:
        """True when no entry is left to take, now or later."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """Entries that are not taken yet, and that only this run will take."""
        return 0

    @property
    def owed(self) -> int:
        """Entries that this run has to give an outcome."""
        return self.entries

    def has_room(self, places: int, per_host: int) -> None:
        """`places` entries could begin now, at most `per_host` of one host."""

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        """The next entry whose origin is not in `blocked`, or None when there is none now."""
        raise NotImplementedError

    # What a source is told. `begin` comes before the first `take`; for every entry taken, exactly one call of `ended`,
    # or of a `take_back` that returns True, comes.

    def begin(self, taker: Taker) -> None:
        """The run begins, in the reactor's thread. Raises UsageError."""

    def begun(self, entry: Entry, part: Part) -> None:
        """An attempt at an entry begins."""

    def taken_over(self, entry: Entry) -> bool:
        """Another worker had the entry before, and may have fetched more of it than is known here."""
        return False

    def ended(self, entry: Entry, status: str, error: BulkError | None = None) -> None:
        """The entry has its outcome: one of the five statuses."""

    def take_back(self, entry: Entry, error: BulkError) -> bool:
        """The run cannot do the entry now. True: it goes to another worker, or is given again later."""
        return False

    def may_connect(self, entry: Entry) -> bool:
        """May an entry under way have one more connection, beside its first? After False, `wake` may follow."""
        return True

    def connect(self, entry: Entry) -> None:
        """It has one more; `may_connect` has just said that it may."""

    def disconnect(self, entry: Entry) -> None:
        """A further connection of the entry has ended."""

    def origin_closed(self, origin: str, seconds: float) -> None:
        """The origin asked not to be asked for `seconds`."""

    async def end(self) -> None:
        """The run has ended: gives back what the source holds."""


@dataclass(frozen=True, slots=True)
class Extent:
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
        self.origins = frozenset(check.index.lanes)
        self._lanes = {origin: lane for origin, lane in check.index.lanes.items() if lane.at}
        self._heap = [(lane.place, lane) for lane in self._lanes.values()]
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
        return self._lanes.keys()

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        """The next entry in order whose origin is not in `blocked` (best a set), or None when there is none now.

        Raises ListError when somebody changed the copy of the list.
        """
        self._bring_back(blocked)
        heap = self._heap
        while heap:
            (_, at), lane = heap[0]
            if lane.origin in blocked:
                heapq.heappop(heap)
                self._aside.add(lane.origin)
                self._blocked = blocked
                continue
            entry = self._read(at, lane.lines[lane.taken])
            lane.taken += 1
            self._left -= 1
            if lane.taken < len(lane.at):
                heapq.heapreplace(heap, (lane.place, lane))
            else:
                heapq.heappop(heap)
                del self._lanes[lane.origin]
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
            lane = self._lanes[origin]
            heapq.heappush(self._heap, (lane.place, lane))

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


def check_list(
    path: str,
    folder: os.PathLike[str] | str | int,
    writer: str | None = None,
    *,
    skip: int = 1,
    bad_lines: str = "stop",
    match: str | None = None,
    limit: int | None = None,
    order: str = "list",
    reading: Reading = Reading(),
    root: str | None = None,
    rows: Iterable[bytes] | None = None,
    shard: Shard | None = None,
    names: Collection[str] | None = None,
    skip_option: str = SKIP_OPTION,
    check_name: Callable[[str], bool] | None = None,
) -> ListSource:
    """Checks the whole list at `path` ('-' is stdin) and copies it to `<folder>/list`, or `list.<writer>`.

    folder: its path, or an open descriptor of it. writer: whose copy it is among others, also without it that of a
    shard.
    skip: 1 ignores the first line, unless it is a header; 0 reads it. bad_lines: "stop" raises ListError with every bad
    line; "skip" leaves them in `bad`. match: a glob, case-sensitive, of the names to do. limit: the first so many of
    them. order: "list", or "smallest" or "largest" first. reading: how it is read. root: the output folder. rows: the
    list itself, in JSON Lines, read once; `path` is only what messages call it. shard: only what belongs to it,
    which may be nothing. names: only these. skip_option: how a user asks for skip=0. check_name: is given every name to
    do, and raises UsageError for one that does not fit. Raises ListError or UsageError before anything was begun;
    `<folder>/list` is then what it was.
    """
    if skip not in (0, 1):
        raise UsageError(f"skip={skip}: only 0 and 1 are possible")
    if bad_lines not in ("stop", "skip"):
        raise UsageError(f"bad_lines={bad_lines}: write stop or skip")
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: write 1 or more")
    opened = Opened(Reading("list"), path, iter(())) if rows is not None else reading.look(path)
    reading = opened.reading
    check = Check(
        shown(opened.path),
        numbered=reading.format != "list",
        naming=reading.naming,
        json=rows is not None or path.lower().endswith((".jsonl", ".jsonl.gz")),
        skip=skip,
        keep=_filter(match, shard, names, check_name),
        stop=bad_lines == "stop",
        skip_option=skip_option,
    )
    temporary, copy, directory = "", None, -1
    try:
        directory = os.dup(folder) if isinstance(folder, int) else os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fd, temporary = create_temporary(directory, 0o600)  # lists hold signed URLs and headers
        copy = Copy(fd)
        form = opened.format(check.note, root)
        if form is not None:
            for made in as_lines(form.rows(opened.blocks), reading.naming):
                check.feed(write_lines(made.lines, fd), made.rows)
        elif rows is not None:
            for lines in batches(rows):
                check.feed(write_lines(lines, fd))
        else:
            for text in copy_blocks(opened.blocks, shown(path), fd):
                check.feed(text)
        if form is not None:
            check.warnings += form.warnings
        elif reading.base is not None:
            check.warnings.append(f"{shown(path)}: {_BASE_UNUSED}")
        check.settle(copy, limit, shard)
        if check.bad and bad_lines == "stop":
            raise check.error()
        if not len(check.index) and not check.bad and (shard is None or not check.good):
            raise ListError(_nothing_to_do(check, shown(path), match, reading, names is not None))
        if order != "list" and check.index.known_bytes:
            check.index.arrange(order, copy, check.form)
        writer = writer or (shard.writer if shard is not None else None)
        name = "list" if writer is None else f"list.{writer}"
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException as error:
        if copy is not None:
            copy.close()
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        if isinstance(error, OSError):
            where = ".bulkspider" if isinstance(folder, int) else os.fspath(folder)
            raise UsageError(f"cannot copy the list to {where}/list: {error.strerror}") from None
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    last = None
    if limit is not None:
        last = max((max(lane.lines) for lane in check.index.lanes.values() if lane.lines), default=0)
    extent = Extent(os.path.abspath(path), match, last)
    title = shown(path) if shard is None else f"shard {shard} of {shown(path)}"
    return ListSource(copy, check, title, reading, extent)


def _filter(
    match: str | None,
    shard: Shard | None,
    names: Collection[str] | None,
    check_name: Callable[[str], bool] | None,
) -> Callable[[str], object] | None:
    """Is true of the names to do; None: all."""
    tests: list[Callable[[str], object]] = []
    if names is not None:
        tests.append(names.__contains__)
    if match is not None:
        tests.append(re.compile(fnmatch.translate(match)).match)
    if shard is not None and shard.by == "entry":
        tests.append(shard.takes)
    if check_name is not None:
        tests.append(check_name)  # last: of names that are not to do it is not asked
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda name: all(test(name) for test in tests)


_BASE_UNUSED = "base= changes nothing of a list in our own form; --format urls and --format paths read relative entries"


def _nothing_to_do(check: Check, where: str, match: str | None, reading: Reading, of_names: bool) -> str:
    if check.good and of_names:
        return f"{where}: no entry of the list is among those that failed last time"
    if check.good:
        return f"{where}: no name in the list matches {match!r}; correct the glob"
    if reading.title:
        more = f"; {check.warnings[0]}" if check.warnings else ""
        return f"{where}: {reading.title} without a file{more}"
    if check.warnings:
        return f"{where}: the list has no entry; {check.ignored or check.warnings[0]}"
    return f"{where}: the list has no entry; write one per line, NAME and URL, below a first line that is ignored"


def folder_name(path: str) -> str:
    """The name of the output folder of a list: its file name without .gz and .txt, .csv, .tsv or .jsonl."""
    if path == "-":
        return "stdin"
    name = os.path.basename(path.rstrip("/"))
    for suffixes in ((".gz",), (".txt", ".csv", ".tsv", ".jsonl")):
        for suffix in suffixes:
            if name.lower().endswith(suffix):
                name = name[: -len(suffix)]
                break
    return name if name.strip(". ") else "list"
