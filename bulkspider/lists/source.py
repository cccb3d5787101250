"""What gives a run its entries: the interface of all sources.

A `Source` gives entries one by one, and is told how each of them ended; the dispatcher asks whenever a place is free,
and says which origins are blocked now. `take` never waits: a source that has none yet returns None and wakes the
dispatcher later. There are: a list or a shard of it (`listsource.py`), a queue that several machines share
(`queue/worker.py`), and entries from a program (`spiders/given.py`). The dispatcher treats all alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from bulkspider.disk.part import Part
from bulkspider.entries.entry import Entry
from bulkspider.errors import BulkError
from bulkspider.lists.checking.check import BadLine, Ignored
from bulkspider.lists.formats.choose import Reading


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
