"""Checks a whole list before the first byte is fetched: finds every bad line, indexes every entry.

A `Check` is fed the lines once, while they are copied. It decides the form of the list, reads every line, remembers
where each good entry is in the copy (by origin, a few bytes each) and what is wrong with the bad ones. Then it judges
equal names: a repeated line counts once, two files for one name are an error of the later line. It opens no file;
`listsource.py` makes the source of a run from its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct

from bulkspider.entries.entry import EntryError
from bulkspider.entries.mistakes import document
from bulkspider.entries.names import BY_LAST_PART, Naming, fold, show
from bulkspider.errors import ListError, Problem
from bulkspider.lists.checking.collisions import BUCKETS, Collisions, Hashes, key_of
from bulkspider.lists.checking.copy import Copy
from bulkspider.lists.checking.index import Index, OriginQueue
from bulkspider.lists.checking.plain import folder_fits, key_of_plain, keys_of, site_fits
from bulkspider.lists.checking.reader import BOM, Form, PlainRow
from bulkspider.lists.checking.shards import Shard
from bulkspider.options import plural

SHOWN_MAX = 50
SKIP_OPTION = "-a skip=0"
GIVE_UP = 1000  # with so many bad lines the file is probably no list


class BadLine(Struct, frozen=True):
    """A line that is no entry: the problem, and the name of the entry when the line told it."""

    problem: Problem
    name: str | None = None

    @property
    def line(self) -> int:
        return self.problem.line


class Ignored(Struct, frozen=True):
    """The first line of a list is always ignored; this one was an entry. option: what reads it, as a user types it."""

    where: str
    name: str
    option: str

    def __str__(self) -> str:
        what = f"line 1 of {self.where} was IGNORED, as the first line of a list always is, but it is an entry"
        return f"{what}: {show(self.name, 200)} is not in this run; {self.option} reads it"


class Check:
    """Reads a list once. where: how messages name it. json: its name says that it is JSON Lines. numbered: it is, made
    of another list, and its rows tell their lines there. naming: names URLs without a name.

    skip: lines to ignore at the start (0 or 1). keep: is true of the names of the entries to do. stop: a bad line means
    that nothing is begun; else it is noted and the rest goes on. skip_option: how a user asks for skip=0. inputs: the
    folded names that no entry may have -> the file that it would replace. ignored: the entry in the first line that was
    ignored. After `settle`: index, duplicates, bad and warnings are final, and `good` is the number of lines that are
    entries, wanted or not.
    """

    def __init__(
        self,
        where: str,
        *,
        json: bool,
        numbered: bool = False,
        naming: Naming = BY_LAST_PART,
        skip: int,
        keep: Callable[[str], object] | None,
        stop: bool,
        skip_option: str = SKIP_OPTION,
        inputs: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.form = Form(json=json, numbered=numbered, naming=naming)
        self.index = Index()
        self.warnings: list[str] = []
        self.ignored: Ignored | None = None
        self.bad: list[BadLine] = []
        self.duplicates = 0
        self.good = 0
        self._where = where
        self._skip = skip
        self._skip_option = skip_option
        self._keep = keep
        self._stop = stop
        self._inputs = inputs
        self._input_keys = frozenset(name.encode() for name in inputs)
        self._formed = False
        self._hashes = Hashes()
        self._sites: dict[bytes, OriginQueue] = {}
        self._number = 0  # lines read so far
        self._at = 0  # offset of the next line
        self._first = (0, 0)  # offset of the first line that counts, and the number of lines before it

    def feed(self, text: bytes, rows: Iterable[PlainRow] | None = None) -> None:
        """Reads the next lines, each with its newline. rows: what `Form.rows` would give, where it is known. A million
        plain ones pass here in a second or two, hence the flat loop."""
        if not self._formed:
            text = self._begin(text)
        put, keep, inputs = self._hashes.put, self._keep, self._input_keys
        number, at, known, unsized = self._number, self._at, 0, 0
        last_folder = last_site = b""  # of the line before, which mostly has the same ones
        numbered = self.form.numbered
        for line, name, folder, mark, site, size, other in self.form.rows(text) if rows is None else rows:
            number += 1
            begin = at
            at += len(line or other) + 1
            if not line:
                self._read(other, number, begin)
                continue
            key = name.lower() if name.isascii() else key_of_plain(name)
            if key is None or key in inputs:
                self._read(line, number, begin)
                continue
            if folder != last_folder or site != last_site:
                queue = self._queue_of(site)
                if queue is None or not self._takes(folder):
                    self._read(line, number, begin)
                    continue
                last_folder, last_site = folder, site
                put_at, put_line = queue.at.append, queue.lines.append
            hashed = hash(key)
            put[hashed & (BUCKETS - 1)](hashed)
            if keep is not None and not keep(name.decode()):
                continue
            put_at(begin)
            put_line(int(mark) if numbered else number)
            if size:
                known += int(size)
            else:
                unsized += 1
        self._number, self._at = number, at
        self.index.known_bytes += known
        self.index.unsized += unsized

    def _queue_of(self, site: bytes) -> OriginQueue | None:
        """The queue for the entries of a site; None when the site must be checked by the full parser."""
        queue = self._sites.get(site)
        if queue is None and site_fits(site):
            queue = self._sites[site] = self.index.queue_of(site.decode())
        return queue

    def _takes(self, folder: bytes) -> bool:
        """Remembers a folder; False when it must be checked by the full parser."""
        if folder:
            key = key_of_plain(folder) if folder_fits(folder) else None
            if key is None:
                return False
            self._hashes.add_folders(key)
        return True

    def _begin(self, text: bytes) -> bytes:
        """Finds the form of the list in its first lines; gives the lines that are left to read."""
        place = 0
        if self._at == 0 and text.startswith(BOM):
            place = self._at = len(BOM)
        while place < len(text) and not self._formed:
            end = text.index(b"\n", place)
            raw = text[place:end]
            first = raw.lstrip()[:1]
            if self.form.numbered:
                self._formed = True
                break
            if first in (b"{", b"[", b"<") and (error := document(raw.decode(errors="replace"))) is not None:
                raise ListError(f"{self._where}: it is no list", [self._bad_line(self._number + 1, error).problem])
            if self._number == 0 and first != b"{" and not self.form.json and self._is_first(raw):
                self._formed = first not in (b"", b"#")
            elif first not in (b"", b"#"):
                if first == b"{" or self.form.json:
                    self.form = Form(json=True, keys=keys_of(raw), naming=self.form.naming)
                self._formed = True
                self._first = (self._at, self._number)
                break
            self._number += 1
            self._at += len(raw) + 1
            self._first = (self._at, self._number)
            place = end + 1
        return text[place:]

    def _is_first(self, raw: bytes) -> bool:
        """True when line 1 is no entry: it is a header, or ignored because of `skip`."""
        try:
            header = Form.of_header(raw, self.form.naming)
        except EntryError as error:
            raise ListError(f"{self._where}: the header does not fit", [self._bad_line(1, error).problem]) from None
        if header is not None:
            self.form = header
            return True
        if not self._skip:
            return False
        try:
            entry = self.form.read(raw, 1)
        except EntryError:
            return True
        if entry is not None:
            self.ignored = Ignored(self._where, entry.name, self._skip_option)
            self.warnings.append(str(self.ignored))
        return True

    def _read(self, raw: bytes, number: int, at: int) -> None:
        try:
            entry = self.form.read(raw, number)
        except EntryError as error:
            self.note(self.form.line_of(raw, number), error)
            return
        if entry is None:
            return
        self._hashes.add(key_of(entry.name))
        if self._keep is not None and not self._keep(entry.name):
            return
        if (file := self._inputs.get(fold(entry.name))) is not None:
            what = f"name {show(entry.name)} would take the place of {file}, which this run reads"
            self.note(entry.line, EntryError(what, "rename it, or choose another output folder", entry.name))
            return
        self.index.add(entry, at)

    def _bad_line(self, number: int, error: EntryError) -> BadLine:
        return BadLine(Problem(self._where, number, error.what, error.cure), error.name)

    def note(self, number: int, error: EntryError) -> None:
        """Line `number` is no entry."""
        if self._stop or self._keep is None or error.name is None or self._keep(error.name):
            self.bad.append(self._bad_line(number, error))
        if self._stop and len(self.bad) >= GIVE_UP:
            raise self.error(f"more than {GIVE_UP - 1} bad lines")

    def error(self, count: str = "") -> ListError:
        """What stops a list with bad lines: the first of them are shown."""
        problems = sorted((bad.problem for bad in self.bad), key=lambda problem: problem.line)
        count = count or f"{len(self.bad)} bad line{'s' if len(self.bad) > 1 else ''}"
        which = f"; the first {SHOWN_MAX}:" if len(self.bad) > SHOWN_MAX else ":"
        error = ListError(f"{self._where}: {count}, so nothing was begun{which}", problems[:SHOWN_MAX])
        error.problems = tuple(problems)
        return error

    def settle(self, copy: Copy, limit: int | None, shard: Shard | None = None) -> None:
        """Judges equal names, and keeps the first `limit` entries that are left, or those of the shard."""
        met = self._hashes.met()
        self.good = len(self._hashes)
        self._hashes = Hashes()
        if len(met):
            first = ""
            for entry, at, verdict in Collisions(met, self.form, copy).verdicts(*self._first):
                dropped = self.index.drop(entry, at)
                if isinstance(verdict, EntryError):
                    self.note(entry.line, verdict)
                elif dropped:
                    self.duplicates += 1
                    first = first or f"line {entry.line} repeats line {verdict}"
            self.index.sweep()
            if self.duplicates:
                which = plural(self.duplicates, "line repeats", "lines repeat")
                what = f"{which} an earlier one (same name and URL), which is taken once"
                self.warnings.append(f"{self._where}: {what}; the first: {first}")
        if shard is not None:
            if shard.by != "entry":
                self.index.share(shard, copy, self.form)
            if not self._stop:
                by_name = shard.by == "entry"  # `keep` has chosen among those that have one
                self.bad = [bad for bad in self.bad if (by_name and bad.name) or shard.takes_line(bad.line)]
        if limit is not None:
            self.index.cut(limit, copy, self.form)
        self.bad.sort(key=lambda bad: bad.line)
