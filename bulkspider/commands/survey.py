"""The survey: the result of a dry run, and the exit status that follows. Pure.

Every entry is reported to it once (done, answered, refused, not asked). It computes whether the disk has room for all,
and the exit status that a run would have now, as far as that can be known. `commands/dryrun.py` makes the requests;
`commands/startup.py` prints the lines.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

from bulkspider.codes import cure
from bulkspider.entries.entry import Entry, origin_of, redact
from bulkspider.errors import BulkError
from bulkspider.options import human

SHOWN_MAX = 50
HOSTS_MAX = 20
# The text for hosts with several files that need a log-in.
LOCKED = {
    "html": "a page in the place of each (to log in?)",
    "http_401": "only with a password or a token",
}


class Host(Struct):
    """The entries of one origin. asks: what it is known to ask for (hosts/profiles.py)."""

    entries: int = 0
    to_fetch: int = 0
    unsized: int = 0
    without_ranges: int = 0
    empty: int = 0
    in_pieces: int = 0
    asks: str = ""


class ProbableFailure(Struct):
    """Why an entry would fail."""

    line: int
    name: str
    error: BulkError
    site: str = ""


class Survey(Struct):
    """where: how messages name the list. entries: of the list. numbered: its lines have numbers that people know.

    free: bytes of room in `root`. ignored: what to say of a first line that is an entry. obstacles: why a run would
    not even begin. hashed: entries whose hash is known.
    """

    where: str
    root: str
    entries: int
    numbered: bool = True
    free: int | None = None
    ignored: object = None
    obstacles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hosts: dict[str, Host] = field(default_factory=dict)
    hashed: int = 0
    _done: int = 0
    _done_bytes: int = 0
    _held: int = 0
    _foreign: int = 0
    _rehashed: int = 0
    _answered: int = 0
    _refused: int = 0
    _failed: Counter[bool] = field(default_factory=Counter)
    _problems: list[ProbableFailure] = field(default_factory=list)
    _silent: Counter[tuple[str, str]] = field(default_factory=Counter)
    _locked: Counter[tuple[str, str]] = field(default_factory=Counter)

    # -- what is told ----------------------------------------------------------------------------------------------

    def is_done(self, size: int) -> None:
        """The ledger proves the entry."""
        self._done += 1
        self._done_bytes += size

    def is_hashed_first(self) -> None:
        """It counts as done, but only its hash can show that: a run would hash it first."""
        self._rehashed += 1

    def has_answered(
        self,
        entry: Entry,
        origin: str,
        size: int | None,
        ranges: bool | None,
        *,
        held: int,
        foreign: bool,
        in_pieces: bool = False,
        asks: str = "",
    ) -> None:
        """origin: the one that would give it. size: bytes, None if unknown. ranges: a download could be resumed; None
        for an empty file. held: bytes of it on disk. foreign: they are somebody else's, and would be compared first.
        in_pieces: the origin refuses to give it as a whole. asks: what the origin asks for."""
        self._answered += 1
        host = self.hosts.setdefault(origin, Host())
        host.entries += 1
        host.empty += ranges is None
        host.without_ranges += ranges is False
        host.in_pieces += in_pieces
        host.asks = asks
        size = size if size is not None else entry.size
        if size is None:
            host.unsized += 1
        else:
            held = min(held, size)
            host.to_fetch += size - held
        self._held += held
        self._foreign += foreign

    def has_failed(self, entry: Entry, error: BulkError) -> None:
        """The entry would probably fail."""
        self._refused += 1
        site = origin_of(entry.url)
        if error.code in LOCKED:
            self._locked[site, LOCKED[error.code]] += 1
        self._note(ProbableFailure(entry.line, entry.name, error, site))

    def would_fail_too(self, entry: Entry, error: BulkError) -> None:
        """It was not asked for, since its origin does not answer."""
        self._refused += 1
        self._failed[error.permanent] += 1
        self._silent[origin_of(entry.url), error.message] += 1

    def has_bad_line(self, line: int, error: BulkError) -> None:
        """A bad line of a list that is read all the same (bad_lines=skip)."""
        self._note(ProbableFailure(line, "", error))

    def _note(self, problem: ProbableFailure) -> None:
        self._failed[problem.error.permanent] += 1
        if len(self._problems) < SHOWN_MAX:
            self._problems.append(problem)

    # -- what follows ----------------------------------------------------------------------------------------------

    @property
    def to_fetch(self) -> int:
        return sum(host.to_fetch for host in self.hosts.values())

    @property
    def unsized(self) -> int:
        return sum(host.unsized for host in self.hosts.values())

    @property
    def lacking(self) -> int:
        """Bytes for which there is no room."""
        return max(0, self.to_fetch - self.free) if self.free is not None else 0

    @property
    def left(self) -> int:
        """Entries that were not asked for because the dry run was stopped."""
        return self.entries - self._done - self._answered - self._refused

    @property
    def exit_status(self) -> int:
        """The exit status that a run would have: 1 it would not begin, 3 there are errors that may be temporary, 4 only
        permanent ones, 0 none."""
        if self.obstacles:
            return 1
        if self._failed[False] or self.lacking or self.left:
            return 3
        return 4 if self._failed[True] else 0

    def lines(self) -> list[str]:
        """For a person."""
        lines = [] if self.ignored is None else [str(self.ignored)]
        lines.append(f"{self.where}: {self._count()}")
        lines += [f"to fetch: {self._amount()}", f"room in {self.root}: {self._room()}"]
        lines.append(f"hashes to compare with: {'none' if not self.hashed else f'for {self.hashed:,}'}")
        if self._foreign:
            lines.append(f"begun by another tool, and compared with the server first: {self._foreign:,}")
        if self._rehashed:
            lines.append(f"done, but changed since or listed with a new hash, and hashed first: {self._rehashed:,}")
        lines += self._of_hosts()
        lines += [f"note: {note}" for note in self.notes]
        lines += self._of_problems()
        lines += self.obstacles
        if self.left and not self.obstacles:
            return [*lines, "dry run, nothing was written: stopped before all was asked"]
        return [*lines, _verdict(self.exit_status)]

    def _count(self) -> str:
        counts = {
            "to fetch": self._answered,
            "done already": self._done,
            "would fail": self._failed.total(),
            "not asked": self.left,
        }
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"{self.entries:,} {'entry' if self.entries == 1 else 'entries'}: {told}"

    def _amount(self) -> str:
        told = human(self.to_fetch) if self._answered else "nothing"
        if self.unsized:
            told += f" and {_files(self.unsized)} of a size that the server does not tell"
        if self._held or self._done_bytes:
            told += f"; {human(self._held + self._done_bytes)} more are on disk already"
        return told

    def _room(self) -> str:
        if self.free is None:
            return "unknown"
        told = f"{human(self.free)} free"
        return f"{told}, {human(self.lacking)} TOO LITTLE" if self.lacking else told

    def _of_hosts(self) -> list[str]:
        rows = sorted(self.hosts.items(), key=lambda item: -item[1].to_fetch)
        lines = []
        for origin, host in rows[:HOSTS_MAX]:
            told = f"  {_site(origin)}: {_files(host.entries)}, {human(host.to_fetch)}"
            if host.without_ranges:
                which = (
                    "" if host.without_ranges + host.empty == host.entries else f" for {host.without_ranges:,} of them"
                )
                told += f"; NO RANGES{which}: what is cut off is read from its beginning again"
            if host.in_pieces:
                told += "; IN PIECES: it refuses a request for a whole large file, and is asked for parts of it"
            if host.asks:
                told += f"; asks for {host.asks}"
            lines.append(told)
        lines += [
            f"  {_site(origin)}: {_files(count)}, {what}" for (origin, what), count in self._locked.items() if count > 1
        ]
        if len(rows) > HOSTS_MAX:
            lines.append(f"  … and {len(rows) - HOSTS_MAX:,} more hosts")
        return lines

    def _of_problems(self) -> list[str]:
        lines = []
        problems = sorted(self._problems, key=lambda problem: problem.line)
        for problem in problems:
            place = f"{self.where}:{problem.line}: " if self.numbered else ""
            text = redact(problem.error.message)
            # A bad line tells its place itself.
            told = f"{place}{problem.name}: {text}" if problem.name else text
            lines.append(f"{told} [{problem.error.code}]")
        for (origin, why), count in self._silent.most_common(HOSTS_MAX):
            lines.append(f"{_site(origin)}: {redact(why)}; {_files(count)} more from there not asked for")
        if (more := self._failed.total() - self._silent.total() - len(self._problems)) > 0:
            lines.append(f"… and {more:,} more")
        # A bad line says itself what to do.
        sites: dict[str, set[str]] = {}
        for problem in problems:
            if problem.error.code != "bad_line":
                sites.setdefault(problem.error.code, set()).add(problem.site)
        cures = {code: cure(code, host_works=at <= self.hosts.keys()) for code, at in sites.items()}
        return lines + [f"  what to do about {code}: {what}" for code, what in cures.items() if what]


def _verdict(status: int) -> str:
    meaning = {
        0: "a run can succeed",
        1: "a run would not begin, for the reason above",
        3: "a run now would not get everything, but what is in its way may pass",
        4: "a run would fail for what is named above, for good, and get the rest",
    }[status]
    return f"dry run, nothing was written: {meaning} (exit status {status})"


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _site(origin: str) -> str:
    return origin.removesuffix(":443").removesuffix(":80")
