"""Counts the bytes of a file that a run did not have to fetch: they were on disk before it began.

A server without ranges sends everything again, and an object that changed must be fetched as a whole: then nothing was
saved, however much was on disk. Bytes that are asked for again only to be compared (the overlap of a resume, samples of
a file that another tool left) count in `resumed_from`, but they were fetched.
"""

from __future__ import annotations

from collections.abc import Iterable

from bulkspider.protocol.ranges import Ranges


class Resumed:
    """The account of one file. All figures are bytes."""

    def __init__(self) -> None:
        self.is_known = False
        self._spared = Ranges()
        self._compared = Ranges()
        self._counted = 0

    def found(self, have: Iterable[Iterable[int]], compared: Iterable[tuple[int, int]] = ()) -> None:
        """The part had these bytes when it was opened first; `compared` of them were sent again as samples."""
        self.is_known = True
        self._spared, self._compared = Ranges(have), Ranges()
        for first, end in compared:
            self._compare(first, end)

    def go_on_from(self, count: int) -> None:
        """An earlier attempt of this run found the first `count` bytes on disk and has counted them."""
        self.found([(0, count)] if count else [])
        self._counted = count

    def was_sent(self, first: int, end: int, *, joins_at: int) -> None:
        """The bytes [first, end) have arrived; those before `joins_at` were asked for only to be compared."""
        self._compare(first, min(end, joins_at))
        for ranges in (self._spared, self._compared):
            ranges.remove(max(first, joins_at), end)

    def begins_anew(self) -> None:
        """The bytes on disk are of another version: none of them count."""
        self._spared, self._compared = Ranges(), Ranges()

    @property
    def start(self) -> int:
        """How many bytes on disk the transfer went on from: `resumed_from` of a row."""
        return self._spared.count + self._compared.count

    def uncounted(self) -> int:
        """The change, since the last call, of the number of bytes that were not fetched again."""
        grown = self._spared.count - self._counted
        self._counted += grown
        return grown

    def _compare(self, first: int, end: int) -> None:
        for a, b in list(self._spared):
            self._compared.add(max(a, first), min(b, end))
        self._spared.remove(first, end)
