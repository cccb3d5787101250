"""Where the entries of a run come from, and where it is told what became of them.

A `Source` gives entries one by one; the spider asks it whenever a slot is free, and says which origins may not be given
now. It never waits in `take`: one that must ask somebody first answers None and wakes the spider later. The kinds are a
list or a shard of it (`ListSource`), made by `check_list` once the whole list was found good, and a queue that several
machines share (`queue/redisqueue.py`). The spider (`spiders/bulk.py`) does not know which it has.
"""

from __future__ import annotations

import fnmatch
import heapq
import os
import re
import tempfile
from collections.abc import Callable, Collection, KeysView, Sequence
from contextlib import suppress
from pathlib import Path

from bulkspider.aria2form import Aria2Form
from bulkspider.entry import Entry, EntryError
from bulkspider.errors import BulkError, ListError, UsageError
from bulkspider.listcheck import BadLine, Check
from bulkspider.listcopy import Copy, copy_list, read_lines, shown, write_lines
from bulkspider.shards import Shard
from bulkspider.sink import Part

__all__ = ["BadLine", "ListSource", "Source", "check_list", "folder_name"]


class Source:
    """Gives the entries of a run. What is not overridden is right for a source that nobody else takes from.

    title: how messages name it. entries: how many there are to do, as far as is known at the start. duplicates, bad,
    warnings, known_bytes, unsized: what the check of a list found. shared: others take from it too, and it takes back
    what this run cannot do.
    """

    title = ""
    entries = 0
    duplicates = 0
    bad: Sequence[BadLine] = ()
    warnings: Sequence[str] = ()
    known_bytes = 0
    unsized = 0
    shared = False

    @property
    def exhausted(self) -> bool:
        """True when no entry is left to take, now or later."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """Entries not taken yet that nobody but this run will take."""
        return 0

    @property
    def owed(self) -> int:
        """Entries that this run has to give an outcome."""
        return self.entries

    def take(self, blocked: Collection[str] = ()) -> Entry | None:
        """The next entry whose origin is not in `blocked`, or None when there is none now."""
        raise NotImplementedError

    # What a source is told. `begin` comes before the first `take`; for every entry taken, exactly one of `ended` and a
    # `take_back` that says True comes once.

    def begin(
        self,
        wake: Callable[[], None],
        lose: Callable[[str], None],
        forgive: Callable[[str], None],
        stop: Callable[[BulkError], None],
    ) -> None:
        """The run begins, in the reactor's thread. wake: to be called when `take` or `exhausted` may answer otherwise.
        lose: told the name of an entry that somebody else has now. forgive: told an origin that works elsewhere, so
        that it is tried again here some time. stop: ends the run. Raises UsageError."""

    def begun(self, entry: Entry, part: Part) -> None:
        """An attempt at an entry begins."""

    def taken_over(self, entry: Entry) -> bool:
        """Somebody else had the entry before, and may have done more for it than is known here."""
        return False

    def ended(self, entry: Entry, status: str, error: BulkError | None = None) -> None:
        """The entry has its outcome: one of the five statuses."""

    def take_back(self, entry: Entry, error: BulkError) -> bool:
        """The run cannot do the entry now. True: it goes to somebody else, or is given again later."""
        return False

    def may_connect(self, entry: Entry) -> bool:
        """May an entry under way have one more connection, beside its first? After False, `wake` may follow."""
        return True

    def connect(self, entry: Entry) -> None:
        """It has one more; `may_connect` has just said that it may."""

    def disconnect(self, entry: Entry) -> None:
        """A further connection of the entry has ended."""

    def origin_closed(self, origin: str, seconds: float) -> None:
        """The origin asked to be left alone for a while."""

    async def end(self) -> None:
        """The run has ended: gives back what the source holds."""


class ListSource(Source):
    """The entries of a checked list, read from its copy.

    entries: how many there were to do in the beginning. duplicates: lines that repeat one of them. bad: the lines that
    became no entry (only with bad_lines="skip"). warnings: sentences for the start and the summary. known_bytes: sum of
    the sizes the list gives. unsized: entries without one.

    Every origin has its next entry in a heap, by size if that is asked for, then by place in the list. Origins found
    blocked at the top are set aside and come back when they are free, so that a thousand busy origins at the head of a
    list are passed over once, and then cost a comparison of two sets; none at all while `blocked` is one and the same
    frozenset.
    """

    def __init__(self, copy: Copy, check: Check, title: str) -> None:
        self.title = title
        self.entries = self._left = len(check.index)
        self.known_bytes = check.index.known_bytes
        self.unsized = check.index.unsized
        self.duplicates = check.duplicates
        self.bad = check.bad
        self.warnings = check.warnings
        self._copy = copy
        self._form = check.form
        self._lanes = {origin: lane for origin, lane in check.index.lanes.items() if lane.at}
        self._heap = [(lane.place, lane) for lane in self._lanes.values()]
        heapq.heapify(self._heap)
        self._aside: set[str] = set()
        self._blocked: Collection[str] = ()  # holds all that are set aside, as it was then

    @property
    def exhausted(self) -> bool:
        return not self._left

    @property
    def waiting(self) -> int:
        return self._left

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
    folder: os.PathLike[str] | str,
    *,
    skip: int = 1,
    bad_lines: str = "stop",
    match: str | None = None,
    limit: int | None = None,
    order: str = "list",
    aria2: bool = False,
    root: str | None = None,
    rows: Sequence[bytes] | None = None,
    shard: Shard | None = None,
) -> ListSource:
    """Checks the whole list at `path` ('-' is stdin) and copies it to `<folder>/list`, or `list.<shard>`.

    skip: 1 ignores the first line, unless it is a header; 0 reads it. bad_lines: "stop" raises ListError with every bad
    line; "skip" leaves them in `bad`. match: a glob, case-sensitive, of the names to do. limit: the first so many of
    them. order: "list", or "smallest" or "largest" first. aria2: it is an input file of aria2 for the output folder
    `root`. rows: the list itself, in JSON Lines; `path` is only what messages call it. shard: only what belongs to it,
    which may be nothing. Raises ListError or UsageError before anything was begun; `<folder>/list` is then what it was.
    """
    if skip not in (0, 1):
        raise UsageError(f"skip={skip}: only 0 and 1 are possible")
    if bad_lines not in ("stop", "skip"):
        raise UsageError(f"bad_lines={bad_lines}: write stop or skip")
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: write 1 or more")
    check = Check(
        shown(path),
        json=aria2 or rows is not None or path.lower().endswith((".jsonl", ".jsonl.gz")),
        skip=skip,
        keep=_filter(match, shard),
        stop=bad_lines == "stop",
    )
    temporary, copy = "", None
    try:
        fd, temporary = tempfile.mkstemp(prefix="list.", dir=folder)  # mode 0600: lists hold signed URLs and headers
        copy = Copy(fd)
        if aria2:
            form = Aria2Form(check.note, root, shown(path))
            texts = write_lines(form.rows(read_lines(path)), fd)
        else:
            texts = copy_list(path, fd) if rows is None else write_lines([list(rows)], fd)
        for text in texts:
            check.feed(text)
        if aria2:
            check.warnings += form.warnings
        check.settle(copy, limit, shard)
        if check.bad and bad_lines == "stop":
            raise check.error()
        if not len(check.index) and not check.bad and (shard is None or not check.good):
            raise ListError(_nothing_to_do(check, shown(path), match))
        if order != "list" and check.index.known_bytes:
            check.index.arrange(order, copy, check.form)
        os.replace(temporary, Path(folder) / (f"list.{shard.writer}" if shard is not None else "list"))
    except BaseException as error:
        if copy is not None:
            copy.close()
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise UsageError(f"cannot copy the list into {os.fspath(folder)}: {error.strerror}") from None
        raise
    return ListSource(copy, check, shown(path) if shard is None else f"shard {shard} of {shown(path)}")


def _filter(match: str | None, shard: Shard | None) -> Callable[[str], object] | None:
    """Is true of the names to do; None: all."""
    matches = re.compile(fnmatch.translate(match)).match if match is not None else None
    if shard is None or shard.by != "entry":
        return matches
    if matches is None:
        return shard.takes
    return lambda name: matches(name) and shard.takes(name)


def _nothing_to_do(check: Check, where: str, match: str | None) -> str:
    if check.good:
        return f"{where}: no name in the list matches {match!r}; correct the glob"
    if check.warnings:
        return f"{where}: the list has no entry; {check.warnings[0]}"
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
