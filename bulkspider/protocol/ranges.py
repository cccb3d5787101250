"""Byte ranges: a sorted set of half-open intervals [first, end).

The state of a part is such a set from its first version on, not a size, so that several connections can fill one
file and a crash can never claim the bytes between two of them. Pure; knows nothing of files or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Ranges:
    """A set of bytes, kept as disjoint, sorted, non-touching intervals.

    There are as many of them as connections fill a file, so plain scans are fast. Every change replaces the whole
    tuple: a reader in another thread sees the set before or after it, never in between.
    """

    __slots__ = ("_pairs",)

    def __init__(self, intervals: Iterable[Iterable[int]] = ()) -> None:
        self._pairs: tuple[tuple[int, int], ...] = ()
        for first, end in intervals:
            self.add(first, end)

    def add(self, first: int, end: int) -> None:
        """Adds the bytes [first, end); merges what it touches. An empty interval changes nothing."""
        if first < 0:
            raise ValueError("a byte range cannot start before 0")
        if end <= first:
            return
        if len(self._pairs) == 1 and self._pairs[0][0] <= first <= self._pairs[0][1]:
            # The usual case: the new bytes follow what is there.
            self._pairs = ((self._pairs[0][0], max(end, self._pairs[0][1])),)
            return
        before = [pair for pair in self._pairs if pair[1] < first]
        after = [pair for pair in self._pairs if pair[0] > end]
        touched = self._pairs[len(before) : len(self._pairs) - len(after)]
        if touched:
            first, end = min(first, touched[0][0]), max(end, touched[-1][1])
        self._pairs = (*before, (first, end), *after)

    def remove(self, first: int, end: int) -> None:
        """Takes the bytes [first, end) out. An empty interval changes nothing."""
        if end > first:
            kept = [(a, min(b, first)) for a, b in self._pairs if a < first]
            kept += [(max(a, end), b) for a, b in self._pairs if b > end]
            self._pairs = tuple(kept)

    def clip(self, size: int) -> None:
        """Drops every byte at or beyond `size`."""
        self._pairs = tuple((first, min(end, size)) for first, end in self._pairs if first < size)

    def end_of(self, offset: int) -> int:
        """The end of the interval that holds byte `offset`, or `offset` itself if none does."""
        return next((end for first, end in self._pairs if first <= offset < end), offset)

    def first_of(self, offset: int) -> int:
        """The first byte of the interval that holds or ends at `offset`, or `offset` itself if none does."""
        return next((first for first, end in self._pairs if first <= offset <= end), offset)

    def next_after(self, offset: int) -> int | None:
        """The first byte at or after `offset` that is held, or None."""
        return next((max(first, offset) for first, end in self._pairs if end > offset), None)

    def holes(self, size: int) -> Iterator[tuple[int, int]]:
        """What is missing of [0, size), in order."""
        at = 0
        for first, end in (*self._pairs, (size, size)):
            if first >= size:
                first = end = size
            if first > at:
                yield at, first
            at = max(at, end)

    def holds(self, first: int, end: int) -> bool:
        """True if every byte of [first, end) is held."""
        return end <= first or self.end_of(first) >= end

    @property
    def front(self) -> int:
        """How many bytes are held without a gap from byte 0 on."""
        return self.end_of(0)

    @property
    def end(self) -> int:
        """One past the last byte held; 0 when empty."""
        pairs = self._pairs
        return pairs[-1][1] if pairs else 0

    @property
    def count(self) -> int:
        """How many bytes are held."""
        return sum(end - first for first, end in self._pairs)

    def copy(self) -> Ranges:
        twin = Ranges()
        twin._pairs = self._pairs
        return twin

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._pairs)

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._pairs == other._pairs

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({list(self._pairs)})"
